"""Inspection: do the heat maps of words lie where the words are.

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

from t2i.evaluate.inspection.chapters import chapters_of
from t2i.evaluate.inspection.daam_package import DAAM, DaamError, maps_of_daam
from t2i.evaluate.inspection.map_scores import Overlap, overlap, stretched
from t2i.evaluate.inspection.records import (
    ALL,
    Choice,
    LookedAt,
    Scores,
    Shown,
    best_threshold,
    by_iou,
    scores_of,
)
from t2i.evaluate.inspection.scene_heat_maps import (
    METHODS,
    OVER_LEVELS,
    SITES,
    Heat,
    heat_of_drawing,
    heat_of_picture,
    windows,
)
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import SplitConfig, scenes_of
from t2i.evaluate.suite_part import Bench, Record
from t2i.pictures import picture_grid
from t2i.randomness import derive_generator
from t2i.scenes.scenes import Scene, Scenes

Split = Literal["choose", "seen", "held_out", "drawn"]
SPLITS: tuple[Split, ...] = ("choose", "seen", "held_out", "drawn")
Level = Annotated[float, Field(gt=0, lt=1)]
CHOICE = "choice"
MOST_SITES = 8
"""Of "best sites"."""


class InspectionConfig(BaseModel):
    """Which scenes are looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choose: SplitConfig = SplitConfig(seed=41, count=32)
    """Scenes that thresholds and the best sites are chosen on; no table shows them."""
    seen: SplitConfig = SplitConfig(seed=42, count=100)
    held_out: SplitConfig = SplitConfig(seed=43, count=50)
    drawn: SplitConfig = SplitConfig(seed=44, count=24)
    """Captions that are drawn, and held against the recogniser's masks of what was drawn."""
    levels: tuple[Level, ...] = Field((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), min_length=1)
    """How far along the noise schedule a real picture is noised, from 0 to 1."""


