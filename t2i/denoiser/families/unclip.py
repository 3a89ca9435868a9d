"""Kandinsky 2.2: a UNet conditioned on image embeddings, and the prior that predicts them.

B batch rows, T text tokens, D width of an embedding, C channels, H W latent size, Y X image size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from torch import Tensor

from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.conditioning.run_state import Guidance, RunState
from t2i.denoiser.families.sd import MAX_SIDE_PIXELS, describe_nearest_multiples
from t2i.denoiser.finite_checks import check_pixels_finite
from t2i.denoiser.schedulers import Scheduler, rebuild_scheduler_with_settings
from t2i.errors import ArgumentError, ModelError

SENTENCE_EMBEDDING_KEY = "sentence_embedding"
"""The name in `Conditioning.extra` of the one vector of each prompt, which a prior reads."""

SCHEDULERS_WITH_LEARNED_VARIANCE = {"DDPMScheduler", "DDPMParallelScheduler"}
"""Schedulers that step with the variance that the UNet predicts beside the noise."""
LEARNED_VARIANCE_TYPES = ("learned", "learned_range")


def run_unet(
    unet: UNet2DConditionModel,
    latents_BCHW: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    *,
    with_variance: bool = False,
    attention_options: Mapping[str, object] | None = None,
) -> Tensor:
    """Run Kandinsky's UNet once and return the predicted noise (B, C, H, W), or noise and variance
    (B, 2 C, H, W).

    The conditioning's text has one token, the embedding of an image.
    """
    prediction_BCHW: Tensor = unet(
        latents_BCHW,
        timestep,
        encoder_hidden_states=None,
        cross_attention_kwargs=attention_options,
        added_cond_kwargs={"image_embeds": conditioning.text_BTD[:, 0]},
        return_dict=False,
    )[0]
    return prediction_BCHW if with_variance else prediction_BCHW[:, : latents_BCHW.shape[1]]


@dataclass(frozen=True, slots=True)
class LearnedVarianceGuidance:
    """Guidance for a UNet that predicts noise and variance: another guidance combines the noise
    predictions; the variance is that of the branch "cond".
    """

    guidance: Guidance

    @property
    def possible_branches(self) -> tuple[Branch, ...]:
        """Guidance branches that a run may compute: those of the wrapped guidance."""
        return self.guidance.possible_branches

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: those of the
        wrapped guidance.
        """
        return self.guidance.branches(run)

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' noise predictions by the wrapped guidance, and append the variance
        of the branch "cond": (B, 2 C, H, W).
        """
        noises = {branch: both.chunk(2, dim=1)[0] for branch, both in predictions.items()}
        variance_BCHW = predictions["cond"].chunk(2, dim=1)[1]
        return torch.cat([self.guidance.combine(noises, run), variance_BCHW], dim=1)


def uses_learned_variance(scheduler: Scheduler) -> bool:
    """Return True for a scheduler that steps with the variance predicted by the UNet."""
    learned = scheduler.config.get("variance_type") in LEARNED_VARIANCE_TYPES
    return learned and type(scheduler).__name__ in SCHEDULERS_WITH_LEARNED_VARIANCE


def get_corrected_scheduler(scheduler: Scheduler) -> Scheduler:
    """Return the scheduler, rebuilt with `variance_type=None` if its config declares a learned
    variance that this class of scheduler cannot use.

    NOTE a footgun: some of diffusers' schedulers take the first three channels for the noise where
    their config, left over from a DDPMScheduler, declares a learned variance.
    """
    if scheduler.config.get(
        "variance_type"
    ) in LEARNED_VARIANCE_TYPES and not uses_learned_variance(scheduler):
        return rebuild_scheduler_with_settings(scheduler, variance_type=None)
    return scheduler


def check_unet_fits_movq(unet: UNet2DConditionModel, movq: VQModel) -> None:
    """Raise ModelError unless Kandinsky's UNet takes image embeddings only and fits the MoVQ."""
    declared = (unet.config["encoder_hid_dim_type"], unet.config["addition_embed_type"])
    if declared != ("image_proj", "image"):
        raise ModelError(
            f"This UNet has encoder_hid_dim_type={declared[0]!r} and "
            f"addition_embed_type={declared[1]!r}; "
            "expected 'image_proj' and 'image', as the decoder of Kandinsky 2.2 has them."
        )
    given = (unet.config["in_channels"], unet.config["out_channels"])
    channels = movq.config["latent_channels"]
    if given != (channels, 2 * channels):
        raise ModelError(
            f"This UNet reads {given[0]} channels and predicts {given[1]}; with a MoVQ of "
            f"{channels} expected {channels} and {2 * channels}, noise and variance. The UNets for "
            "inpainting and for depth cannot be used."
        )


