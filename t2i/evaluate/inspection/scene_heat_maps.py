"""Heat maps of a scene's words, from a noised real picture or from a generated one.

H W size of the picture.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import HeatMaps, attend
from t2i.attention.probes.heat_maps import CONVENTIONS, Convention, ProbeMeasurements
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.evaluate.inspection.known_picture_scheduler import (
    build_known_picture_scheduler,
    copy_pipeline_with_scheduler,
)
from t2i.evaluate.inspection.map_scores import build_centred_blob, resize_map
from t2i.evaluate.inspection.records import ALL_LEVELS
from t2i.scenes.captions import Mention
from t2i.scenes.scenes import Scene
from t2i.text.word_pattern import build_word_pattern
from t2i.text.word_spans import Span, find_word_positions

BASELINES = ("wrong word", "centred blob")
BEST_SITES = "best sites"
METHODS: tuple[str, ...] = (*CONVENTIONS, BEST_SITES, *BASELINES)
PLOTTED_METHODS: tuple[Convention, ...] = ("default", "daam", "mean")
"""Those that are plotted against the level of noise."""


@dataclass(frozen=True, slots=True)
class SceneHeatMaps:
    """Heat maps of a scene's words, by convention and noise level, or ALL_LEVELS."""

    maps: Mapping[tuple[Convention, str], HeatMaps]
    words: Sequence[str]
    others: Sequence[str]
    """For each of the words another one of the caption."""
    size: tuple[int, int]

    def resized_word_map(
        self, method: str, level: str, number: int, sites: Sequence[str]
    ) -> Tensor:
        """Return the heat map (H, W) of word `number` by a method, resized to the picture."""
        if method == "centred blob":
            return build_centred_blob(self.size)
        word = self.others[number] if method == "wrong word" else self.words[number]
        convention: Convention = method if method in CONVENTIONS else "default"  # type: ignore[assignment]  # it is one of them
        maps = self.maps[convention, level]
        if method == BEST_SITES:
            maps = restrict_to_sites(maps, sites)
        mode = "bicubic" if convention == "daam" else "bilinear"
        return resize_map(maps[word], self.size, mode)


def restrict_to_sites(maps: HeatMaps, names: Sequence[str]) -> HeatMaps:
    """Return the heat maps that a probe of these attention sites alone would have made."""
    measurements = maps.measurements
    chosen = ProbeMeasurements(
        tokens=measurements.tokens,
        columns=measurements.columns,
        accumulators={
            key: one for key, one in measurements.accumulators.items() if key[1] in names
        },
        latent_size=measurements.latent_size,
    )
    return HeatMaps(chosen, maps.words, maps.convention, maps.requested_grid, maps.image_index)


def probe_rendered_scene(
    pipe: TextToImagePipeline,
    scene: Scene,
    levels: Sequence[float],
    generator: torch.Generator,
) -> SceneHeatMaps:
    """Probe a rendered scene's words, in one denoiser pass at each noise level.

    The passes have the scene's caption and no guidance.
    """
    scheduler = build_known_picture_scheduler(pipe, scene.pixels, levels, generator)
    along = copy_pipeline_with_scheduler(pipe, scheduler)
    mentions = [(placed.word, placed.span) for placed in scene.objects]
    words, others = find_mention_and_wrong_word_tokens(pipe, scene.caption, mentions)
    asked = [*words, *others]
    with attend(along) as attn:
        maps = {
            (convention, level): attn.probe(*asked, convention=convention, steps=steps)
            for convention in PLOTTED_METHODS
            for level, steps in build_level_step_windows(levels).items()
        }
        along(
            scene.caption,
            latents=scheduler.noised[0],
            num_inference_steps=len(levels),
            guidance_scale=1.0,
            output_type="latent",
        )
    names = list(map(str, words)), list(map(str, others))
    return SceneHeatMaps(maps, *names, scene.pixels.shape[:2])


def probe_generated_picture(
    pipe: TextToImagePipeline,
    caption: str,
    mentions: Sequence[Mention],
    steps: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> tuple[SceneHeatMaps, Image.Image]:
    """Generate a picture with the model's default settings and probe its words."""
    words, others = find_mention_and_wrong_word_tokens(
        pipe, caption, [(mention.word, mention.span) for mention in mentions]
    )
    with attend(pipe) as attn:
        maps = {
            (convention, ALL_LEVELS): attn.probe(*words, *others, convention=convention)
            for convention in PLOTTED_METHODS
        }
        drawn = pipe(
            caption,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            return_dict=False,
        )
    picture: Image.Image = drawn[0][0]
    names = list(map(str, words)), list(map(str, others))
    return SceneHeatMaps(maps, *names, (picture.height, picture.width)), picture


def build_level_step_windows(levels: Sequence[float]) -> dict[str, tuple[int, int] | None]:
    """Return each noise level's window of steps by the level's name; None for ALL_LEVELS."""
    each: dict[str, tuple[int, int] | None] = {
        f"{level:g}": (step, step + 1) for step, level in enumerate(levels)
    }
    return {ALL_LEVELS: None} | each


def find_mention_and_wrong_word_tokens(
    pipe: TextToImagePipeline, caption: str, mentions: Sequence[tuple[str, tuple[int, int]]]
) -> tuple[list[Span], list[Span]]:
    """Return the tokens of each object's word, and those of a wrong word as a baseline."""
    own = [find_mention_tokens(pipe, caption, *mention) for mention in mentions]
    others = [
        find_mention_tokens(pipe, caption, *choose_wrong_word(caption, mentions, n))
        for n in range(len(mentions))
    ]
    return own, others


def choose_wrong_word(
    caption: str, mentions: Sequence[tuple[str, tuple[int, int]]], number: int
) -> tuple[str, tuple[int, int]]:
    """Return a wrong word for mention `number`: the next mention, else another word."""
    if len(mentions) > 1:
        return mentions[(number + 1) % len(mentions)]
    start, end = mentions[number][1]
    words = [
        (match.group(), match.span())
        for match in re.finditer(r"\w+", caption)
        if match.end() <= start or match.start() >= end
    ]
    return words[-1]


def find_mention_tokens(
    pipe: TextToImagePipeline, caption: str, word: str, span: tuple[int, int]
) -> Span:
    """Return the tokens of the word at this span, even if the caption has it several times."""
    which = sum(match.start() < span[0] for match in build_word_pattern(word).finditer(caption))
    return find_word_positions(
        find_prompt_tokenizers(pipe, None)[0].tokenizer, caption, [word], which=which
    )[word]
