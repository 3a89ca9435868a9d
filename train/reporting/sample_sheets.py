"""Pictures drawn during a run, always the same prompts and seeds, so that two sheets compare."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from t2i.attention.attend import attend
from t2i.attention.probes.heat_maps import HeatMaps
from t2i.attention.probes.overlays import draw_overlays
from t2i.pictures import PAPER, picture_grid
from t2i.text.word_pattern import pattern

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

AT_ONCE = 8
"""Pictures in one batch of the sampler."""


class SamplesConfig(BaseModel):
    """What is drawn, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(0, ge=0)
    """Steps between sheets; the final weights have one whatever it is."""
    prompts: tuple[str, ...] = ()
    """A denoiser draws each; an autoencoder shows the first pictures of its data instead."""
    seed: int = Field(0, ge=0)
    """Of the first prompt; the next have seed + 1, seed + 2, ..."""
    steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0)
    columns: int = Field(6, ge=1)
    heat_maps: bool | None = None
    """Beside each picture where its words landed; when left out, wherever words are learned."""
    words: tuple[str, ...] = ()
    """Words or phrases to show the heat maps of; the new words when left out."""

    def looked_for(self, learned: Sequence[str] = ()) -> tuple[str, ...]:
        """The words whose heat maps are shown, by a target that learns some.

        Raises ValueError where none can be.
        """
        if self.heat_maps is False:
            return ()
        if self.heat_maps and not self.words and not learned:
            raise ValueError(
                "samples.heat_maps = true, but the run learns no word: name the ones to look for, "
                'as in samples.words = ["cat"].'
            )
        for word in self.words:
            if not any(says(prompt, word) for prompt in self.prompts):
                raise ValueError(
                    f"samples.words names {word!r}, which none of samples.prompts says: write it "
                    "into one of them, or leave it out."
                )
        return self.words or tuple(learned)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A prompt's picture, and where the words that were looked for in it landed."""

    prompt: str
    picture: Image.Image
    maps: HeatMaps | None = None


def pictures_of(pixels_BCHW: torch.Tensor) -> list[Image.Image]:
    """Pixels (B, 3, H, W) from -1 to 1 as pictures."""
    bytes_BHWC = ((pixels_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_BHWC]


def draw_prompts(
    pipe: "TextToImagePipeline", config: SamplesConfig, words: Sequence[str] = ()
) -> list[Drawn]:
    """A picture of each prompt, at its own seed; looking for words changes none of them."""
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    drawn: list[Drawn] = []
    for start in range(0, len(config.prompts), AT_ONCE):
        prompts = config.prompts[start : start + AT_ONCE]
        seeds = [config.seed + start + number for number in range(len(prompts))]
        said = [[word for word in words if says(prompt, word)] for prompt in prompts]
        with attend(pipe) if any(said) else nullcontext() as attn:
            maps = [
                attn.probe(*own, prompt=number) if attn and own else None
                for number, own in enumerate(said)
            ]
            pictures = pipe(
                prompts,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance_scale,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                return_dict=False,
            )[0]
        drawn += map(Drawn, prompts, pictures, maps)
    return drawn


def says(prompt: str, word: str) -> bool:
    return pattern(word).search(prompt) is not None


def page(drawn: Sequence[Drawn], columns: int) -> Image.Image:
    """A sheet of about so many columns; a picture's heat maps stand right of it, in its row."""
    if not any(one.maps for one in drawn):
        return picture_grid([one.picture for one in drawn], [one.prompt for one in drawn], columns)
    groups = [draw_overlays(one.picture, one.maps) for one in drawn]
    most = max(len(group) for group in groups)
    cells: list[Image.Image] = []
    labels: list[str] = []
    for one, group in zip(drawn, groups, strict=True):
        blank = [Image.new("RGB", group[0].size, PAPER)] * (most - len(group))
        cells += [*group, *blank]
        labels += [one.prompt, *(one.maps or ()), *("" for _ in blank)]
    return picture_grid(cells, labels, max(1, columns // most) * most)
