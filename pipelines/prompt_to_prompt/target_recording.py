"""Recording of an edit's target as the next source, for `PromptEditPipeline.remember_target`.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pipelines.inversion.methods import parse_method
from pipelines.inversion.path_scheduler import PinnedScheduler, to_at_least_float32
from pipelines.prompt_to_prompt.edit_run import NoiseArguments, restore_recorded_generators
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.prompt_to_prompt.source_recording import (
    KnownPathRecordingInputs,
    RecordingOptions,
    record_source,
)
from pipelines.run.call_state import CallOverrides
from pipelines.run.run_provenance import (
    RunProvenance,
    SourceRunSettings,
    build_settings_from_provenance,
    prompt_to_json,
)
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

INHERITED_PICTURE_PROVENANCE = ("inversion", "inverted_steps", "picture", "notes")
"""Facts of an inverted picture that its edits have, too."""


class LatentsPinnerProtocol(Protocol):
    """Protocol of a scheduler or step callback that sets a run's latents to given ones after each
    step, and keeps the residual: by how much the model's own step missed them.
    """

    @property
    def last_residual_1CHW(self) -> Tensor | None:
        """Latents of the path minus those of the model's own last step; None before the first."""


class ReplayLatentsCallback(StepCallback):
    """Step callback that sets a run's latents after each step to those of an earlier run, with any
    scheduler; see `LatentsPinnerProtocol`.

    latents : after each step, (1, C, H, W)
    """

    def __init__(self, latents: Sequence[Tensor]) -> None:
        self.latents = latents
        self.last_residual_1CHW: Tensor | None = None

    def after_step(self, run: RunState) -> None:
        """Set the run's latents to the given ones of this step, and keep the residual."""
        end_1CHW = self.latents[run.step].to(run.latents_BCHW)
        self.last_residual_1CHW = to_at_least_float32(end_1CHW) - to_at_least_float32(
            run.latents_BCHW
        )
        run.latents_BCHW = end_1CHW


def record_target_from_latents(
    pipe: Any,
    source: RecordedSource,
    target: str | Prompt,
    latents: Sequence[Tensor],
    options: RecordingOptions,
    notes: Mapping[str, object] | None = None,
) -> RecordedSource:
    """Record an edit's target, an edited image, as a source of its own for further edits.

    The model runs once more with the target's prompt, along the latents of the edit's run but
    without its edits: the target is a picture whose path is known. So queries and keys are those
    that the prompt itself has there, and the residuals make up for the edits: a later edit whose
    target is this prompt again is this image, exactly.

    latents : of the target after each step, (1, C, H, W)
    notes : instead of the source's
    """
    settings = build_target_run_settings(source, target)
    pinned, overrides = build_target_pinner_and_overrides(pipe, source, latents)

    def extra(step: int) -> Mapping[str, Tensor]:
        residual_1CHW = pinned.last_residual_1CHW
        assert residual_1CHW is not None
        uncond = source.steps[step].get("uncond")
        return {"residual": residual_1CHW} | ({} if uncond is None else {"uncond": uncond})

    (generator,) = restore_recorded_generators(source, 1)
    return record_source(
        pipe,
        target,
        settings,
        NoiseArguments(None, generator, source.noise),
        options,
        KnownPathRecordingInputs(
            overrides=overrides,
            arguments=settings.to_arguments(),
            extra=extra,
            path_steps=source.path_steps,
            photo=source.photo,
            facts=build_target_provenance(source)
            | ({} if notes is None else {"notes": dict(notes)}),
            finish=lambda target: replace(
                target, pixels=source.restore_unchanged_pixels(target.pixels, target.latents)
            ),
        ),
    )


def check_recordable_edit(source: object, target: object, options: RecordingOptions) -> None:
    """Raise ArgumentError unless this is one target of a recorded source, for another folder."""
    if not isinstance(source, RecordedSource):
        raise ArgumentError(
            f"Got a source of type {type(source).__name__}, expected a recorded one: "
            "pipe.remember(prompt) or pipe.invert(picture, prompt) records it."
        )
    if not isinstance(target, str | Prompt):
        raise ArgumentError(
            f"Got {target!r:.80} as the target, expected one prompt: a recorded source has one "
            "image."
        )
    folders = [Path(one).resolve() for one in (options.folder, source.steps.folder) if one]
    if len(folders) == 2 and folders[0] == folders[1]:
        raise ArgumentError(
            f"The source is read from {options.folder}: record its edit in another folder."
        )


def build_target_run_settings(source: RecordedSource, target: str | Prompt) -> SourceRunSettings:
    """Return the settings with which an edit's target is run as the next source: those of the
    source's run; what its inversion method derives from the prompt is derived from the target.
    """
    settings = replace(build_settings_from_provenance(source.facts), controls=source.controls)
    if "inversion" not in source.facts:
        return settings
    method = parse_method(source.facts["inversion"])
    return replace(
        settings, **method.build_guidance_arguments(target, settings.guidance_scale or 1.0)
    )


def build_target_pinner_and_overrides(
    pipe: Any, source: RecordedSource, latents: Sequence[Tensor]
) -> tuple[LatentsPinnerProtocol, CallOverrides]:
    """Build a scheduler or step callback that pins each step of a run to the given latents of an
    edit's target, and the call overrides that install it; return both.

    latents : of the target after each step, (1, C, H, W)
    """
    overrides = source.call_overrides(pipe)
    label = "recording"
    if not source.path_steps:
        callback = ReplayLatentsCallback(latents)
        return callback, CallOverrides(None, [callback], label)
    assert overrides is not None
    assert source.noise is not None
    scheduler = PinnedScheduler(pipe.scheduler, source.path_steps, [source.noise, *latents])
    return scheduler, replace(overrides, scheduler=scheduler, progress_label=label)


def build_target_provenance(source: RecordedSource) -> RunProvenance:
    """Return the facts that are recorded of an edit's target as the next source, beyond those of
    its run: the inversion, the seed, and the source that it is an edit of.
    """
    facts = {
        name: source.facts[name] for name in INHERITED_PICTURE_PROVENANCE if name in source.facts
    }
    facts |= {"seed": source.facts["seed"], "edit_of": prompt_to_json(source.prompt)}
    if source.error is not None:
        facts["error"] = {"replay": None, "autoencoder": source.error.autoencoder}
    return facts
