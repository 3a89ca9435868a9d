"""Trained parts as a folder that every diffusers tool reads."""

import json
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.build import Components
from t2i.denoiser.families.sd import VAE
from t2i.errors import OutputError
from t2i.files import cannot_write
from train.objective import ObjectiveConfig

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
NOTES = "t2i.json"


def sampler(objective: ObjectiveConfig) -> Any:
    """The scheduler that samples what the objective trains."""
    settings = objective.scheduler_config()
    if objective.prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(**settings)
    return DDIMScheduler(**settings, clip_sample=False, steps_offset=1)


def pipeline(components: Components, objective: ObjectiveConfig) -> TextToImagePipeline:
    """The parts at work, sharing their weights."""
    return TextToImagePipeline(
        vae=components.vae,
        text_encoder=components.text_encoder,
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=sampler(objective),
    )


def export(
    components: Components,
    objective: ObjectiveConfig,
    folder: Path,
    precision: str = "fp16",
    notes: Mapping[str, Any] | None = None,
    shard: str = "15MB",
) -> None:
    """Write an ordinary StableDiffusionPipeline folder, complete or not at all.

    notes : JSON data kept beside the model as `t2i.json`: how it was trained, its sampling defaults
    """
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        parts = deepcopy(components)
        for part in (parts.vae, parts.unet, parts.text_encoder):
            torch.nn.Module.to(part, PRECISIONS[precision])
        pipe = pipeline(parts, objective)
        pipe.save_pretrained(temporary, max_shard_size=shard)
        # Left alone transformers takes the precision of the file, and the plain pipeline mixes two.
        _settle(temporary / "text_encoder" / "config.json", dtype="float32")
        _settle(temporary / "vae" / "config.json")
        (temporary / NOTES).write_text(json.dumps(dict(notes or {}), indent=1) + "\n", "utf-8")
        _replace(temporary, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export_vae(vae: VAE, folder: Path) -> None:
    """Write a finished autoencoder, for a denoiser to be trained on."""
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        vae.save_pretrained(temporary)
        _settle(temporary / "config.json")
        _replace(temporary, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(path: Path, **settings: Any) -> None:
    """Set keys of a part's config.json, and drop what the part's own class would warn of."""
    config = json.loads(path.read_text("utf-8")) | settings
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)  # written by the class, yet no argument of it
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _replace(temporary: Path, folder: Path) -> None:
    if folder.exists():
        if not (folder / "config.json").exists() and not (folder / "model_index.json").exists():
            raise OutputError(f"{folder} exists and holds no model: choose another folder.")
        shutil.rmtree(folder)
    temporary.rename(folder)