def pixels_per_latent(movq: VQModel) -> int:
    """Return the MoVQ's downsampling factor: pixels per latent position along one side."""
    return int(2 ** (len(movq.config["block_out_channels"]) - 1))


def default_height_and_width(unet: UNet2DConditionModel, movq: VQModel) -> tuple[int, int]:
    """Return the (height, width) in pixels that Kandinsky's UNet was trained at."""
    size: int = unet.config["sample_size"] * pixels_per_latent(movq)
    return size, size


def latent_size(movq: VQModel, height: int, width: int) -> tuple[int, int]:
    """Return (H, W) of the MoVQ's latents for an image of `height` x `width` pixels.

    The UNet halves latents as often as the MoVQ halves pixels. Raises ArgumentError for sizes that
    are not a multiple of both.
    """
    factor = pixels_per_latent(movq)
    for name, pixels in (("height", height), ("width", width)):
        if not isinstance(pixels, int) or not 1 <= pixels <= MAX_SIDE_PIXELS or pixels % factor**2:
            raise ArgumentError(
                f"Got {name}={pixels!r}, but this model needs a multiple of {factor**2}: "
                f"{describe_nearest_multiples(pixels, factor**2)}."
            )
    return height // factor, width // factor


def decode_latents_to_pixels(movq: VQModel, latents_BCHW: Tensor) -> Tensor:
    """Decode latents, neither scaled nor quantized, with the MoVQ to pixels (B, 3, Y, X) in -1..1.

    Raises GenerationError for NaN and infinities.
    """
    pixels_B3YX: Tensor = movq.decode(latents_BCHW, force_not_quantize=True, return_dict=False)[0]
    check_pixels_finite(pixels_B3YX)
    return pixels_B3YX


def predict_clean_image_embedding(
    prior: PriorTransformer, embeds_BD: Tensor, timestep: Tensor, conditioning: Conditioning
) -> Tensor:
    """Run Kandinsky's prior once and return the predicted clean image embedding (B, D)."""
    imagined_BD: Tensor = prior(
        embeds_BD,
        timestep=timestep,
        proj_embedding=conditioning.extra[SENTENCE_EMBEDDING_KEY],
        encoder_hidden_states=conditioning.text_BTD,
        attention_mask=conditioning.mask_BT,
        return_dict=False,
    )[0]
    return imagined_BD


@dataclass(frozen=True, slots=True)
class UnCLIPStepper:
    """Adapter of UnCLIPScheduler for the sampling loop: passes the next timestep to each step."""

    scheduler: UnCLIPScheduler

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Run one UnCLIPScheduler step from `timestep` to the next lower one."""
        # Its annotations say int and one generator; it takes these as well.
        stepping: Any = self.scheduler
        later = stepping.timesteps[stepping.timesteps < timestep]
        return stepping.step(
            model_output,
            timestep,
            sample,
            prev_timestep=later[0] if len(later) else None,
            generator=generator,
            return_dict=return_dict,
        )


def check_prior_fits(
    prior: PriorTransformer, scheduler: object, unet: UNet2DConditionModel
) -> None:
    """Raise ModelError unless the prior's embeddings fit the UNet and its scheduler is UnCLIP's."""
    made = prior.config["clip_embed_dim"] or prior.config["embedding_dim"]
    read = unet.config["encoder_hid_dim"]
    if made != read:
        raise ModelError(
            f"This prior makes embeddings of width {made}, but the UNet reads {read}: load prior "
            "and decoder of the same model."
        )
    if not isinstance(scheduler, UnCLIPScheduler):
        raise ModelError(
            f"Got a prior with a {type(scheduler).__name__}, expected an UnCLIPScheduler."
        )
