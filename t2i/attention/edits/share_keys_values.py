"""MasaCtrl: the target attends to the source's keys and values, and may change its layout."""

from dataclasses import dataclass

from t2i.attention.edits.base.row_copy_edit import RowCopyEdit
from t2i.attention.site import StepWindow


@dataclass(frozen=True, kw_only=True)
class ShareKeysValues(RowCopyEdit):
    """Edit that gives the target prompt's self-attention the keys and values of the source
    prompt's.

    Mutual self-attention (Cao et al. 2023, MasaCtrl, Section 3.2, arXiv 2304.08465), in each branch
    of guidance; see SourceRowsEdit for a recorded source. The published code begins at step 4 of 50
    and at layer 10 of Stable Diffusion 1, which is sites="up_blocks.[23]"; other models number
    their layers otherwise, so the default here is all upsampling blocks.
    """

    tensors = "kv"

    steps: StepWindow = (0.08, 1.0)
