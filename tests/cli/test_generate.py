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

from tests.cli.command import PROMPT, SLUG, Cli, files, pixels, text_of


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
    done = cli("generate", "猫" * 60, "--model", model, "--steps", "1", "--seed", "1")
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
        # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    assert f"{len(printed)} of 10,000 pictures finished and kept" in err
    for name in files(tmp_path):
        assert name.endswith(".png")
        Image.open(tmp_path / "outputs" / name).load()


def test_a_picture_is_made_again_byte_for_byte(generate: Cli, cli: Cli) -> None:
    options = ("--seed", "7", "--sampler", "euler", "--size", "48x32", "--negative", "a dog")
    for number, arguments in enumerate((options, ("--seed", "8"))):
        first = generate(*arguments).paths[0]
        again = cli("generate", "--from", first, "--out", f"again-{number}")
        assert again.code == 0
        assert "Not the same here" not in again.err
        assert again.paths[0].read_bytes() == first.read_bytes()


def test_what_is_typed_goes_over_what_the_picture_says(generate: Cli, cli: Cli) -> None:
    first = generate("--seed", "7", "--negative", "a dog").paths[0]
    typed = ("--steps", "3", "--seed", "9", "--format", "json", "--out", "again")
    again = cli("generate", "--from", first, *typed).json()
    assert again["differences"] == []
    assert again["request"]["num_inference_steps"] == 3
    assert again["request"]["negative_prompt"] == "a dog"
    assert again["pictures"][0]["seed"] == 9


def test_what_differs_from_the_picture_is_said(generate: Cli, cli: Cli, model: Path) -> None:
    first = generate("--seed", "7").paths[0]
    other = folder_with_defaults(model, '{"defaults": {}}')
    again = cli("generate", "--from", first, "--model", other, "--out", "again")
    assert again.code == 0
    assert re.search(r"Not the same here: .*made with model .*, here is", again.err)


def test_a_picture_of_a_model_that_is_not_here_asks_for_one(cli: Cli, model: Path) -> None:
    gone = shutil.copytree(model, "gone")
    first = cli("generate", "x", "--model", gone, "--steps", "1").paths[0]
    shutil.rmtree(gone)
    again = cli("generate", "--from", first)
    assert again.code == 3
    assert re.search(r"was made with the model 'gone', which is not found here\. Give", again.err)


def test_a_picture_without_a_story_cannot_be_made_again(cli: Cli) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    assert "has no generation metadata" in cli("generate", "--from", "plain.png").err
    assert cli("generate", "--from", "plain.png").code == 4
    assert cli("generate", "--from", "none.png").code == 4


def test_no_metadata_leaves_nothing_in_the_file(generate: Cli) -> None:
    assert "parameters" in text_of(generate("--seed", "1").paths[0])
    silent = generate("--seed", "1", "--no-metadata").paths[0]
    assert text_of(silent) == {}
    data = generate("--no-metadata", "--out", "x.jpg").paths[0].read_bytes()
    assert PROMPT.encode("utf-16-be") not in data


def test_weights_in_a_prompt_are_heard_and_recorded(cli: Cli, model: Path) -> None:
    def draw(*arguments: str) -> Path:
        return cli("generate", *arguments, "--model", model, "--steps", "2", "--seed", "7").paths[0]

    weighted, plain = draw("a (red:1.4) apple"), draw("a red apple")
    literal = draw("a (red:1.4) apple", "--grammar", "plain")
    assert not np.array_equal(pixels(weighted), pixels(plain))
    assert not np.array_equal(pixels(weighted), pixels(literal))
    for path in (weighted, literal):
        again = cli("generate", "--from", path).paths[0]
        assert np.array_equal(pixels(again), pixels(path))


def test_a_slip_in_the_grammar_is_pointed_at(cli: Cli) -> None:
    done = cli("generate", "a (red apple")
    assert done.code == 2
    assert "cannot be read at character" in done.err
    assert "With --grammar plain every letter" in done.err


def test_a_slip_in_a_file_of_prompts_is_named_with_its_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na (red apple\na dog\n[\n")
    done = cli("generate", "--prompts", "prompts.txt")
    assert done.code == 4
    assert "prompts.txt:2: The prompt cannot be read" in done.err
    assert "prompts.txt:4: " in done.err


def test_a_method_of_guidance_is_heard_and_recorded(generate: Cli) -> None:
    plain = generate("--seed", "7")
    other = generate("--seed", "7", "--method", "apg:eta=0.5")
    assert not np.array_equal(pixels(plain.paths[0]), pixels(other.paths[0]))
    record = json.loads(text_of(other.paths[0])["t2i"])
    assert record["request"]["guidance_method"] == "apg:eta=0.5"
    wrong = generate("--method", "apq")
    assert wrong.code == 2
    assert "Did you mean 'apg'" in wrong.err


# a sheet of them


def test_a_grid_lies_beside_the_pictures_and_replaces_nothing(generate: Cli) -> None:
    first = generate("--seed", "7", "--num", "3", "--grid").paths
    assert [path.name for path in first[3:]] == [f"{SLUG}-7-grid.png"]
    before = first[3].read_bytes()
    page = Image.open(first[3])
    assert page.width == 2 * 32 + 3 * 8  # two columns, and gaps
    assert np.array_equal(np.asarray(page)[8:40, 8:40], pixels(first[0]))
    assert np.array_equal(np.asarray(page)[8:40, 48:80], pixels(first[1]))
    again = generate("--seed", "7", "--num", "2", "--grid", "--format", "json").json()
    assert again["grid"] == f"outputs/{SLUG}-7-grid-2.png"
    assert first[3].read_bytes() == before


def test_a_grid_beside_a_named_file_has_its_name_and_is_refused_before_any_work(
    generate: Cli,
) -> None:
    made = generate("--out", "cat.webp", "--num", "2", "--grid").paths
    assert made == [Path("cat-1.webp"), Path("cat-2.webp"), Path("cat-grid.webp")]
    Path("dog-grid.png").write_bytes(b"mine")
    done = generate("--out", "dog.png", "--num", "2", "--grid", "--model", "no-such-model")
    assert done.code == 5
    assert "dog-grid.png exists and is not replaced" in done.err


def test_a_grid_says_what_it_is_and_draws_one_or_all_of_it_again(cli: Cli, generate: Cli) -> None:
    made = generate("--out", "cat.png", "--seed", "7", "--num", "2", "--grid").paths
    shown = cli("show", "cat-grid.png").out
    assert re.search(r"sheet of +2 pictures", shown)
    assert "again       t2i generate --from cat-grid.png --seed 7 --num 2 --grid" in shown
    done = cli("generate", "--from", "cat-grid.png")
    assert done.code == 2
    assert re.search(r"cat-grid\.png is a sheet of 2 pictures, of the seeds 7 to 8: say", done.err)
    one = cli("generate", "--from", "cat-grid.png", "--seed", "8", "--out", "one.png").paths
    assert np.array_equal(pixels(one[0]), pixels(made[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a cat", "--grid"), r"Got --grid with --num 1: say how many, as in --num 4 --grid"),
        (("--prompts", "many.txt", "--grid"), r"Got --grid with --prompts: a sheet shows"),
    ],
)
def test_a_grid_of_nothing_to_lay_side_by_side_is_refused(
    cli: Cli, options: tuple[str, ...], message: str
) -> None:
    done = cli("generate", *options)
    assert done.code == 2
    assert re.search(message, done.err)
