"""Plan of one prompt-to-prompt call: its prompts, starting noise and settings.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions
from pipelines.prompt_to_prompt.recorded_controls import add_controls_to_source
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.run import argument_checks
from pipelines.run.call_arguments import Prompts
from pipelines.run.run_provenance import SourceRunSettings, reuse_recorded_settings
from pipelines.text.branch_prompts import select_grammar_prompts
from t2i.attention.edits.base.edit import Edit
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError, DataError
from t2i.text.prompt import Prompt


@dataclass(frozen=True)
class NoiseArguments:
    """Arguments of a pipeline call that determine its starting noise: seed, generator, latents."""

    seed: int | None
    generator: torch.Generator | None
    latents: Tensor | None


@dataclass(frozen=True)
class EditCallArguments:
    """Prompts, starting noise and settings of one call that edits images from a source.

    prompts : the source first, then the targets
    arguments : further arguments of TextToImagePipeline, those that are given
    generators : one per computed prompt
    latents : noise of one image, if given
    """

    prompts: list[str | Prompt]
    arguments: dict[str, Any]
    generators: list[torch.Generator]
    latents: Tensor | None

    @property
    def repeated_latents(self) -> Tensor | None:
        """Starting noise repeated for each computed prompt; None if none was given."""
        return None if self.latents is None else repeat_noise(self.latents, len(self.generators))


def build_edit_run_inputs(
    pipe: Any,
    source: str | Prompt | RecordedSource,
    target: Prompts,
    settings: SourceRunSettings,
    noise: NoiseArguments,
) -> EditCallArguments:
    """Return prompts, starting noise and settings of a run of source and targets, or of the targets
    alone if the source is recorded.

    Raises ArgumentError where the settings or the pipeline differ from those of the recording.
    """
    if not isinstance(source, RecordedSource):
        prompts = join_source_and_target_prompts(source, target)
        generators = build_identical_generators(noise, len(prompts))
        return EditCallArguments(prompts, settings.given_arguments, generators, noise.latents)
    prompts = join_source_and_target_prompts(source.prompt, target)
    check_texts_change_with_cached_source(source, prompts[1:])
    arguments = reuse_recorded_settings(pipe, source.facts, settings, noise.seed)
    arguments["controls"] = add_controls_to_source(pipe, source, settings.controls).controls
    check_no_noise_arguments(noise.generator, noise.latents)
    generators = restore_recorded_generators(source, len(prompts) - 1)
    return EditCallArguments(prompts, arguments, generators, source.noise)


def join_source_and_target_prompts(source: str | Prompt, target: Prompts) -> list[str | Prompt]:
    """Return the prompts of a prompt-to-prompt call as one list: the source, then the targets."""
    if not isinstance(source, str | Prompt):
        raise ArgumentError(
            f"Got source of type {type(source).__name__}: {source!r:.80}. Expected one prompt; "
            "the targets may be several."
        )
    return [source, *argument_checks.repeat_prompt_to_count("target", target)]


def check_texts_change_with_cached_source(
    source: RecordedSource, targets: Sequence[str | Prompt]
) -> None:
    """Raise ArgumentError for targets of a source recorded with a cache whose text changes at other
    steps than the source's.

    A changed text lets its own run compute what the cache leaves out: beside its source a target
    has these passes in common with it, but not with a recorded one.
    """
    if not source.facts.get("cache"):
        return
    num_steps = source.facts["num_inference_steps"]
    of_source = list_text_change_steps([source.prompt], num_steps)
    of_targets = list_text_change_steps(targets, num_steps)
    if of_source != of_targets:
        changes = " and ".join(
            f"that of the {name} {f'at {steps}' if steps else 'never'}"
            for name, steps in (("source", of_source), ("targets", of_targets))
        )
        raise ArgumentError(
            "The source was recorded with a cache, and must have a text that changes at the same "
            f"steps as that of its targets: {changes}. A changed text lets the cache compute "
            "passes that the other run leaves out. Give the source as a prompt, or record it "
            "without a cache."
        )


def list_text_change_steps(prompts: Sequence[str | Prompt], num_steps: int) -> list[int]:
    """Return the steps, counted from 0, at which the text of any of these prompts changes."""
    scheduled = (one.list_change_steps(num_steps) for one in select_grammar_prompts(list(prompts)))
    return sorted({step for steps in scheduled for step in steps} - {0})


def check_custom_edits(edits: object, options: WordEditOptions) -> None:
    """Raise ArgumentError unless `edits` is a list of Edit objects, given without options for
    automatic edits.
    """
    if not isinstance(edits, list | tuple) or not all(isinstance(edit, Edit) for edit in edits):
        raise ArgumentError(
            f'Got edits={edits!r:.80}, expected "auto", or a list of edits, such as '
            "[Replace(target=1), SelfReplace(target=1)]."
        )
    if options != WordEditOptions():
        raise ArgumentError(
            "Got both edits and one of weights, blend, cross_replace and self_replace, which are "
            'for edits="auto": use Reweight, LocalBlend or steps= in your edits instead.'
        )


def find_image_size(
    pipe: Any, height: int | None, width: int | None, latents: Tensor | None = None
) -> tuple[int, int]:
    """Return height and width in pixels of the images of a call: as given, else from the latents,
    else the model's default.
    """
    default = sd.default_height_and_width(pipe.unet, pipe.vae)
    if isinstance(latents, Tensor) and latents.ndim == 4:
        factor = sd.pixels_per_latent(pipe.vae)
        default = (latents.shape[2] * factor, latents.shape[3] * factor)
    return (default[0] if height is None else height), (default[1] if width is None else width)


def build_identical_generators(noise: "NoiseArguments", count: int) -> list[torch.Generator]:
    """Return the source's generator, and a generator in the same state for each target."""
    seed, generator = noise.seed, noise.generator
    if seed is not None and generator is not None:
        raise ArgumentError("Got both seed and generator: give one of them.")
    whole = isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**64
    if seed is not None and not whole:
        raise ArgumentError(f"Got seed={seed!r:.80}, expected a whole number below 2**64.")
    if generator is None:
        generator = torch.Generator("cpu")
        generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    if not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"Got generator of type {type(generator).__name__}, expected one torch.Generator: "
            "source and targets start from the same noise."
        )
    others = [torch.Generator(generator.device) for _ in range(count - 1)]
    for other in others:
        other.set_state(generator.get_state())
    return [generator, *others]


