"""Part "hints" of the suite: does a control put objects where its hint says, and keep the words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.attention import Region, Regions, attend
from t2i.controls.control import Control
from t2i.controls.network_checks import check_controls
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.errors import ArgumentError
from t2i.evaluate.generation.judge import build_caption_statement, judge_by_statement
from t2i.evaluate.hints.chapters import GALLERY_SCENES, build_hint_chapter
from t2i.evaluate.hints.conditions import HintCondition, HintsConfig, list_conditions
from t2i.evaluate.hints.records import HintedPictureRecord, HintUnitRecord
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import build_scene_splits
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.randomness import derive_generator
from t2i.scenes.hints import draw_scene_hint
from t2i.scenes.recognised_objects import Recognition
from t2i.scenes.scenes import Scene, SceneDataset
from t2i.terminal import plural

DECIMALS = 4
"""Decimals of the IoU in a record."""


@dataclass(frozen=True, slots=True)
class HintUnit:
    """Unit of work of the hint evaluation: the numbers of scenes whose pictures are generated
    together under one condition.
    """

    condition: HintCondition
    scene_numbers: range

    @property
    def key(self) -> str:
        """Key of the unit in records.jsonl, made of its condition and scene numbers; equal in every
        run.
        """
        return f"{self.condition.key}/{self.scene_numbers.start}"


class HintsPart:
    """Part of the evaluation suite that measures how well generated pictures follow a control's
    hint and their captions, by the control's strength, mode and step window.
    """

    name = "hints"

    def __init__(self, config: HintsConfig, context: EvaluationContext) -> None:
        """Raises ArgumentError without a control, and for one that does not fit the model."""
        self.config, self.context = config, context
        if context.control_network is None:
            raise ArgumentError(
                "The part hints measures a control, and none is named: give its network, "
                "--control segments, or a folder as `t2i train` writes it."
            )
        control = self._build_control([Image.new("RGB", (8, 8))], HintCondition("", "hint"))
        pipe = context.pipe
        channels = int(pipe.vae.config["latent_channels"])
        check_controls([control], pipe.unet, channels, pixels_per_latent(pipe.vae))
        self.conditions = list_conditions(config, is_adapter=control.is_adapter)

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the units of work of the hint evaluation, in order; they are equal in
        every run.
        """
        return [*self.units_by_key]

    def measure_unit(self, unit: str) -> Record:
        """Generate the pictures of a unit's scenes under its hint condition; return a record of how
        far objects are in their places and captions are met.
        """
        own = self.units_by_key[unit]
        scenes = [self.scenes.render_scene(number) for number in own.scene_numbers]
        pictures = self._draw(own, scenes)
        seen = self.context.recogniser.recognise(pictures)
        records = []
        for number, scene, picture, found in zip(
            own.scene_numbers, scenes, pictures, seen, strict=True
        ):
            records.append(
                HintedPictureRecord(
                    number=number,
                    caption=scene.caption,
                    ious={
                        placed.name: round(
                            measure_place_iou(placed.name, placed.mask, found), DECIMALS
                        )
                        for placed in scene.objects
                    },
                    right=judge_by_statement(
                        build_caption_statement(self.scenes.compose_layout(number)), found
                    ),
                    file=self.context.save_picture(f"hints/{own.condition.key}/{number}", picture),
                )
            )
        return HintUnitRecord(pictures=records).model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapter of this part from the records of all units, by key."""
        read = {key: HintUnitRecord.model_validate(record) for key, record in records.items()}
        pictures = {
            condition.label: [
                picture
                for key, unit in self.units_by_key.items()
                if unit.condition == condition
                for picture in read[key].pictures
            ]
            for condition in self.conditions
        }
        count = min(GALLERY_SCENES, len(self.scenes))
        hints = [
            (
                self.context.save_picture(
                    f"hints/hint/{number}",
                    Image.fromarray(self._draw_hint(self.scenes.render_scene(number))),
                ),
                self.scenes.compose_layout(number).caption.text,
            )
            for number in range(count)
        ]
        context = self.context
        sampling = f"{plural(context.steps, 'step')}, guidance scale {context.guidance_scale:g}"
        return [build_hint_chapter(pictures, hints, sampling, self.config.hint)]

    @cached_property
    def scenes(self) -> SceneDataset:
        """Data set of the scenes from whose hints and captions the hint evaluation generates
        pictures.
        """
        return build_scene_splits(self.context, {"seen": self.config.scenes})["seen"]

    @cached_property
    def units_by_key(self) -> dict[str, HintUnit]:
        """All units of work of the hint evaluation, by the keys by which records.jsonl stores their
        records.
        """
        units = [
            HintUnit(condition, range(first, min(first + self.config.batch, len(self.scenes))))
            for condition in self.conditions
            for first in range(0, len(self.scenes), self.config.batch)
        ]
        return {unit.key: unit for unit in units}

    def _draw(self, unit: HintUnit, scenes: Sequence[Scene]) -> list[Image.Image]:
        condition = unit.condition
        if condition.kind == "composed":
            return [Image.fromarray(scene.pixels) for scene in scenes]
        if condition.kind == "regions":
            return [
                self._draw_with_regions(number, scene)
                for number, scene in zip(unit.scene_numbers, scenes, strict=True)
            ]
        controls = []
        if condition.kind != "none":
            shift = int(condition.kind == "other")
            numbers = [(number + shift) % len(self.scenes) for number in unit.scene_numbers]
            hints = [
                Image.fromarray(self._draw_hint(self.scenes.render_scene(number)))
                for number in numbers
            ]
            controls = [self._build_control(hints, condition)]
        return self._sample(unit.scene_numbers, scenes, controls)

    def _draw_with_regions(self, number: int, scene: Scene) -> Image.Image:
        size = self.scenes.config.size
        regions = [
            Region(
                words=placed.word,
                box=(
                    placed.box[0] / size,
                    placed.box[1] / size,
                    placed.box[2] / size,
                    placed.box[3] / size,
                ),
            )
            for placed in scene.objects
        ]
        with attend(self.context.pipe) as attention:
            attention.edit(Regions(regions))
            return self._sample([number], [scene], [])[0]

    def _sample(
        self, numbers: Sequence[int], scenes: Sequence[Scene], controls: Sequence[Control]
    ) -> list[Image.Image]:
        seed = self.config.scenes.seed
        pictures: list[Image.Image] = self.context.pipe(
            [scene.caption for scene in scenes],
            num_inference_steps=self.context.steps,
            guidance_scale=self.context.guidance_scale,
            generator=[derive_generator(seed, "hints", number, "noise") for number in numbers],
            controls=controls,
            return_dict=False,
        )[0]
        return pictures

    def _build_control(self, hints: Sequence[Image.Image], condition: HintCondition) -> Control:
        return Control(
            self.context.control_network,
            list(hints),
            scale=condition.scale,
            mode=condition.mode,
            steps=condition.steps,
        )

    def _draw_hint(self, scene: Scene) -> NDArray[np.uint8]:
        names = [placed.name for placed in scene.objects]
        masks = [placed.mask for placed in scene.objects]
        return draw_scene_hint(self.config.hint, scene.pixels, names, masks)


def measure_place_iou(name: str, mask_HW: NDArray[np.bool_], seen: Recognition) -> float:
    """Return the intersection over union of the mask (H, W) of an object in a scene and the mask
    where it was recognised in a picture; 0 if it was not recognised.
    """
    if name not in seen.objects:
        return 0.0
    found_HW = seen.objects[name].mask
    return float((mask_HW & found_HW).sum() / (mask_HW | found_HW).sum())
