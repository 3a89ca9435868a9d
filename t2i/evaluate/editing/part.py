"""Part "editing" of the suite: does an edit change what was requested, and nothing else."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import rebuild_scheduler_with_settings
from t2i.errors import ArgumentError
from t2i.evaluate.editing.caption_fit import score_pictures_and_edited_regions
from t2i.evaluate.editing.chapters import build_chapters
from t2i.evaluate.editing.cost import measure_relative_cost
from t2i.evaluate.editing.methods import (
    METHODS,
    NO_EDIT,
    EditSettings,
    build_target_prompt,
    copy_edits_with_target_index,
    list_applicable_methods,
)
from t2i.evaluate.editing.pairs import CHANGE_TITLES, ChangeKind, PromptPair, build_nth_prompt_pair
from t2i.evaluate.editing.records import (
    DECIMALS,
    EditedPictureRecord,
    PromptPairRecord,
    RelativeCostRecord,
    TwoObjectPromptRecord,
    build_pixel_similarity_record,
)
from t2i.evaluate.editing.scores import (
    build_unchanged_region_mask,
    compute_structure_distance,
    fulfils_target_prompt,
    is_edit_successful,
    measure_pixel_similarity_within_each_mask,
)
from t2i.evaluate.editing.two_objects import (
    EDIT_NAMES,
    find_nth_layout_relating_two_objects,
    generate_with_each_edit,
    measure_two_object_prompt,
)
from t2i.evaluate.generation.judge import build_caption_statement, judge_by_statement
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.pictures import build_picture_grid
from t2i.randomness import derive_seed
from t2i.scenes.recognised_objects import Recognition
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

TWO_OBJECTS_KEY, COST_KEY = "two", "cost"


class EditingConfig(BaseModel):
    """Configuration of the editing part: prompt pairs of each kind, and edit settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(51, ge=0)
    swap: int = Field(24, ge=0)
    recolour: int = Field(24, ge=0)
    background: int = Field(16, ge=0)
    addition: int = Field(0, ge=0)
    """One more object; not among the published figures."""
    strengthen: int = Field(12, ge=0)
    two: int = Field(24, ge=0)
    """Prompts of two objects, without an edit, excited and in regions."""
    cost_rounds: int = Field(5, ge=0)
    """Rounds in which each method is timed against no edit; 0 leaves out time and memory."""
    settings: EditSettings = EditSettings()


