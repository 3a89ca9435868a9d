"""What both sides of `benchmarks/train.py` train on: a model with random weights, and pictures."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
MARGIN = 1.25
"""Sides of the pictures over the resolution: both sides have to resize and to crop."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model, as what it changes of Stable Diffusion 1's own configurations.

    resolution : side in pixels of what is trained on
    batch : rows of a step
    """

    resolution: int
    batch: int
    unet: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] = field(default_factory=dict)


def text_of(width: int, layers: int) -> dict[str, Any]:
    heads = {"num_hidden_layers": layers, "num_attention_heads": width // 32}
    return {"hidden_size": width, "intermediate_size": 4 * width, **heads}


SHAPES = {
    "sd1": Shape(resolution=512, batch=4),
    # About a fourth of the widths, at which the frozen encoders take the share of a step that
    # they take in Stable Diffusion 1.5. Of the text's twelve layers three are left: it is as long
    # as ever, and would weigh more beside such small pictures.
    "share": Shape(
        resolution=192,
        batch=4,
        unet={
            "block_out_channels": (64, 128, 256, 256),
            "norm_num_groups": 16,
            "cross_attention_dim": 128,
        },
        vae={"block_out_channels": (32, 64, 128, 128)},
        text_encoder=text_of(128, 3),
    ),
    # For a quick look: one thread steps through it several times a second.
    "toy": Shape(
        resolution=64,
        batch=8,
        unet={
            "block_out_channels": (48, 96, 192, 192),
            "norm_num_groups": 16,
            "cross_attention_dim": 96,
        },
        vae={"block_out_channels": (16, 32, 64, 64), "norm_num_groups": 16},
        text_encoder=text_of(96, 2),
    ),
}


def write_model(shape: Shape, folder: Path) -> dict[str, int]:
    """The model as a folder that both sides read; how many weights its parts have."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from t2i.denoiser.loading.model_location import ASSETS
    from t2i.denoiser.loading.weight_checks import read_json_object
    from t2i.text.bpe import build_clip_tokenizer, load_vocabulary_and_merges

    torch.manual_seed(0)
    sd1 = ASSETS / "single_file" / "sd1"
    configs = {path.parent.name: read_json_object(path) for path in sd1.glob("*/config.json")}
    tokenizer = build_clip_tokenizer(*load_vocabulary_and_merges(ASSETS / "tokenizer"), 77)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    side = shape.resolution // 8
    unet: Any = UNet2DConditionModel.from_config(
        configs["unet"] | {"sample_size": side} | shape.unet
    )
    vae: Any = AutoencoderKL.from_config(configs["vae"] | shape.vae)
    text = CLIPTextConfig.from_dict(configs["text_encoder"] | ends | shape.text_encoder)
    pipe: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler.from_config(
            read_json_object(sd1 / "scheduler/scheduler_config.json")
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return {name: sum(w.numel() for w in part.parameters()) for name, part in parts.items()}


def write_pictures(folder: Path, number: int, resolution: int) -> None:
    """Discs on grounds, and `metadata.jsonl`: what `datasets` calls an imagefolder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    side = int(resolution * MARGIN)
    lines = []
    for index in range(number):
        disc, ground = rng.choice(len(COLOURS), 2, replace=False)
        picture = Image.new("RGB", (side, side), COLOURS[ground])
        left, top = rng.integers(side // 2, size=2)
        ImageDraw.Draw(picture).ellipse(
            (left, top, left + side // 2, top + side // 2), COLOURS[disc]
        )
        grain = rng.integers(-20, 20, (side, side, 3))
        pixels = np.clip(np.asarray(picture, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        name = f"{index:04d}.jpg"
        Image.fromarray(pixels).save(folder / name, quality=90)
        caption = f"a {COLOURS[disc]} disc on a {COLOURS[ground]} ground, number {index}"
        lines.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
