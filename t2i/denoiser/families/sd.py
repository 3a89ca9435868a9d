"""UNet and VAE calls of Stable Diffusion 1 and 2, shared by every latent diffusion family.

B batch rows, T text tokens, D text width, C channels, H W latent size, Y X image size.
"""

import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.finite_checks import check_pixels_finite
from t2i.denoiser.schedulers import Scheduler, rebuild_scheduler_with_settings
from t2i.errors import ArgumentError

MAX_SIDE_PIXELS = 2**20
"""Pixels; whole numbers of Python have no bound, and tensors have."""
VAE = AutoencoderKL | AutoencoderTiny

ADDED_CONDITIONS = ("text_embeds", "time_ids")
"""Conditions that SDXL's UNet adds to its timestep embedding; see families/sdxl.py."""
IMAGE_PROMPT_PREFIX = "image_prompt_"
"""Prefix of the name of an IP-Adapter's image prompt; its number follows."""
CONTROL_DOWN_PREFIX, CONTROL_MID = "control_down_", "control_mid"
"""Names of the residuals that ControlNets add to the UNet's skip connections, with the number of
the connection after the prefix, and to its middle block."""
ADAPTER_PREFIX = "control_adapter_"
"""Prefix of the names of the features that T2I-Adapters add within the UNet's downward blocks."""


def run_unet(
    unet: UNet2DConditionModel,
    latents_BCHW: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    attention_options: Mapping[str, object] | None = None,
) -> Tensor:
    """Run the UNet once and return its prediction (B, C, H, W), a row for each row of the
    conditioning.

    Reads from `conditioning.extra`, if present: `channels` (concatenated to the latents),
    `guidance_embedding`, the names of ADDED_CONDITIONS, `image_prompt_0`, `image_prompt_1`, ...,
    and what controls add: `control_down_0`, `control_down_1`, ..., `control_mid`, and
    `control_adapter_0`, ...
    """
    extra = conditioning.extra
    if "channels" in extra:
        latents_BCHW = torch.cat([latents_BCHW, extra["channels"]], dim=1)
    added: dict[str, object] = {name: extra[name] for name in ADDED_CONDITIONS if name in extra}
    if image_prompts := [extra[name] for name in extra if name.startswith(IMAGE_PROMPT_PREFIX)]:
        added["image_embeds"] = image_prompts
    down = [extra[name] for name in extra if name.startswith(CONTROL_DOWN_PREFIX)]
    within = [extra[name] for name in extra if name.startswith(ADAPTER_PREFIX)]
    prediction_BCHW: Tensor = unet(
        latents_BCHW,
        timestep,
        encoder_hidden_states=conditioning.text_BTD,
        encoder_attention_mask=conditioning.mask_BT,
        timestep_cond=extra.get("guidance_embedding"),
        cross_attention_kwargs=attention_options,
        added_cond_kwargs=added or None,
        down_block_additional_residuals=down or None,
        mid_block_additional_residual=extra.get(CONTROL_MID),
        down_intrablock_additional_residuals=within or None,
        return_dict=False,
    )[0]
    return prediction_BCHW


def pixels_per_latent(vae: VAE) -> int:
    """Return the VAE's downsampling factor: pixels per latent position along one side."""
    return int(2 ** (len(vae.config["block_out_channels"]) - 1))


def default_height_and_width(unet: UNet2DConditionModel, vae: VAE) -> tuple[int, int]:
    """Return the (height, width) in pixels that the model was trained at."""
    size = unet.config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height * pixels_per_latent(vae), width * pixels_per_latent(vae)


def latent_size(vae: VAE, height: int, width: int) -> tuple[int, int]:
    """Return (H, W) of the VAE's latents for an image of `height` x `width` pixels.

    Raises ArgumentError for a size that is not a multiple of `pixels_per_latent`.
    """
    factor = pixels_per_latent(vae)
    for name, pixels in (("height", height), ("width", width)):
        if not isinstance(pixels, int) or not 1 <= pixels <= MAX_SIDE_PIXELS or pixels % factor:
            raise ArgumentError(
                f"Got {name}={pixels!r}, but this model needs a multiple of {factor}: "
                f"{describe_nearest_multiples(pixels, factor)}."
            )
    return height // factor, width // factor


