"""Inversion of a user's own picture to a recorded source, for `PromptEditPipeline.invert`.

B batch rows (here: 1 image), C channels, H W latent size, Y X image size.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.images.photo import Photo
from pipelines.inversion.inversion_psnr import InversionPSNR
from pipelines.inversion.inversion_run import InversionMethod
from pipelines.inversion.method_checks import (
    check_guidance_suits_method,
    check_method_suits_model,
    is_few_step_model,
)
from pipelines.inversion.methods import AUTO_METHOD, format_method, parse_method
from pipelines.inversion.noise_levels import NoiseLevels, build_noise_levels, is_flow_matching
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import (
    PinnedScheduler,
    PrecomputedStepScheduler,
    to_at_least_float32,
)
from pipelines.inversion.reordered_prompt import reorder_prompt_steps
from pipelines.prompt_to_prompt.edit_kinds import PromptChange
from pipelines.prompt_to_prompt.edit_run import NoiseArguments
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.prompt_to_prompt.recording_size import (
    check_recording_budget,
    estimate_recording_bytes,
)
from pipelines.prompt_to_prompt.source_recording import (
    KnownPathRecordingInputs,
    RecordingOptions,
    record_source,
)
from pipelines.run.argument_checks import check_count
from pipelines.run.call_state import CallOverrides
from pipelines.run.run_provenance import SourceRunSettings
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.guidance import Conditional, choose_guidance
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import Scheduler
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

POOR_REPLAY_PSNR = 20.0
"""Decibels below which a picture is not recognised in what the model draws from its noise."""


def resolve_inversion_method(
    pipe: Any, method: str | InversionMethod, changes: Sequence[PromptChange] = ()
) -> InversionMethod:
    """Return the inversion method of a name; "auto" is the one that suits the model and the edits
    to come.

    Models of few steps take "turbo", flow models "difference", all others the method of the kinds
    of change (edit_kinds.SETTINGS) if that is one, else "direct".

    changes : that the picture's prompt will undergo; none where they are not known
    """
    if not isinstance(method, str):
        format_method(method)
        check_method_suits_model(pipe, method)
        return method
    if method.strip().lower() != AUTO_METHOD:
        parsed = parse_method(method)
        check_method_suits_model(pipe, parsed)
        return parsed
    if is_flow_matching(pipe.scheduler):
        return parse_method("difference")
    if is_few_step_model(pipe):
        return parse_method("turbo")
    wanted = {change.settings.inversion for change in changes}
    return parse_method(wanted.pop() if len(wanted) == 1 else "direct")


@dataclass(frozen=True)
class PipelineInversionRun:
    """InversionRunProtocol of a pipeline: a picture to invert, with its prompt and noise levels.

    label : of the progress bars of its runs
    """

    pipe: Any
    prompt: str | Prompt
    arguments: Mapping[str, Any]
    levels: NoiseLevels
    clean_1CHW: Tensor
    generator: torch.Generator
    label: str = "inversion"

    @property
    def pipeline_scheduler(self) -> Scheduler:
        """Scheduler of the pipeline."""
        scheduler: Scheduler = self.pipe.scheduler
        return scheduler

    def sample_latents(
        self,
        scheduler: Any,
        latents_1CHW: Tensor,
        *,
        guided: bool,
    ) -> Tensor:
        """Run the sampling loop with this scheduler from these latents; return the latents after
        its last step, (1, C, H, W).

        A scheduled prompt has at each noise level the text that the sampler's own run has there.
        """
        arguments = self.build_run_arguments(len(scheduler.timesteps), guided)
        prompt = self.prompt
        if (order := scheduler.step_order) is not None:
            prompt = reorder_prompt_steps(prompt, order, self.levels.num_steps)
            negative = arguments.get("negative_prompt")
            arguments["negative_prompt"] = reorder_prompt_steps(
                negative, order, self.levels.num_steps
            )
        with self.pipe.overriding_calls(CallOverrides(scheduler, progress_label=self.label)):
            drawn = TextToImagePipeline.__call__(
                self.pipe,
                prompt=prompt,
                latents=latents_1CHW,
                output_type="latent",
                return_dict=False,
                **arguments,
            )
        assert isinstance(drawn, tuple)
        latents: Tensor = drawn[0]
        return latents

    def build_run_arguments(self, num_steps: int, guided: bool) -> dict[str, Any]:
        """Return the call arguments of a run of this many steps, with or without guidance."""
        arguments = {**self.arguments, "num_inference_steps": num_steps}
        if not guided:
            arguments |= {"guidance": Conditional(), "negative_prompt": None}
        return arguments


def invert_and_record_photo(
    pipe: Any,
    photo: Photo,
    prompt: str | Prompt,
    method: InversionMethod,
    settings: SourceRunSettings,
    generator: torch.Generator,
    options: RecordingOptions,
    notes: Mapping[str, object],
) -> RecordedSource:
    """Invert a photo by a method, and return it as a recorded source with its prompt and notes.

    Raises ArgumentError before the first pass where the recording would exceed its budget, and for
    guidance that the method cannot do with.
    """
    assert settings.num_inference_steps is not None
    check_count("num_inference_steps", settings.num_inference_steps)
    levels = build_noise_levels(pipe.scheduler, settings.num_inference_steps)
    pixels_13YX = photo.pixels
    height, width = pixels_13YX.shape[-2:]
    most = options.max_positions
    if most is None:
        most = pipe.find_max_kept_layout_positions(height, width)
    num_steps = count_path_steps(method, levels.num_steps)
    needed = estimate_recording_bytes(
        pipe, num_steps, height, width, most, options.source_rows_edits
    )
    check_recording_budget(needed, options.budget)
    scale = settings.guidance_scale or 1.0
    given = method.build_guidance_arguments(prompt, scale)
    check_settings_left_to_method(method, settings, given)
    settings = replace(settings, **given)
    check_guidance_suits_method(settings.guidance or choose_guidance(scale), method)
    clean_1CHW = encode_pixels_to_mean_latents(pipe, pixels_13YX)
    run = PipelineInversionRun(pipe, prompt, settings.to_arguments(), levels, clean_1CHW, generator)
    path = method.compute_source_latents_path(run)

    scheduler = build_source_path_scheduler(pipe, path)
    guided = path.source_is_guided and (not path.pinned or path.has_residuals)
    arguments = run.build_run_arguments(len(path.steps), guided)

    def extra(step: int) -> dict[str, Tensor]:
        tensors = {}
        if path.has_residuals:
            assert isinstance(scheduler, PinnedScheduler)
            assert scheduler.last_residual_1CHW is not None
            tensors["residual"] = scheduler.last_residual_1CHW
        if path.uncond_embeddings is not None:
            tensors["uncond"] = path.uncond_embeddings[step]
        if photo.mask is not None and not path.pinned:
            tensors["path"] = path.latents[step + 1]
        return tensors

    def finish(recorded: RecordedSource) -> RecordedSource:
        error = measure_inversion_psnr(
            replace(run, label="replay"), path, scheduler, recorded, pixels_13YX
        )
        facts = recorded.facts | {"error": asdict(error)}
        reproduction = recorded.pixels.float().cpu().clone()
        return replace(recorded, facts=facts, photo=replace(photo, reproduction=reproduction))

    return record_source(
        pipe,
        prompt,
        replace(settings, num_inference_steps=len(path.steps)),
        NoiseArguments(None, generator, path.latents[0].cpu()),
        options,
        KnownPathRecordingInputs(
            overrides=CallOverrides(scheduler, path.step_callbacks, "recording"),
            arguments=arguments,
            extra=extra,
            path_steps=path.steps,
            photo=photo,
            facts={
                "inversion": format_method(method),
                "inverted_steps": levels.num_steps,
                "picture": compute_pixels_digest(pixels_13YX),
                "notes": dict(notes),
            },
            finish=finish,
        ),
    )


def check_settings_left_to_method(
    method: InversionMethod, settings: SourceRunSettings, given: Mapping[str, object]
) -> None:
    """Raise ArgumentError for arguments of a call that an inversion method sets itself.

    given : by the method
    """
    options = {"negative_prompt": "--negative", "guidance": "--method"}
    for name in given:
        value = getattr(settings, name)
        if isinstance(value, Prompt):
            value = value.text
        if value is not None and value != "":
            own = format_method(method).partition(":")[0]
            raise ArgumentError(
                f"Got {name} ({options.get(name, name)}) for the method {own}, which sets it "
                "itself: leave it out, or choose another method, such as direct or edit-friendly."
            )


def count_path_steps(method: InversionMethod, num_inference_steps: int) -> int:
    """Return the number of steps of an inversion method's path: less than the run's where the
    method skips some.
    """
    return num_inference_steps - int(getattr(method, "skip", 0) * num_inference_steps)


def encode_pixels_to_mean_latents(pipe: Any, pixels_13YX: Tensor) -> Tensor:
    """Return the scaled latents (1, C, H, W) of a picture: the mean of what the VAE encodes."""
    return sd.encode_pixels_to_mean(pipe.vae, pixels_13YX.to(pipe._execution_device)).to(
        pipe.unet.dtype
    )


def build_source_path_scheduler(pipe: Any, path: SourcePath) -> PrecomputedStepScheduler:
    """Build the scheduler with which the run of an inverted source is recorded."""
    if not path.pinned:
        return PrecomputedStepScheduler(pipe.scheduler, path.steps)
    return PinnedScheduler(pipe.scheduler, path.steps, path.latents, path.max_last_residual)


def measure_inversion_psnr(
    run: PipelineInversionRun,
    path: SourcePath,
    scheduler: PrecomputedStepScheduler,
    recorded: RecordedSource,
    pixels_13YX: Tensor,
) -> InversionPSNR:
    """Measure the peak signal-to-noise ratios of a picture's inversion against the picture; warn
    where the replay is poor.

    scheduler : of the recorded run. Only for a pinned path without residuals the model draws the
    source again: other replays are the recorded run, or the path itself but for what was cut off
    its last residual.
    """
    decoded = run.pipe.decode_latents(run.clean_1CHW)
    replay: float | None = None
    if not path.pinned:
        replay = compute_psnr(recorded.pixels, pixels_13YX)
    elif not path.has_residuals:
        again = PrecomputedStepScheduler(run.pipe.scheduler, path.steps)
        latents = run.sample_latents(again, path.latents[0], guided=path.source_is_guided)
        replay = compute_psnr(run.pipe.decode_latents(latents), pixels_13YX)
    elif path.max_last_residual is not None:
        assert isinstance(scheduler, PinnedScheduler)
        assert scheduler.cut_off_1CHW is not None
        latents = (to_at_least_float32(path.latents[-1]) - scheduler.cut_off_1CHW).to(
            path.latents[-1]
        )
        replay = compute_psnr(run.pipe.decode_latents(latents), pixels_13YX)
    error = InversionPSNR(replay, compute_psnr(decoded, pixels_13YX))
    if replay is not None and replay < min(POOR_REPLAY_PSNR, error.autoencoder - 1):
        warnings.warn(
            f"Drawn again from its noise, the picture is reproduced at {replay:.1f} dB only (the "
            f"autoencoder alone: {error.autoencoder:.1f} dB), so edits may change more than is "
            "wanted. Describe the picture more exactly, lower the guidance scale, take more "
            "steps, or try the method edit-friendly.",
            stacklevel=2,
        )
    elif error.autoencoder < POOR_REPLAY_PSNR:
        reached = error.autoencoder if replay is None else replay
        warnings.warn(
            f"Drawn again from its noise, the picture is reproduced at {reached:.1f} dB only, and "
            f"by the autoencoder alone at {error.autoencoder:.1f} dB: the model cannot show such a "
            "picture at this size, whatever the method. Take a larger size or another model, and "
            "put edits back into the photo at its own size, which keeps what they do not change.",
            stacklevel=2,
        )
    return error


def compute_psnr(pixels: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pixels in -1..1, clipped to that range."""
    difference = pixels.float().clamp(-1, 1).cpu() - reference.float().clamp(-1, 1).cpu()
    error = float(difference.square().mean()) / 4
    return 100.0 if error < 1e-10 else -10 * math.log10(error)


def compute_pixels_digest(pixels: Tensor) -> str:
    """Return the SHA-256 of pixels in -1..1, as 8 bits a channel."""
    quantized = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return hashlib.sha256(quantized.contiguous().numpy().tobytes()).hexdigest()


def check_single_source_prompt(prompt: object) -> None:
    """Raise ArgumentError unless the source prompt of an inversion is one prompt, and not a
    list.
    """
    if isinstance(prompt, str | Prompt):
        return
    raise ArgumentError(
        f"Got {prompt!r:.80} as the prompt of the picture, expected a text that describes it: "
        "edits hold on to its words. Give '' to do without, for methods that need no words."
    )
