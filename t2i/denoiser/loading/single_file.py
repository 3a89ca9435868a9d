"""Loading a model from one .safetensors checkpoint in the original Stable Diffusion format.

Such a file holds weights only. The configs come from the package or from a model folder, the
vocabulary (CLIP's) from that folder or from the hub. diffusers converts the tensors.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.config_checks import check_config_safety
from t2i.denoiser.loading.conversion import TRANSFORMERS_PREFIX_END, trace_conversion
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.model_folder import check_no_outside_links, check_vocabulary_files
from t2i.denoiser.loading.model_location import ASSETS
from t2i.denoiser.loading.model_parts import ALLOWED_CLASSES_BY_PART, MODEL_KINDS
from t2i.denoiser.loading.single_file_checkpoint import (
    SD2,
    SingleFileCheckpoint,
    identify_checkpoint,
)
from t2i.denoiser.loading.trial_pass import (
    check_scheduler_runs,
    check_unet_and_autoencoder_run,
    load_and_check_tokenizer,
    translating_load_errors,
)
from t2i.denoiser.loading.unused_tensors import is_unused_tensor, is_unused_text_tensor
from t2i.denoiser.loading.weight_checks import (
    check_tensors_floating_point,
    describe_tensor_mismatches,
    read_json_object,
    summarize_tensor_names,
)
from t2i.denoiser.schedulers import ZERO_SNR_SCHEDULERS, Scheduler
from t2i.errors import ArgumentError, ModelError, suggest_choice
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import plural
from t2i.text.clip_vocabulary import download_clip_tokenizer

Component = nn.Module | CLIPTokenizer | Scheduler
MAX_PART_TENSORS = 5000


def load_single_file(
    path: Path,
    *,
    config: str | os.PathLike[str] | None = None,
    prediction_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    **given: object,
) -> dict[str, object]:
    """Load the components of a single-file checkpoint: diffusers' name -> component.

    config : a model folder of the same architecture to take configs, scheduler and vocabulary from,
        for a model of other sizes than the published ones
    prediction_type : "epsilon" or "v_prediction"; None takes the file's, or the family's usual one
    given : components that the caller supplies; they are returned as they are

    Raises ModelError, before any weights are read, unless every other part is complete.
    """
    checkpoint = identify_checkpoint(path)
    kind = MODEL_KINDS[checkpoint.family.model_kind]
    if unknown := given.keys() - set(kind.part_names):
        name = min(unknown)
        raise ArgumentError(f"{path} has no part {name!r}. {suggest_choice(name, kind.part_names)}")
    if prediction_type not in (None, "epsilon", "v_prediction"):
        raise ArgumentError(
            f"Got prediction_type={prediction_type!r}, expected 'epsilon' or 'v_prediction'."
        )
    if prediction_type is not None:
        checkpoint = replace(checkpoint, prediction_type=prediction_type)
    folder = ASSETS / "single_file" / checkpoint.family.name if config is None else Path(config)

    # everything is checked
    wanted = [part for part in checkpoint.family.sources if part not in given]
    checked = {
        part: find_config_changes_and_build_meta_model(checkpoint, part, folder) for part in wanted
    }
    changes = {part: changes for part, (changes, _) in checked.items()}
    models = {part: model for part, (_, model) in checked.items()}
    check_unet_and_autoencoder_run(models, {part: folder / part / "config.json" for part in models})
    check_no_unknown_tensors(path, checkpoint.list_tensors_outside_parts(given))

    # then loaded
    with translating_load_errors(path):
        made: dict[str, object] = {
            part: load_checkpoint_part(checkpoint, part, folder, changes[part], dtype)
            for part in wanted
        }
    for part, pad in checkpoint.family.pads.items():
        if part not in given:
            made[part] = load_clip_tokenizer(folder / part, pad)
    if "scheduler" not in given:
        made["scheduler"] = build_checkpoint_scheduler(checkpoint, folder)
    return made | given


def find_config_changes_and_build_meta_model(
    checkpoint: SingleFileCheckpoint, part: str, folder: Path
) -> tuple[dict[str, object], nn.Module]:
    """Check one part of a single-file checkpoint; return the changes to its default config, and its
    model on the meta device.

    Raises ModelError unless the part is complete.
    """
    source = checkpoint.family.sources[part]
    found = checkpoint.select_part_shapes(part)
    if not found:
        raise ModelError(f"{checkpoint.path} has no {part}: give one, with {part}=...")
    config_path = folder / part / "config.json"
    check_no_outside_links(folder, [config_path])
    config = read_json_object(config_path)
    check_config_safety(config_path, config)

    changes: dict[str, object] = {}
    if part == "unet":
        changes["in_channels"] = require_supported_unet_in_channels(checkpoint, config)
        predicts_v = checkpoint.prediction_type == "v_prediction"
        if checkpoint.family is SD2 and predicts_v and config.get("sample_size") == 64:
            changes["sample_size"] = 96  # Those were trained at 768 pixels, the others at 512.
    model = build_meta_part(config_path, source.class_name, config | changes)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    remedy = "If it is a model of other sizes, give a model folder of its kind with config=..."
    if len(found) > MAX_PART_TENSORS:
        raise ModelError(
            f"Refused {checkpoint.path}: its {part} has {plural(len(found), 'tensor')}, expected "
            f"{len(expected)}."
        )
    try:
        made = trace_conversion(part, source.prefix, model, config | changes, found)
        extras = set(filter(is_unused_text_tensor, made.shapes)) if part.startswith("text") else ()
        misfits = describe_tensor_mismatches(expected, made.shapes, extras=extras)
    except Exception as error:  # The conversion takes for granted what a file may lack.
        raise ModelError(
            f"The {part} in {checkpoint.path} is none of {checkpoint.family.name}: {error!r}. "
            f"{remedy}"
        ) from error
    if misfits:
        raise ModelError(
            f"The {part} in {checkpoint.path} does not fit {config_path}: {misfits}. {remedy}"
        )
    check_no_unknown_tensors(
        checkpoint.path, set(made.dropped) - set(checkpoint.list_unused_text_tensors(part))
    )
    extra = {*made.dropped, *checkpoint.list_unused_text_tensors(part)}
    check_tensors_floating_point(checkpoint.path, [name for name in found if name not in extra])
    return changes, model


def check_no_unknown_tensors(path: Path, names: Collection[str]) -> None:
    """Raise ModelError if a checkpoint has tensors of unknown purpose."""
    if names := {name for name in names if not is_unused_tensor(name)}:
        raise ModelError(
            f"Refused {path}: it has {plural(len(names), 'tensor')} that no model of its kind has "
            f"({summarize_tensor_names(names)}), and drawing without them would not be drawing "
            "with this model. If something was merged into it, such as a motion module, a "
            "ControlNet or a LoRA, get the model without that."
        )


def require_supported_unet_in_channels(
    checkpoint: SingleFileCheckpoint, config: Mapping[str, object]
) -> int:
    """Return the number of input channels of a checkpoint's UNet. Raises ModelError unless it is
    that of the latents, or that of an inpainting UNet.
    """
    latent = config.get("out_channels", 4)
    assert isinstance(latent, int)
    if checkpoint.unet_in_channels in (latent, 2 * latent + 1):
        return checkpoint.unet_in_channels
    raise ModelError(
        f"{checkpoint.path} has a UNet that reads {checkpoint.unet_in_channels} channels, expected "
        f"{latent}, or {2 * latent + 1} for inpainting. Models that edit by instruction, follow a "
        "depth map or enlarge pictures cannot be loaded yet."
    )


def build_meta_part(config_path: Path, class_name: str, config: Mapping[str, object]) -> nn.Module:
    """Build the model of a single-file checkpoint's part on the meta device, without weights;
    errors name the config file.
    """
    try:
        return build_meta_model(class_name, config)
    except ModelError as error:
        raise ModelError(f"{config_path} {error}") from error


def load_checkpoint_part(
    checkpoint: SingleFileCheckpoint,
    part: str,
    folder: Path,
    changes: Mapping[str, object],
    dtype: torch.dtype,
) -> nn.Module:
    """Load the model of one part of a single-file checkpoint, its weights converted by diffusers'
    code.
    """
    source = checkpoint.family.sources[part]
    with open_tensors(checkpoint.path) as file:
        names = checkpoint.select_part_shapes(part).keys() - set(
            checkpoint.list_unused_text_tensors(part)
        )
        tensors = {name: file.get_tensor(name) for name in names}
    if source.prefix.endswith(TRANSFORMERS_PREFIX_END):
        # Files of some merging tools leave out a name that diffusers looks for.
        with_model = f"{source.prefix}text_model."
        tensors = {
            with_model + name.removeprefix(with_model).removeprefix(source.prefix): tensor
            for name, tensor in tensors.items()
        }
    class_name = source.class_name
    made: nn.Module
    if class_name in TEXT_ENCODERS:
        made = create_diffusers_clip_model_from_ldm(
            TEXT_ENCODERS[class_name],
            tensors,
            subfolder=part,
            config=str(folder),
            torch_dtype=dtype,
            local_files_only=True,
        )
    else:
        made = getattr(diffusers, class_name).from_single_file(
            tensors,
            config=str(folder),
            subfolder=part,
            torch_dtype=dtype,
            local_files_only=True,
            **changes,
        )
    check_weights_finite(f"{checkpoint.path}, its {part}", made)
    return made


def load_clip_tokenizer(place: Path, pad: str) -> CLIPTokenizer:
    """Load the CLIP tokenizer of a model folder, or the one from the hub or its cache."""
    if place.is_dir():
        check_no_outside_links(place.parent, [place, *place.rglob("*")])
        check_vocabulary_files(place)
        read: CLIPTokenizer = load_and_check_tokenizer(place, "CLIPTokenizer")
        return read
    return download_clip_tokenizer(pad)


def build_checkpoint_scheduler(checkpoint: SingleFileCheckpoint, folder: Path) -> Scheduler:
    """Build the scheduler of a single-file checkpoint from a folder's scheduler config and the
    checkpoint's prediction type.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    check_no_outside_links(folder, [path])
    config = read_json_object(path) | {"prediction_type": checkpoint.prediction_type}
    name = str(config.get("_class_name"))
    if checkpoint.zero_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        name = name if name in ZERO_SNR_SCHEDULERS else "DDIMScheduler"
    if name not in ALLOWED_CLASSES_BY_PART["scheduler"][1]:
        raise ModelError(f"{path} has the scheduler {name!r}, expected one of diffusers'.")
    check_scheduler_runs(path, name)
    made: Scheduler = getattr(diffusers, name).from_config(config)
    return made


TEXT_ENCODERS: dict[str, type[CLIPTextModel] | type[CLIPTextModelWithProjection]] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}
