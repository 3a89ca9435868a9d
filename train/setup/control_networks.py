"""The network of a control that a run trains: a fresh one for its model, or a trained one."""

from math import log2
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.controls.network_checks import (
    HINT_CHANNELS,
    PLAIN_BLOCK,
    check_controls,
    takes_adapter_of_xl,
)
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.errors import ArgumentError
from t2i.randomness import derive_seed
from train.config.run_config import RunConfig
from train.data.pictures_config import PictureDatasetConfig
from train.targets.control_network import (
    ControlNetTargetConfig,
    ControlTargetConfig,
)

HINT_EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Channels of the published ControlNets' layers that shrink the hint to the size of latents."""
ADAPTER_RES_BLOCKS = 2
"""Residual blocks in each block of the published T2I-Adapters."""
ADAPTED_BLOCK, PLAIN_MID_BLOCK = "CrossAttnDownBlock2D", "UNetMidBlock2D"


def build_control_network(
    target: ControlTargetConfig, pipe: TextToImagePipeline, config: RunConfig
) -> Any:
    """Build the network of the control that a run trains, in float32: fresh, or with the weights
    that the target names.

    Raises ArgumentError for a model that cannot have one, or for weights of another model.
    """
    wanted: Any = ControlNetModel if isinstance(target, ControlNetTargetConfig) else T2IAdapter
    if target.network is not None:
        network = load_control_network(target.network, pipe.unet).to(torch.float32)
        if type(network) is not wanted:
            raise ArgumentError(
                f"target.network = {str(target.network)!r} is a {type(network).__name__}, and "
                f"target.kind = {target.kind!r} trains a {wanted.__name__}: name another, or set "
                "another kind."
            )
        check_weights_finite(str(target.network), network)
        check_reads_what_target_says(target, network)
    else:
        torch.manual_seed(derive_seed(config.seed, "control"))
        factor = pixels_per_latent(pipe.vae)
        if isinstance(target, ControlNetTargetConfig):
            network = build_fresh_controlnet(pipe.unet, factor)
            if not target.cross_attention:
                network = drop_cross_attention(network)
        else:
            network = build_fresh_t2i_adapter(pipe.unet, factor)
    blank = Control(network, Image.new("RGB", (8, 8)))
    channels = int(pipe.vae.config["latent_channels"])
    check_controls([blank], pipe.unet, channels, pixels_per_latent(pipe.vae))
    if wanted is T2IAdapter:
        check_sides_for_adapter(network, config)
    return network


def check_reads_what_target_says(target: ControlTargetConfig, network: Any) -> None:
    """Raise ArgumentError where a target without cross-attention starts from a network with it."""
    drops = isinstance(target, ControlNetTargetConfig) and not target.cross_attention
    if drops and any("CrossAttn" in kind for kind in network.config["down_block_types"]):
        raise ArgumentError(
            f"target.cross_attention = false, and target.network = {str(target.network)!r} has "
            "cross-attention: leave the first out to train it on, or the second for a fresh "
            "network."
        )


def build_fresh_controlnet(unet: UNet2DConditionModel, factor: int) -> ControlNetModel:
    """Build a ControlNet that begins as a copy of the UNet's downward half and adds nothing yet.

    factor : pixels per latent position
    """
    last = HINT_EMBEDDING_CHANNELS[-1]
    channels = (*HINT_EMBEDDING_CHANNELS, *[last] * 8)[: int(log2(factor)) + 1]
    network: ControlNetModel = ControlNetModel.from_unet(
        unet,
        conditioning_embedding_out_channels=channels,
        conditioning_channels=HINT_CHANNELS,
    )
    return network


def drop_cross_attention(network: ControlNetModel) -> ControlNetModel:
    """Return a ControlNet with the weights of another one, except for its transformer blocks and
    what follows them in the mid block: it is made of diffusers' blocks without attention.
    """
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    plain = [kind.replace(ADAPTED_BLOCK, PLAIN_BLOCK) for kind in config["down_block_types"]]
    config |= {"down_block_types": plain, "mid_block_type": PLAIN_MID_BLOCK}
    reduced: ControlNetModel = ControlNetModel(**config)
    kept = reduced.state_dict().keys()
    reduced.load_state_dict({k: w for k, w in network.state_dict().items() if k in kept})
    return reduced


def build_fresh_t2i_adapter(unet: UNet2DConditionModel, factor: int) -> T2IAdapter:
    """Build a T2I-Adapter with fresh weights for a UNet.

    factor : pixels per latent position

    Raises ArgumentError for a UNet in whose blocks no adapter of diffusers has its features.
    """
    kinds, channels = [list(unet.config[key]) for key in ("down_block_types", "block_out_channels")]
    is_xl = takes_adapter_of_xl(unet.config)
    adapted = kinds[1:] if is_xl else kinds[:-1]
    if any(kind != ADAPTED_BLOCK for kind in adapted):
        raise ArgumentError(
            f"target.kind = 't2i-adapter', and the UNet of the base has the downward blocks "
            f"{', '.join(kinds)}, for which diffusers has no adapter: train a ControlNet, "
            "target.kind = 'controlnet'."
        )
    adapter: T2IAdapter = T2IAdapter(
        in_channels=HINT_CHANNELS,
        channels=[*channels, channels[-1]] if is_xl else channels,
        num_res_blocks=ADAPTER_RES_BLOCKS,
        downscale_factor=2 * factor if is_xl else factor,
        adapter_type="full_adapter_xl" if is_xl else "full_adapter",
    )
    return adapter


def check_sides_for_adapter(adapter: T2IAdapter, config: RunConfig) -> None:
    """Raise ArgumentError where pictures of the run have sides that the adapter cannot halve as
    often as the UNet.
    """
    divisor, data = int(adapter.total_downscale_factor), config.data
    key, value = "data.size", data.size
    if isinstance(data, PictureDatasetConfig) and data.buckets:
        key, value = "data.bucket_step", data.bucket_step
    if value % divisor:
        raise ArgumentError(
            f"{key} = {value}, and the sides of pictures must be multiples of {divisor} for a "
            f"T2I-Adapter of this model: set {key} = {-(-value // divisor) * divisor}."
        )
