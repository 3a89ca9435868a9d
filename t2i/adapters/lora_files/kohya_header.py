"""Header of a kohya LoRA file: its metadata, and the family of the base model that it names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from t2i.adapters.lora_layers import Lora, LowRankUpdate
from t2i.adapters.lora_summary import find_most_common_mapped_value, int_if_whole
from t2i.adapters.module_names import summarize_names
from t2i.errors import ArgumentError, ModelError

ModelFamily = Literal["sd1", "sd2", "sdxl"]
FAMILY_BY_TEXT_WIDTH: Mapping[int, ModelFamily] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text embeddings that a UNet attends to -> family."""
KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
MODELSPEC_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}


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


def build_kohya_header(lora: Lora, family: ModelFamily, metadata: KohyaMetadata) -> dict[str, str]:
    """Build the header of a kohya file, as kohya's scripts and the UIs read it."""
    layers = {f"{part}.{name}": layer for part, name, layer in lora.iter_layers()}
    module = "networks.lora" if lora.kinds == {"lora"} else "lycoris.kohya"
    header = {
        "ss_network_module": module,
        "ss_network_dim": str(
            find_most_common_mapped_value({name: layer.rank for name, layer in layers.items()})
        ),
        "ss_network_alpha": str(
            find_most_common_mapped_value(
                {name: int_if_whole(layer.alpha) for name, layer in layers.items()}
            )
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
    """Return the entries of a LoRA's header that describe its training, without hashes of the
    file.
    """
    return {
        name: text
        for name, text in lora.header.items()
        if name.startswith(("ss_", "modelspec.")) and "hash" not in name
    }


def infer_base_family(lora: Lora) -> ModelFamily:
    """Infer the model family of a LoRA's base model from the second text encoder, the header or the
    text width.

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
