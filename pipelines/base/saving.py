"""Saving of models with adapters attached: so that they load again, or not at all.

For a UNet with a LoRA on it diffusers saves tensors that no loader reads, and then loads the folder
with random ones in their place; for a text encoder with a LoRA transformers saves the LoRA alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.models.embeddings import MultiIPAdapterImageProjection
from torch import nn
from transformers import PreTrainedModel

from t2i.adapters import read_lora, read_lora_from_models
from t2i.adapters.lora_files.reader import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from t2i.adapters.module_names import printable_name
from t2i.adapters.peft_layers import without_peft_layers
from t2i.adapters.peft_reading import iter_peft_layers
from t2i.adapters.tensor_files import write_tensor_file
from t2i.denoiser.loading.meta_models import (
    MODEL_CLASSES,
    build_meta_model,
    list_duplicate_tied_names,
)
from t2i.denoiser.loading.weight_checks import describe_tensor_mismatches
from t2i.errors import ModelError, OutputError
from t2i.safe_reading.tensors import read_tensors
from t2i.terminal import plural

ADAPTER_SAVE_REMEDY = (
    "Merge it into the weights with pipe.fuse_lora() and pipe.unload_lora_weights(), or remove "
    "it with pipe.unload_lora_weights() and save it separately, then save the pipeline."
)


def check_saveable_and_list_lora_encoders(parts: Mapping[str, Any], folder: Path) -> list[str]:
    """Raise ModelError unless each of the parts, saved as it is, can be loaded again from `folder`;
    return the names of the text encoders that are saved with a LoRA.

    Raises OutputError where the folder holds the LoRA of another model.
    """
    with_lora = []
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            continue
        if any(iter_peft_layers(part)):
            if why := find_lora_save_problem(part):
                raise ModelError(f"A LoRA is on the {name}, and {why}. {ADAPTER_SAVE_REMEDY}")
            with_lora.append(name)
            with without_peft_layers(part):
                check_weights_match_config(name, part)
        else:
            check_weights_match_config(name, part)
            if (folder / name / ADAPTER_CONFIG).exists():
                raise OutputError(
                    f"{folder / name} holds the LoRA of another model, which would be read as a "
                    f"part of this one: choose another folder, or remove {ADAPTER_CONFIG} from it."
                )
    return with_lora


def find_lora_save_problem(part: nn.Module) -> str | None:
    """Return as text why a model with LoRA layers, saved to a folder, would load differently; None
    if it would load the same.
    """
    if not isinstance(part, PreTrainedModel):
        return "diffusers' folders cannot hold it"
    adapter_names = list(getattr(part, "peft_config", {}))
    if not adapter_names:
        return "all of its adapters were deleted, which leaves their empty layers attached"
    if len(adapter_names) != 1:
        return f"a folder can hold only one of its {len(adapter_names)} adapters"
    (adapter,) = adapter_names
    read_lora_from_models({"text_encoder": part}, adapter)  # raises unless it adds to these weights
    for _, module in iter_peft_layers(part):
        if module.merged:
            return "it is merged already"
        if module.disable_adapters or adapter not in module.active_adapters:
            return "it is switched off, which a folder cannot record"
        alphas = getattr(module, "lora_alpha", None) or module.alpha
        by_root = getattr(module, "use_rslora", {}).get(adapter, False)
        rank = math.sqrt(module.r[adapter]) if by_root else module.r[adapter]
        if not math.isclose(module.scaling[adapter], alphas[adapter] / rank, rel_tol=1e-9):
            return "its scale is not its own, which a folder cannot record"
    return None


def check_weights_match_config(name: str, part: nn.Module) -> None:
    """Raise ModelError unless the names and shapes of a pipeline component's tensors are those that
    its config describes.
    """
    kind, config = type(part).__name__, getattr(part, "config", None)
    if kind not in MODEL_CLASSES or config is None:
        return
    if not isinstance(config, dict):
        config = config.to_dict()
    if isinstance(getattr(part, "encoder_hid_proj", None), MultiIPAdapterImageProjection):
        raise ModelError(
            f"An IP-Adapter is on the {name}, and diffusers' folders cannot hold it. Remove "
            "it with pipe.unload_ip_adapter(), then save the pipeline."
        )
    expected = build_meta_model(kind, config)
    misfits = describe_tensor_mismatches(
        {key: tuple(tensor.shape) for key, tensor in expected.state_dict().items()},
        {key: tuple(tensor.shape) for key, tensor in part.state_dict().items()},
        list_duplicate_tied_names(expected),
    )
    if misfits:
        raise ModelError(
            f"The {name} could not be loaded again: beside what its config describes it has "
            f"{misfits}. Remove what was added to it, then save the pipeline."
        )


def save_base_weights(encoder: PreTrainedModel, folder: Path, **options: Any) -> None:
    """Save a text encoder's weights without its LoRA in `folder`, where transformers looks for
    them.
    """
    with without_peft_layers(encoder):
        encoder.save_pretrained(folder, **options)


@contextmanager
def activating_each_encoders_own_lora(encoders: Iterable[PreTrainedModel]) -> Iterator[None]:
    """Context manager that makes each text encoder's own LoRA its only active adapter within the
    block, so that it is saved.

    `pipe.set_adapters` activates the names of the other parts too, and transformers saves none of
    two.
    """
    named = []
    for encoder in encoders:
        (adapter,) = encoder.peft_config
        for _, module in iter_peft_layers(encoder):
            named.append((module, module._active_adapter))
            module._active_adapter = [adapter]
    try:
        yield
    finally:
        for module, active in named:
            module._active_adapter = active


def rename_dora_keys_in_lora_file(folder: Path) -> None:
    """Rename the keys of the magnitudes in the weights file of a saved DoRA, so that both peft and
    transformers 5 load them.

    transformers ignores them under the names that it writes itself.
    """
    tensors = read_tensors(folder / ADAPTER_WEIGHTS)
    ending = ".lora_magnitude_vector"
    if any(name.endswith(ending) for name in tensors):
        named = {n + ".weight" * n.endswith(ending): tensor for n, tensor in tensors.items()}
        write_tensor_file(folder / ADAPTER_WEIGHTS, named, {"format": "pt"})


def check_saved_lora_is_valid(place: Path) -> None:
    """Raise ModelError where the folder of a pipeline component holds a LoRA whose files are
    invalid or incomplete.
    """
    if (place / ADAPTER_CONFIG).is_file():
        read_lora(place)


def check_saved_loras_fully_loaded(folder: Path, parts: Mapping[str, Any]) -> None:
    """Raise ModelError where a text encoder was loaded without some layers of the LoRA saved beside
    it.
    """
    for name, part in parts.items():
        if not isinstance(part, PreTrainedModel) or not (folder / name / ADAPTER_CONFIG).is_file():
            continue
        (layers,) = read_lora(folder / name).parts.values()
        found = (
            read_lora_from_models({name: part}).parts[name] if any(iter_peft_layers(part)) else {}
        )
        if apart := layers.keys() ^ found.keys():
            raise ModelError(
                f"The LoRA in {folder / name} does not fit the text encoder there: of one of them "
                f"alone: {plural(len(apart), 'layer')}, such as {printable_name(min(apart))}. "
                "Copy "
                "config and weights of both from the same model."
            )
