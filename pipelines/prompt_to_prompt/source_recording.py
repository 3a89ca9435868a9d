"""Recording of a source run that the model draws, for `PromptEditPipeline.remember`.

B batch rows (here: 1 image), C channels, H W latent size.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.images.photo import Photo
from pipelines.inversion.noise_levels import SamplerStepCoefficients
from pipelines.prompt_to_prompt.edit_run import (
    NoiseArguments,
    build_identical_generators,
    repeat_noise,
)
from pipelines.prompt_to_prompt.recorded_source import RecordedSource, finish_recorded_source_folder
from pipelines.prompt_to_prompt.recording import (
    RecordingEdit,
    RecordingProbe,
    create_empty_recorded_steps,
    return_no_extra_tensors,
)
from pipelines.prompt_to_prompt.replayable_edits import check_edits_to_record_for
from pipelines.run.argument_checks import check_path_type
from pipelines.run.call_state import CallOverrides
from pipelines.run.run_provenance import RunProvenance, SourceRunSettings, collect_run_provenance
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.attend import attend
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
from t2i.attention.edits.registry import to_dict
from t2i.attention.site import site_to_dict
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """Folder, limits and extent of a recording, see `PromptEditPipeline.remember`."""

    folder: str | Path | None
    budget: int
    max_positions: int | None
    for_edits: Sequence[Edit] = ()

    def __post_init__(self) -> None:
        if self.folder is not None:
            check_path_type("folder", self.folder)
        if isinstance(self.budget, bool) or not isinstance(self.budget, int | float):
            raise ArgumentError(f"Got budget={self.budget!r:.80}, expected a number of bytes.")
        check_edits_to_record_for(self.for_edits)

    @property
    def source_rows_edits(self) -> list[SourceRowsEdit]:
        """Edits that read more of the source than its queries and keys in the branch "cond"."""
        return [edit for edit in self.for_edits if isinstance(edit, SourceRowsEdit)]


@dataclass(frozen=True, kw_only=True)
class KnownPathRecordingInputs:
    """Inputs that the recording of a source with a known path, an inverted picture or the target of
    an edit, needs in addition: path, photo, call overrides and provenance.

    overrides : of the recorded run
    arguments : of the recorded run, instead of those that the edits take over
    extra : number of a step -> further tensors of it
    path_steps : sampler steps of the targets; empty for those of the pipeline's scheduler
    photo : that was inverted, or None
    facts : further facts
    finish : the recorded source -> it with what is known after the run
    """

    overrides: CallOverrides
    arguments: Mapping[str, Any]
    extra: Callable[[int], Mapping[str, Tensor]]
    path_steps: tuple[SamplerStepCoefficients, ...]
    photo: Photo | None
    facts: RunProvenance
    finish: Callable[[RecordedSource], RecordedSource]


def record_source(
    pipe: Any,
    source: str | Prompt,
    settings: SourceRunSettings,
    noise: NoiseArguments,
    options: RecordingOptions,
    path: KnownPathRecordingInputs | None = None,
) -> RecordedSource:
    """Run a source and record it, in memory or in a folder that is complete or absent.

    path : of an inverted picture, else None
    """
    (generator,) = build_identical_generators(noise, 1)
    max_positions = options.max_positions
    if max_positions is None:
        assert settings.height is not None
        assert settings.width is not None
        max_positions = pipe.find_max_kept_layout_positions(settings.height, settings.width)
    facts = collect_run_provenance(pipe, settings.to_arguments() | {"seed": noise.seed})
    facts |= {"max_positions": max_positions, "generator": str(generator.device)}
    if options.source_rows_edits:
        facts["for_edits"] = [to_dict(edit) for edit in options.source_rows_edits]
    facts |= {} if path is None else path.facts
    state = generator.get_state()
    folder = None if options.folder is None else Path(options.folder)
    with ExitStack() as stack:
        steps = create_empty_recorded_steps(folder, stack)
        stack.enter_context(pipe.holding_attention_lock())
        with (
            attend(pipe) as attn,
            pipe.overriding_calls(None if path is None else path.overrides),
        ):
            extra = return_no_extra_tensors if path is None else path.extra
            probe = RecordingProbe(max_positions, options.source_rows_edits)
            attn.edit(RecordingEdit(storage=steps, probe=probe, budget=options.budget, extra=extra))
            drawn = TextToImagePipeline.__call__(
                pipe,
                prompt=source,
                generator=[generator],
                latents=None if noise.latents is None else repeat_noise(noise.latents, 1),
                output_type="latent",
                return_dict=False,
                **(settings.to_arguments() if path is None else path.arguments),
            )
        assert isinstance(drawn, tuple)
        final_1CHW = drawn[0]
        pixels = pipe.decode_latents(final_1CHW)
        sites = probe.recorded_sites.values()
        facts |= {"text_sites": [site_to_dict(site) for site in sites if site.kind != "self"]}
        recorded = RecordedSource(
            *(source, facts, steps, state, noise.latents, final_1CHW, pixels),
            controls=tuple(settings.controls),
        )
        if path is not None:
            recorded = path.finish(replace(recorded, path_steps=path.path_steps, photo=path.photo))
        finish_recorded_source_folder(recorded)
    steps.folder = folder
    return recorded
