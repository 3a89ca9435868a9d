"""What a picture file says about its making."""

import json
import re
import shutil
from pathlib import Path

import pytest

from t2i import __version__
from t2i.cli.metadata.writing import _quote_value
from t2i.cli.request.digests import compute_model_digest
from tests.cli.command import PROMPT, Cli, text_of


def test_a_picture_carries_its_parameters_as_a1111_lays_them_out(generate: Cli) -> None:
    done = generate("--seed", "7", "--guidance", "4", "--sampler", "euler", "--negative", "a dog")
    prompt, negative, settings = text_of(done.paths[0])["parameters"].split("\n")
    assert prompt == PROMPT
    assert negative == "Negative prompt: a dog"
    assert re.fullmatch(
        r"Steps: 2, Sampler: euler, CFG scale: 4\.0, Seed: 7, Size: 32x32, "
        rf"Model hash: [0-9a-f]{{10}}, Model: tiny, Version: t2i {re.escape(__version__)}",
        settings,
    )


def test_a_picture_carries_its_full_request(generate: Cli, model: Path) -> None:
    done = generate("--seed", "7", "--num", "2")
    record = json.loads(text_of(done.paths[1])["t2i"])
    assert record["version"] == 1
    assert record["seed"] == 8
    assert record["request"] == {
        "prompt": PROMPT,
        "negative_prompt": "",
        "model": str(model),
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
        "sampler": "DDIMScheduler",
        "width": 32,
        "height": 32,
        "grammar": "a1111",
        "guidance_method": None,
        "loras": [],
        "embeddings": [],
        "ip_adapter": None,
        "image_prompt": None,
        "image": None,
        "mask": None,
        "strength": None,
        "upscale": None,
        "edited": None,
        "inversion": None,
        "controls": [],
        "image_prompts": [],
        "regions": [],
        "cache": [],
        "references": [],
        "preset": None,
    }
    assert len(record["model_digest"]) == 64
    assert {"t2i", "torch", "diffusers", "transformers"} <= record["libraries"].keys()


def test_a_comma_in_a_model_name_does_not_split_the_parameters(cli: Cli, model: Path) -> None:
    shutil.copytree(model, "tiny, v2")
    done = cli("generate", "x", "--model", "tiny, v2", "--steps", "1")
    assert text_of(done.paths[0])["parameters"].count(', Model: "tiny, v2", ') == 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("tiny", "tiny"),
        ("tiny, v2", '"tiny, v2"'),
        (" tiny", '" tiny"'),
        ("[tiny]", '"[tiny]"'),
        ("a\nb", '"a\\nb"'),
        ("", '""'),
        (7.5, "7.5"),
    ],
)
def test_a_value_that_would_be_read_otherwise_is_quoted(value: object, written: str) -> None:
    assert _quote_value(value) == written


def test_the_digest_is_of_weights_and_configs_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "a.safetensors").write_bytes(b"weights")
    first = compute_model_digest(folder)
    (folder / "README.md").write_text("no part of it")
    assert compute_model_digest(folder) == first
    (folder / "unet" / "config.json").rename(folder / "unet" / "other.json")
    assert compute_model_digest(folder) != first
    alone = compute_model_digest(folder / "a.safetensors")
    (folder / "a.safetensors").write_bytes(b"others")
    assert (
        len(
            {
                first,
                alone,
                compute_model_digest(folder),
                compute_model_digest(folder / "a.safetensors"),
            }
        )
        == 4
    )
