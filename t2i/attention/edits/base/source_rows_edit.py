"""Base class of the edits whose target reads self-attention tensors of the source's rows."""

from dataclasses import dataclass
from typing import ClassVar

from t2i.attention.compute.edit_plan import TensorNames
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Sites, as_sites, list_steps_in_window


@dataclass(frozen=True, kw_only=True)
class SourceRowsEdit(Edit):
    """Base class of attention edits in which the target prompt's self-attention reads queries, keys
    or values of the source prompt's, in each branch of guidance.

    Of a recorded source, a branch of the target that the source was recorded without reads the
    source's row of the branch "cond": a picture inverted without guidance has no row of the
    negative prompt, and the target's negative row reads that of the picture's prompt.
    """

    kinds = ("self",)
    tensors: ClassVar[TensorNames]
    """What is read, by the first letters of query, key and value."""

    source: int = 0
    target: int = 1
    sites: Sites | str | None = Sites(place="up")

    def reads_superset_of(self, other: "SourceRowsEdit", num_steps: int) -> bool:
        """Return True if this edit reads all that another one reads of the source, in a run of
        this many steps.
        """
        steps, others = (list_steps_in_window(one.steps, num_steps) for one in (self, other))
        return (
            set(other.tensors) <= set(self.tensors)
            and set(others) <= set(steps)
            and as_sites(self.sites).contains_all_of(as_sites(other.sites))
        )
