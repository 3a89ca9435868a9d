"""Part "inspection" of the suite: do the heat maps of words lie on the objects of the words.

H W size of the picture.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from t2i.evaluate.inspection.chapters import build_chapters
from t2i.evaluate.inspection.daam_package import DAAM_LABEL, DaamError, compute_daam_heat_maps
from t2i.evaluate.inspection.map_scores import (
    MaskOverlapScores,
    rescale_to_0_1,
    score_map_against_mask,
)
from t2i.evaluate.inspection.records import (
    ALL_LEVELS,
    HeatMapCalibration,
    HeatMapScoresRecord,
    ObjectHeatMapScores,
    SceneHeatMapRecord,
    build_heat_map_scores_record,
    find_best_threshold_and_mean_iou,
    round_and_sort_ious,
)
from t2i.evaluate.inspection.scene_heat_maps import (
    BEST_SITES_METHOD,
    METHODS,
    PLOTTED_METHODS,
    SceneHeatMaps,
    build_noise_level_step_windows,
    compute_rendered_scene_heat_maps,
    generate_picture_with_heat_maps,
)
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import SceneSplitConfig, build_scene_splits
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.pictures import build_picture_grid
from t2i.randomness import derive_generator
from t2i.scenes.scenes import Scene, SceneDataset

Split = Literal["choose", "seen", "held_out", "drawn"]
SPLITS: tuple[Split, ...] = ("choose", "seen", "held_out", "drawn")
NoiseLevel = Annotated[float, Field(gt=0, lt=1)]
CALIBRATION_KEY = "choice"
MAX_BEST_SITES = 8
"""Largest number of attention sites that the method "best sites" averages."""


class InspectionConfig(BaseModel):
    """Configuration of the inspection part: scenes, and noise levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choose: SceneSplitConfig = SceneSplitConfig(seed=41, count=32)
    """Scenes that thresholds and the best sites are chosen on; no table shows them."""
    seen: SceneSplitConfig = SceneSplitConfig(seed=42, count=100)
    held_out: SceneSplitConfig = SceneSplitConfig(seed=43, count=50)
    drawn: SceneSplitConfig = SceneSplitConfig(seed=44, count=24)
    """Captions that are drawn, and held against the recogniser's masks of what was drawn."""
    levels: tuple[NoiseLevel, ...] = Field(
        (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), min_length=1
    )
    """How far along the noise schedule a real picture is noised, from 0 to 1."""


