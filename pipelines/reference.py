"""Reference pictures: the self-attention of an image's run reads a given picture beside the image
("reference only"), and so the image takes the picture's look.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pipelines.images.input_images import select_strength_timesteps
from pipelines.inversion.edit_friendly import EditFriendlyInversion
from pipelines.inversion.noise_levels import build_noise_levels
from pipelines.prompt_to_prompt.edit_run import find_image_size
from pipelines.prompt_to_prompt.recording import DEFAULT_BUDGET_BYTES
from pipelines.prompt_to_prompt.recording_size import (
    GIBIBYTE,
    count_branches_at_steps,
    estimate_recording_bytes,
)
from pipelines.prompt_to_prompt.source_recording import RecordingOptions
from t2i.adapters.ip_adapter import leaving_out_ip_adapters
from t2i.attention.attend import attend
from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.recorded_rows import RecordedAttentionInputs
from t2i.attention.edits.share_keys_values import ShareKeysValues
from t2i.attention.edits.style_aligned import StyleAligned
from t2i.attention.session.session import Session
from t2i.attention.site import list_steps_in_window
from t2i.conditioning.guidance import choose_guidance
from t2i.denoiser.memory_checks import read_free_bytes
from t2i.denoiser.schedulers import Scheduler
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.prompt import Prompt
from t2i.text.token_windows import EncoderInput

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.prompt_to_prompt.recording_pipeline import RecordingPipeline

REFERENCE_NOISE_SEED = 2**53 + 1
"""Seed of the noise under which a reference picture is read: the same for all images, so that they
share one recording, and no seed that an image may have.
"""
WHOLE_RUN = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ReferenceAttention(StyleAligned):
    """StyleAligned without its normalisation, for every prompt of a batch: its images attend to the
    keys and values of a recorded source beside their own.
    """

    normalise: bool = False

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan that the rows of all images share the source's keys and values."""
        for prompt in range(call.denoiser_pass.num_prompts):
            StyleAligned.add_to_plan(replace(self, target=prompt + 1), plan, call)


@dataclass(frozen=True, slots=True)
class RecordedReference:
    """Recorded reference picture, as the runs that read it meet it: the RecordedRun of `attend`.

    window : shares of the run, or numbers of steps, at which it is read
    step_of_recording : for each step of the run, the recording's step of the same timestep: a
        sampler of second order makes two steps of one
    """

    source: "RecordedSource"
    window: tuple[float, float]
    step_of_recording: tuple[int, ...]

    @property
    def description(self) -> str:
        """Text that describes how the picture was fitted to the size of the image."""
        assert self.source.photo is not None
        return self.source.photo.fitting.description

    @property
    def num_steps(self) -> int:
        """Number of steps of the runs that read the reference picture."""
        return len(self.step_of_recording)

    def prompt_at_step(self, step: int) -> EncoderInput:
        """Return the text under which the reference picture is read at a step of the run."""
        return self.source.prompt_at_step(self.step_of_recording[step])

    def branches_at_step(self, step: int) -> tuple[str, ...]:
        """Return the branches of guidance in which the picture was recorded at a step."""
        return self.source.branches_at_step(self.step_of_recording[step])

    def get_recorded_qkv(self, site: str, step: int) -> RecordedAttentionInputs | None:
        """Return the picture's queries, keys and values at a site and a step of the run; None where
        it is not read.
        """
        found = self.source.get_recorded_qkv(site, self.step_of_recording[step])
        return None if found is None or found.value is None else found

    def latents_after_step(self, step: int) -> "Tensor":
        """Return the latents (1, C, H, W) of the picture after a step of the run."""
        return self.source.latents_after_step(self.step_of_recording[step])


def record_reference(
    editor: "RecordingPipeline",
    picture: Any,
    prompt: str | Prompt = "",
    *,
    steps: tuple[float, float] = WHOLE_RUN,
    strength: float | None = None,
    num_inference_steps: int | None = None,
    **call: Any,
) -> RecordedReference:
    """Record a reference picture for the runs of images with the same settings, any number of them.

    The picture gets independent noise at each noise level (EditFriendlyInversion), and the UNet
    reads it there once.

    >>> reference = record_reference(editor, "style.png", height=512, width=512)
    >>> with attending_to_reference(pipe, reference):
    ...     image = pipe("a cat", height=512, width=512).images[0]

    Parameters
    ----------
    editor : a PromptEditPipeline with the parts of the pipeline that draws
    picture : path, Pillow image, array or tensor of any size, cropped to that of the image
    prompt : under which the picture is read
    steps : shares of the run at which it is read
    strength : of a run that begins with a start picture, else None
    call : further arguments of `invert`: height, width, guidance_scale, negative_prompt ...

    IP-Adapters are left out: the picture is read under its prompt alone.

    Raises ArgumentError for a sampler whose noise levels are unknown, a window without a step, and,
    before anything is run, for a recording that exceeds its budget or the free memory.
    """
    count = editor.steps_or_default(num_inference_steps)
    timesteps = list_run_timesteps(editor.scheduler, count, strength)
    levels = build_noise_levels(editor.scheduler, count)
    skipped = levels.timesteps.index(timesteps[0])
    recorded = [levels.timesteps.index(timestep) - skipped for timestep in timesteps]
    if not list_steps_in_window(steps, len(timesteps)):
        first, end = steps
        raise ArgumentError(
            f"Got a reference picture with steps={first:g}-{end:g}: no step of a run of "
            f"{plural(len(timesteps), 'step')} is among them. Give a wider window, or leave it out."
        )
    # Half a step more: the method rounds its share of the levels down.
    skip = (skipped + 0.5) / levels.num_steps if skipped else 0.0
    check_reference_fits(editor, steps, recorded, levels.num_steps - skipped, call)
    with leaving_out_ip_adapters(editor.unet), warnings.catch_warnings():
        # How well edits of it would keep it does not matter here.
        warnings.filterwarnings("ignore", "The photo is smaller|Drawn again from its noise")
        source = editor.invert(
            picture,
            prompt,
            EditFriendlyInversion(skip),
            for_edits=[build_recorded_edit(steps, recorded)],
            max_positions=0,  # nothing else is read
            num_inference_steps=count,
            generator=torch.Generator("cpu").manual_seed(REFERENCE_NOISE_SEED),
            **call,
        )
    return RecordedReference(source, steps, tuple(recorded))


