"""Prompts that are drawn together under edits of attention, as a request carries them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.errors import ArgumentError
from t2i.terminal import plural

if TYPE_CHECKING:
    from t2i.attention.edits.base.edit import Edit

MAX_PROMPTS = 16
MAX_EDITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecedingEdit:
    """Edit of a photo whose target is the source of the next edit.

    source : prompt; the target's is that of the next edit's source
    edits : as t2i.attention.edits.registry.to_dict writes them
    """

    source: str
    edits: tuple[Mapping[str, object], ...]

    def __post_init__(self) -> None:
        parse_recorded_edits(self.edits)

    def parse_edits(self) -> "list[Edit]":
        """Parse the attention edits that a request carries as JSON."""
        return parse_recorded_edits(self.edits)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedPrompts:
    """Source and target prompts whose images are generated together under attention edits, and
    which of these images a request stands for.

    prompts : of all of them, the source first
    picture : index of the image of this request
    edits : as t2i.attention.edits.registry.to_dict writes them
    earlier : edits of the photo, one upon the other, of which the last made the source
    """

    prompts: tuple[str, ...]
    picture: int
    edits: tuple[Mapping[str, object], ...]
    earlier: tuple[PrecedingEdit, ...] = ()

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
        if len(self.earlier) > MAX_PROMPTS:
            raise ArgumentError(
                f"Got {len(self.earlier)} edits, one upon the other: at most {MAX_PROMPTS} are "
                "taken."
            )
        parse_recorded_edits(self.edits)

    @property
    def chained_source_prompts(self) -> tuple[str, ...]:
        """Prompts of the sources of a chain of edits of a photo, each edit made upon the one
        before: first the photo's, last the source of this edit.
        """
        return (*(edit.source for edit in self.earlier), self.prompts[0])

    def build_earlier_edits(self) -> tuple[PrecedingEdit, ...]:
        """Return the chain of a photo's edits that ends with the first target of this one, as the
        earlier edits of a request that edits that target again.
        """
        return (*self.earlier, PrecedingEdit(source=self.prompts[0], edits=self.edits))

    def parse_edits(self) -> "list[Edit]":
        """Parse the attention edits that a request carries as JSON."""
        return parse_recorded_edits(self.edits)


def parse_recorded_edits(edits: Sequence[Mapping[str, object]]) -> "list[Edit]":
    """Return recorded attention edits, parsed. Raises ArgumentError for too many, or an invalid
    one.
    """
    # Here, for it imports torch, which most requests need much later.
    from t2i.attention.edits.registry import from_dict

    if len(edits) > MAX_EDITS:
        raise ArgumentError(f"Got {len(edits)} edits: at most {MAX_EDITS} are taken.")
    return [from_dict(edit) for edit in edits]
