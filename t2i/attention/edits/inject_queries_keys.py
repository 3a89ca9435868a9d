"""Plug-and-play: the target keeps the source's layout through its self-attention maps."""

from dataclasses import dataclass

from t2i.attention.edits.base.row_copy_edit import RowCopyEdit
from t2i.attention.site import StepWindow


@dataclass(frozen=True, kw_only=True)
class InjectQueriesKeys(RowCopyEdit):
    """Edit that gives the target prompt's self-attention the queries and keys of the source
    prompt's.

    The attention part of plug-and-play (Tumanyan et al. 2022, Section 4, arXiv 2211.12572): in the
    upsampling blocks, in the first half of the steps, in each branch of guidance; see
    SourceRowsEdit for a recorded source, whose row of the branch "cond" is all that the published
    code has. It omits the first layer of Stable Diffusion 1 there, which is
    sites="up_blocks.(1.attentions.[12]|[23])".
    """

    tensors = "qk"

    steps: StepWindow = (0.0, 0.5)
