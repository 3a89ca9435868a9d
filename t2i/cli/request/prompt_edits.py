"""Prompts that are drawn together under edits of attention, as a request carries them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.errors import ArgumentError
from t2i.terminal import plural

if TYPE_CHECKING:
    from t2i.attention.edits.base.edit import Edit

MAX_PROMPTS = 16
MAX_EDITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedPrompts:
    """Prompts generated together under attention edits, and which of their images is meant.

    prompts : of all of them, the source first
    picture : index of the image of this request
    edits : as t2i.attention.edits.registry.to_dict writes them
    """

    prompts: tuple[str, ...]
    picture: int
    edits: tuple[Mapping[str, object], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.prompts) <= MAX_PROMPTS:
            raise ArgumentError(
                f"Got {plural(len(self.prompts), 'prompt')} to draw together: expected a source "
                f"and from 1 to {MAX_PROMPTS - 1} targets."
            )
        if not 0 <= self.picture < len(self.prompts):
            raise ArgumentError(
                f"Got picture {self.picture} of {len(self.prompts)}: they count from 0."
            )
        if len(self.edits) > MAX_EDITS:
            raise ArgumentError(f"Got {len(self.edits)} edits: at most {MAX_EDITS} are taken.")
        self.parse_edits()

    def parse_edits(self) -> "list[Edit]":
        """Parse the recorded attention edits. Raises ArgumentError for an invalid one."""
        # Here, for it imports torch, which most requests need much later.
        from t2i.attention.edits.registry import from_dict

        return [from_dict(edit) for edit in self.edits]
