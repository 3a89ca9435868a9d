"""LoRA files that other programs read: diffusers' layout, kohya's, and folders of peft's."""

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

from t2i.adapters.lora_layers import Layer, Lora, Low, finer
from t2i.adapters.lora_reader import CONFIG, WEIGHTS
from t2i.adapters.lora_scales import HEADER
from t2i.adapters.module_names import OF_ONE, OF_TWO, WHOLE, flat, original, spell, whole
from t2i.atomic_files import write_atomically
from t2i.atomic_folders import atomic_folder
from t2i.denoiser.loading.meta_models import skeleton
from t2i.errors import ArgumentError, ModelError

Number = TypeVar("Number", int, int | float)
Family = Literal["sd1", "sd2", "sdxl"]
WIDTHS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Of the text that a UNet reads."""
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}
ATTENTION = (".q_proj", ".k_proj", ".v_proj", ".out_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a kohya file says beside its tensors.

    family : of the model that it is for; None reads it off the layers
    layers_per_block : of its UNet; counts for the names of SDXL alone
    told : further entries of the header, as ss_learning_rate or modelspec.author
    """

    family: Family | None = None
    title: str = ""
    layers_per_block: int = 2
    told: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [name for name in self.told if not name.startswith(("ss_", "modelspec."))]:
            raise ArgumentError(
                f"Got {spell(wrong)} for the header of a kohya file: expected names that begin "
                "with ss_ or modelspec."
            )


def write_diffusers(path: Path, lora: Lora) -> None:
    """One file for `pipe.load_lora_weights`, with ranks and true alphas in its header.

    Raises ModelError for layers that diffusers has no layout for, OutputError where the disk
    refuses.
    """
    check_layers(lora)
    if other := lora.kinds - {"lora"}:
        raise ModelError(
            f"diffusers reads no {spell(map(NAMES.__getitem__, other))} file: write it as kohya or "
            "peft, or make a LoRA of it with `t2i lora resize`."
        )
    tensors: dict[str, Tensor] = {}
    told: dict[str, object] = {}
    for part, layers in lora.parts.items():
        names = DIFFUSERS if part == "unet" else DIFFUSERS_TEXT
        if part != "unet" and not any(name.endswith(ATTENTION) for name in layers):
            names = DIFFUSERS_NO_ATTENTION
        for module, layer in layers.items():
            for name, tensor in as_peft(layer).items():
                tensors[f"{part}.{whole(part, module)}.{names[name]}"] = tensor
        told |= {f"{part}.{key}": value for key, value in config_of(part, layers).items()}
    write_tensors(
        path, tensors, carried(lora) | {HEADER: json.dumps(told, sort_keys=True), "format": "pt"}
    )


def write_kohya(path: Path, lora: Lora, facts: Facts | None = None) -> None:
    """One file as kohya's scripts write it and most programs read it, LoHa and LoKr as lycoris
    does. SDXL's modules get the names of the original code.

    Raises ModelError where the family of the model is not told and cannot be seen, OutputError
    where the disk refuses.
    """
    check_layers(lora)
    facts = facts or Facts()
    family = facts.family or family_of(lora)
    prefixes = OF_TWO if family == "sdxl" else OF_ONE
    tensors: dict[str, Tensor] = {}
    for part, module, layer in with_one_alpha(lora).layers():
        if part not in prefixes:
            raise ModelError(f"{family} has no {part}, which the LoRA changes: give its family.")
        key = prefixes[part] + kohya_name(part, module, family, facts.layers_per_block)
        for name, tensor in layer.tensors().items():
            if name == "magnitude":
                tensor = tensor.reshape(-1, *[1] * (layer_dims(layer) - 1))
            tensors[f"{key}.{KOHYA.get(name, name)}"] = tensor
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
    write_tensors(path, tensors, kohya_header(lora, family, facts))


