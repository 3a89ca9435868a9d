"""Writing trained models as folders that diffusers reads."""

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from pydantic import BaseModel, ConfigDict

from t2i.atomic_folders import atomic_folder
from t2i.denoiser.build import ModelComponents
from t2i.denoiser.families.sd import VAE
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.schedulers import Scheduler
from t2i.safe_reading import MODEL_CONFIG_KIND, read_json
from train.objective.objective import ObjectiveConfig

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

DTYPE_BY_PRECISION = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ModelNotes = dict[str, Any]


class ExportConfig(BaseModel):
    """Configuration of the exported model: precision and file size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Precision of the weights in the files; they load in float32 by default."""
    shard: str = "15MB"
    """No file of weights is larger."""


def build_scheduler(objective: ObjectiveConfig) -> Scheduler:
    """Build the scheduler that samples a model trained with this objective."""
    settings: dict[str, Any] = objective.build_scheduler_config()
    if objective.prediction == "flow":
        return cast("Scheduler", FlowMatchEulerDiscreteScheduler(**settings))
    return cast("Scheduler", DDIMScheduler(**settings, clip_sample=False, steps_offset=1))


def build_pipeline(components: ModelComponents, scheduler: Scheduler) -> "TextToImagePipeline":
    """Build a pipeline of a model's components, which shares their weights."""
    # Imported here, so that a run starts sooner; it draws much later or never.
    from pipelines.text_to_image import TextToImagePipeline

    return TextToImagePipeline(
        vae=components.vae,
        text_encoder=components.text_encoder,
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=scheduler,
        text_encoder_2=components.text_encoder_2,
        tokenizer_2=components.tokenizer_2,
    )


def export_model(
    components: ModelComponents,
    scheduler: Scheduler,
    folder: Path,
    config: ExportConfig,
    notes: ModelNotes,
) -> None:
    """Export a model as a folder for StableDiffusionPipeline, written completely or not at all.

    notes : JSON data kept beside the model as `t2i.json`: how it was trained, its sampling defaults
    """
    with atomic_folder(folder) as new:
        convert_and_write_model(deepcopy(components), scheduler, new, config)
        (new / MODEL_NOTES_FILE).write_text(json.dumps(notes, indent=1) + "\n", "utf-8")


def convert_and_write_model(
    parts: ModelComponents, scheduler: Scheduler, folder: Path, config: ExportConfig
) -> None:
    """Convert a pipeline's models to the precision of the files, in place, and write them into a
    folder.
    """
    for part in filter(None, (parts.vae, parts.unet, parts.text_encoder, parts.text_encoder_2)):
        torch.nn.Module.to(part, DTYPE_BY_PRECISION[config.precision])
        make_weights_contiguous_in_place(part)
    build_pipeline(parts, scheduler).save_pretrained(folder, max_shard_size=config.shard)
    # By default transformers loads in the precision of the file, which a pipeline would mix.
    for encoder in folder.glob("text_encoder*/config.json"):
        _rewrite_config(encoder, dtype="float32")
    _rewrite_config(folder / "vae" / "config.json")
    _rewrite_config(folder / "unet" / "config.json")
    _let_others_read(folder)


def export_vae(vae: VAE, folder: Path) -> None:
    """Export an autoencoder alone as a folder, written completely or not at all."""
    part = deepcopy(vae)
    make_weights_contiguous_in_place(part)
    with atomic_folder(folder) as new:
        part.save_pretrained(new)
        _rewrite_config(new / "config.json")
        _let_others_read(new)


def export_control_network(
    network: Any, folder: Path, config: ExportConfig, notes: ModelNotes
) -> None:
    """Export the network of a control (a ControlNet or T2I-Adapter) as a folder, written completely
    or not at all.

    notes : JSON data kept beside it as `t2i.json`
    """
    part = deepcopy(network)
    torch.nn.Module.to(part, DTYPE_BY_PRECISION[config.precision])
    make_weights_contiguous_in_place(part)
    with atomic_folder(folder) as new:
        part.save_pretrained(new, max_shard_size=config.shard)
        _rewrite_config(new / "config.json")
        (new / MODEL_NOTES_FILE).write_text(json.dumps(notes, indent=1) + "\n", "utf-8")
        _let_others_read(new)


def make_weights_contiguous_in_place(part: torch.nn.Module) -> None:
    """Change the weights of a module in place to torch's contiguous memory format (from channels
    last), as exported files have them.
    """
    torch.nn.Module.to(part, memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _let_others_read(folder: Path) -> None:
    """Give the weights, which safetensors writes for their owner alone, the mode of any file."""
    mode = next(folder.glob("*.json")).stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def _rewrite_config(path: Path, **settings: Any) -> None:
    """Set keys of a part's config.json, and drop those that its own class warns of."""
    config = read_json(path, MODEL_CONFIG_KIND, lenient=True) | settings
    config.pop("_name_or_path", None)  # a folder of this machine
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)  # written by the class, yet no argument of it
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def extract_components(pipe: "TextToImagePipeline") -> ModelComponents:
    """Extract the components of a pipeline, with copies of its tokenizers, which can get new
    words.
    """
    return ModelComponents(
        vae=pipe.vae,
        unet=pipe.unet,
        text_encoder=pipe.text_encoder,
        tokenizer=deepcopy(pipe.tokenizer),
        text_encoder_2=pipe.text_encoder_2,
        tokenizer_2=deepcopy(pipe.tokenizer_2),
    )
