"""`t2i generate`: the pictures, their names and seeds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import SLUG, Cli, files, pixels


def test_generate_prints_the_path_of_a_picture_it_wrote(generate: Cli) -> None:
    done = generate("--seed", "7")
    assert done.code == 0
    assert done.paths == [Path("outputs") / f"{SLUG}-7.png"]
    assert Image.open(done.paths[0]).size == (32, 32)
    assert "Traceback" not in done.err


def test_each_picture_has_its_own_seed_and_needs_no_other(generate: Cli) -> None:
    several = generate("--seed", "7", "--num", "2", "--out", "several").paths
    alone = generate("--seed", "8", "--out", "alone").paths
    assert [path.name for path in several] == [f"{SLUG}-7.png", f"{SLUG}-8.png"]
    assert np.array_equal(pixels(several[1]), pixels(alone[0]))
    assert not np.array_equal(pixels(several[0]), pixels(several[1]))


def test_a_seed_that_was_drawn_is_printed_and_makes_the_same_picture_again(generate: Cli) -> None:
    first = generate()
    (seed,) = re.findall(r"seed (\d+)", first.err)[-1:]
    assert first.paths[0].name == f"{SLUG}-{seed}.png"
    again = generate("--seed", seed, "--out", "again")
    assert np.array_equal(pixels(first.paths[0]), pixels(again.paths[0]))


def test_a_name_in_use_gets_a_number(generate: Cli) -> None:
    first = generate("--seed", "7")
    before = first.paths[0].read_bytes()
    assert generate("--seed", "7").paths == [Path("outputs") / f"{SLUG}-7-2.png"]
    assert generate("--seed", "7").paths == [Path("outputs") / f"{SLUG}-7-3.png"]
    assert first.paths[0].read_bytes() == before


def test_a_named_file_is_written_as_named(generate: Cli) -> None:
    assert generate("--out", "new/cat.png").paths == [Path("new/cat.png")]
    assert generate("--out", "cat.jpg").paths == [Path("cat.jpg")]
    assert Image.open("cat.jpg").format == "JPEG"
    several = generate("--out", "cat.webp", "--num", "2").paths
    assert several == [Path("cat-1.webp"), Path("cat-2.webp")]


def test_a_named_file_that_exists_is_refused_before_any_work(generate: Cli) -> None:
    Path("cat-2.png").write_bytes(b"mine")
    done = generate("--out", "cat.png", "--num", "2", "--model", "no-such-model")
    assert done.code == 5
    assert re.search(r"cat-2\.png exists and is not replaced: remove it, or choose", done.err)
    assert Path("cat-2.png").read_bytes() == b"mine"


def test_words_of_any_script_make_a_file_name(cli: Cli, model: Path) -> None:
    for prompt, name in (("Ein Apfel, grün!", "ein-apfel-grün-1.png"), ("/../ ", "picture-1.png")):
        done = cli("generate", prompt, "--model", model, "--steps", "1", "--seed", "1")
        assert done.paths == [Path("outputs") / name]
    done = cli("generate", "猫" * 300, "--model", model, "--steps", "1", "--seed", "1")
    assert done.code == 0


def test_size_is_width_by_height(generate: Cli) -> None:
    assert Image.open(generate("--size", "48x32").paths[0]).size == (48, 32)
    assert Image.open(generate("--size", "40").paths[0]).size == (40, 40)


def test_steps_guidance_sampler_and_negative_each_change_the_picture(generate: Cli) -> None:
    plain = pixels(generate("--seed", "1").paths[0])
    for option in (
        ("--steps", "3"),
        ("--guidance", "2"),
        ("--sampler", "euler"),
        ("--negative", "a dog"),
    ):
        other = pixels(generate("--seed", "1", *option).paths[0])
        assert not np.array_equal(plain, other), option


def folder_with_defaults(model: Path, text: str) -> Path:
    folder = Path(shutil.copytree(model, "with-defaults"))
    (folder / "t2i.json").write_text(text)
    return folder


def test_a_model_names_its_own_steps_guidance_and_sampler(cli: Cli, model: Path) -> None:
    defaults = {"steps": 3, "guidance_scale": 2.5, "sampler": "euler a"}
    folder = folder_with_defaults(model, json.dumps({"defaults": defaults, "made": "here"}))
    asked = cli("generate", "x", "--model", folder, "--format", "json").json()["request"]
    assert asked["num_inference_steps"] == 3
    assert asked["guidance_scale"] == 2.5
    assert asked["sampler"] == "euler a"
    typed = cli(
        "generate", "x", "--model", folder, "--format", "json", "--steps", "1", "--guidance", "0"
    ).json()["request"]
    assert (typed["num_inference_steps"], typed["guidance_scale"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"defaults": {"step": 3}}', r"defaults\.step: Extra inputs are not permitted"),
        ('{"defaults": {"steps": 0}}', r"defaults\.steps: .*greater than or equal to 1"),
        ("{", r"the file: Invalid JSON"),
    ],
)
def test_defaults_that_cannot_be_read_are_named(
    cli: Cli, model: Path, text: str, complaint: str
) -> None:
    done = cli("generate", "x", "--model", folder_with_defaults(model, text))
    assert done.code == 3
    assert re.search(complaint, done.err)
    assert "t2i.json" in done.err


def test_ctrl_c_keeps_finished_pictures_and_exits_130(
    repo: Path, model: Path, tmp_path: Path
) -> None:
    code = "import sys; from t2i.cli import main; sys.exit(main())"
    arguments = ["generate", "x", "--model", str(model), "--steps", "2", "--num", "10000"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    finally:
        process.kill()
    printed = [Path(line).name for line in (first + rest).splitlines()]
    assert process.returncode == 130, err
    # Interrupted between writing and printing, the last one may be there unprinted.
    assert set(printed) <= set(files(tmp_path))
    assert len(files(tmp_path)) - len(printed) <= 1
    assert f"{len(printed)} of 10000 pictures are finished and kept" in err
    for name in files(tmp_path):
        assert name.endswith(".png")
        Image.open(tmp_path / "outputs" / name).load()
