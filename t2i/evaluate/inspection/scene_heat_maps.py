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
from t2i.attention.probes.heat_maps import Convention
from t2i.attention.probes.measurements import ProbeMeasurements
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
from t2i.text.word_spans import Span, find_word_token_positions

BASELINES = ("wrong word", "centred blob")
BEST_SITES_METHOD = "best sites"
PLOTTED_METHODS: tuple[Convention, ...] = ("default", "refined", "daam", "mean")
"""Conventions of heat maps that a UNet has; they are plotted against the noise level."""
METHODS: tuple[str, ...] = (*PLOTTED_METHODS, BEST_SITES_METHOD, *BASELINES)


@dataclass(frozen=True, slots=True)
class SceneHeatMaps:
    """Heat maps of a scene's words, by convention and noise level or ALL_LEVELS.

    wrong_words : for each of the words another one of the caption, for a baseline
    size : height and width of the picture
    """

    maps: Mapping[tuple[Convention, str], HeatMaps]
    words: Sequence[str]
    wrong_words: Sequence[str]
    size: tuple[int, int]

    def resized_word_map(
        self, method: str, level: str, number: int, sites: Sequence[str]
    ) -> Tensor:
        """Return the heat map (H, W) of word `number` by a method, resized to the picture."""
        if method == "centred blob":
            return build_centred_blob(self.size)
        word = self.wrong_words[number] if method == "wrong word" else self.words[number]
        convention: Convention = method if method in PLOTTED_METHODS else "default"
        maps = self.maps[convention, level]
        if method == BEST_SITES_METHOD:
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


def compute_rendered_scene_heat_maps(
    pipe: TextToImagePipeline,
    scene: Scene,
    levels: Sequence[float],
    generator: torch.Generator,
) -> SceneHeatMaps:
    """Return the attention heat maps of a rendered scene's words, computed with one denoiser pass
    at each noise level.

    The passes have the scene's caption and no guidance.
    """
    scheduler = build_known_picture_scheduler(pipe, scene.pixels, levels, generator)
    along = copy_pipeline_with_scheduler(pipe, scheduler)
    mentions = [(placed.word, placed.span) for placed in scene.objects]
    words, wrong_words = find_mention_and_wrong_word_spans(pipe, scene.caption, mentions)
    asked = [*words, *wrong_words]
    with attend(along) as attn:
        maps = {
            (convention, level): attn.probe(*asked, convention=convention, steps=steps)
            for convention in PLOTTED_METHODS
            for level, steps in build_noise_level_step_windows(levels).items()
        }
        along(
            scene.caption,
            latents=scheduler.noised[0],
            num_inference_steps=len(levels),
            guidance_scale=1.0,
            output_type="latent",
        )
    names = list(map(str, words)), list(map(str, wrong_words))
    return SceneHeatMaps(maps, *names, scene.pixels.shape[:2])


def generate_picture_with_heat_maps(
    pipe: TextToImagePipeline,
    caption: str,
    mentions: Sequence[Mention],
    steps: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> tuple[SceneHeatMaps, Image.Image]:
    """Generate a picture of a caption; return the heat maps of its mentions and of wrong words, and
    the picture.
    """
    words, wrong_words = find_mention_and_wrong_word_spans(
        pipe, caption, [(mention.word, mention.span) for mention in mentions]
    )
    with attend(pipe) as attn:
        maps = {
            (convention, ALL_LEVELS): attn.probe(*words, *wrong_words, convention=convention)
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
    names = list(map(str, words)), list(map(str, wrong_words))
    return SceneHeatMaps(maps, *names, (picture.height, picture.width)), picture


def build_noise_level_step_windows(levels: Sequence[float]) -> dict[str, tuple[int, int] | None]:
    """Return for each noise level, by name, the window (first, end) of denoising steps that are run
    at it; None, which is all steps, for ALL_LEVELS.

    A step is run at each level, in order; ALL_LEVELS has None, which is all steps.
    """
    each: dict[str, tuple[int, int] | None] = {
        f"{level:g}": (step, step + 1) for step, level in enumerate(levels)
    }
    return {ALL_LEVELS: None} | each


def find_mention_and_wrong_word_spans(
    pipe: TextToImagePipeline, caption: str, mentions: Sequence[tuple[str, tuple[int, int]]]
) -> tuple[list[Span], list[Span]]:
    """Return the token span of each object's word, and that of a wrong word as a baseline.

    mentions : word and character span of each object in the caption
    """
    own = [find_mention_token_span(pipe, caption, *mention) for mention in mentions]
    wrong_words = [
        find_mention_token_span(pipe, caption, *choose_wrong_word_for_mention(caption, mentions, n))
        for n in range(len(mentions))
    ]
    return own, wrong_words


def choose_wrong_word_for_mention(
    caption: str, mentions: Sequence[tuple[str, tuple[int, int]]], number: int
) -> tuple[str, tuple[int, int]]:
    """Return a wrong word and its character span for mention `number` of a caption, for a baseline:
    the next mention, else another word.

    mentions : word and character span of each object in the caption
    """
    if len(mentions) > 1:
        return mentions[(number + 1) % len(mentions)]
    start, end = mentions[number][1]
    words = [
        (match.group(), match.span())
        for match in re.finditer(r"\w+", caption)
        if match.end() <= start or match.start() >= end
    ]
    return words[-1]


def find_mention_token_span(
    pipe: TextToImagePipeline, caption: str, word: str, span: tuple[int, int]
) -> Span:
    """Return the token span of the word at this character span, even if the caption repeats it."""
    which = sum(match.start() < span[0] for match in build_word_pattern(word).finditer(caption))
    return find_word_token_positions(
        find_prompt_tokenizers(pipe, None)[0].tokenizer, caption, [word], which=which
    )[word]
