"""A model with presets, and a LoRA in the place of a distilled one."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from t2i.adapters import read_lora_from_models, write_diffusers_lora

PRESETS: dict[str, Any] = {
    "fast": {
        "steps": 3,
        "guidance_scale": 1.0,
        "sampler": "lcm",
        "loras": [{"path": "quick/fast.safetensors", "scale": 0.5}],
    },
    "cut": {"guidance_method": "cfg:stop=0.5", "cache": ["deep:every=2"]},
}
DEFAULTS = {"steps": 4, "guidance_scale": 3.0, "sampler": "ddim"}


def write_unet_lora(path: Path, unet: Any) -> Path:
    """A LoRA of a UNet's attention that changes every picture."""
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    lora = read_lora_from_models({"unet": unet}, "default")
    unet.delete_adapters("default")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_diffusers_lora(path, lora)
    return path


def write_notes(folder: Path, presets: Any = PRESETS, **others: Any) -> None:
    notes = {"defaults": DEFAULTS, **others, "presets": presets}
    (folder / "t2i.json").write_text(json.dumps(notes, indent=1) + "\n")


def copy_with_presets(model: Path, to: Path, presets: Any = PRESETS) -> Path:
    """A copy of a model with the LoRA of the preset fast."""
    folder = Path(shutil.copytree(model, to))
    unet: Any = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet")
    write_unet_lora(folder / "quick" / "fast.safetensors", unet)
    write_notes(folder, presets)
    return folder
