"""Do the tensors in a component's safetensors files fit the model its config describes?

Only headers are read, and the model is built without memory (on the "meta" device).
"""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from t2i.errors import ModelError

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
NAMED_TENSORS = 3
"""Tensors of each kind of misfit that an error spells out."""


def check_weights(folder: Path, class_name: str, variant: str | None) -> None:
    """Raise ModelError unless `folder` holds exactly the weights of a `class_name`."""
    config_path = folder / "config.json"
    config = read_json(config_path)
    try:
        with torch.device("meta"):
            model = SKELETONS[class_name](config)
    except Exception as error:  # A wrong config makes constructors fail in any way.
        raise ModelError(f"{config_path} does not describe a {class_name}: {error}") from error

    expected = {plain(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: Shapes = {}
    for path in weight_files(folder, variant):
        found |= {plain(name): shape for name, shape in read_shapes(path).items()}
    compare(folder, expected, found)


def compare(folder: Path, expected: Shapes, found: Shapes) -> None:
    missing = expected.keys() - found.keys()
    unexpected = found.keys() - expected.keys() - IGNORED
    misshapen = [
        f"{name} is {list(found[name])} instead of {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    kinds = {"missing": sorted(missing), "unexpected": sorted(unexpected), "misshapen": misshapen}
    misfits = [f"{len(names)} {kind} ({spell(names)})" for kind, names in kinds.items() if names]
    if misfits:
        raise ModelError(
            f"The weights in {folder} do not fit its config.json: tensors {'; '.join(misfits)}. "
            "Copy config.json and weights from the same model."
        )


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files that the loader will read: one, or the shards of an index."""
    for infix in [f".{variant}", ""] if variant else [""]:
        for stem in ("diffusion_pytorch_model", "model"):
            single = folder / f"{stem}{infix}.safetensors"
            index = folder / f"{stem}.safetensors.index{infix}.json"
            if single.is_file():
                return [single]
            if index.is_file():
                return shards(index)

    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise ModelError(
            f"Refused the pickled weights {folder / pickles[0]}: loading them can run any code. "
            "Convert them to safetensors where you trust them, or get the safetensors version."
        )
    if variants := [name for name in names if name.endswith(".safetensors")]:
        raise ModelError(
            f"No weights in {folder} under the usual name, only {', '.join(variants)}: "
            'choose with variant="...", such as "fp16".'
        )
    raise ModelError(f"No weights (*.safetensors) in {folder}: copy or download the model again.")


def shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: copy or download the model again.")
    paths = []
    for name in sorted(set(map(str, weight_map.values()))):
        path = index.parent / name
        if path.parent != index.parent or path.suffix != ".safetensors":
            raise ModelError(f"{index} names {name!r}, expected a safetensors file beside it.")
        if not path.is_file():
            raise ModelError(f"{index} names the missing file {name}: copy or download it again.")
        paths.append(path)
    return paths


def read_shapes(path: Path) -> Shapes:
    """The header of a safetensors file; its length is held against the file's."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}): copy or download it again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: copy or download the model again.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content


def plain(name: str) -> str:
    """One name for a tensor that versions of transformers and diffusers name differently."""
    name = name.removeprefix("text_model.")
    if ".attentions." in name:
        for old, new in OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def spell(names: list[str]) -> str:
    more = len(names) - NAMED_TENSORS
    return ", ".join(names[:NAMED_TENSORS]) + (f" and {more} more" if more > 0 else "")


def from_arguments(kind: Callable[..., nn.Module]) -> Callable[[Mapping[str, Any]], nn.Module]:
    """Build from the keys that are arguments; configs carry others, such as versions."""
    known = inspect.signature(kind).parameters
    return lambda config: kind(**{key: value for key, value in config.items() if key in known})


def clip_text_model(config: Mapping[str, Any]) -> nn.Module:
    return CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))


OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""As in the VAEs of Stable Diffusion 1 and 2; diffusers renames them while loading."""

IGNORED = {"embeddings.position_ids"}
"""Once saved with CLIP text models, now computed."""

SKELETONS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "AutoencoderKL": from_arguments(AutoencoderKL),
    "AutoencoderTiny": from_arguments(AutoencoderTiny),
    "CLIPTextModel": clip_text_model,
    "UNet2DConditionModel": from_arguments(UNet2DConditionModel),
}
