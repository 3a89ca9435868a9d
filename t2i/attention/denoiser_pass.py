"""One pass of a denoiser: its step, and the image and branch of each row of its batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from t2i.conditioning.run_state import SkippedCalls
from t2i.errors import ArgumentError
from t2i.terminal import plural


@dataclass(frozen=True, slots=True)
class DenoiserPass:
    """One forward call of the denoiser: its step, and the role of each batch row.

    Rows lie branch after branch, each branch with one row per image; the images of a prompt follow
    one another.

    step, num_steps : number of the step in the loop, from 0, and how many steps there are
    branches : branches of the guidance, in the order of the rows
    num_prompts, num_images : prompts and images of one branch
    num_recorded : prompts counted before those of the batch whose rows were recorded by an earlier
        run; attention has them behind the rows of the batch
    recorded_branches : branches of the recorded rows, in their order; "cond" is the first
    skipped_calls : tells which modules the passes of the run leave out; None if none
    """

    step: int
    num_steps: int
    branches: tuple[str, ...]
    num_prompts: int
    num_images: int
    num_recorded: int = 0
    recorded_branches: tuple[str, ...] = ("cond",)
    skipped_calls: SkippedCalls | None = field(default=None, repr=False, compare=False)
    _rows: dict[int, tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def num_rows(self) -> int:
        """Number of batch rows of the denoiser pass: images times guidance branches, with recorded
        rows.
        """
        return self.num_images * len(self.branches)

    @property
    def images_per_prompt(self) -> int:
        """Number of images that the denoiser pass computes for each prompt."""
        return self.num_images // self.num_prompts

    def cond_rows_of_prompt(self, prompt: int) -> tuple[int, ...]:
        """Return the batch rows of a prompt's images in the guidance branch "cond"; empty if the
        pass does not have that branch.
        """
        if prompt not in self._rows:
            self._rows[prompt] = self._find_cond_rows(prompt)
        return self._rows[prompt]

    def rows_of_prompt_in_all_branches(self, prompt: int) -> tuple[int, ...]:
        """Return the batch rows of a prompt's images in every guidance branch, branch after
        branch.

        A recorded prompt has its row of "cond" for a branch that it was recorded without, and its
        rows as often as the pass has images of a prompt.
        """
        if prompt < self.num_recorded:
            recorded = self.recorded_branches
            return tuple(
                self.num_rows + (recorded.index(branch) if branch in recorded else 0)
                for branch in self.branches
                for _ in range(self.images_per_prompt)
            )
        prompt -= self.num_recorded
        count = self.images_per_prompt
        return tuple(
            branch * self.num_images + prompt * count + image
            for branch in range(len(self.branches))
            for image in range(count)
        )

    def _find_cond_rows(self, prompt: int) -> tuple[int, ...]:
        if prompt < self.num_recorded:
            return (self.num_rows + prompt,)
        if "cond" not in self.branches:
            return ()
        prompt -= self.num_recorded
        first = self.branches.index("cond") * self.num_images + prompt * self.images_per_prompt
        return tuple(range(first, first + self.images_per_prompt))


def check_prompt_index(name: str, prompt: int, num_prompts: int) -> None:
    """Raise ArgumentError unless `prompt` is the number of one of the prompts.

    `name` is the argument that it was given as.
    """
    if isinstance(prompt, bool) or not isinstance(prompt, int) or not 0 <= prompt < num_prompts:
        raise ArgumentError(
            f"Got {name}={prompt!r}, but this run has {num_prompts} "
            f"{'prompt' if num_prompts == 1 else 'prompts'}: they count from 0 to "
            f"{num_prompts - 1}."
        )


def build_denoiser_pass(
    rows: int, branches: Sequence[str], num_prompts: int, step: int, num_steps: int
) -> DenoiserPass:
    """Describe the denoiser pass of a batch of `rows` rows, in which the guidance branches follow
    one another.

    Raises ArgumentError where the rows do not divide into branches and prompts.
    """
    num_images, left = divmod(rows, len(branches))
    if left or num_images % num_prompts:
        raise ArgumentError(
            f"The denoiser was called with {plural(rows, 'row')} for the branches "
            f"{', '.join(branches)} of {plural(num_prompts, 'prompt')}: expected as many pictures "
            "of each. Give attend() the prompts of the call, one for each of its texts."
        )
    return DenoiserPass(step, num_steps, tuple(branches), num_prompts, num_images)
