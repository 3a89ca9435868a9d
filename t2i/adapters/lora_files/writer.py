"""Writing of LoRA files in the formats of diffusers and kohya, and of folders of peft's."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from t2i.adapters.lora_files.adapter_config import HEADER_KEY
from t2i.adapters.lora_files.keys import PEFT_PREFIX
from t2i.adapters.lora_files.kohya_header import (
    KohyaMetadata,
    ModelFamily,
    build_kohya_header,
    infer_base_family,
    select_training_metadata,
)
from t2i.adapters.lora_files.reader import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from t2i.adapters.lora_layers import Lora, LowRankUpdate, WeightUpdate, choose_compute_dtype
from t2i.adapters.lora_summary import find_most_common_mapped_value, int_if_whole
from t2i.adapters.module_names import (
    ONE_ENCODER_PREFIXES,
    TEXT_MODEL_PREFIX,
    TWO_ENCODER_PREFIXES,
    module_name_in_lora_file,
    replace_dots,
    summarize_names,
    to_original_sdxl_name,
)
from t2i.adapters.tensor_files import make_contiguous, write_tensor_file
from t2i.atomic_folders import atomic_folder
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.errors import ModelError

TEXT_ATTENTION_ENDINGS = (".q_proj", ".k_proj", ".v_proj", ".out_proj")


def write_diffusers_lora(path: Path, lora: Lora) -> None:
    """Write a LoRA file for `pipe.load_lora_weights`, with ranks and alphas in its header.

    Raises ModelError for layer types that diffusers cannot read, OutputError for a failed write.
    """
    check_lora_not_empty(lora)
    if other := lora.kinds - {"lora"}:
        raise ModelError(
            f"diffusers reads no {summarize_names(map(KIND_TITLES.__getitem__, other))} file: "
            "write it as kohya or "
            "peft, or make a LoRA of it with `t2i lora resize`."
        )
    tensors: dict[str, Tensor] = {}
    config: dict[str, object] = {}
    for part, layers in lora.parts.items():
        names = DIFFUSERS_FIELDS if part == "unet" else DIFFUSERS_TEXT_FIELDS
        if part != "unet" and not any(name.endswith(TEXT_ATTENTION_ENDINGS) for name in layers):
            names = DIFFUSERS_MLP_FIELDS
        for module, layer in layers.items():
            for name, tensor in reshape_layer_for_peft(layer).items():
                tensors[f"{part}.{module_name_in_lora_file(part, module)}.{names[name]}"] = tensor
        config |= {f"{part}.{key}": value for key, value in build_peft_config(part, layers).items()}
    write_tensor_file(
        path,
        tensors,
        select_training_metadata(lora)
        | {HEADER_KEY: json.dumps(config, sort_keys=True), "format": "pt"},
    )


def write_kohya_lora(path: Path, lora: Lora, metadata: KohyaMetadata | None = None) -> None:
    """Write a LoRA file in the format of kohya's scripts, LoHa and LoKr in that of lycoris.

    Modules of SDXL's UNet get the names of the original code.

    Raises ModelError where the family is neither given nor inferable, OutputError for a failed
    write.
    """
    check_lora_not_empty(lora)
    metadata = metadata or KohyaMetadata()
    family = metadata.family or infer_base_family(lora)
    prefixes = TWO_ENCODER_PREFIXES if family == "sdxl" else ONE_ENCODER_PREFIXES
    tensors: dict[str, Tensor] = {}
    for part, module, layer in unify_alpha(lora).iter_layers():
        if part not in prefixes:
            raise ModelError(f"{family} has no {part}, which the LoRA changes: give its family.")
        key = prefixes[part] + to_kohya_name(part, module, family, metadata.layers_per_block)
        for name, tensor in layer.named_tensors().items():
            if name == "magnitude":
                tensor = tensor.reshape(-1, *[1] * (find_weight_ndim(layer) - 1))
            tensors[f"{key}.{KOHYA_FIELDS.get(name, name)}"] = tensor
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
    write_tensor_file(path, tensors, build_kohya_header(lora, family, metadata))


def write_peft_folders(folder: Path, lora: Lora) -> None:
    """Write a LoRA as one subfolder per model part, for `PeftModel.from_pretrained`.

    Modules have the names of the installed transformers: peft ignores others.

    Raises ModelError for LoKr, whose shapes peft derives itself.
    """
    check_lora_not_empty(lora)
    with atomic_folder(folder) as new_folder:
        for part, layers in lora.parts.items():
            kinds = {layer.kind for layer in layers.values()}
            if len(kinds) > 1 or kinds == {"lokr"}:
                raise ModelError(
                    f"{part} has {summarize_names(KIND_TITLES[kind] for kind in kinds)}: one "
                    "folder of peft's "
                    "holds LoRA or LoHa alone. Write it as kohya."
                )
            config = build_peft_config(part, layers) | {"peft_type": kinds.pop().upper()}
            tensors: dict[str, Tensor] = {}
            for module, layer in layers.items():
                prefix = f"{PEFT_PREFIX}{module_name_in_installed_library(part, module)}"
                for name, tensor in reshape_layer_for_peft(layer).items():
                    tensors[f"{prefix}.{DIFFUSERS_FIELDS.get(name, name)}"] = tensor
            (new_folder / part).mkdir()
            (new_folder / part / ADAPTER_CONFIG).write_text(
                json.dumps(config, indent=2, sort_keys=True)
            )
            content = save(make_contiguous(tensors), {"format": "pt"})
            (new_folder / part / ADAPTER_WEIGHTS).write_bytes(content)


def module_name_in_installed_library(part: str, name: str) -> str:
    """Return a LoRA module's name as the installed version of transformers or diffusers has it."""
    return (
        module_name_in_lora_file(part, name)
        if part != "unet" and installed_clip_has_text_model_prefix(part)
        else name
    )


