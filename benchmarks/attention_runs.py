"""The runs that benchmarks.attention compares: watched, edited, and of a remembered source.

B batch rows, C channels, H W latent size, N heads, Q query positions, K key positions, T text
tokens.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.generate import SHAPES, pipeline_pair
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Replace, SelfReplace, attend
from t2i.attention.edits.base.edit import Edit
from t2i.denoiser.schedulers import build_scheduler
from tests.attention.published import Controller, controlled

SOURCE, TARGET = "a red apple to the left of a cat", "a red apple to the left of a dog"
WORDS = ("red", "apple", "left", "of", "cat")
MOST_POSITIONS = 16 * 16
"""Of the sites whose layout is copied, as published."""


class Published(Controller):
    """The published controllers as their code runs them: in the precision of the run, and with
    what is the same at every call computed once. It keeps no maps, which the published code does.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.matrix_TT = self.replacement(*self.prompts)

    def change(self, probs_BNQK: Tensor, is_cross: bool, place: str) -> Tensor:
        source_NQK, target_NQK = probs_BNQK[-2], probs_BNQK[-1]
        if is_cross:
            open_T = self.table[0][self.step].to(probs_BNQK)
            made_NQT = source_NQK @ self.matrix_TT.to(probs_BNQK)
            probs_BNQK[-1] = made_NQT * open_T + target_NQK * (1 - open_T)
        elif self.copies_self(source_NQK.shape[-1]):
            probs_BNQK[-1] = source_NQK
        return probs_BNQK


@dataclass
class Runs:
    """One pipeline, and what is drawn with it. All give latents, (B, C, H, W).

    Nothing is decoded: that costs the same with attention watched or not, and would hide what is
    to be seen.
    """

    pipe: TextToImagePipeline
    editing: PromptEditPipeline
    options: argparse.Namespace
    kept: RecordedSource | None = None

    # watched

    def plain(self) -> Tensor:
        return draw(self.pipe, [SOURCE], self.options)

    def probes(self) -> Tensor:
        with attend(self.pipe) as attn:
            maps = attn.probe(*WORDS)
            latents_BCHW = draw(self.pipe, [SOURCE], self.options)
            for word in WORDS:
                assert maps[word].isfinite().all()
        return latents_BCHW

    # edited

    def pair(self) -> Tensor:
        return draw(self.pipe, [SOURCE, TARGET], self.options)

    def edited(self) -> Tensor:
        with attend(self.pipe) as attn:
            for edit in edits():
                attn.edit(edit)
            return draw(self.pipe, [SOURCE, TARGET], self.options)

    def eager(self) -> Tensor:
        """By the published controllers, which make every map."""
        controller = Published(
            (SOURCE, TARGET),
            self.pipe.tokenizer,
            self.options.steps,
            swap="replace",
            cross={"default_": 1.0},
            self_steps=1.0,
            self_positions=MOST_POSITIONS,
        )
        unet: Any = self.pipe.unet
        before = dict(unet.attn_processors)
        controlled(unet, controller.change)
        try:
            return draw(
                self.pipe,
                [SOURCE, TARGET],
                self.options,
                callback_on_step_end=controller.end_step,
            )
        finally:
            unet.set_attn_processor(before)

    # remembered

    def both(self) -> Tensor:
        return self.edit(SOURCE, seed=0, **settings(self.options))

    def remember(self) -> Tensor:
        self.kept = self.editing.remember(SOURCE, seed=0, **settings(self.options))
        return self.kept.latents

    def later(self) -> Tensor:
        if self.kept is None:
            self.remember()
        assert self.kept is not None
        return self.edit(self.kept)

    def edit(self, source: str | RecordedSource, **asked: Any) -> Tensor:
        drawn = self.editing(source, TARGET, edits=edits(), output_type="latent", **asked)
        latents_BCHW: Tensor = drawn.images  # type: ignore[union-attr]  # no tuple was asked for
        return latents_BCHW


VARIANTS: Mapping[str, Callable[[Runs], Tensor]] = {
    "plain": Runs.plain,
    "probes": Runs.probes,
    "pair": Runs.pair,
    "edited": Runs.edited,
    "eager": Runs.eager,
    "both": Runs.both,
    "remember": Runs.remember,
    "later": Runs.later,
}

GROUPS: Mapping[str, tuple[str, ...]] = {
    "probes": ("plain", "probes"),
    "edits": ("pair", "edited", "eager"),
    "remember": ("both", "remember", "later"),
}
"""What is compared in turns; the first of each is what the others are measured against."""


def runs_of(options: argparse.Namespace) -> Runs:
    pipe = pipeline_pair(options)["ours"]
    one_pass_a_step(pipe, options)
    editing = PromptEditPipeline(**pipe.components)
    editing.set_progress_bar_config(disable=True)
    return Runs(pipe, editing, options)


def one_pass_a_step(pipe: Any, options: argparse.Namespace) -> None:
    """As prompt-to-prompt counts them; SD1's own sampler makes a pass more."""
    if options.model in SHAPES:
        pipe.scheduler = build_scheduler("ddim", pipe.scheduler.config)


def edits() -> list[Edit]:
    """At every step, which costs the most; published are the first 80 % and 40 %."""
    return [
        Replace(steps=(0.0, 1.0)),
        SelfReplace(steps=(0.0, 1.0), max_positions=MOST_POSITIONS),
    ]


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "height": options.size,
        "width": options.size,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
    }


def draw(pipe: Any, prompts: Sequence[str], options: argparse.Namespace, **more: Any) -> Tensor:
    """All prompts from one noise, with our pipeline or one of diffusers'."""
    asked: dict[str, Any] = {"output_type": "latent"} | settings(options) | more
    seeds = [torch.Generator().manual_seed(0) for _ in prompts]
    images: Tensor = pipe(list(prompts), generator=seeds, **asked).images
    return images
