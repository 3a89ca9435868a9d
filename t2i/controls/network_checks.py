"""Checks that the network of a control fits a UNet, made before anything runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from t2i.controls.block_scales import list_block_of_each_residual
from t2i.controls.control import Control
from t2i.errors import ArgumentError, suggest_choice

FAMILY_BY_TEXT_WIDTH = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "Stable Diffusion XL",
}
SAME_CONFIG_KEYS = {
    "cross_attention_dim": "text embeddings of width",
    "addition_embed_type": "a further conditioning of type",
    "projection_class_embeddings_input_dim": "pooled embeddings and sizes of width",
    "block_out_channels": "blocks of channels",
    "layers_per_block": "layers per block",
}
"""Config keys that a ControlNet shares with its UNet -> words for what they describe."""
HINT_CHANNELS = 3
XL_BLOCKS, PLAIN_BLOCK = 3, "DownBlock2D"
"""Number of the downward blocks of the UNets that adapters of the type full_adapter_xl are made
for, and the first of them."""


def check_controls(controls: object, unet: Any, latent_channels: int, factor: int) -> None:
    """Raise ArgumentError unless the argument is a list of controls whose networks fit the UNet.

    latent_channels, factor : channels of the VAE's latents, and pixels per latent position
    """
    if not isinstance(controls, list | tuple) or not all(
        isinstance(one, Control) for one in controls
    ):
        raise ArgumentError(
            f"Got controls={controls!r:.80}, expected a list of Control(model, picture)."
        )
    for number, control in enumerate(controls):
        config = control.network.config
        if control.is_adapter:
            check_adapter_fits(config, unet.config, number)
        else:
            check_controlnet_fits(config, unet.config, number)
            check_controlnet_channels(config, latent_channels, factor, number)
        check_block_names(control, number)


def check_controlnet_fits(
    config: Mapping[str, Any], unet_config: Mapping[str, Any], number: int
) -> None:
    """Raise ArgumentError where a ControlNet's residuals or text are not those of the UNet."""
    for key, words in SAME_CONFIG_KEYS.items():
        own, expected = (
            convert_lists_to_tuples(config.get(key)),
            convert_lists_to_tuples(unet_config.get(key)),
        )
        if own != expected:
            raise ArgumentError(
                f"Control {number} is a ControlNet for {words} {own}"
                f"{describe_family(config)}, and this model's UNet has {expected}"
                f"{describe_family(unet_config)}: take a ControlNet that was made for this model."
            )


def check_controlnet_channels(
    config: Mapping[str, Any], latent_channels: int, factor: int, number: int
) -> None:
    """Raise ArgumentError for a ControlNet whose numbers of latent or hint channels are not those
    of the model and of one colour picture.
    """
    if config["in_channels"] != latent_channels:
        raise ArgumentError(
            f"Control {number} is a ControlNet that reads latents of {config['in_channels']} "
            f"channels, and this model's have {latent_channels}: take one that was made for the "
            "model itself, not for its inpainting or depth variant."
        )
    if config["conditioning_channels"] != HINT_CHANNELS:
        raise ArgumentError(
            f"Control {number} is a ControlNet that reads hints of "
            f"{config['conditioning_channels']} channels, expected {HINT_CHANNELS}: a hint is one "
            "picture in colour. Networks that read several pictures side by side are not supported."
        )
    own = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    if own != factor:
        raise ArgumentError(
            f"Control {number} is a ControlNet that reads hints at {own} pixels per latent, and "
            f"this model's autoencoder has {factor}: take one that was made for this model."
        )


def check_adapter_fits(
    config: Mapping[str, Any], unet_config: Mapping[str, Any], number: int
) -> None:
    """Raise ArgumentError for an adapter whose features have other channels than the UNet's blocks,
    or that reads hints of other than one or three channels.
    """
    own, expected = tuple(config["channels"]), tuple(unet_config["block_out_channels"])
    shared = min(len(own), len(expected))
    is_xl = config["adapter_type"] == "full_adapter_xl"
    if own[:shared] != expected[:shared] or is_xl != takes_adapter_of_xl(unet_config):
        raise ArgumentError(
            f"Control {number} is a T2I-Adapter ({config['adapter_type']}) for blocks of channels "
            f"{own}, and this model's UNet has {expected}{describe_family(unet_config)}: take an "
            "adapter that was made for this model."
        )
    if config["in_channels"] not in (1, HINT_CHANNELS):
        raise ArgumentError(
            f"Control {number} is a T2I-Adapter that reads hints of {config['in_channels']} "
            f"channels, expected 1 or {HINT_CHANNELS}: a hint is one picture, gray or in colour."
        )


def takes_adapter_of_xl(unet_config: Mapping[str, Any]) -> bool:
    """Return whether a UNet takes adapters of the type full_adapter_xl: it has three blocks, and
    the first is without attention. Any other takes those of the type full_adapter.
    """
    kinds = unet_config["down_block_types"]
    return len(kinds) == XL_BLOCKS and kinds[0] == PLAIN_BLOCK


def check_block_names(control: Control, number: int) -> None:
    """Raise ArgumentError if the block scales of a control name blocks that the UNet does not
    have.
    """
    known = list(dict.fromkeys(list_block_of_each_residual(control)))
    for name in control.block_scales or ():
        if name not in known:
            raise ArgumentError(
                f"Control {number} names the block {name!r:.80}, which this model does not have. "
                f"{suggest_choice(name, known)}"
            )


def convert_lists_to_tuples(value: object) -> object:
    """Return a config value with lists as tuples, so that values can be compared."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def describe_family(config: Mapping[str, Any]) -> str:
    """Return the model family that the text width in a UNet's or ControlNet's config indicates, in
    parentheses for a message; "" for an unknown one.
    """
    width = config.get("cross_attention_dim")
    family = FAMILY_BY_TEXT_WIDTH.get(width) if isinstance(width, int) else None
    return f" ({family})" if family else ""
