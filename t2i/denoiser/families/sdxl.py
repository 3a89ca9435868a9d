"""SDXL's additional conditioning: pooled prompt embedding and image sizes.

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
class SizeConditioning:
    """SDXL's size and crop conditioning (Podell et al. 2023, section 2.2,
    https://arxiv.org/abs/2307.01952).
    """

    original: Size
    """Original size of the training images to imitate, before scaling."""
    crop: Size = (0, 0)
    """Top and left of the crop from it."""
    target: Size = (1024, 1024)
    score: float | None = None
    """Aesthetic score, which the refiner takes instead of the target size."""

    @property
    def time_ids(self) -> tuple[float, ...]:
        """SDXL's time ids: original size, crop and target size, six numbers, or five where an
        aesthetic score replaces the target size.
        """
        last = self.target if self.score is None else (self.score,)
        return (*self.original, *self.crop, *last)


def takes_size_conditioning(unet: UNet2DConditionModel) -> bool:
    """Return True if a UNet takes image sizes and a pooled prompt embedding as input, as SDXL's
    does.
    """
    return bool(unet.config["addition_embed_type"] == "text_time")


def takes_aesthetic_score(unet: UNet2DConditionModel, pooled_width: int) -> bool:
    """Return True if a UNet takes an aesthetic score as input (five time ids), as that of SDXL's
    refiner does.
    """
    room = unet.config["projection_class_embeddings_input_dim"] - pooled_width
    return bool(room == 5 * unet.config["addition_time_embed_dim"])


def require_pooled_embedding(pooled_BD: Tensor | None) -> Tensor:
    """Return the pooled prompt embedding, (B, D), which SDXL's UNet needs. Raises ArgumentError if
    it is None.
    """
    if pooled_BD is None:
        raise ArgumentError(
            "This model also reads a pooled embedding of each prompt: beside prompt_embeds give "
            "pooled_prompt_embeds, and negative_pooled_prompt_embeds with negative_prompt_embeds."
        )
    return pooled_BD


def build_time_ids(
    unet: UNet2DConditionModel, sizes: SizeConditioning, pooled_BD: Tensor
) -> Tensor:
    """Build SDXL's time ids (sizes and crop), (B, 6), or (B, 5) with an aesthetic score, one row
    per row of the pooled embedding.

    Raises ArgumentError where the UNet takes pooled embeddings of another width.
    """
    numbers = sizes.time_ids
    expected = unet.config["projection_class_embeddings_input_dim"]
    given = unet.config["addition_time_embed_dim"] * len(numbers) + pooled_BD.shape[1]
    if given != expected:
        raise ArgumentError(
            f"Got pooled embeddings of width {pooled_BD.shape[1]}; with {len(numbers)} sizes this "
            f"UNet needs {pooled_BD.shape[1] + expected - given}: use the model's own text encoder."
        )
    row = torch.tensor([numbers], dtype=pooled_BD.dtype, device=pooled_BD.device)
    return row.repeat(pooled_BD.shape[0], 1)
