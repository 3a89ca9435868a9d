"""The recipes of the embedded model and of its larger sibling run, with narrow layers, from nothing
to a pipeline that draws at the recipe's size."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import t2i
from tests.sweeps import sweep
from tests.train.runs import TOKENIZER
from train.config.load_config import load_run_config
from train.loop import run_training

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WIDTHS = {
    "block_out_channels": 8,
    "encoder_block_out_channels": 8,
    "decoder_block_out_channels": 8,
    "hidden_size": 16,
    "intermediate_size": 16,
}


def narrow(model: Path, out: Path) -> Path:
    """The model's TOML with the same levels and blocks, and 8 channels in each."""
    lines: list[str] = []
    for table, keys in tomllib.loads(model.read_text("utf-8")).items():
        lines.append(f"[{table}]")
        for key, value in keys.items():
            new: Any = value
            if key in WIDTHS:
                new = [WIDTHS[key]] * len(value) if isinstance(value, list) else WIDTHS[key]
            elif key in ("attention_head_dim", "num_attention_heads"):
                new = 2
            elif key == "folder":
                new = str(TOKENIZER)
            lines.append(f"{key} = {new!r}".replace("True", "true"))
        if table == "unet":
            lines.append("norm_num_groups = 4")
    out.write_text("\n".join(lines), "utf-8")
    return out


@pytest.mark.parametrize(
    ("name", "size"), sweep([("embedded", 128), ("embedded-256", 256)], quick=[("embedded", 128)])
)
def test_a_recipe_runs_from_nothing_to_a_pipeline(name: str, size: int, tmp_path: Path) -> None:
    model = narrow(CONFIGS / "models" / f"{name}.toml", tmp_path / "model.toml")
    tiny = [f"model={model}", "train.steps=1", "train.batch_size=2", "train.workers=0"]
    tiny += ["train.device=cpu", "samples.steps=1", 'samples.prompts=["a red apple"]']
    recipes = CONFIGS / "train"
    assert run_training(load_run_config(recipes / "embedded-vae.toml", tiny), tmp_path / "vae")
    tiny.append(f"target.vae={tmp_path / 'vae' / 'model'}")
    assert run_training(load_run_config(recipes / f"{name}.toml", tiny), tmp_path / "denoiser")
    image = t2i.load(tmp_path / "denoiser" / "model")("a red apple", num_inference_steps=2)
    assert image.images[0].size == (size, size)
