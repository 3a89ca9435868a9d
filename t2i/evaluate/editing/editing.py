"""Editing: does an edit change what was asked, and nothing else."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import rebuild
from t2i.errors import ArgumentError
from t2i.evaluate.editing.caption_fit import fits_of
from t2i.evaluate.editing.chapters import chapters_of
from t2i.evaluate.editing.cost import cost_of
from t2i.evaluate.editing.methods import (
    METHODS,
    NONE,
    EditSettings,
    aimed_at,
    methods_of,
    target_of,
)
from t2i.evaluate.editing.pairs import KINDS, Kind, Pair, pair
from t2i.evaluate.editing.records import DECIMALS, Cost, Edited, EditedPair, TwoObjects, alike
from t2i.evaluate.editing.scores import all_true, kept, structure_distance, succeeded, to_stay
from t2i.evaluate.editing.two_objects import HELPED, drawn, drawn_with_help, layout_of_two
from t2i.evaluate.generation.judge import judge, said
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.suite_part import Bench, Record
from t2i.pictures import picture_grid
from t2i.randomness import derive_seed
from t2i.scenes.recognised_objects import Seen
from t2i.scenes.scenes import Scenes, ScenesConfig

TWO, COST = "two", "cost"


class EditingConfig(BaseModel):
    """How many pairs of prompts are edited, and how."""

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
    """In which a method's time and memory are held against none; 0 leaves them out."""
    settings: EditSettings = EditSettings()


