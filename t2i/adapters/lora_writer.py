"""Writing LoRA files in the layouts of diffusers and kohya, and folders of peft's."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from t2i.adapters.lora_keys import PEFT_PREFIX
from t2i.adapters.lora_layers import Lora, LowRankUpdate, WeightUpdate, choose_compute_dtype
from t2i.adapters.lora_reader import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from t2i.adapters.lora_scales import HEADER_KEY
from t2i.adapters.module_names import (
    ONE_ENCODER_PREFIXES,
    TEXT_MODEL_PREFIX,
    TWO_ENCODER_PREFIXES,
    module_name_in_file,
    replace_dots,
    summarize_names,
    to_original_sdxl_name,
)
from t2i.atomic_files import write_atomically
from t2i.atomic_folders import atomic_folder
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.errors import ArgumentError, ModelError

Number = TypeVar("Number", int, int | float)
ModelFamily = Literal["sd1", "sd2", "sdxl"]
FAMILY_BY_TEXT_WIDTH: Mapping[int, ModelFamily] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text embeddings that a UNet attends to -> family."""
KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
MODELSPEC_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}
TEXT_ATTENTION_ENDINGS = (".q_proj", ".k_proj", ".v_proj", ".out_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class KohyaMetadata:
    """Metadata to write into the header of a kohya LoRA file.

    family : of the base model; None infers it from the layers
    layers_per_block : of its UNet; used for the names of SDXL's modules only
    extra : further entries of the header, such as ss_learning_rate or modelspec.author
    """

    family: ModelFamily | None = None
    title: str = ""
    layers_per_block: int = 2
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [name for name in self.extra if not name.startswith(("ss_", "modelspec."))]:
            raise ArgumentError(
                f"Got {summarize_names(wrong)} for the header of a kohya file: expected names "
                "that begin "
                "with ss_ or modelspec."
            )


def write_diffusers_lora(path: Path, lora: Lora) -> None:
    """Write a LoRA file for `pipe.load_lora_weights`, with ranks and alphas in its header.

    Raises ModelError for layer types that diffusers cannot read, OutputError for a failed write.
    """
    check_not_empty(lora)
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
                tensors[f"{part}.{module_name_in_file(part, module)}.{names[name]}"] = tensor
        config |= {f"{part}.{key}": value for key, value in build_peft_config(part, layers).items()}
    write_tensor_file(
        path,
        tensors,
        select_training_metadata(lora)
        | {HEADER_KEY: json.dumps(config, sort_keys=True), "format": "pt"},
    )


def write_kohya_lora(path: Path, lora: Lora, metadata: KohyaMetadata | None = None) -> None:
    """Write a LoRA file in the layout of kohya's scripts, LoHa and LoKr in that of lycoris.

    Modules of SDXL's UNet get the names of the original code.

    Raises ModelError where the family is neither given nor inferable, OutputError for a failed
    write.
    """
    check_not_empty(lora)
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
    check_not_empty(lora)
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
    """Return a module's name as the installed version of transformers or diffusers has it."""
    return (
        module_name_in_file(part, name)
        if part != "unet" and installed_clip_has_prefix(part)
        else name
    )


@cache
def installed_clip_has_prefix(part: str) -> bool:
    """Return True if the installed CLIP class prefixes its module names with "text_model."."""
    second = part == "text_encoder_2"
    kind = "CLIPTextModelWithProjection" if second else "CLIPTextModel"
    names = build_meta_model(kind, {"num_hidden_layers": 1}).state_dict()
    return any(name.startswith(TEXT_MODEL_PREFIX) for name in names)


def reshape_layer_for_peft(layer: WeightUpdate) -> dict[str, Tensor]:
    """Return a layer's tensors by name in the shapes that peft expects: DoRA's magnitude of a
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
        alpha = find_most_common({name: layer.alpha for name, layer in layers.items()})
        unified = {name: change_alpha(layer, alpha) for name, layer in lows.items()}
        parts[part] = unified if len(lows) == len(layers) and alpha else layers
    return Lora(parts, lora.header)


def change_alpha(layer: LowRankUpdate, alpha: float) -> LowRankUpdate:
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
    rank = find_most_common({name: layer.rank for name, layer in layers.items()})
    alpha = find_most_common({name: int_if_whole(layer.alpha) for name, layer in layers.items()})
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
    """Convert a module's name to kohya's underscored one. Raises ModelError if SDXL's code lacks
    it.
    """
    if part == "unet" and family == "sdxl":
        try:
            return to_original_sdxl_name(module, layers_per_block)
        except ValueError:
            raise ModelError(
                f"The original code of SDXL has no module like {module}, so kohya's files have no "
                "name for it. Write it as diffusers, or give another --family."
            ) from None
    return replace_dots(module_name_in_file(part, module))


def build_kohya_header(lora: Lora, family: ModelFamily, metadata: KohyaMetadata) -> dict[str, str]:
    """Build the header of a kohya file, as kohya's scripts and the UIs read it."""
    layers = {f"{part}.{name}": layer for part, name, layer in lora.iter_layers()}
    module = "networks.lora" if lora.kinds == {"lora"} else "lycoris.kohya"
    header = {
        "ss_network_module": module,
        "ss_network_dim": str(
            find_most_common({name: layer.rank for name, layer in layers.items()})
        ),
        "ss_network_alpha": str(
            find_most_common({name: int_if_whole(layer.alpha) for name, layer in layers.items()})
        ),
        "ss_base_model_version": KOHYA_VERSIONS[family],
        "ss_v2": str(family == "sd2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{MODELSPEC_ARCHITECTURES[family]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": metadata.title or "LoRA",
        "format": "pt",
    }
    if metadata.title:
        header["ss_output_name"] = metadata.title
    return select_training_metadata(lora) | header | dict(metadata.extra)


def select_training_metadata(lora: Lora) -> dict[str, str]:
    """Return the header entries that describe the training, without hashes of the file."""
    return {
        name: text
        for name, text in lora.header.items()
        if name.startswith(("ss_", "modelspec.")) and "hash" not in name
    }


def infer_base_family(lora: Lora) -> ModelFamily:
    """Infer the family of the base model from the second text encoder, header or text width.

    Raises ModelError where none of them shows it.
    """
    if "text_encoder_2" in lora.parts:
        return "sdxl"
    version = lora.header.get("ss_base_model_version", "")
    for family in FAMILY_BY_TEXT_WIDTH.values():
        if version.startswith(KOHYA_VERSIONS[family].removesuffix("_base_v1-0")):
            return family
    for name, layer in lora.parts.get("unet", {}).items():
        reads_text = name.endswith(("attn2.to_k", "attn2.to_v"))
        width = layer.down.shape[1] if isinstance(layer, LowRankUpdate) and reads_text else None
        if width is not None and width in FAMILY_BY_TEXT_WIDTH:
            return FAMILY_BY_TEXT_WIDTH[width]
    raise ModelError(
        "The base model of the LoRA cannot be inferred from its layers: give --family sd1, sd2 or "
        "sdxl."
    )


def check_not_empty(lora: Lora) -> None:
    """Raise ModelError for a LoRA without layers."""
    if not any(lora.parts.values()):
        raise ModelError("The LoRA changes nothing: there is no layer to write.")


def find_weight_ndim(layer: WeightUpdate) -> int:
    """Return the number of axes of a layer's weight: 4 for a convolution's LoRA, otherwise 2."""
    return layer.down.dim() if isinstance(layer, LowRankUpdate) else 2


def find_most_common(values: Mapping[str, Number]) -> Number:
    """Return the most frequent number, the largest one of several."""
    counts = Counter(values.values())
    return max(counts, key=lambda value: (counts[value], value))


def int_if_whole(value: float) -> int | float:
    """Return a number as an int if it is whole, else unchanged."""
    return int(value) if value == int(value) else value


def make_contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to contiguous memory of their own, as safetensors requires."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Raises OutputError for a failed write."""
    # Not save_file: its files are readable by their owner only.
    content = save(make_contiguous(tensors), dict(header))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


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
