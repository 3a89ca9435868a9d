"""What the benchmarks compute from runs, and what they do without those they compare with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import train_transforms as transforms
from benchmarks.train import found_scripts, write_parts
from benchmarks.train_folder import SHAPES
from benchmarks.train_resume import change, distance, norm
from benchmarks.train_runs import Run, Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, tmp_path, SHAPES["toy"], "no", "cpu", 1)


def test_without_the_scripts_of_diffusers_the_training_benchmark_says_so(
    repo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "train.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--out", str(out)],
        cwd=repo,
        env=os.environ | {"T2I_DIFFUSERS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Skipped: diffusers' training scripts are not at hand" in done.stdout
    assert not out.exists()


def test_the_scripts_are_found_in_a_clone_too(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "text_to_image"
    folder.mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"There are no train_text_to_image\.py and .* in "):
        found_scripts(tmp_path)
    for name in ("train_text_to_image.py", "train_text_to_image_lora.py"):
        (folder / name).touch()
    assert found_scripts(tmp_path) == found_scripts(folder) == folder.resolve()


OURS, THEIRS = "checkpoints/step-00000020/weights.safetensors", "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("side", "file", "first", "second"),
    [
        ("ours", OURS, "lora_A.part0", "lora_B.part0"),
        ("cached", OURS, "lora_A.part0", "lora_B.part0"),
        ("theirs", THEIRS, "lora.down", "lora.up"),
        ("theirs", THEIRS, "lora_A", "lora_B"),
    ],
)
def test_what_lora_changes_is_the_product_of_its_matrices_under_either_name(
    setting: Setting, side: str, file: str, first: str, second: str
) -> None:
    run = Run(side, "lora", 20, setting.folder / "run")
    down, up = torch.randn(2, 6), torch.randn(5, 2)
    names = (f"unet.to_q.{first}.weight", f"unet.to_q.{second}.weight")
    write(run.out / file, names, (down, up))
    changed = change(run, setting)
    assert list(changed) == ["to_q"]
    torch.testing.assert_close(changed["to_q"], up.double() @ down.double())


def test_tensors_that_are_no_matrices_of_a_lora_are_named(setting: Setting) -> None:
    run = Run("theirs", "lora", 20, setting.folder / "run")
    write(run.out / THEIRS, ("unet.to_q.hada_w1_a",), (torch.ones(2, 2),))
    with pytest.raises(SystemExit, match=r"to_q\.hada_w1_a in .* is none of .*lora_A/lora_B"):
        change(run, setting)


def test_a_part_measured_alone_leaves_the_rest_of_a_result_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    write_parts(out, {"figures": 1, "resume": 2}, keep=False)
    write_parts(out, {"resume": 3}, keep=True)
    assert json.loads(out.read_text()) == {"figures": 1, "resume": 3}
    write_parts(out, {"figures": 4}, keep=False)
    assert json.loads(out.read_text()) == {"figures": 4}


def test_the_change_of_weights_is_measured_from_the_model_they_come_from(setting: Setting) -> None:
    before, after = torch.randn(4, 3), torch.randn(4, 3)
    run = Run("theirs", "full", 20, setting.folder / "run")
    write(setting.model / "unet" / "model.safetensors", ("x.weight",), (before,))
    write(run.out / "unet" / "model.safetensors", ("x.weight",), (after,))
    changed = change(run, setting)
    assert norm(changed) == pytest.approx((after - before).norm().item(), rel=1e-6)
    assert distance(changed, {"x.weight": torch.zeros(4, 3)}) == norm(changed)


def write(path: Path, names: tuple[str, ...], values: tuple[torch.Tensor, ...]) -> None:
    path.parent.mkdir(parents=True)
    save_file(dict(zip(names, values, strict=True)), path)


def test_the_stand_in_for_torchvision_cuts_the_middle_and_scales_to_one() -> None:
    picture = Image.new("RGB", (30, 20), "black")
    picture.paste((255, 255, 255), (10, 5, 20, 15))
    seen = transforms.Compose(
        [
            transforms.Resize(20, interpolation=transforms.InterpolationMode.LANCZOS),
            transforms.CenterCrop(10),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )(picture)
    np.testing.assert_array_equal(seen, np.ones((3, 10, 10), np.float32))
