"""Conditioning of the denoiser in training, as the pipelines build it."""

from dataclasses import replace

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from t2i.conditioning.conditioning import Conditioning
from t2i.data.training_example import OriginalSizeAndCrop
from t2i.denoiser.families import sdxl
from t2i.text.encoder_interface import EncodedText
from train.batches.micro_batch import MicroBatch


def build_conditioning_from_encoded_captions(
    unet: UNet2DConditionModel, encoded: EncodedText, batch: MicroBatch
) -> Conditioning:
    """Return the conditioning of a batch whose captions are encoded; for SDXL with image sizes."""
    if not sdxl.takes_size_conditioning(unet):
        return Conditioning(encoded.text_BTD, mask_BT=encoded.mask_BT)
    pooled_BD = sdxl.require_pooled_embedding(encoded.pooled_BD)
    height, width = batch.pixels_BCHW.shape[2:]
    whole = OriginalSizeAndCrop(original=(height, width), corner=(0, 0))
    sizes = [
        sdxl.SizeConditioning(size_and_crop.original, size_and_crop.corner, target=(height, width))
        for size_and_crop in (size_and_crop or whole for size_and_crop in batch.sizes_and_crops)
    ]
    rows = [sdxl.build_time_ids(unet, size, pooled_BD[i : i + 1]) for i, size in enumerate(sizes)]
    extra = {"text_embeds": pooled_BD, "time_ids": torch.cat(rows)}
    return Conditioning(encoded.text_BTD, extra=extra, mask_BT=encoded.mask_BT)


def repeat_conditioning(conditioning: Conditioning, rows: int) -> Conditioning:
    """Return the conditioning with every batch row repeated `rows` times."""
    mask_BT = conditioning.mask_BT
    return Conditioning(
        conditioning.text_BTD.repeat_interleave(rows, 0),
        extra={
            name: value.repeat_interleave(rows, 0) for name, value in conditioning.extra.items()
        },
        mask_BT=None if mask_BT is None else mask_BT.repeat_interleave(rows, 0),
    )


def zero_text_embeddings(conditioning: Conditioning) -> Conditioning:
    """Return the conditioning with zeros in the place of its text embeddings, also the pooled
    ones.
    """
    extra = dict(conditioning.extra)
    if "text_embeds" in extra:
        extra["text_embeds"] = torch.zeros_like(extra["text_embeds"])
    return replace(conditioning, text_BTD=torch.zeros_like(conditioning.text_BTD), extra=extra)