class EditingPart:
    """Part of the suite that measures edits: prompt pairs, two-object prompts, and costs."""

    name = "editing"

    def __init__(self, config: EditingConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context
        zeros = context.pipe.config.get("force_zeros_for_empty_prompt", True)
        # A scheduler of its own: nothing passes from here to another part.
        parts = context.pipe.components | {
            "scheduler": rebuild_scheduler_with_settings(context.pipe.scheduler)
        }
        self.editor = PromptEditPipeline(**parts, force_zeros_for_empty_prompt=zeros)
        self.editor.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers lacks types

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of all prompt pairs, two-object prompts and cost measurements."""
        config = self.config
        pairs = [f"{kind}/{n}" for kind in self.change_kinds for n in range(getattr(config, kind))]
        two = range(config.two if find_nth_layout_relating_two_objects(self.scenes, 0) else 0)
        costs = [name for name in METHODS if name != NO_EDIT] if self.change_kinds else []
        costs += EDIT_NAMES if two else []
        return [
            *pairs,
            *(f"{TWO_OBJECTS_KEY}/{number}" for number in two),
            *(f"{COST_KEY}/{name}" for name in costs if config.cost_rounds),
        ]

    def measure_unit(self, unit: str) -> Record:
        """Measure one unit of the editing evaluation, by its key: a prompt pair, a two-object
        prompt, or the cost of an editing method; return its record as JSON data.
        """
        kind, _, name = unit.partition("/")
        if kind == TWO_OBJECTS_KEY:
            return self._measure_two_objects(int(name)).model_dump(mode="json")
        if kind == COST_KEY:
            return self._measure_cost(name).model_dump(mode="json")
        return self._edit_pair(kind, int(name)).model_dump(mode="json")  # type: ignore[arg-type]  # a unit's

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapters of this part from the records of all units, by key."""
        return build_chapters(records, self.config.settings, self.context.steps)

    @cached_property
    def scenes(self) -> SceneDataset:
        """Data set of the scenes from which prompt pairs are made; a pair uses the first scene that
        allows its kind of change.
        """
        return SceneDataset(
            SceneDatasetConfig(
                size=sd.default_height_and_width(self.context.pipe.unet, self.context.pipe.vae)[0],
                seed=self.config.seed,
                vocabulary=self.context.objects,
                max_objects=min(self.context.max_objects, 2),
            )
        )

    @cached_property
    def change_kinds(self) -> list[ChangeKind]:
        """Kinds of prompt change that are configured and possible with the model's objects."""
        able: list[ChangeKind] = []
        for kind in CHANGE_TITLES:
            if getattr(self.config, kind):
                try:
                    build_nth_prompt_pair(self.scenes, kind, 0)
                except ArgumentError:
                    continue
                able.append(kind)
        return able

    def _edit_pair(self, kind: ChangeKind, number: int) -> PromptPairRecord:
        """Draw the source with all methods in one batch, and compare each target with it."""
        pair = build_nth_prompt_pair(self.scenes, kind, number)
        methods = list_applicable_methods(pair)
        steps, settings = self.context.steps, self.config.settings
        edits = [
            edit
            for target, make in enumerate(methods.values(), start=1)
            for edit in copy_edits_with_target_index(
                make(self.editor, pair, settings, steps), target
            )
        ]
        output = self.editor(
            pair.captions[0],
            [build_target_prompt(pair, method, settings) for method in methods],
            edits=edits,
            seed=derive_seed(self.config.seed, kind, number, "noise"),
            num_inference_steps=steps,
            guidance_scale=self.context.guidance_scale,
            return_dict=False,
        )
        pictures: list[Image.Image] = output[0]
        source, *targets = self.context.recogniser.recognise(pictures)
        fits: Sequence[float | None] = [None] * len(targets)
        fits_there = fits
        if self.context.caption_matcher is not None:
            fits, fits_there = score_pictures_and_edited_regions(
                self.context.caption_matcher, pair, source, pictures[1:]
            )
        strip = build_picture_grid(pictures, ["source", *methods], columns=len(pictures)).convert(
            "RGB"
        )
        return PromptPairRecord(
            kind=kind,
            source=pair.captions[0],
            target=pair.target_prompt_display_text,
            source_right=all(
                judge_by_statement(build_caption_statement(pair.source), source)["everything"]
            ),
            methods={
                method: build_edited_picture_record(
                    pair, (pictures[0], source), (picture, target), scores
                )
                for method, picture, target, *scores in zip(
                    methods, pictures[1:], targets, fits, fits_there, strict=True
                )
            },
            file=self.context.save_picture(f"editing/{kind}/{number:04d}", strip),
        )

    def _measure_two_objects(self, number: int) -> TwoObjectPromptRecord:
        layout = find_nth_layout_relating_two_objects(self.scenes, number)
        assert layout is not None  # list_unit_keys() asked for the first
        seed = derive_seed(self.config.seed, TWO_OBJECTS_KEY, number, "noise")
        return measure_two_object_prompt(
            self.context, layout, seed, f"editing/{TWO_OBJECTS_KEY}/{number:04d}"
        )

    def _measure_cost(self, method: str) -> RelativeCostRecord:
        draw = self._draw_two_objects if method in EDIT_NAMES else self._draw_pair
        return measure_relative_cost(
            method,
            partial(draw, NO_EDIT),
            partial(draw, method),
            self.context.steps,
            self.config.cost_rounds,
            self.context.pipe.device,
        )

    def _draw_pair(self, method: str, steps: int) -> object:
        """Draw a source and its target."""
        pair, settings = (
            build_nth_prompt_pair(self.scenes, self.change_kinds[0], 0),
            self.config.settings,
        )
        return self.editor(
            pair.captions[0],
            build_target_prompt(pair, method, settings),
            edits=list(METHODS[method](self.editor, pair, settings, steps)),
            seed=self.config.seed,
            num_inference_steps=steps,
            guidance_scale=self.context.guidance_scale,
            output_type="latent",
        )

    def _draw_two_objects(self, method: str, steps: int) -> object:
        """Draw one prompt of two objects."""
        layout = find_nth_layout_relating_two_objects(self.scenes, 0)
        assert layout is not None  # list_unit_keys() asked for it
        return generate_with_each_edit(
            self.context, layout, [method], self.config.seed, steps, output_type="latent"
        )


def build_edited_picture_record(
    pair: PromptPair,
    before: tuple[Image.Image, Recognition],
    after: tuple[Image.Image, Recognition],
    fits: Sequence[float | None],
) -> EditedPictureRecord:
    """Return the record of an edited picture's scores: whether the edit succeeded, as recognised,
    and its similarity and structure distance to the source picture.

    before, after : picture and recognition of the source, and of the edited picture
    fits : caption scores of the edited picture and of its edited region; None if not computed
    """
    fit, fit_there = (None if value is None else round(value, DECIMALS) for value in fits)
    (source, source_seen), (target, target_seen) = before, after
    size = source.height, source.width
    stay = build_unchanged_region_mask(pair, source_seen, target_seen, size)
    everywhere = np.ones(size, dtype=np.bool_)
    whole, stayed = measure_pixel_similarity_within_each_mask(source, target, [everywhere, stay])
    assert whole is not None
    return EditedPictureRecord(
        success=is_edit_successful(pair, source_seen, target_seen),
        everything=fulfils_target_prompt(pair, target_seen),
        stayed=None if stayed is None else build_pixel_similarity_record(stayed),
        whole=build_pixel_similarity_record(whole),
        structure=round(
            compute_structure_distance(source_seen.features, target_seen.features), DECIMALS
        ),
        fit=fit,
        fit_there=fit_there,
    )
