"""Kandinsky 2.2: a UNet that is told embeddings of pictures, over the latents of a MoVQ; and the
prior that imagines such an embedding for a prompt, as in unCLIP.

B batch rows, T text tokens, D width of an embedding, C channels, H W latent size, Y X picture size.
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
from t2i.denoiser.families.sd import LARGEST_SIDE, nearest_multiples
from t2i.denoiser.finite_checks import check_pixels_finite
from t2i.denoiser.schedulers import Scheduler, rebuild
from t2i.errors import ArgumentError, ModelError

SENTENCE = "sentence_embedding"
"""The name in `Conditioning.extra` of the one vector of each prompt, which a prior reads."""

READS_VARIANCE = {"DDPMScheduler", "DDPMParallelScheduler"}
"""Schedulers that step with the variance that the UNet predicts beside the noise."""
LEARNED = ("learned", "learned_range")


def denoise(
    unet: UNet2DConditionModel,
    latents_BCHW: Tensor,
    timestep: Tensor,
    told: Conditioning,
    *,
    with_variance: bool = False,
    attention_options: Mapping[str, object] | None = None,
) -> Tensor:
    """One pass: the noise (B, C, H, W), or noise and variance (B, 2 C, H, W).

    What is told is a text of one token, the embedding of a picture.
    """
    prediction_BCHW: Tensor = unet(
        latents_BCHW,
        timestep,
        encoder_hidden_states=None,
        cross_attention_kwargs=attention_options,
        added_cond_kwargs={"image_embeds": told.text_BTD[:, 0]},
        return_dict=False,
    )[0]
    return prediction_BCHW if with_variance else prediction_BCHW[:, : latents_BCHW.shape[1]]


@dataclass(frozen=True, slots=True)
class BesideVariance:
    """Another guidance for the noise; the variance is what the prompt's own branch predicts."""

    guidance: Guidance

    @property
    def needs(self) -> tuple[Branch, ...]:
        return self.guidance.needs

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        return self.guidance.branches(run)

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        noises = {branch: both.chunk(2, dim=1)[0] for branch, both in predictions.items()}
        variance_BCHW = predictions["cond"].chunk(2, dim=1)[1]
        return torch.cat([self.guidance.combine(noises, run), variance_BCHW], dim=1)


def reads_variance(scheduler: Scheduler) -> bool:
    learned = scheduler.config.get("variance_type") in LEARNED
    return learned and type(scheduler).__name__ in READS_VARIANCE


def settle_scheduler(scheduler: Scheduler) -> Scheduler:
    """A scheduler made of this model's configuration that steps without the learned variance.

    NOTE a footgun: some of diffusers' take the first three channels for the noise where their
    configuration, left over from a DDPMScheduler, speaks of a learned variance.
    """
    if scheduler.config.get("variance_type") in LEARNED and not reads_variance(scheduler):
        return rebuild(scheduler, variance_type=None)
    return scheduler


def check_unet(unet: UNet2DConditionModel, movq: VQModel) -> None:
    """Raise ModelError unless this UNet is told pictures only, and draws this MoVQ's latents."""
    told = (unet.config["encoder_hid_dim_type"], unet.config["addition_embed_type"])
    if told != ("image_proj", "image"):
        raise ModelError(
            f"This UNet has encoder_hid_dim_type={told[0]!r} and addition_embed_type={told[1]!r}; "
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
    return int(2 ** (len(movq.config["block_out_channels"]) - 1))


def default_size(unet: UNet2DConditionModel, movq: VQModel) -> tuple[int, int]:
    """Height and width in pixels that the model was trained at."""
    size: int = unet.config["sample_size"] * pixels_per_latent(movq)
    return size, size


def latent_size(movq: VQModel, height: int, width: int) -> tuple[int, int]:
    """H and W for a picture of `height` x `width` pixels.

    The UNet halves latents as often as the MoVQ halves pixels, so both must come out even.
    """
    factor = pixels_per_latent(movq)
    for name, pixels in (("height", height), ("width", width)):
        if not isinstance(pixels, int) or not 1 <= pixels <= LARGEST_SIDE or pixels % factor**2:
            raise ArgumentError(
                f"Got {name}={pixels!r}, but this model needs a multiple of {factor**2}: "
                f"{nearest_multiples(pixels, factor**2)}."
            )
    return height // factor, width // factor


def decode(movq: VQModel, latents_BCHW: Tensor) -> Tensor:
    """Latents, which this family neither scales nor quantizes, to pixels (B, 3, Y, X) in -1..1.

    Raises DrawingError for NaN and infinite ones.
    """
    pixels_B3YX: Tensor = movq.decode(latents_BCHW, force_not_quantize=True, return_dict=False)[0]
    check_pixels_finite(pixels_B3YX)
    return pixels_B3YX


def imagine(
    prior: PriorTransformer, embeds_BD: Tensor, timestep: Tensor, told: Conditioning
) -> Tensor:
    """One pass of the prior: the embedding (B, D) that it thinks is under the noise."""
    imagined_BD: Tensor = prior(
        embeds_BD,
        timestep=timestep,
        proj_embedding=told.extra[SENTENCE],
        encoder_hidden_states=told.text_BTD,
        attention_mask=told.mask_BT,
        return_dict=False,
    )[0]
    return imagined_BD


@dataclass(frozen=True, slots=True)
class KnowsNext:
    """An UnCLIPScheduler as the loop steps it: where it goes next, it is told at every step."""

    scheduler: UnCLIPScheduler

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = False,
    ) -> Any:
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


def check_prior(prior: PriorTransformer, scheduler: object, unet: UNet2DConditionModel) -> None:
    """Raise ModelError unless the prior imagines embeddings that the UNet reads, and its scheduler
    is the one that steps embeddings."""
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
