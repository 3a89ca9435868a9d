"""Every choice we ship can be made: each TOML in configs/ loads, and its parts fit together.

Models are built on the meta device: at full size, yet without memory or arithmetic.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.build import ModelComponents, NewModelConfig, build_fresh_components
from t2i.denoiser.families import sd, sdxl
from train.config.load_config import load_run_config
from train.config.run_config import MODEL_PART_KINDS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EMBEDDED = CONFIGS.parent / "t2i" / "assets" / "embedded"
MODELS = sorted((CONFIGS / "models").rglob("*.toml"))
RUNS = sorted((CONFIGS / "train").rglob("*.toml"))


def built(path: Path) -> ModelComponents:
    with torch.device("meta"):
        return build_fresh_components(NewModelConfig.load_toml(path))


def shapes(parts: ModelComponents, size: int) -> tuple[torch.Size, torch.Size]:
    """Shapes of a picture's latents and of what the denoiser makes of them."""
    vae: Any = parts.vae
    unet: Any = parts.unet
    with torch.device("meta"), torch.no_grad():
        encoded = vae.encode(torch.empty(1, 3, size, size))
        latents = encoded.latents if "latents" in encoded else encoded.latent_dist.mean
        width, extra = parts.text_encoder.config.hidden_size, {}
        if parts.text_encoder_2 is not None:
            second = parts.text_encoder_2.config
            width += second.hidden_size
            pooled_BD = torch.empty(1, second.projection_dim)
            ids = sdxl.build_time_ids(unet, sdxl.SizeConditioning((size, size)), pooled_BD)
            extra = {"text_embeds": pooled_BD, "time_ids": ids}
        told = Conditioning(torch.empty(1, 8, width), extra=extra)
        return latents.shape, sd.run_unet(unet, latents, torch.tensor(999), told).shape


def test_there_are_configs() -> None:
    assert MODELS
    assert RUNS


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_of_configs_is_built_and_its_parts_fit(path: Path) -> None:
    before, after = shapes(built(path), size=64)
    assert before == after


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_of_configs_loads_and_its_pictures_fit_its_model(path: Path) -> None:
    config = load_run_config(path)
    if config.model is None:
        assert config.target.kind not in MODEL_PART_KINDS
        return
    parts = built(config.model)
    before, after = shapes(parts, config.data.size)
    assert before == after
    assert before[-1] == parts.unet.config["sample_size"]


def test_every_toml_is_a_model_or_a_run() -> None:
    others = set(CONFIGS.rglob("*.toml")) - {*MODELS, *RUNS}
    assert not others, f"no test builds {others}"


def test_the_embedded_model_has_the_networks_of_its_recipe() -> None:
    fresh = built(CONFIGS / "models" / "embedded.toml")
    for name in ("vae", "unet", "text_encoder"):
        shapes_of_recipe = {key: w.shape for key, w in getattr(fresh, name).named_parameters()}
        shipped = {
            key: tensor.shape
            for file in sorted((EMBEDDED / name).glob("*.safetensors"))
            for key, tensor in load_file(file).items()
        }
        assert {key: shipped.get(key) for key in shapes_of_recipe} == shapes_of_recipe, name