class Inspection:
    """The part; its units are scenes, and the choice that precedes them."""

    name = "inspection"

    def __init__(self, config: InspectionConfig, bench: Bench) -> None:
        self.config, self.bench = config, bench

    def units(self) -> Sequence[str]:
        shown = (split for split in self.scenes if split != "choose")
        return [
            CHOICE,
            *(f"{split}/{number}" for split in shown for number in range(len(self.scenes[split]))),
        ]

    def measure(self, unit: str) -> Record:
        if unit == CHOICE:
            return self.choice.model_dump(mode="json")
        split, number = unit.split("/")
        look = self.look_at_drawing if split == "drawn" else self.look_at_picture
        return look(split, int(number)).model_dump(mode="json")  # type: ignore[arg-type]  # a unit's

    def chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        choice = Choice.model_validate(records[CHOICE])
        shown: dict[str, list[Shown]] = {}
        for unit, record in records.items():
            if unit != CHOICE:
                shown.setdefault(unit.split("/")[0], []).append(Shown.model_validate(record))
        return chapters_of(choice, shown, [f"{level:g}" for level in self.config.levels])

    @cached_property
    def scenes(self) -> dict[Split, Scenes]:
        return scenes_of(self.bench, {name: getattr(self.config, name) for name in SPLITS})

    @cached_property
    def choice(self) -> Choice:
        """Made anew in every run that needs it: it follows from the config and the model alone."""
        scenes = self.scenes["choose"]
        methods: dict[str, list[Overlap]] = {}
        sites: dict[str, list[Overlap]] = {}
        sizes: dict[str, str] = {}
        looked: list[tuple[Heat, Scene]] = []
        trouble = ""
        for number in range(len(scenes)):
            scene = scenes.scene(number)
            heat = self._heat("choose", number, scene)
            looked.append((heat, scene))
            for method in METHODS:
                if method != SITES:
                    methods.setdefault(method, []).extend(overlaps(heat, scene, method, []))
            for site in heat.maps["default", ALL].sites:
                sizes[site.name] = "x".join(map(str, site.size or (site.positions,)))
                sites.setdefault(site.name, []).extend(overlaps(heat, scene, SITES, [site.name]))
            if not trouble:
                try:
                    theirs = self._daam("choose", number, scene)
                except DaamError as error:
                    trouble = str(error)
                else:
                    methods.setdefault(DAAM, []).extend(of_maps(theirs, scene))

        chosen = {name: best_threshold(found) for name, found in (methods | sites).items()}
        ranked = by_iou({name: chosen[name][1] for name in sites})
        names = [*ranked]
        together = {
            count: best_threshold(
                [
                    one
                    for heat, scene in looked
                    for one in overlaps(heat, scene, SITES, names[:count])
                ]
            )
            for count in range(1, min(MOST_SITES, len(names)) + 1)
        }
        count = max(together, key=lambda count: together[count][1])
        thresholds = {name: threshold for name, (threshold, _) in chosen.items()}
        if trouble:
            thresholds.pop(DAAM, None)
        return Choice(
            scenes=len(scenes),
            thresholds=thresholds | {SITES: together[count][0]},
            site_ious=ranked,
            site_sizes=sizes,
            sites=names[:count],
            daam=trouble,
        )

    def look_at_picture(self, split: Split, number: int) -> Shown:
        scene = self.scenes[split].scene(number)
        heat = self._heat(split, number, scene)
        choice = self.choice

        objects = []
        for one, placed in enumerate(scene.objects):
            masks = mask_of(scene, one), others_of(scene, one)
            methods: dict[str, dict[str, Scores]] = {}
            for method in METHODS:
                for level in windows(self.config.levels):
                    if level == ALL or method in (*OVER_LEVELS, SITES):
                        found = overlap(heat.of(method, level, one, choice.sites), *masks)
                        scores = scores_of(found, choice.thresholds[method])
                        methods.setdefault(method, {})[level] = scores
            if DAAM in choice.thresholds:
                theirs = overlap(self._daam(split, number, scene)[one], *masks)
                methods[DAAM] = {ALL: scores_of(theirs, choice.thresholds[DAAM])}
            sites = {
                name: scores_of(overlap(heat.of(SITES, ALL, one, [name]), *masks), threshold)
                for name, threshold in choice.thresholds.items()
                if name in choice.site_ious
            }
            objects.append(
                LookedAt(name=placed.name, word=placed.word, methods=methods, sites=sites)
            )
        strip = strip_of(Image.fromarray(scene.pixels), heat, choice.sites)
        file = self.bench.keep(f"inspection/{split}/{number:04d}", strip)
        return Shown(caption=scene.caption, objects=objects, sites=choice.sites, file=file)

    def look_at_drawing(self, split: Split, number: int) -> Shown:
        layout = self.scenes[split].layout(number)
        mentions = layout.caption.mentions
        heat, picture = heat_of_drawing(
            self.bench.pipe,
            layout.caption.text,
            mentions,
            self.bench.steps,
            self.bench.guidance_scale,
            self._noise(split, number),
        )
        seen = self.bench.recogniser.look([picture])[0]
        names = [layout.spots[mention.spot].name for mention in mentions]
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
                found = overlap(
                    heat.of(method, ALL, one, self.choice.sites), masks[name], elsewhere
                )
                methods[method] = {ALL: scores_of(found, self.choice.thresholds[method])}
            objects.append(LookedAt(name=name, word=mention.word, methods=methods))
        strip = strip_of(picture, heat, self.choice.sites)
        return Shown(
            caption=layout.caption.text,
            objects=objects,
            missing=[name for name in names if name not in masks],
            sites=self.choice.sites,
            file=self.bench.keep(f"inspection/{split}/{number:04d}", strip),
        )

    def _heat(self, split: Split, number: int, scene: Scene) -> Heat:
        noise = self._noise(split, number)
        return heat_of_picture(self.bench.pipe, scene, self.config.levels, noise)

    def _daam(self, split: Split, number: int, scene: Scene) -> list[Tensor]:
        noise = self._noise(split, number)
        return maps_of_daam(self.bench.pipe, scene, self.config.levels, noise)

    def _noise(self, split: Split, number: int) -> torch.Generator:
        return derive_generator(self.scenes[split].config.seed, split, number, "noise")


def overlaps(heat: Heat, scene: Scene, method: str, sites: Sequence[str]) -> list[Overlap]:
    """Of each object, the maps of all levels together."""
    return of_maps([heat.of(method, ALL, one, sites) for one in range(len(scene.objects))], scene)


def of_maps(maps: Sequence[Tensor], scene: Scene) -> list[Overlap]:
    return [
        overlap(map_HW, mask_of(scene, one), others_of(scene, one))
        for one, map_HW in enumerate(maps)
    ]


def mask_of(scene: Scene, number: int) -> Tensor:
    return torch.from_numpy(scene.objects[number].mask)


def others_of(scene: Scene, number: int) -> Tensor | None:
    """Where the other objects are; None where there is none."""
    others = [placed.mask for other, placed in enumerate(scene.objects) if other != number]
    return torch.from_numpy(np.stack(others).any(axis=0)) if others else None


def strip_of(picture: Image.Image, heat: Heat, sites: Sequence[str]) -> Image.Image:
    """The picture, and over it the map of each word by our default and by DAAM's convention."""
    pictures, labels = [picture], ["the picture"]
    for number in range(len(heat.words)):
        for method in ("default", "daam"):
            map_HW = stretched(heat.of(method, ALL, number, sites))
            pictures.append(over(picture, map_HW))
            labels.append(f"{number + 1}: {method}")
    return picture_grid(pictures, labels, columns=len(pictures)).convert("RGB")


def over(picture: Image.Image, map_HW: Tensor) -> Image.Image:
    """The picture under a map of 0..1: as bright as it is hot."""
    share = 0.2 + 0.8 * map_HW.clamp(0, 1).numpy()[..., None]
    return Image.fromarray((np.asarray(picture) * share).round().astype(np.uint8))
