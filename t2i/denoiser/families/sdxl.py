"""SDXL: what its UNet is told beside the text, the pooled prompt and the sizes of the picture.

B batch rows, D width of the pooled embedding.
"""

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from t2i.errors import ArgumentError

Size = tuple[int, int]
"""Height and width, or top and left, in pixels."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Micro-conditioning (Podell et al. 2023, section 2.2, https://arxiv.org/abs/2307.01952)."""

    original: Size
    """Of the training picture that this one should look like, before it was scaled."""
    crop: Size = (0, 0)
    """Top and left of the part that was cut out of it."""
    target: Size = (1024, 1024)
    score: float | None = None
    """How well people liked the training pictures, which the refiner is told, not the target."""

    @property
    def numbers(self) -> tuple[float, ...]:
        last = self.target if self.score is None else (self.score,)
        return (*self.original, *self.crop, *last)


def is_told_sizes(unet: UNet2DConditionModel) -> bool:
    """Whether this UNet is one of SDXL's kind."""
    return bool(unet.config["addition_embed_type"] == "text_time")


def is_told_a_score(unet: UNet2DConditionModel, pooled_width: int) -> bool:
    """Whether this UNet is told five numbers, as the refiner of SDXL, in the place of six."""
    room = unet.config["projection_class_embeddings_input_dim"] - pooled_width
    return bool(room == 5 * unet.config["addition_time_embed_dim"])


def checked(pooled_BD: Tensor | None) -> Tensor:
    """The pooled embedding, or an ArgumentError where there is none."""
    if pooled_BD is None:
        raise ArgumentError(
            "This model also reads a pooled embedding of each prompt: beside prompt_embeds give "
            "pooled_prompt_embeds, and negative_pooled_prompt_embeds with negative_prompt_embeds."
        )
    return pooled_BD


def time_ids(unet: UNet2DConditionModel, sizes: Sizes, pooled_BD: Tensor) -> Tensor:
    """(B, 6), or (B, 5) with a score, one row per row of the pooled embedding.

    Raises ArgumentError where the UNet reads pooled embeddings of another width.
    """
    numbers = sizes.numbers
    expected = unet.config["projection_class_embeddings_input_dim"]
    given = unet.config["addition_time_embed_dim"] * len(numbers) + pooled_BD.shape[1]
    if given != expected:
        raise ArgumentError(
            f"Got pooled embeddings of width {pooled_BD.shape[1]}; with {len(numbers)} sizes this "
            f"UNet needs {pooled_BD.shape[1] + expected - given}: use the model's own text encoder."
        )
    row = torch.tensor([numbers], dtype=pooled_BD.dtype, device=pooled_BD.device)
    return row.repeat(pooled_BD.shape[0], 1)