@contextmanager
def attending_to_reference(
    pipe: Any, reference: RecordedReference, scale: float = 1.0
) -> Iterator[Session]:
    """Let the self-attention of a pipeline's runs within the block attend to the keys and values of
    a reference picture beside their own; those of all prompts and images of a batch.

    scale : factor of the attention to the picture before the softmax normalises it, above 0

    A run of another size or number of steps than the recording raises ArgumentError.
    """
    edit = ReferenceAttention(source_weight=scale, steps=reference.window)
    with attend(pipe, recorded_source=reference) as attn:
        attn.edit(edit)
        yield attn


def build_recorded_edit(window: tuple[float, float], recorded: Sequence[int]) -> ShareKeysValues:
    """Build the edit for which a reference picture is recorded: it reads keys and values, as
    ReferenceAttention does, which has no name in the registry.

    recorded : for each step of the run, that of the recording
    """
    read = [recorded[step] for step in list_steps_in_window(window, len(recorded))]
    return ShareKeysValues(sites=None, steps=(min(read), max(read) + 1))


def check_reference_fits(
    editor: "RecordingPipeline",
    window: tuple[float, float],
    recorded: Sequence[int],
    num_steps: int,
    call: Mapping[str, Any],
) -> None:
    """Raise ArgumentError if the recording of a reference picture would exceed its budget, or the
    free main memory, with a window of steps that would not.

    recorded : for each step of the run, that of the recording, which has `num_steps`
    call : arguments of `invert`
    """
    size = find_image_size(editor, call.get("height"), call.get("width"))
    scale = editor.guidance_scale_or_default(call.get("guidance_scale"))
    guidance = call.get("guidance") or choose_guidance(scale)
    branches = count_branches_at_steps(guidance, num_steps)

    def count_bytes(window: tuple[float, float]) -> int:
        edit = build_recorded_edit(window, recorded)
        return estimate_recording_bytes(editor, num_steps, *size, 0, [edit], branches)

    options = RecordingOptions(call.get("folder"), call.get("budget", DEFAULT_BUDGET_BYTES), 0)
    free = None if options.folder is not None else read_free_bytes(torch.device("cpu"))
    limit = options.budget if free is None else min(options.budget, free)
    needed = count_bytes(window)
    if needed <= limit:
        return
    shorter = (
        (one, count_bytes(one))
        for one in list_shorter_windows(window)
        if list_steps_in_window(one, len(recorded))
    )
    fitting = next((one for one in shorter if one[1] <= limit), None)
    remedy = "Take"
    if fitting is not None:
        (first, end), fitting_bytes = fitting
        remedy = (
            f"Read it in fewer steps, as in --reference PICTURE:steps={first:g}-{end:g}, which "
            f"takes {fitting_bytes / GIBIBYTE:.3g} GiB, or take"
        )
    what = "the budget is" if limit == options.budget else "of free memory there are"
    raise ArgumentError(
        f"A reference picture for an image of {size[1]}x{size[0]} pixels in "
        f"{plural(len(recorded), 'step')} takes {needed / GIBIBYTE:.3g} GiB of main memory, its "
        f"keys and values of each step, but {what} {limit / GIBIBYTE:.3g} GiB. {remedy} a "
        "smaller image (--size), fewer --steps, or a model in half precision."
    )


def list_shorter_windows(window: tuple[float, float]) -> list[tuple[float, float]]:
    """Return windows with the same beginning as a window of steps, each shorter than the one
    before: by a twentieth of the run, or by a step where numbers of steps are given.
    """
    first, end = window
    if isinstance(end, int):
        return [(first, one) for one in range(end - 1, int(first), -1)]
    ends = (twentieth / 20 for twentieth in range(19, 0, -1))
    return [(first, one) for one in ends if first < one < end]


def list_run_timesteps(
    scheduler: Scheduler, num_inference_steps: int, strength: float | None
) -> Sequence[float]:
    """Return the timesteps of a run's steps; with a strength those that are left of a run from a
    start picture.
    """
    own: Any = copy.deepcopy(scheduler)
    set_timesteps(own, num_inference_steps, torch.device("cpu"))
    timesteps = own.timesteps
    if strength is not None:
        timesteps, _ = select_strength_timesteps(own, num_inference_steps, strength)
    return [float(timestep) for timestep in timesteps]