@cache
def installed_clip_has_text_model_prefix(part: str) -> bool:
    """Return True if the installed CLIP class prefixes its module names with "text_model."."""
    second = part == "text_encoder_2"
    kind = "CLIPTextModelWithProjection" if second else "CLIPTextModel"
    names = build_meta_model(kind, {"num_hidden_layers": 1}).state_dict()
    return any(name.startswith(TEXT_MODEL_PREFIX) for name in names)


def reshape_layer_for_peft(layer: WeightUpdate) -> dict[str, Tensor]:
    """Return a LoRA layer's tensors by name in the shapes that peft expects: DoRA's magnitude of a
    convolution is (1, out, 1, 1).
    """
    tensors = dict(layer.named_tensors())
    if find_weight_ndim(layer) == 4 and "magnitude" in tensors:
        tensors["magnitude"] = tensors["magnitude"].reshape(1, -1, 1, 1)
    return tensors


def unify_alpha(lora: Lora) -> Lora:
    """Return an equal LoRA in which all layers of a model part have the same alpha; parts with LoHa
    or LoKr layers are left as they are.

    diffusers (0.42) loses the alphas of attention layers in a kohya file with several alphas, which
    would change the strength of those layers. The ratio of the alphas is multiplied into `up`.
    """
    parts: dict[str, Mapping[str, WeightUpdate]] = {}
    for part, layers in lora.parts.items():
        lows = {name: layer for name, layer in layers.items() if isinstance(layer, LowRankUpdate)}
        alpha = find_most_common_mapped_value({name: layer.alpha for name, layer in layers.items()})
        unified = {name: rescale_to_alpha(layer, alpha) for name, layer in lows.items()}
        parts[part] = unified if len(lows) == len(layers) and alpha else layers
    return Lora(parts, lora.header)


def rescale_to_alpha(layer: LowRankUpdate, alpha: float) -> LowRankUpdate:
    """Return an equal low-rank update with another alpha; the ratio of the alphas is multiplied
    into `up`.
    """
    if layer.alpha == alpha:
        return layer
    ratio = layer.alpha / alpha
    up = (layer.up.to(choose_compute_dtype(layer.up.dtype)) * ratio).to(layer.up.dtype)
    return LowRankUpdate(layer.down, up, alpha, layer.magnitude)


def build_peft_config(part: str, layers: Mapping[str, WeightUpdate]) -> dict[str, object]:
    """Build peft's config of the layers of one model part.

    Module names lack "text_model.", so that they match in every version of transformers.
    """
    rank = find_most_common_mapped_value({name: layer.rank for name, layer in layers.items()})
    alpha = find_most_common_mapped_value(
        {name: int_if_whole(layer.alpha) for name, layer in layers.items()}
    )
    magnitudes = {isinstance(x, LowRankUpdate) and x.magnitude is not None for x in layers.values()}
    if len(magnitudes) > 1:
        raise ModelError(
            f"Some layers of {part} are DoRA and others are not: diffusers and peft have one or "
            "the other. Write it as kohya."
        )
    ranks = {name: layer.rank for name, layer in layers.items() if layer.rank != rank}
    alphas = {
        name: int_if_whole(layer.alpha) for name, layer in layers.items() if layer.alpha != alpha
    }
    config: dict[str, object] = {
        "r": rank,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": sorted(layers),
    }
    if {layer.kind for layer in layers.values()} == {"loha"}:
        cores = any(
            "t1" in layer.named_tensors() or "hada_t1" in layer.named_tensors()
            for layer in layers.values()
        )
        return config | {"alpha": alpha, "use_effective_conv2d": cores}
    return config | {
        "lora_alpha": alpha,
        "use_dora": magnitudes == {True},
        "use_rslora": False,
        "bias": "none",
    }


def to_kohya_name(part: str, module: str, family: ModelFamily, layers_per_block: int) -> str:
    """Convert a LoRA module's name to kohya's, with underscores. Raises ModelError if SDXL's
    original code has no such module.
    """
    if part == "unet" and family == "sdxl":
        try:
            return to_original_sdxl_name(module, layers_per_block)
        except ValueError:
            raise ModelError(
                f"The original code of SDXL has no module like {module}, so kohya's files have no "
                "name for it. Write it as diffusers, or give another --family."
            ) from None
    return replace_dots(module_name_in_lora_file(part, module))


def check_lora_not_empty(lora: Lora) -> None:
    """Raise ModelError for a LoRA without layers."""
    if not any(lora.parts.values()):
        raise ModelError("The LoRA changes nothing: there is no layer to write.")


def find_weight_ndim(layer: WeightUpdate) -> int:
    """Return the number of axes of the weight that a LoRA layer updates: 4 for the LoRA of a
    convolution, otherwise 2.
    """
    return layer.down.dim() if isinstance(layer, LowRankUpdate) else 2


DIFFUSERS_FIELDS = {
    "down": "lora_A.weight",
    "up": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
DIFFUSERS_TEXT_FIELDS = DIFFUSERS_FIELDS | {"magnitude": "lora_magnitude_vector.weight"}
"""transformers 5 reads a magnitude under this name only."""
DIFFUSERS_MLP_FIELDS = DIFFUSERS_TEXT_FIELDS | {
    "down": "lora_linear_layer.down.weight",
    "up": "lora_linear_layer.up.weight",
}
"""For a text encoder without attention layers: diffusers does not read lora_A there."""
KOHYA_FIELDS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
KIND_TITLES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
