"""One pass of a denoiser: its step, and whom each row of its batch speaks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from t2i.errors import ArgumentError
from t2i.terminal import several


@dataclass(frozen=True, slots=True)
class Pass:
    """One call of the denoiser.

    step, num_steps : the turn of the loop, from 0, and how many there are
    branches : of guidance, in the order of the rows; each has one row per picture
    prompts : how many there are; a prompt's pictures follow one another
    pictures : rows of one branch
    remembered : prompts before these that have no row in the batch, but one behind it
    """

    step: int
    num_steps: int
    branches: tuple[str, ...]
    prompts: int
    pictures: int
    remembered: int = 0
    _rows: dict[int, tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return self.pictures * len(self.branches)

    @property
    def images_per_prompt(self) -> int:
        return self.pictures // self.prompts

    def rows_of(self, prompt: int) -> tuple[int, ...]:
        """The conditional row of each of the prompt's pictures; empty where there is no such
        branch in this pass."""
        if prompt not in self._rows:
            self._rows[prompt] = self._find(prompt)
        return self._rows[prompt]

    def rows_of_all_branches(self, prompt: int) -> tuple[int, ...]:
        """The rows of each of the prompt's pictures, branch after branch."""
        count = self.images_per_prompt
        return tuple(
            branch * self.pictures + prompt * count + picture
            for branch in range(len(self.branches))
            for picture in range(count)
        )

    def _find(self, prompt: int) -> tuple[int, ...]:
        if prompt < self.remembered:
            return (self.rows + prompt,)
        if "cond" not in self.branches:
            return ()
        prompt -= self.remembered
        first = self.branches.index("cond") * self.pictures + prompt * self.images_per_prompt
        return tuple(range(first, first + self.images_per_prompt))


def check_prompt(name: str, prompt: int, prompts: int) -> None:
    if isinstance(prompt, bool) or not isinstance(prompt, int) or not 0 <= prompt < prompts:
        raise ArgumentError(
            f"Got {name}={prompt!r}, but this run has {prompts} "
            f"{'prompt' if prompts == 1 else 'prompts'}: they count from 0 to {prompts - 1}."
        )


def pass_of(rows: int, branches: Sequence[str], prompts: int, step: int, num_steps: int) -> Pass:
    """The pass whose batch has this many rows, branch after branch."""
    pictures, left = divmod(rows, len(branches))
    if left or pictures % prompts:
        raise ArgumentError(
            f"The denoiser was called with {several(rows, 'row')} for the branches "
            f"{', '.join(branches)} of {several(prompts, 'prompt')}: expected as many pictures "
            "of each. Give attend() the prompts of the call, one for each of its texts."
        )
    return Pass(step, num_steps, tuple(branches), prompts, pictures)
