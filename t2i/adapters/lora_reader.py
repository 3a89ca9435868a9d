"""A LoRA file of anybody's: diffusers, peft, kohya, lycoris. Every tensor in it is understood, or
it is refused."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2i.adapters.lora_keys import placed
from t2i.adapters.lora_layers import PARTS, Hadamard, Kronecker, Layer, Lora, Low, scaled_as_peft
from t2i.adapters.lora_scales import Told, from_config, from_header
from t2i.adapters.module_names import shown, spell
from t2i.adapters.tensor_files import number, read_tensors
from t2i.denoiser.loading.weight_checks import read_json
from t2i.errors import ModelError
from t2i.terminal import several

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Of a folder as peft saves one adapter."""
Fields = dict[str, Tensor]


def read(path: Path, *, layers_per_block: int = 2) -> Lora:
    """What a LoRA file, or a folder of peft's, changes in a model.

    layers_per_block : of the UNet that it was made for. Only names of SDXL's original code, as
        kohya's files have them, depend on it; 2 in all models that are published.

    Raises ModelError naming the tensors that are not understood: a LoRA is read whole or not.
    """
    if path.is_dir():
        return read_folder(path)
    tensors, header = read_tensors(path, "LoRA")
    return gathered(path, tensors, header, from_header(path, header), layers_per_block)


def read_folder(folder: Path) -> Lora:
    """One adapter as peft saves it, or one in a folder for each part of a model."""
    parts = {part: folder / part for part in PARTS if (folder / part / CONFIG).is_file()}
    if not parts and not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} holds no LoRA: expected {CONFIG} and {WEIGHTS} as peft saves them, or the "
            "path of a .safetensors file."
        )
    found: dict[str, Mapping[str, Layer]] = {}
    for place in parts.values() or [folder]:
        config = from_config(place / CONFIG, read_json(place / CONFIG))
        tensors, header = read_tensors(place / WEIGHTS, "LoRA")
        part = place.name if place.name in PARTS else None
        configs = dict.fromkeys(PARTS, config)
        found |= gathered(place / WEIGHTS, tensors, header, configs, 2, part).parts
    return Lora(found)


def gathered(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    configs: Mapping[str, Told],
    layers_per_block: int,
    part: str | None = None,
) -> Lora:
    places: dict[tuple[str, str], Fields] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        place = placed(key, layers_per_block, part)
        if place is None:
            unknown.append(key)
            continue
        fields = places.setdefault((place.part, place.module), {})
        if place.field in fields:
            raise ModelError(f"{path} has {shown(key)} twice, under different names.")
        fields[place.field] = tensor
    if unknown:
        raise ModelError(
            f"{path}: {len(unknown):,} of its {several(len(tensors), 'tensor')} are of no LoRA, "
            f"LoHa or LoKr for Stable Diffusion 1, 2 or XL that is known here: {spell(unknown)}. "
            "Nothing of it was loaded."
        )
    parts: dict[str, dict[str, Layer]] = {}
    for (of, module), fields in places.items():
        try:
            layer = layer_of(fields, module, configs.get(of))
        except ValueError as error:
            raise ModelError(f"{path}: {of} {shown(module)}: {error}.") from error
        parts.setdefault(of, {})[module] = layer
    return Lora({of: parts[of] for of in PARTS if of in parts}, dict(header))


def layer_of(fields: Fields, module: str, told: Told | None) -> Layer:
    """The change of one module. Raises ValueError unless its tensors are all there and fit."""
    fields = dict(fields)
    alpha = fields.pop("alpha", None)
    given = None if alpha is None else number(alpha)
    loha = {name[5:]: fields.pop(name) for name in list(fields) if name.startswith("hada_")}
    lokr = {name[5:]: fields.pop(name) for name in list(fields) if name.startswith("lokr_")}
    if (loha or lokr) and fields:
        raise ValueError(f"{spell(fields)} cannot be used beside a LoHa or LoKr")
    if loha and lokr:
        raise ValueError("it has tensors both of a LoHa and of a LoKr")

    layer: Layer
    if loha:
        layer = Hadamard(loha, 0.0)
    elif lokr:
        layer = Kronecker(lokr, 0.0)
    elif "down" in fields and "up" in fields:
        layer = low(fields)
    else:
        raise ValueError(
            f"it has {spell([*fields, *(['alpha'] if alpha is not None else [])])} alone"
        )
    if misfit := layer.misshapen():
        raise ValueError(misfit)
    if told is not None and (contradiction := told.contradicted(module, layer)):
        raise ValueError(contradiction)
    if given is None:
        given = layer.rank if told is None else told.alpha_of(module, layer.rank)
    if isinstance(layer, Low):
        return Low(layer.down, layer.up, float(given), layer.magnitude)
    if isinstance(layer, Kronecker) and told is not None and alpha is None:
        return scaled_as_peft(layer.factors, float(given), told.rank_of(module) or layer.rank)
    return type(layer)(layer.factors, float(given))


def low(fields: Fields) -> Low:
    down, up = fields["down"], fields["up"]
    if (mid := fields.get("mid")) is not None:
        # down, then a convolution among the ranks: one convolution is the same.
        if mid.dim() != 4 or down.dim() < 2 or mid.shape[1] != down.shape[0]:
            raise ValueError(f"lora_mid is {list(mid.shape)}, down {list(down.shape)}")
        down = torch.einsum("orkl,ri->oikl", mid.float(), down.float().flatten(1)).to(down.dtype)
    magnitude = fields.get("magnitude")
    if (scale := fields.get("dora_scale")) is not None:
        if scale.dim() > 1 and scale.shape[0] != scale.numel():
            raise ValueError(
                f"its dora_scale is {list(scale.shape)}, one number for each input: expected "
                "one for each output, as peft and newer files have it"
            )
        magnitude = scale
    return Low(down, up, 0.0, None if magnitude is None else magnitude.flatten())