class InspectionPart:
    """Part of the suite that scores words' heat maps against the masks of their objects."""

    name = "inspection"

    def __init__(self, config: InspectionConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the calibration and of all scenes, in the order of measurement."""
        shown = (split for split in self.scenes_by_split if split != "choose")
        return [
            CALIBRATION_KEY,
            *(
                f"{split}/{number}"
                for split in shown
                for number in range(len(self.scenes_by_split[split]))
            ),
        ]

    def measure_unit(self, unit: str) -> Record:
        """Return the record of a unit of the heat-map evaluation: the calibration of thresholds for
        CALIBRATION_KEY, else the heat-map scores of a scene.
        """
        if unit == CALIBRATION_KEY:
            return self.calibration.model_dump(mode="json")
        split, number = unit.split("/")
        look = self.score_generated_picture if split == "drawn" else self.score_rendered_scene
        return look(split, int(number)).model_dump(mode="json")  # type: ignore[arg-type]  # a unit's

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapters of this part from the records of all units, by key."""
        choice = HeatMapCalibration.model_validate(records[CALIBRATION_KEY])
        shown: dict[str, list[SceneHeatMapRecord]] = {}
        for unit, record in records.items():
            if unit != CALIBRATION_KEY:
                shown.setdefault(unit.split("/")[0], []).append(
                    SceneHeatMapRecord.model_validate(record)
                )
        return build_chapters(choice, shown, [f"{level:g}" for level in self.config.levels])

    @cached_property
    def scenes_by_split(self) -> dict[Split, SceneDataset]:
        """Data sets of the scenes on which the heat maps of caption words are scored, by split."""
        return build_scene_splits(
            self.context, {name: getattr(self.config, name) for name in SPLITS}
        )

    @cached_property
    def calibration(self) -> HeatMapCalibration:
        """Thresholds of the methods and the best sites, chosen on scenes of their own."""
        scenes = self.scenes_by_split["choose"]
        methods: dict[str, list[MaskOverlapScores]] = {}
        sites: dict[str, list[MaskOverlapScores]] = {}
        sizes: dict[str, str] = {}
        looked: list[tuple[SceneHeatMaps, Scene]] = []
        trouble = ""
        for number in range(len(scenes)):
            scene = scenes.render_scene(number)
            heat = self._probe_picture("choose", number, scene)
            looked.append((heat, scene))
            for method in METHODS:
                if method != BEST_SITES_METHOD:
                    methods.setdefault(method, []).extend(
                        score_object_maps_of_one_method(heat, scene, method, [])
                    )
            for read in heat.maps["default", ALL_LEVELS].measurements.list_accumulators(0):
                site = read.site
                sizes[site.name] = "x".join(map(str, site.size or (site.num_positions,)))
                sites.setdefault(site.name, []).extend(
                    score_object_maps_of_one_method(heat, scene, BEST_SITES_METHOD, [site.name])
                )
            if not trouble:
                try:
                    theirs = self._daam_maps("choose", number, scene)
                except DaamError as error:
                    trouble = str(error)
                else:
                    methods.setdefault(DAAM_LABEL, []).extend(
                        score_map_of_each_object(theirs, scene)
                    )

        chosen = {
            name: find_best_threshold_and_mean_iou(found)
            for name, found in (methods | sites).items()
        }
        ranked = round_and_sort_ious({name: chosen[name][1] for name in sites})
        names = [*ranked]
        together = {
            count: find_best_threshold_and_mean_iou(
                [
                    one
                    for heat, scene in looked
                    for one in score_object_maps_of_one_method(
                        heat, scene, BEST_SITES_METHOD, names[:count]
                    )
                ]
            )
            for count in range(1, min(MAX_BEST_SITES, len(names)) + 1)
        }
        count = max(together, key=lambda count: together[count][1])
        thresholds = {name: threshold for name, (threshold, _) in chosen.items()}
        if trouble:
            thresholds.pop(DAAM_LABEL, None)
        return HeatMapCalibration(
            scenes=len(scenes),
            thresholds=thresholds | {BEST_SITES_METHOD: together[count][0]},
            site_ious=ranked,
            site_sizes=sizes,
            sites=names[:count],
            daam=trouble,
        )

    def score_rendered_scene(self, split: Split, number: int) -> SceneHeatMapRecord:
        """Score the heat maps of a rendered scene against its exact masks."""
        scene = self.scenes_by_split[split].render_scene(number)
        heat = self._probe_picture(split, number, scene)
        choice = self.calibration

        objects = []
        for one, placed in enumerate(scene.objects):
            masks = object_mask(scene, one), other_objects_mask(scene, one)
            methods: dict[str, dict[str, HeatMapScoresRecord]] = {}
            for method in METHODS:
                for level in build_noise_level_step_windows(self.config.levels):
                    if level == ALL_LEVELS or method in (*PLOTTED_METHODS, BEST_SITES_METHOD):
                        found = score_map_against_mask(
                            heat.resized_word_map(method, level, one, choice.sites), *masks
                        )
                        scores = build_heat_map_scores_record(found, choice.thresholds[method])
                        methods.setdefault(method, {})[level] = scores
            if DAAM_LABEL in choice.thresholds:
                theirs = score_map_against_mask(self._daam_maps(split, number, scene)[one], *masks)
                methods[DAAM_LABEL] = {
                    ALL_LEVELS: build_heat_map_scores_record(theirs, choice.thresholds[DAAM_LABEL])
                }
            sites = {
                name: build_heat_map_scores_record(
                    score_map_against_mask(
                        heat.resized_word_map(BEST_SITES_METHOD, ALL_LEVELS, one, [name]), *masks
                    ),
                    threshold,
                )
                for name, threshold in choice.thresholds.items()
                if name in choice.site_ious
            }
            objects.append(
                ObjectHeatMapScores(
                    name=placed.name, word=placed.word, methods=methods, sites=sites
                )
            )
        strip = build_heat_map_strip(Image.fromarray(scene.pixels), heat, choice.sites)
        file = self.context.save_picture(f"inspection/{split}/{number:04d}", strip)
        return SceneHeatMapRecord(
            caption=scene.caption, objects=objects, sites=choice.sites, file=file
        )

    def score_generated_picture(self, split: Split, number: int) -> SceneHeatMapRecord:
        """Score the heat maps of a generated picture against the recogniser's masks."""
        layout = self.scenes_by_split[split].compose_layout(number)
        mentions = layout.caption.mentions
        heat, picture = generate_picture_with_heat_maps(
            self.context.pipe,
            layout.caption.text,
            mentions,
            self.context.steps,
            self.context.guidance_scale,
            self._noise(split, number),
        )
        seen = self.context.recogniser.recognise([picture])[0]
        names = [layout.objects[mention.object_index].name for mention in mentions]
        masks = {
            name: torch.from_numpy(seen.objects[name].mask)
            for name in names
            if name in seen.objects
        }
        objects = []
        for one, (name, mention) in enumerate(zip(names, mentions, strict=True)):
            if name not in masks:
                continue
            others = [mask for other, mask in masks.items() if other != name]
            elsewhere = torch.stack(others).any(0) if others else None
            methods = {}
            for method in METHODS:
                found = score_map_against_mask(
                    heat.resized_word_map(method, ALL_LEVELS, one, self.calibration.sites),
                    masks[name],
                    elsewhere,
                )
                methods[method] = {
                    ALL_LEVELS: build_heat_map_scores_record(
                        found, self.calibration.thresholds[method]
                    )
                }
            objects.append(ObjectHeatMapScores(name=name, word=mention.word, methods=methods))
        strip = build_heat_map_strip(picture, heat, self.calibration.sites)
        return SceneHeatMapRecord(
            caption=layout.caption.text,
            objects=objects,
            missing=[name for name in names if name not in masks],
            sites=self.calibration.sites,
            file=self.context.save_picture(f"inspection/{split}/{number:04d}", strip),
        )

    def _probe_picture(self, split: Split, number: int, scene: Scene) -> SceneHeatMaps:
        noise = self._noise(split, number)
        return compute_rendered_scene_heat_maps(self.context.pipe, scene, self.config.levels, noise)

    def _daam_maps(self, split: Split, number: int, scene: Scene) -> list[Tensor]:
        noise = self._noise(split, number)
        return compute_daam_heat_maps(self.context.pipe, scene, self.config.levels, noise)

    def _noise(self, split: Split, number: int) -> torch.Generator:
        return derive_generator(self.scenes_by_split[split].config.seed, split, number, "noise")


def score_object_maps_of_one_method(
    heat: SceneHeatMaps, scene: Scene, method: str, sites: Sequence[str]
) -> list[MaskOverlapScores]:
    """Return the scores of each object's heat map against the object's mask, for one heat-map
    method over all noise levels.
    """
    return score_map_of_each_object(
        [
            heat.resized_word_map(method, ALL_LEVELS, one, sites)
            for one in range(len(scene.objects))
        ],
        scene,
    )


def score_map_of_each_object(maps: Sequence[Tensor], scene: Scene) -> list[MaskOverlapScores]:
    """Return the scores of the given heat map of each object of a scene against the object's
    mask.
    """
    return [
        score_map_against_mask(map_HW, object_mask(scene, one), other_objects_mask(scene, one))
        for one, map_HW in enumerate(maps)
    ]


def object_mask(scene: Scene, number: int) -> Tensor:
    """Return the mask (H, W) of object `number` of a scene as a bool tensor."""
    return torch.from_numpy(scene.objects[number].mask)


def other_objects_mask(scene: Scene, number: int) -> Tensor | None:
    """Return the union (H, W) of the masks of all objects but `number`; None if there are none."""
    others = [placed.mask for other, placed in enumerate(scene.objects) if other != number]
    return torch.from_numpy(np.stack(others).any(axis=0)) if others else None


def build_heat_map_strip(
    picture: Image.Image, heat: SceneHeatMaps, sites: Sequence[str]
) -> Image.Image:
    """Return a picture and, beside it, each word's heat maps by two conventions, joined to one
    image.
    """
    pictures, labels = [picture], ["the picture"]
    for number in range(len(heat.words)):
        for method in ("default", "daam"):
            map_HW = rescale_to_0_1(heat.resized_word_map(method, ALL_LEVELS, number, sites))
            pictures.append(darken_outside_map(picture, map_HW))
            labels.append(f"{number + 1}: {method}")
    return build_picture_grid(pictures, labels, columns=len(pictures)).convert("RGB")


def darken_outside_map(picture: Image.Image, map_HW: Tensor) -> Image.Image:
    """Darken a picture where a heat map, from 0 to 1, is low."""
    share = 0.2 + 0.8 * map_HW.clamp(0, 1).numpy()[..., None]
    return Image.fromarray((np.asarray(picture) * share).round().astype(np.uint8))
