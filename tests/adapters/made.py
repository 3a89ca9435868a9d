"""Tiny models with layers of peft's on them, as after a training, and pictures of them."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple to the left of the cat"
PARTS = ("unet", "text_encoder", "text_encoder_2")
ATTENTION = ("to_k", "to_v", "to_q", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
CONVS = ("conv1", "conv2", "conv", "conv_in", "conv_out", "conv_shortcut", "proj_in", "proj_out")
EVERY = (*ATTENTION, *CONVS, "fc1", "fc2", "time_emb_proj", "net.0.proj", "net.2")
EVERY += ("time_embedding.linear_1", "time_embedding.linear_2")
OF_XL = ("add_embedding.linear_1", "add_embedding.linear_2", "text_projection")


def among(names: list[str], pattern: dict[str, int]) -> dict[str, int]:
    """Those that a model has: peft warns of the others."""
    return {end: size for end, size in pattern.items() if any(n.endswith(end) for n in names)}


FAMILIES: dict[str, tuple[Callable[[], dict[str, Any]], Any]] = {
    "sd1": (tiny_sd_components, StableDiffusionPipeline),
    "sdxl": (tiny_sdxl_components, StableDiffusionXLPipeline),
}
CONFIGS: dict[str, Callable[[list[str]], Any]] = {
    "alpha is not the rank": lambda names: LoraConfig(r=4, lora_alpha=3, target_modules=names),
    "mixed ranks and alphas": lambda names: LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=names,
        rank_pattern=among(names, {"to_k": 3, "q_proj": 4, "conv1": 1}),
        alpha_pattern=among(names, {"to_v": 1, "q_proj": 8, "conv1": 7}),
    ),
    "dora": lambda names: LoraConfig(r=3, lora_alpha=2, target_modules=names, use_dora=True),
    "rslora": lambda names: LoraConfig(r=3, lora_alpha=2, target_modules=names, use_rslora=True),
}
LYCORIS: dict[str, Callable[[list[str]], Any]] = {
    "loha": lambda names: LoHaConfig(r=3, alpha=2, target_modules=names, init_weights=False),
    "loha with cores": lambda names: LoHaConfig(
        r=3, alpha=2, target_modules=names, init_weights=False, use_effective_conv2d=True
    ),
    "lokr": lambda names: LoKrConfig(r=2, alpha=3, target_modules=names, init_weights=False),
    "lokr, both factored": lambda names: LoKrConfig(
        r=1, alpha=3, target_modules=names, init_weights=False, decompose_both=True
    ),
    "lokr, none factored": lambda names: LoKrConfig(
        r=64, alpha=3, target_modules=names, init_weights=False
    ),
    "lokr with cores": lambda names: LoKrConfig(
        r=2, alpha=3, target_modules=names, init_weights=False, use_effective_conv2d=True
    ),
}


def components(family: str) -> dict[str, Any]:
    return FAMILIES[family][0]()


def models_of(parts: Mapping[str, Any]) -> dict[str, nn.Module]:
    return {part: parts[part] for part in PARTS if part in parts}


def train(
    models: Mapping[str, nn.Module],
    config: Callable[[list[str]], Any],
    endings: tuple[str, ...],
    seed: int = 0,
    size: float = 0.15,
) -> None:
    """Put layers on all modules whose names end so, and give them random weights."""
    torch.manual_seed(seed)
    for model in models.values():
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
            and any(name == ending or name.endswith(f".{ending}") for ending in endings)
        ]
        if not names:
            continue
        inject_adapter_in_model(config(names), model, "mine")
        for name, parameter in model.named_parameters():
            if ".mine" in name:
                change = torch.randn(parameter.shape, dtype=parameter.dtype) * size
                more = "magnitude" in name
                parameter.data = parameter.data * (1 + change) if more else change
    assert any(isinstance(m, BaseTunerLayer) for model in models.values() for m in model.modules())


def ours(parts: Mapping[str, Any]) -> TextToImagePipeline:
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(family: str, parts: Mapping[str, Any]) -> Any:
    extra: dict[str, Any] = {"add_watermarker": False}
    if family == "sd1":
        extra = {"safety_checker": None, "requires_safety_checker": False}
        extra["feature_extractor"] = None
    pipe = FAMILIES[family][1](**copy.deepcopy(dict(parts)), **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any) -> Tensor:
    """Latents after two steps."""
    seed = torch.Generator().manual_seed(3)
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    latents: Tensor = pipe(prompt=PROMPT, generator=seed, **options).images
    assert torch.isfinite(latents).all()
    return latents


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
