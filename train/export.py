"""Trained parts as a folder that every diffusers tool reads."""

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from pydantic import BaseModel, ConfigDict

from t2i.atomic_folders import atomic_folder
from t2i.denoiser.build import Components
from t2i.denoiser.families.sd import VAE
from t2i.denoiser.loading.address import NOTES
from t2i.denoiser.schedulers import Scheduler
from t2i.safe_reading import MODEL_CONFIG, read_json
from train.objective.objective import ObjectiveConfig

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
Notes = dict[str, Any]


class ExportConfig(BaseModel):
    """How the finished model is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Of the weights in the files; they load in float32 unless told."""
    shard: str = "15MB"
    """No file of weights is larger."""


def sampler(objective: ObjectiveConfig) -> Scheduler:
    """The scheduler that samples what the objective trains."""
    settings: dict[str, Any] = objective.scheduler_config()
    if objective.prediction == "flow":
        return cast(Scheduler, FlowMatchEulerDiscreteScheduler(**settings))
    return cast(Scheduler, DDIMScheduler(**settings, clip_sample=False, steps_offset=1))


def pipeline(components: Components, scheduler: Scheduler) -> "TextToImagePipeline":
    """The parts at work, sharing their weights."""
    # Here, for the sake of the start-up of a run, which draws much later or never.
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


def export(
    components: Components,
    scheduler: Scheduler,
    folder: Path,
    config: ExportConfig,
    notes: Notes,
) -> None:
    """Write an ordinary StableDiffusionPipeline folder, complete or not at all.

    notes : JSON data kept beside the model as `t2i.json`: how it was trained, its sampling defaults
    """
    with atomic_folder(folder) as new:
        write_model(deepcopy(components), scheduler, new, config)
        (new / NOTES).write_text(json.dumps(notes, indent=1) + "\n", "utf-8")


def write_model(
    parts: Components, scheduler: Scheduler, folder: Path, config: ExportConfig
) -> None:
    """Write the parts, which are brought to the precision of the files, into a folder."""
    for part in filter(None, (parts.vae, parts.unet, parts.text_encoder, parts.text_encoder_2)):
        torch.nn.Module.to(part, PRECISIONS[config.precision])
        in_plain_layout(part)
    pipeline(parts, scheduler).save_pretrained(folder, max_shard_size=config.shard)
    # Left alone transformers takes the precision of the file, and the plain pipeline mixes two.
    for encoder in folder.glob("text_encoder*/config.json"):
        _settle(encoder, dtype="float32")
    _settle(folder / "vae" / "config.json")
    _settle(folder / "unet" / "config.json")
    _let_others_read(folder)


def export_vae(vae: VAE, folder: Path) -> None:
    """Write an autoencoder alone, complete or not at all."""
    part = deepcopy(vae)
    in_plain_layout(part)
    with atomic_folder(folder) as new:
        part.save_pretrained(new)
        _settle(new / "config.json")
        _let_others_read(new)


def in_plain_layout(part: torch.nn.Module) -> None:
    """As the files want it, whatever layout was trained in."""
    torch.nn.Module.to(part, memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _let_others_read(folder: Path) -> None:
    """Give the weights, which safetensors writes for their owner alone, the mode of any file."""
    mode = next(folder.glob("*.json")).stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def _settle(path: Path, **settings: Any) -> None:
    """Set keys of a part's config.json, and drop what the part's own class would warn of."""
    config = read_json(path, MODEL_CONFIG, lenient=True) | settings
    config.pop("_name_or_path", None)  # a folder of this machine
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)  # written by the class, yet no argument of it
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