def write_peft(folder: Path, lora: Lora) -> None:
    """A folder for each part, as peft saves an adapter and `PeftModel.from_pretrained` reads it:
    modules have the names that the installed transformers gives them, for peft passes over others.

    Raises ModelError for LoKr, of which peft works out the shapes itself.
    """
    check_layers(lora)
    with atomic_folder(folder) as place:
        for part, layers in lora.parts.items():
            kinds = {layer.kind for layer in layers.values()}
            if len(kinds) > 1 or kinds == {"lokr"}:
                raise ModelError(
                    f"{part} has {spell(NAMES[kind] for kind in kinds)}: one folder of peft's "
                    "holds LoRA or LoHa alone. Write it as kohya."
                )
            config = config_of(part, layers) | {"peft_type": kinds.pop().upper()}
            tensors = {
                f"base_model.model.{at_home(part, module)}.{DIFFUSERS.get(name, name)}": tensor
                for module, layer in layers.items()
                for name, tensor in as_peft(layer).items()
            }
            (place / part).mkdir()
            (place / part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
            content = save(contiguous(tensors), {"format": "pt"})
            (place / part / WEIGHTS).write_bytes(content)


def at_home(part: str, name: str) -> str:
    """The name of a module in the model itself: versions and classes of CLIP differ."""
    return whole(part, name) if part != "unet" and has_text_model(part) else name


@cache
def has_text_model(part: str) -> bool:
    second = part == "text_encoder_2"
    kind = "CLIPTextModelWithProjection" if second else "CLIPTextModel"
    names = skeleton(kind, {"num_hidden_layers": 1}).state_dict()
    return any(name.startswith(WHOLE) for name in names)


def as_peft(layer: Layer) -> dict[str, Tensor]:
    """Tensors in peft's shapes: the magnitude of a convolution has as many dimensions as its
    weight."""
    tensors = dict(layer.tensors())
    if layer_dims(layer) == 4 and "magnitude" in tensors:
        tensors["magnitude"] = tensors["magnitude"].reshape(1, -1, 1, 1)
    return tensors


def with_one_alpha(lora: Lora) -> Lora:
    """The same changes, with one alpha in each part that is all LoRA.

    diffusers (0.42) loses the alphas of attention in a kohya file that has several: where they
    differ from the commonest, its readers would draw at another strength. So what differs goes into
    `up`, which every reader multiplies alike.
    """
    parts: dict[str, Mapping[str, Layer]] = {}
    for part, layers in lora.parts.items():
        lows = {name: layer for name, layer in layers.items() if isinstance(layer, Low)}
        alpha = most_common({name: layer.alpha for name, layer in layers.items()})
        same = {name: with_alpha(layer, alpha) for name, layer in lows.items()}
        parts[part] = same if len(lows) == len(layers) and alpha else layers
    return Lora(parts, lora.header)


def with_alpha(layer: Low, alpha: float) -> Low:
    if layer.alpha == alpha:
        return layer
    ratio = layer.alpha / alpha
    up = (layer.up.to(finer(layer.up.dtype)) * ratio).to(layer.up.dtype)
    return Low(layer.down, up, alpha, layer.magnitude)


def config_of(part: str, layers: Mapping[str, Layer]) -> dict[str, object]:
    """What peft's config of such layers says. Modules of a text encoder are named without
    "text_model.", which fits versions of transformers that have it and those that do not."""
    rank = most_common({name: layer.rank for name, layer in layers.items()})
    alpha = most_common({name: whole_number(layer.alpha) for name, layer in layers.items()})
    magnitudes = {isinstance(x, Low) and x.magnitude is not None for x in layers.values()}
    if len(magnitudes) > 1:
        raise ModelError(
            f"Some layers of {part} are DoRA and others are not: diffusers and peft have one or "
            "the other. Write it as kohya."
        )
    ranks = {name: layer.rank for name, layer in layers.items() if layer.rank != rank}
    alphas = {
        name: whole_number(layer.alpha) for name, layer in layers.items() if layer.alpha != alpha
    }
    config: dict[str, object] = {
        "r": rank,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": sorted(layers),
    }
    if {layer.kind for layer in layers.values()} == {"loha"}:
        cores = any(
            "t1" in layer.tensors() or "hada_t1" in layer.tensors() for layer in layers.values()
        )
        return config | {"alpha": alpha, "use_effective_conv2d": cores}
    return config | {
        "lora_alpha": alpha,
        "use_dora": magnitudes == {True},
        "use_rslora": False,
        "bias": "none",
    }


def kohya_name(part: str, module: str, family: Family, layers_per_block: int) -> str:
    if part == "unet" and family == "sdxl":
        try:
            return original(module, layers_per_block)
        except ValueError:
            raise ModelError(
                f"The original code of SDXL has no module like {module}, so kohya's files have no "
                "name for it. Write it as diffusers, or give another --family."
            ) from None
    return flat(whole(part, module))


def kohya_header(lora: Lora, family: Family, facts: Facts) -> dict[str, str]:
    layers = {f"{part}.{name}": layer for part, name, layer in lora.layers()}
    module = "networks.lora" if lora.kinds == {"lora"} else "lycoris.kohya"
    header = {
        "ss_network_module": module,
        "ss_network_dim": str(most_common({name: layer.rank for name, layer in layers.items()})),
        "ss_network_alpha": str(
            most_common({name: whole_number(layer.alpha) for name, layer in layers.items()})
        ),
        "ss_base_model_version": VERSIONS[family],
        "ss_v2": str(family == "sd2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[family]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": facts.title or "LoRA",
        "format": "pt",
    }
    if facts.title:
        header["ss_output_name"] = facts.title
    return carried(lora) | header | dict(facts.told)


def carried(lora: Lora) -> dict[str, str]:
    """What a file says of its training, which holds under another layout too; its hashes do not."""
    return {
        name: text
        for name, text in lora.header.items()
        if name.startswith(("ss_", "modelspec.")) and "hash" not in name
    }


def family_of(lora: Lora) -> Family:
    """Told by its second text encoder, or by the width of the text that its UNet reads."""
    if "text_encoder_2" in lora.parts:
        return "sdxl"
    told = lora.header.get("ss_base_model_version", "")
    for family in WIDTHS.values():
        if told.startswith(VERSIONS[family].removesuffix("_base_v1-0")):
            return family
    for name, layer in lora.parts.get("unet", {}).items():
        if name.endswith(("attn2.to_k", "attn2.to_v")) and isinstance(layer, Low):
            if (seen := WIDTHS.get(layer.down.shape[1])) is not None:
                return seen
    raise ModelError(
        "Which models the LoRA is for cannot be told from its layers: give --family sd1, sd2 or "
        "sdxl."
    )


def check_layers(lora: Lora) -> None:
    if not any(lora.parts.values()):
        raise ModelError("The LoRA changes nothing: there is no layer to write.")


def layer_dims(layer: Layer) -> int:
    return layer.down.dim() if isinstance(layer, Low) else 2


def most_common(values: Mapping[str, Number]) -> Number:
    """The value that most have; of several the largest, so that it does not hang on an order."""
    counts = Counter(values.values())
    return max(counts, key=lambda value: (counts[value], value))


def whole_number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For safetensors, which writes no views and no tensor twice."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """One safetensors file, whole or not at all. Raises OutputError where the disk refuses."""
    # Not save_file, whose files nobody but their owner may read.
    content = save(contiguous(tensors), dict(header))
    write_atomically(path, lambda place: place.write_bytes(content))


DIFFUSERS = {
    "down": "lora_A.weight",
    "up": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
DIFFUSERS_TEXT = DIFFUSERS | {"magnitude": "lora_magnitude_vector.weight"}
"""transformers 5 takes a magnitude under this name alone, and passes the other over."""
DIFFUSERS_NO_ATTENTION = DIFFUSERS_TEXT | {
    "down": "lora_linear_layer.down.weight",
    "up": "lora_linear_layer.up.weight",
}
"""For a text encoder none of whose attention is changed: diffusers does not know lora_A there."""
KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
NAMES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
