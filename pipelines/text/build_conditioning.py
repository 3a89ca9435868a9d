"""Functions that build the conditioning from embeddings: one row per image, branch after branch.

B batch rows (here: images), T text tokens, D text width, C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipelines.run.call_arguments import CallArguments, RunStart
from pipelines.text.image_prompts import encode_image_prompts
from t2i.conditioning.conditioning import Branch, Conditioning, stack_branches_to_conditioning
from t2i.denoiser.families import sd, sdxl
from t2i.text.encoders.selection import EncodedText


def repeat_embeddings_per_image(
    pipe: Any, encoded: EncodedText, call: CallArguments, device: torch.device
) -> EncodedText:
    """Return embeddings repeated to one row per image, on the UNet's device and in its dtype."""
    part = pipe.text_encoder_2 or pipe.text_encoder or pipe.unet

    def per_picture(rows_B: Tensor, dtype: torch.dtype | None) -> Tensor:
        return rows_B.to(device, dtype).repeat_interleave(call.num_images_per_prompt, dim=0)

    return EncodedText(
        per_picture(encoded.text_BTD, part.dtype),
        None if encoded.mask_BT is None else per_picture(encoded.mask_BT, None),
        None if encoded.pooled_BD is None else per_picture(encoded.pooled_BD, part.dtype),
    )


def build_conditioning(
    pipe: Any,
    encoded: Mapping[Branch, EncodedText],
    begun: RunStart,
    call: CallArguments,
    device: torch.device,
) -> Conditioning:
    """Build the conditioning of all branches: text embeddings, image prompts, sizes, masks."""
    branches = tuple(encoded)
    conditioning = stack_branches_to_conditioning(
        {branch: one.text_BTD for branch, one in encoded.items()}
    )
    extra = {name: torch.cat([tensor_B] * len(branches)) for name, tensor_B in begun.extra.items()}
    extra |= encode_image_prompts(pipe, call, branches, begun.latents_BCHW.shape[0], device)

    if pipe.unet.config["time_cond_proj_dim"] is not None:
        extra["guidance_embedding"] = sd.embed_guidance_scale(
            call.guidance_scale, pipe.unet.config["time_cond_proj_dim"], conditioning.text_BTD
        )
    if sdxl.takes_size_conditioning(pipe.unet):
        pooled = [sdxl.require_pooled_embedding(one.pooled_BD) for one in encoded.values()]
        sizes = build_size_conditioning(pipe, call, begun.latents_BCHW)
        if sdxl.takes_aesthetic_score(pipe.unet, pooled[0].shape[1]):
            sizes = build_refiner_size_conditioning(sizes[0], call)
        extra["text_embeds"] = torch.cat(pooled)
        extra["time_ids"] = torch.cat(
            [
                sdxl.build_time_ids(pipe.unet, sizes[branch == "uncond"], pooled_BD)
                for branch, pooled_BD in zip(branches, pooled, strict=True)
            ]
        )
    mask_BT = None
    if any(one.mask_BT is not None for one in encoded.values()):
        mask_BT = torch.cat([token_mask_or_ones(one) for one in encoded.values()])
    return replace(conditioning, extra=extra, mask_BT=mask_BT)


def build_refiner_size_conditioning(
    positive: sdxl.SizeConditioning, call: CallArguments
) -> tuple[sdxl.SizeConditioning, sdxl.SizeConditioning]:
    """Return the refiner's sizes and aesthetic scores, for "cond" and for "uncond".

    As in StableDiffusionXLImg2ImgPipeline, negative sizes default to the positive ones, but not the
    crop.
    """
    negative = sdxl.SizeConditioning(
        call.negative_original_size or positive.original,
        call.negative_crops_coords_top_left,
        score=call.negative_aesthetic_score,
    )
    return replace(positive, score=call.aesthetic_score), negative


def token_mask_or_ones(encoded: EncodedText) -> Tensor:
    """Return the token mask (B, T) of encoded texts; all True if they have none."""
    if encoded.mask_BT is not None:
        return encoded.mask_BT
    return torch.ones(encoded.text_BTD.shape[:2], dtype=torch.bool, device=encoded.text_BTD.device)


def build_size_conditioning(
    pipe: Any, call: CallArguments, latents_BCHW: Tensor
) -> tuple[sdxl.SizeConditioning, sdxl.SizeConditioning]:
    """Return the sizes that SDXL's UNet reads, for "cond" and for "uncond"."""
    factor = sd.pixels_per_latent(pipe.vae)
    size = (latents_BCHW.shape[2] * factor, latents_BCHW.shape[3] * factor)
    positive = sdxl.SizeConditioning(
        call.original_size or size, call.crops_coords_top_left, call.target_size or size
    )
    if call.negative_original_size is None or call.negative_target_size is None:
        return positive, positive
    return positive, sdxl.SizeConditioning(
        call.negative_original_size,
        call.negative_crops_coords_top_left,
        call.negative_target_size,
    )
