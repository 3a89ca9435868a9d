"""Reading LoRA files of diffusers, peft, kohya and lycoris.

A file with any tensor that is not understood is refused.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2i.adapters.lora_files.adapter_config import (
    AdapterConfig,
    build_adapter_config_from_peft,
    build_adapter_configs_from_header,
)
from t2i.adapters.lora_files.keys import parse_key
from t2i.adapters.lora_layers import (
    MODEL_PARTS,
    HadamardUpdate,
    KroneckerUpdate,
    Lora,
    LowRankUpdate,
    WeightUpdate,
    convert_peft_kronecker,
)
from t2i.adapters.module_names import printable_name, summarize_names
from t2i.adapters.tensor_files import extract_single_number, read_tensors_and_metadata
from t2i.denoiser.loading.weight_checks import read_json_object
from t2i.errors import ModelError
from t2i.terminal import plural

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of a folder in which peft saves one adapter."""
TensorsByField = dict[str, Tensor]


def read_lora(path: Path, *, layers_per_block: int = 2) -> Lora:
    """Read a LoRA from a safetensors file or from a folder of peft's.

    layers_per_block : of the UNet it was trained on. Only names of SDXL's original code, used by
        kohya, depend on it; 2 in all published models.

    Raises ModelError, naming the tensors that are not understood.
    """
    if path.is_dir():
        return read_peft_folder(path)
    tensors, header = read_tensors_and_metadata(path, "LoRA")
    return build_lora(
        path, tensors, header, build_adapter_configs_from_header(path, header), layers_per_block
    )


def read_peft_folder(folder: Path) -> Lora:
    """Read a LoRA from a folder of peft's: one adapter, or one subfolder for each model part."""
    subfolders = {
        part: folder / part for part in MODEL_PARTS if (folder / part / ADAPTER_CONFIG).is_file()
    }
    if not subfolders and not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder} holds no LoRA: expected {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} as peft "
            "saves them, or the "
            "path of a .safetensors file."
        )
    parts: dict[str, Mapping[str, WeightUpdate]] = {}
    for subfolder in subfolders.values() or [folder]:
        config = build_adapter_config_from_peft(
            subfolder / ADAPTER_CONFIG, read_json_object(subfolder / ADAPTER_CONFIG)
        )
        tensors, header = read_tensors_and_metadata(subfolder / ADAPTER_WEIGHTS, "LoRA")
        part = subfolder.name if subfolder.name in MODEL_PARTS else None
        configs = dict.fromkeys(MODEL_PARTS, config)
        weights = subfolder / ADAPTER_WEIGHTS
        parts |= build_lora(weights, tensors, header, configs, 2, part).parts
    return Lora(parts)


def build_lora(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    configs: Mapping[str, AdapterConfig],
    layers_per_block: int,
    part: str | None = None,
) -> Lora:
    """Build a LoRA from a file's tensors, header and adapter configs.

    configs : part -> the adapter config that applies to it, where there is one
    part : the model part, where the file holds only one

    Raises ModelError for unknown keys, duplicates and tensors that do not fit together.
    """
    modules: dict[tuple[str, str], TensorsByField] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        parsed = parse_key(key, layers_per_block, part)
        if parsed is None:
            unknown.append(key)
            continue
        fields = modules.setdefault((parsed.part, parsed.module), {})
        if parsed.field in fields:
            raise ModelError(f"{path} has {printable_name(key)} twice, under different names.")
        fields[parsed.field] = tensor
    if unknown:
        raise ModelError(
            f"{path}: {len(unknown):,} of its {plural(len(tensors), 'tensor')} belong to no LoRA, "
            "LoHa or LoKr for Stable Diffusion 1, 2 or XL that is known here: "
            f"{summarize_names(unknown)}. "
            "Nothing of it was loaded."
        )
    parts: dict[str, dict[str, WeightUpdate]] = {}
    for (model_part, module), fields in modules.items():
        try:
            layer = build_weight_update(fields, module, configs.get(model_part))
        except ValueError as error:
            raise ModelError(f"{path}: {model_part} {printable_name(module)}: {error}.") from error
        parts.setdefault(model_part, {})[module] = layer
    return Lora({name: parts[name] for name in MODEL_PARTS if name in parts}, dict(header))


def build_weight_update(
    fields: TensorsByField, module: str, config: AdapterConfig | None
) -> WeightUpdate:
    """Build the LoRA, LoHa or LoKr update of one module from its tensors by field ("down", "up",
    "alpha", ...).

    Raises ValueError unless they are complete, fit together and match the config.
    """
    fields = dict(fields)
    alpha = fields.pop("alpha", None)
    given = None if alpha is None else extract_single_number(alpha)
    loha = {name[5:]: fields.pop(name) for name in list(fields) if name.startswith("hada_")}
    lokr = {name[5:]: fields.pop(name) for name in list(fields) if name.startswith("lokr_")}
    if (loha or lokr) and fields:
        raise ValueError(f"{summarize_names(fields)} cannot be used beside a LoHa or LoKr")
    if loha and lokr:
        raise ValueError("it has tensors both of a LoHa and of a LoKr")

    layer: WeightUpdate
    if loha:
        layer = HadamardUpdate(loha, 0.0)
    elif lokr:
        layer = KroneckerUpdate(lokr, 0.0)
    elif "down" in fields and "up" in fields:
        layer = build_low_rank_update_without_alpha(fields)
    else:
        raise ValueError(
            f"it has {summarize_names([*fields, *(['alpha'] if alpha is not None else [])])} alone"
        )
    if misfit := layer.describe_inconsistent_shapes():
        raise ValueError(misfit)
    if config is not None and (contradiction := config.describe_contradiction(module, layer)):
        raise ValueError(contradiction)
    if given is None:
        given = layer.rank if config is None else config.compute_alpha(module, layer.rank)
    if isinstance(layer, LowRankUpdate):
        return LowRankUpdate(layer.down, layer.up, float(given), layer.magnitude)
    if isinstance(layer, KroneckerUpdate) and config is not None and alpha is None:
        return convert_peft_kronecker(
            layer.factors, float(given), config.find_declared_rank(module) or layer.rank
        )
    return type(layer)(layer.factors, float(given))


def build_low_rank_update_without_alpha(fields: TensorsByField) -> LowRankUpdate:
    """Build a LoRA or DoRA update from its tensors by field, with alpha left at 0; the middle
    convolution of a LoRA with Tucker core is multiplied into `down`.
    """
    down, up = fields["down"], fields["up"]
    if (mid := fields.get("mid")) is not None:
        # down, then a convolution over the ranks, equals one convolution.
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
    return LowRankUpdate(down, up, 0.0, None if magnitude is None else magnitude.flatten())
