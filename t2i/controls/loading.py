"""Loading of control networks from folders and single files, checked before anything is read."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from safetensors import SafetensorError
from torch import Tensor

from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.model_folder import check_no_outside_links
from t2i.denoiser.loading.model_location import EMBEDDED_CONTROLS, locate_control_network
from t2i.denoiser.loading.weight_checks import (
    check_weights_and_build_meta_model,
    describe_tensor_mismatches,
    read_json_object,
)
from t2i.errors import ModelError, format_library_error, suggest_choice
from t2i.library_messages import muting_diffusers_warnings
from t2i.safe_reading.files import advise_on_missing_file
from t2i.safe_reading.tensors import read_tensors

NETWORK_CLASSES: dict[str, Any] = {
    "ControlNetModel": ControlNetModel,
    "ControlNetUnionModel": ControlNetUnionModel,
    "T2IAdapter": T2IAdapter,
}
"""Class that a folder's config.json names -> the class."""
HINT_EMBEDDING = "controlnet_cond_embedding"


def load_control_network(name_or_path: str | os.PathLike[str], unet: Any) -> Any:
    """Load the network of a control, such as a ControlNet, in evaluation mode and the precision of
    the UNet.

    name_or_path : a name in EMBEDDED_CONTROLS, as a string ("segments"); a folder as diffusers
        saves a ControlNetModel, ControlNetUnionModel or T2IAdapter; or one .safetensors file of a
        ControlNet in the layout of diffusers or of the original code
    unet : of the model that it is for: a single file says nothing of its own config

    Raises ModelError for anything else, and for weights that do not fit their config.
    """
    if not isinstance(name_or_path, str | os.PathLike) or not os.fspath(name_or_path):
        raise ModelError(
            f"Got the control network {name_or_path!r:.80}, expected a name such as 'segments', or "
            "the path of a folder or .safetensors file."
        )
    path = locate_control_network(name_or_path)
    if not path.exists():
        raise ModelError(
            f"No such control network: {path}. {advise_on_missing_file(str(path))} Those of t2i: "
            f"{suggest_choice(str(name_or_path), EMBEDDED_CONTROLS)}"
        )
    if path.is_dir():
        return load_network_folder(path, unet.dtype)
    return load_controlnet_file(path, unet)


def load_network_folder(folder: Path, dtype: torch.dtype) -> Any:
    """Load a control network from a folder with config.json and safetensors weights."""
    check_no_outside_links(folder, [folder / "config.json", *folder.glob("*.safetensors*")])
    named = str(read_json_object(folder / "config.json").get("_class_name"))
    if named not in NETWORK_CLASSES:
        raise ModelError(
            f"{folder / 'config.json'} describes a {named:.80}, which is no network of a control. "
            f"{suggest_choice(named[:80], NETWORK_CLASSES)}"
        )
    check_weights_and_build_meta_model(folder, named, None)
    try:
        with muting_diffusers_warnings():
            network = NETWORK_CLASSES[named].from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"Cannot load {folder}: {format_library_error(error)}.") from error
    return network.eval()


def load_controlnet_file(path: Path, unet: Any) -> Any:
    """Load a ControlNet from a single file, with the config of the UNet that it is for."""
    try:
        tensors = read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot read {path}: {format_library_error(error)}.") from error
    try:
        tensors = convert_controlnet_checkpoint(tensors, dict(unet.config))
    except (KeyError, AttributeError, ValueError, IndexError, TypeError, RuntimeError):
        tensors = {}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if f"{HINT_EMBEDDING}.conv_in.weight" not in tensors:
        raise ModelError(
            f"{path} is no ControlNet: it has no {HINT_EMBEDDING}, by which a ControlNet reads its "
            "picture. Expected a .safetensors file of one, or a folder as diffusers saves it."
        )
    config = infer_controlnet_config(tensors, unet)
    network = build_meta_model("ControlNetModel", config)
    expected = {name: tuple(one.shape) for name, one in network.state_dict().items()}
    found = {name: tuple(one.shape) for name, one in tensors.items()}
    if misfits := describe_tensor_mismatches(expected, found):
        raise ModelError(
            f"The ControlNet {path} does not fit this model's UNet: {misfits}. Take one that was "
            "made for models of this kind; other kinds of networks (union, XS) are not read from "
            "single files."
        )
    with torch.device("meta"):
        loaded = ControlNetModel(**config)
    loaded.load_state_dict(tensors, assign=True)
    return loaded.to(unet.dtype).eval()


def infer_controlnet_config(tensors: Mapping[str, Tensor], unet: Any) -> dict[str, Any]:
    """Return the config of a single-file ControlNet: that of its UNet, with what the shapes of the
    ControlNet's weights determine.
    """
    known = inspect.signature(ControlNetModel).parameters
    # An IP-Adapter writes its projection into the UNet's config.
    config = {
        name: value
        for name, value in unet.config.items()
        if name in known and not name.startswith("encoder_hid")
    }
    first = tensors[f"{HINT_EMBEDDING}.conv_in.weight"]
    widths = [first.shape[0]]
    for block in range(1, len(tensors), 2):
        weight = tensors.get(f"{HINT_EMBEDDING}.blocks.{block}.weight")
        if weight is None:
            break
        widths.append(weight.shape[0])
    latents = tensors.get("conv_in.weight")
    return config | {
        "in_channels": config["in_channels"] if latents is None else latents.shape[1],
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": tuple(widths),
    }