def describe_nearest_multiples(pixels: object, factor: int) -> str:
    """Describe the nearest multiples of `factor` to a size in pixels, for error messages."""
    if not isinstance(pixels, int | float) or not factor < pixels < inf:
        return f"{factor} is the smallest"
    below = int(pixels // factor) * factor
    return f"the nearest are {below} and {below + factor}"


def decode_latents_to_pixels(vae: VAE, latents_BCHW: Tensor) -> Tensor:
    """Decode scaled latents with the VAE to pixels (B, 3, Y, X) in -1..1.

    Raises GenerationError for NaN and infinities.
    """
    with upcasting_vae(vae, latents_BCHW.device, (torch.float16,)):
        latents_BCHW = latents_BCHW.to(vae.dtype) / vae.config["scaling_factor"]
        if vae.config.get("shift_factor"):
            latents_BCHW = latents_BCHW + vae.config["shift_factor"]
        pixels_B3YX: Tensor = vae.decode(latents_BCHW, return_dict=False)[0]
    check_pixels_finite(pixels_B3YX)
    return pixels_B3YX


def encode_pixels(
    vae: VAE, pixels_B3YX: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Encode pixels in -1..1 with the VAE to scaled latents (B, C, H, W), sampled with
    `generator`.
    """
    with upcasting_vae(vae, pixels_B3YX.device, (torch.float16, torch.bfloat16)):
        encoded = vae.encode(pixels_B3YX.to(vae.dtype))
    if isinstance(vae, AutoencoderTiny):
        return scale_latents(vae, encoded.latents)
    return scale_latents(vae, encoded.latent_dist.sample(generator))


def encode_pixels_to_mean(vae: VAE, pixels_B3YX: Tensor) -> Tensor:
    """Encode pixels in -1..1 with the VAE to scaled latents (B, C, H, W): the mean of its
    distribution, without sampling.
    """
    with upcasting_vae(vae, pixels_B3YX.device, (torch.float16, torch.bfloat16)):
        encoded = vae.encode(pixels_B3YX.to(vae.dtype))
    tiny = isinstance(vae, AutoencoderTiny)
    return scale_latents(vae, encoded.latents if tiny else encoded.latent_dist.mode())


_casting = threading.RLock()


@contextmanager
def upcasting_vae(vae: VAE, device: torch.device, kinds: Collection[torch.dtype]) -> Iterator[None]:
    """Run a VAE that overflows in half precision (SDXL's) in float32 within the block.

    Its config says so (`force_upcast`). Autocast is off, in which it would compute in half
    precision whatever its weights are. If its weights are of these kinds they are cast, and cast
    back afterwards; not where `force_upcast` is only the class's default, as with Stable Diffusion
    1, whose VAE needs no more than half. Kinds are those of diffusers' SDXL pipelines.
    """
    if not vae.config.get("force_upcast", False):
        yield
        return
    is_default = "force_upcast" in vae.config.get("_use_default_values", ())
    offloaded = any(weight.is_meta for weight in vae.parameters())
    with torch.autocast(device.type, enabled=False):
        if is_default or offloaded:
            yield
            return
        with _casting:  # else another thread's call would find it cast, and then cast back
            dtype = vae.dtype
            if dtype not in kinds:
                yield
                return
            try:
                vae.to(torch.float32)  # type: ignore[arg-type]  # diffusers wraps it untyped
                yield
            finally:
                vae.to(dtype)  # type: ignore[arg-type]  # as above


def scale_latents(vae: VAE, latents_BCHW: Tensor) -> Tensor:
    """Scale and shift the autoencoder's latents to the range that the denoiser was trained on."""
    if vae.config.get("shift_factor"):
        latents_BCHW = latents_BCHW - vae.config["shift_factor"]
    scaling_factor: float = vae.config["scaling_factor"]
    return latents_BCHW * scaling_factor


def embed_guidance_scale(scale: float | Tensor, width: int, text_BTD: Tensor) -> Tensor:
    """Return the (B, width) embedding of the guidance scale that a distilled UNet takes as input.

    scale : one for all rows, or one for each, (B,)

    Meng et al. (2023), https://arxiv.org/abs/2210.03142, in the sines of Variational Diffusion.
    """
    w_B = torch.as_tensor(scale - 1).expand(text_BTD.shape[0]) * 1000.0
    half = width // 2
    frequency = torch.log(torch.tensor(10000.0)) / (half - 1)
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -frequency).to(w_B.device)
    angles = w_B.to(torch.float32)[:, None] * frequencies[None, :]
    sines = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    sines = torch.nn.functional.pad(sines, (0, width % 2))
    return sines.to(text_BTD)


def get_corrected_scheduler(scheduler: Scheduler) -> Scheduler:
    """Return the scheduler if its config has `steps_offset=1` and `clip_sample=False`, as Stable
    Diffusion was trained; otherwise warn and return a rebuilt one with these.

    Published folders have wrong values of both. StableDiffusionPipeline corrects them too, so that
    a folder gives the same image here and there.
    """
    expected = {"steps_offset": 1, "clip_sample": False}
    wrong = {
        name: scheduler.config[name]
        for name, value in expected.items()
        if scheduler.config.get(name, value) != value
    }
    if not wrong:
        return scheduler
    changes = ", ".join(f"{name}={expected[name]} instead of {wrong[name]}" for name in wrong)
    warnings.warn(
        f"{type(scheduler).__name__} is used with {changes}, as Stable Diffusion needs: "
        "correct scheduler/scheduler_config.json to lose this warning.",
        stacklevel=3,
    )
    return rebuild_scheduler_with_settings(scheduler, **{name: expected[name] for name in wrong})