class Editing:
    """The part; its units are pairs of prompts, prompts of two objects, and what methods cost."""

    name = "editing"

    def __init__(self, config: EditingConfig, bench: Bench) -> None:
        self.config, self.bench = config, bench
        zeros = bench.pipe.config.get("force_zeros_for_empty_prompt", True)
        # A scheduler of its own: nothing passes from here to another part.
        parts = bench.pipe.components | {"scheduler": rebuild(bench.pipe.scheduler)}
        self.editor = PromptEditPipeline(**parts, force_zeros_for_empty_prompt=zeros)
        self.editor.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers lacks types

    def units(self) -> Sequence[str]:
        config = self.config
        pairs = [f"{kind}/{n}" for kind in self.kinds for n in range(getattr(config, kind))]
        two = range(config.two if layout_of_two(self.scenes, 0) else 0)
        costs = [name for name in METHODS if name != NONE] if self.kinds else []
        costs += HELPED if two else []
        return [
            *pairs,
            *(f"{TWO}/{number}" for number in two),
            *(f"{COST}/{name}" for name in costs if config.cost_rounds),
        ]

    def measure(self, unit: str) -> Record:
        kind, _, name = unit.partition("/")
        if kind == TWO:
            return self._help(int(name)).model_dump(mode="json")
        if kind == COST:
            return self._cost(name).model_dump(mode="json")
        return self._edit(kind, int(name)).model_dump(mode="json")  # type: ignore[arg-type]  # a unit's

    def chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        return chapters_of(records, self.config.settings, self.bench.steps)

    @cached_property
    def scenes(self) -> Scenes:
        """What pairs are made of; a pair may try many of them."""
        return Scenes(
            ScenesConfig(
                size=sd.default_size(self.bench.pipe.unet, self.bench.pipe.vae)[0],
                seed=self.config.seed,
                vocabulary=self.bench.objects,
                max_objects=min(self.bench.most_objects, 2),
            )
        )

    @cached_property
    def kinds(self) -> list[Kind]:
        """Those that can be made of the model's objects."""
        able: list[Kind] = []
        for kind in KINDS:
            if getattr(self.config, kind):
                try:
                    pair(self.scenes, kind, 0)
                except ArgumentError:
                    continue
                able.append(kind)
        return able

    def _edit(self, kind: Kind, number: int) -> EditedPair:
        """All methods at once: they share the source."""
        told = pair(self.scenes, kind, number)
        methods = methods_of(told)
        steps, settings = self.bench.steps, self.config.settings
        edits = [
            edit
            for target, make in enumerate(methods.values(), start=1)
            for edit in aimed_at(make(self.editor, told, settings, steps), target)
        ]
        drawn = self.editor(
            told.texts[0],
            [target_of(told, method, settings) for method in methods],
            edits=edits,
            seed=derive_seed(self.config.seed, kind, number, "noise"),
            num_inference_steps=steps,
            guidance_scale=self.bench.guidance_scale,
            return_dict=False,
        )
        pictures: list[Image.Image] = drawn[0]
        source, *targets = self.bench.recogniser.look(pictures)
        fits: Sequence[float | None] = [None] * len(targets)
        fits_there = fits
        if self.bench.agreement is not None:
            fits, fits_there = fits_of(self.bench.agreement, told, source, pictures[1:])
        strip = picture_grid(pictures, ["source", *methods], columns=len(pictures)).convert("RGB")
        return EditedPair(
            kind=kind,
            source=told.texts[0],
            target=target_text(told),
            source_right=all(judge(said(told.source), source)["everything"]),
            methods={
                method: compared(told, (pictures[0], source), (picture, target), scores)
                for method, picture, target, *scores in zip(
                    methods, pictures[1:], targets, fits, fits_there, strict=True
                )
            },
            file=self.bench.keep(f"editing/{kind}/{number:04d}", strip),
        )

    def _help(self, number: int) -> TwoObjects:
        layout = layout_of_two(self.scenes, number)
        assert layout is not None  # units() asked for the first
        seed = derive_seed(self.config.seed, TWO, number, "noise")
        return drawn_with_help(self.bench, layout, seed, f"editing/{TWO}/{number:04d}")

    def _cost(self, method: str) -> Cost:
        draw = self._draw_of_two if method in HELPED else self._draw_of_pair
        return cost_of(
            method,
            partial(draw, NONE),
            partial(draw, method),
            self.bench.steps,
            self.config.cost_rounds,
            self.bench.pipe.device,
        )

    def _draw_of_pair(self, method: str, steps: int) -> object:
        """A source and its target."""
        told, settings = pair(self.scenes, self.kinds[0], 0), self.config.settings
        return self.editor(
            told.texts[0],
            target_of(told, method, settings),
            edits=list(METHODS[method](self.editor, told, settings, steps)),
            seed=self.config.seed,
            num_inference_steps=steps,
            guidance_scale=self.bench.guidance_scale,
            output_type="latent",
        )

    def _draw_of_two(self, method: str, steps: int) -> object:
        """A prompt of two objects, alone."""
        layout = layout_of_two(self.scenes, 0)
        assert layout is not None  # units() asked for it
        return drawn(self.bench, layout, [method], self.config.seed, steps, output_type="latent")


def compared(
    told: Pair,
    before: tuple[Image.Image, Seen],
    after: tuple[Image.Image, Seen],
    fits: Sequence[float | None],
) -> Edited:
    """What became of the source, in pictures and in what is seen in them.

    fits : of the picture, and of the edited place
    """
    fit, fit_there = (None if value is None else round(value, DECIMALS) for value in fits)
    (source, source_seen), (target, target_seen) = before, after
    size = source.height, source.width
    stay = to_stay(told, source_seen, target_seen, size)
    whole = kept(source, target, np.ones(size, dtype=np.bool_))
    stayed = kept(source, target, stay)
    assert whole is not None
    return Edited(
        success=succeeded(told, source_seen, target_seen),
        everything=all_true(told, target_seen),
        stayed=None if stayed is None else alike(stayed),
        whole=alike(whole),
        structure=round(structure_distance(source_seen.structure, target_seen.structure), DECIMALS),
        fit=fit,
        fit_there=fit_there,
    )


def target_text(told: Pair) -> str:
    """As people read it."""
    return told.texts[1] if told.strong is None else f"{told.texts[1]}, more {told.strong}"
