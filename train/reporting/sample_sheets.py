"""Sample sheets: images generated during a run with fixed prompts and seeds."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from t2i.attention.attend import attend
from t2i.attention.probes.heat_maps import HeatMaps
from t2i.attention.probes.overlays import draw_overlays
from t2i.controls.control import Control
from t2i.controls.hint_pictures import convert_hint_pictures_to_tensor
from t2i.controls.network_checks import HINT_CHANNELS
from t2i.pictures import PAPER, build_picture_grid
from t2i.text.word_pattern import build_word_pattern

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

IMAGES_PER_BATCH = 8
"""Number of images generated in one batch."""


class SamplesConfig(BaseModel):
    """Configuration of the sample sheets: prompts, sampling settings, and every how many steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0)
    """Steps between sheets; 0 draws one of the final weights alone."""
    prompts: tuple[str, ...] = ()
    """Prompts of a denoiser's sheet; an autoencoder reconstructs the first pictures instead."""
    seed: int = Field(0, ge=0)
    """Seed of the first prompt; the next have seed + 1, seed + 2, ..."""
    steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0)
    columns: int = Field(6, ge=1)
    heat_maps: bool | None = None
    """Show heat maps of words beside each image; default: if the target learns words."""
    hints: tuple[Path, ...] = ()
    """Hints of the prompts, one each, where a control is trained; without prompts its sheet shows
    captions and hints of the data."""
    words: tuple[str, ...] = ()
    """Words or phrases whose heat maps are shown; default: the new words."""

    def choose_heat_map_words(self, learned: Sequence[str] = ()) -> tuple[str, ...]:
        """Choose the words whose heat maps the sample sheets show: the configured ones, else the
        `learned` ones.

        Raises ValueError if there are none to show, or no prompt contains one of them.
        """
        if self.heat_maps is False:
            return ()
        if self.heat_maps and not self.words and not learned:
            raise ValueError(
                "samples.heat_maps = true, but the run learns no word: name the ones to show, "
                'as in samples.words = ["cat"].'
            )
        for word in self.words:
            if not any(prompt_contains_word(prompt, word) for prompt in self.prompts):
                raise ValueError(
                    f"samples.words names {word!r}, which none of samples.prompts says: write it "
                    "into one of them, or leave it out."
                )
        return self.words or tuple(learned)


@dataclass(frozen=True, slots=True)
class SampleImage:
    """Generated image of one prompt, with the heat maps of its words and the hint that it had."""

    prompt: str
    picture: Image.Image
    maps: HeatMaps | None = None
    hint: Image.Image | None = None


def pixels_to_images(pixels_BCHW: torch.Tensor) -> list[Image.Image]:
    """Convert pixels (B, 3, H, W), from -1 to 1, to PIL images."""
    bytes_BHWC = ((pixels_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_BHWC]


def generate_prompt_images(
    pipe: "TextToImagePipeline",
    config: SamplesConfig,
    words: Sequence[str] = (),
    build_controls: Callable[[range], Sequence[Control]] | None = None,
    size: tuple[int, int] | None = None,
) -> list[SampleImage]:
    """Generate an image for each configured prompt with its own seed, with heat maps of `words`
    if any.

    build_controls : builds the controls of the prompts of these numbers; the hint of the first is
        shown
    size : (height, width) of the images in pixels; the model's own when left out
    """
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    drawn: list[SampleImage] = []
    for start in range(0, len(config.prompts), IMAGES_PER_BATCH):
        prompts = config.prompts[start : start + IMAGES_PER_BATCH]
        controls = build_controls(range(start, start + len(prompts))) if build_controls else ()
        seeds = [config.seed + start + number for number in range(len(prompts))]
        found = [
            [word for word in words if prompt_contains_word(prompt, word)] for prompt in prompts
        ]
        with attend(pipe) if any(found) else nullcontext() as attn:
            maps = [
                attn.probe(*own, prompt=number) if attn and own else None
                for number, own in enumerate(found)
            ]
            pictures = pipe(
                prompts,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance_scale,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                height=size[0] if size else None,
                width=size[1] if size else None,
                controls=controls,
                return_dict=False,
            )[0]
        hints: list[Image.Image | None] = [None] * len(prompts)
        if controls:
            hints = [convert_hint_to_image(hint, pictures[0].size) for hint in controls[0].picture]
        drawn += map(SampleImage, prompts, pictures, maps, hints)
    return drawn


def convert_hint_to_image(hint: Any, size: tuple[int, int]) -> Image.Image:
    """Convert the hint of a control, as the control reads it, to a PIL image of this width and
    height.
    """
    hint_1CYX = convert_hint_pictures_to_tensor(hint, (size[1], size[0]), HINT_CHANNELS, {})
    return pixels_to_images(hint_1CYX * 2 - 1)[0]


def prompt_contains_word(prompt: str, word: str) -> bool:
    """Return True if the prompt contains the word."""
    return build_word_pattern(word).search(prompt) is not None


def draw_sample_sheet(drawn: Sequence[SampleImage], columns: int) -> Image.Image:
    """Arrange generated images in a sheet of about `columns` columns, each behind its hint, if it
    had one, and followed by its heat maps.
    """
    with_maps = any(one.maps for one in drawn)
    groups = [draw_overlays(one.picture, one.maps) if with_maps else [one.picture] for one in drawn]
    hints = [
        [] if one.hint is None else [one.hint.resize(group[0].size, Image.Resampling.NEAREST)]
        for one, group in zip(drawn, groups, strict=True)
    ]
    groups = [[*hint, *group] for hint, group in zip(hints, groups, strict=True)]
    most = max(len(group) for group in groups)
    cells: list[Image.Image] = []
    labels: list[str] = []
    for one, hint, group in zip(drawn, hints, groups, strict=True):
        blank = [Image.new("RGB", group[0].size, PAPER)] * (most - len(group))
        cells += [*group, *blank]
        labels += ["hint"] * len(hint) + [one.prompt, *(one.maps or ()), *("" for _ in blank)]
    return build_picture_grid(cells, labels, max(1, columns // most) * most)