def check_no_noise_arguments(generator: object, latents: object) -> None:
    """Raise ArgumentError for noise given beside a recorded source, which has its own."""
    if generator is not None or latents is not None:
        raise ArgumentError(
            "Got generator or latents with a recorded source, which has its own starting noise: "
            "leave them out, or record the source again."
        )


def restore_recorded_generators(kept: RecordedSource, count: int) -> list[torch.Generator]:
    """Return a generator in the recorded source's initial state for each target.

    Raises DataError where this machine lacks the device of the generator.
    """
    try:
        generators = [torch.Generator(kept.facts["generator"]) for _ in range(count)]
        for generator in generators:
            generator.set_state(kept.state)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"The noise of the recorded source is that of a generator on "
            f"{kept.facts['generator']!r:.80}, which cannot be restored here: record the source "
            "again, with a generator of the CPU."
        ) from error
    return generators


def repeat_noise(latents_BCHW: Tensor, count: int) -> Tensor:
    """Repeat the starting noise of one image, (1, C, H, W), for each prompt of a call."""
    if not isinstance(latents_BCHW, Tensor) or latents_BCHW.ndim != 4 or len(latents_BCHW) != 1:
        got = getattr(latents_BCHW, "shape", type(latents_BCHW).__name__)
        raise ArgumentError(
            f"Got latents {got}, expected the noise of one image, (1, channels, height, width): "
            "source and targets start from the same noise."
        )
    return latents_BCHW.repeat(count, 1, 1, 1)
