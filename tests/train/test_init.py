"""Configs to start from: what `t2i train --init` writes, and those that lie in configs/train."""

import json
import tomllib
from itertools import product
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from PIL import Image, ImageOps

from t2i.cli import main
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.errors import ArgumentError, DataError, ModelError, OutputError
from tests.sweeps import sweep
from tests.tiny import tiny_sd_folder
from tests.train.data.making import folder_of
from tests.train.regenerate_configs import CONFIGS, shipped
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import run_training
from train.starter_config.options import TRAINING_METHODS, StarterConfigOptions
from train.starter_config.picture_folder import (
    PictureFolderStats,
    inspect_picture_folder,
    is_broken_fraction_allowed,
)
from train.starter_config.starter_config import build_starter_config_text, write_starter_config
from train.starter_config.subject_words import build_default_trigger_comment
from train.starter_config.template_values import (
    CONTROL_METHODS,
    choose_num_steps,
    detect_model_family,
)

FINE_TUNES = tuple(method for method in TRAINING_METHODS if method not in CONTROL_METHODS)
TRAINED_QUICKLY = ("full", "dora", "textual-inversion", "dreambooth-lora")
TINY = (
    "data.size=64",
    "train.steps=2",
    "train.batch_size=2",
    "train.device=cpu",
    "samples.every=2",
    "samples.steps=2",
    'samples.prompts=["a cat"]',
)


def init(method: str, folder: Path, *options: str, out: Path | None = None) -> int:
    out = out or folder.parent / "start.toml"
    return main(["train", "--init", method, str(folder), "--out", str(out), *options])


def written(method: str, folder: Path, **wishes: str) -> RunConfig:
    out = folder.parent / f"{method}.toml"
    write_starter_config(StarterConfigOptions(method, folder, **wishes), out)
    return load_run_config(out)


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_a_shipped_config_is_the_one_that_init_writes(method):
    text = (CONFIGS / f"{method}.toml").read_text("utf-8")
    assert text == shipped(method), "python -m tests.train.regenerate_configs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "on_tiny"),
    sweep(
        product(FINE_TUNES, (True, False)),
        # "pivotal" with the model that the file names, ten times as large; the others train a part
        # of what one of these trains.
        quick=[(method, True) for method in TRAINED_QUICKLY] + [("pivotal", False)],
    ),
)
def test_a_shipped_config_trains_on_a_folder_of_pictures(tmp_path, base, method, on_tiny):
    folder = folder_of(tmp_path / "pictures", "red", "green", "blue", captions=False)
    overrides = [*TINY, f"data.folder={folder}", "data.held_out=0", "validation.every=0"]
    if on_tiny:
        overrides += [f"target.base={base}", "data.size=32"]
    if "dreambooth" in method:
        overrides += ["prior.count=2", "prior.steps=2"]
    config = load_run_config(CONFIGS / f"{method}.toml", overrides)
    assert run_training(config, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "model").iterdir()}
    assert "t2i.json" in names
    assert ("model_index.json" in names) == (method in ("full", "cross-attention", "dreambooth"))
    assert ("lora.safetensors" in names) == (
        method in ("lora", "dora", "dreambooth-lora", "pivotal")
    )
    assert ("sks.safetensors" in names) is False
    assert ("my-pictures.safetensors" in names) == (method in ("textual-inversion", "pivotal"))


@pytest.mark.parametrize("base", ["embedded", "runwayml/stable-diffusion-v1-5", "someone/my-sdxl"])
@pytest.mark.parametrize("method", FINE_TUNES)
def test_what_init_writes_is_a_run_for_every_base(tmp_path, method, base):
    folder = folder_of(tmp_path / "mugs", "red", "green", "blue", captions=False)
    config = written(method, folder, base=base, kind="mug")
    assert config.target.kind == "finetune"
    assert config.target.base == base
    assert config.data.kind == "pictures"
    assert config.data.folder == folder
    assert (config.prior is not None) == ("dreambooth" in method)


def test_the_command_prints_the_file_and_what_comes_next(tmp_path, capsys):
    folder = folder_of(tmp_path / "mugs", "red", "green")
    out = tmp_path / "mine.toml"
    assert init("lora", folder, "--class", "mug", "--word", "zqx", out=out) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert f"Next: t2i train {out}" in told.err
    assert main(["train", str(out), "--dry-run", "--format", "json"]) == 0
    assert '"trigger": "zqx mug"' in capsys.readouterr().out


def test_the_file_is_named_after_folder_and_method_and_names_the_folder_beside_it(
    tmp_path, monkeypatch
):
    folder_of(tmp_path / "mugs", "red")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--init", "lora", "mugs"]) == 0
    tree = tomllib.loads((tmp_path / "mugs-lora.toml").read_text("utf-8"))
    assert tree["data"]["folder"] == "mugs"


def test_nothing_is_replaced(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red")
    out = tmp_path / "start.toml"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists and is not replaced"):
        write_starter_config(StarterConfigOptions("lora", folder), out)
    assert out.read_text() == "mine"


def test_a_folder_without_pictures_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No pictures in"):
        write_starter_config(
            StarterConfigOptions("lora", tmp_path / "empty"), tmp_path / "start.toml"
        )
    assert not (tmp_path / "start.toml").exists()


def test_captions_that_are_there_are_kept_and_completed(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red", "green", "blue")
    plain = written("full", folder)
    assert (plain.data.caption, plain.data.trigger) == (None, "")
    assert plain.samples.prompts[:3] == ("a red sheet", "a green sheet", "a blue sheet")
    named = written("lora", folder, word="zqx", kind="mug")
    assert (named.data.caption, named.data.trigger) == (None, "zqx mug")
    assert "a photo of a zqx mug" in named.samples.prompts


@pytest.mark.parametrize("method", ["lora", "full", "dreambooth-lora"])
def test_a_class_alone_puts_the_word_before_captions_that_lack_it(tmp_path, capsys, method):
    folder = folder_of(tmp_path / "fish", "red", "green")
    out = tmp_path / "start.toml"
    assert init(method, folder, "--class", "fish", out=out) == 0
    assert "as they are" not in capsys.readouterr().err
    config = load_run_config(out)
    assert config.data.trigger == "sks fish"
    assert config.samples.prompts[0] == "a photo of a sks fish"


def test_captions_that_are_learned_as_they_are_are_told(tmp_path, capsys):
    folder = folder_of(tmp_path / "fish", "red", "green")
    for options, reason in (
        ([], "neither --class nor --word was given"),
        (["--class", "fish", "--word", "sheet"], "each says sheet already"),
    ):
        out = tmp_path / f"start-{len(options)}.toml"
        assert init("lora", folder, *options, out=out) == 0
        assert f"Captions are learned as they are: {reason}." in capsys.readouterr().err
        assert f"# Captions are learned as they are: {reason}." in out.read_text("utf-8")
        assert load_run_config(out).data.trigger == ""


def test_a_second_caption_that_lacks_the_word_counts(tmp_path):
    folder = folder_of(tmp_path / "fish", "red")
    row = {"file_name": "00-red.png", "text": ["a sks fish", "a fish"]}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert inspect_picture_folder(folder).captions == ("a sks fish", "a fish")
    assert written("lora", folder, kind="fish").data.trigger == "sks fish"


def test_pictures_without_captions_are_called_by_the_word(tmp_path):
    folder = folder_of(tmp_path / "My Mugs", "red", captions=False)
    assert written("lora", folder, kind="mug").data.caption == "a photo of a sks mug"
    inverted = written("textual-inversion", folder, kind="mug")
    assert inverted.data.caption == "a photo of <my-mugs>"
    word = inverted.target.parts[0].words[0]
    assert (word.word, word.initial) == ("<my-mugs>", "mug")
    assert written("pivotal", folder).target.parts[0].words[0].initial is None


def test_the_class_is_what_dreambooth_keeps_and_must_be_told(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red")
    prior = written("dreambooth", folder, kind="apple").prior
    assert prior is not None
    assert prior.prompt == "a photo of an apple"
    with pytest.raises(ArgumentError, match="--class mug"):
        write_starter_config(StarterConfigOptions("dreambooth", folder), tmp_path / "other.toml")


def test_a_base_in_a_folder_says_itself_how_large_it_draws(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red", "green")
    base = tiny_sd_folder(tmp_path / "sd")
    config = written("lora", folder, base=str(base))
    assert config.target.base == str(base)
    assert config.data.size == 32


def test_small_pictures_are_learned_smaller_than_a_large_model_draws(tmp_path):
    (tmp_path / "mugs").mkdir()
    Image.new("RGB", (600, 700)).save(tmp_path / "mugs" / "one.png")
    assert written("lora", tmp_path / "mugs", base="my/sdxl").data.size == 768


def test_many_pictures_are_measured_on_and_seen_once_at_least(tmp_path):
    seen = PictureFolderStats(10_000, 0, 600, ("600x600",), 10_000, ("a cup",))
    text = build_starter_config_text(
        StarterConfigOptions("full", tmp_path, base="my/sd"),
        seen,
        tmp_path,
        "# command",
        hints=False,
    )
    config = RunConfig.model_validate(tomllib.loads(text))
    assert config.data.held_out == 0.05
    assert config.validation.every > 0
    assert choose_num_steps("sd", 10_000, 2) == 5000
    assert choose_num_steps("sd", 8, 4) == 400


def test_the_kind_of_a_base_is_read_off_its_folder_or_its_name(tmp_path, base_xl):
    wide = tmp_path / "wide" / "unet" / "config.json"
    wide.parent.mkdir(parents=True)
    wide.write_text(json.dumps({"block_out_channels": [320, 640]}))
    assert [detect_model_family(str(place)) for place in (tmp_path / "wide", base_xl)] == [
        "sd",
        "sdxl",
    ]
    assert [detect_model_family(name) for name in ("embedded", "a/b", "my_SDXL.safetensors")] == [
        "embedded",
        "sd",
        "sdxl",
    ]


def test_broken_pictures_are_counted(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red", "green")
    (folder / "zz.png").write_bytes(b"no picture")
    whole = (folder / "00-red.png").read_bytes()
    (folder / "zzz.png").write_bytes(whole[: len(whole) // 2])
    assert (inspect_picture_folder(folder).pictures, inspect_picture_folder(folder).broken) == (
        2,
        2,
    )


def test_more_broken_pictures_than_a_run_takes_are_said_to_hold_it_up(tmp_path, capsys):
    folder = folder_of(tmp_path / "my mugs", "red")
    (folder / "zz.png").write_bytes(b"no picture")
    assert init("lora", folder, out=tmp_path / "my start.toml") == 0
    told = capsys.readouterr().err
    assert "the run will not start before they are mended" in told
    assert f"t2i data check '{folder}'" in told
    assert not is_broken_fraction_allowed(PictureFolderStats(98, 2, 64, ("64x64",), 0))
    assert is_broken_fraction_allowed(PictureFolderStats(99, 1, 64, ("64x64",), 0))


def test_what_to_type_next_can_be_pasted(tmp_path, capsys):
    folder = folder_of(tmp_path / "mugs", "red")
    out = tmp_path / "mugs (old).toml"
    assert init("lora", folder, out=out) == 0
    assert f"Next: t2i train '{out}'\n" in capsys.readouterr().err
    assert f"# Start and resume with: t2i train '{out}'\n" in out.read_text("utf-8")


def test_a_fine_tune_of_the_embedded_model_is_taken_for_one(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red", captions=False)
    mine = tmp_path / "mine"
    copytree(EMBEDDED_MODELS["embedded"], mine, ignore=ignore_patterns("*.safetensors"))
    own, theirs = (
        build_starter_config_text(
            StarterConfigOptions("lora", folder, base),
            inspect_picture_folder(folder),
            tmp_path,
            "#",
        ).splitlines()
        for base in (str(mine), "embedded")
    )
    assert [line for line in own if line not in theirs] == ['base = "mine"']


def test_a_base_that_is_no_model_is_refused(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red")
    for base, complaint in (
        (str(folder), "has no model_index.json"),
        (str(tmp_path / "absent"), "Unknown model"),
        ("models/absent.safetensors", "Unknown model"),
        ("embeded", "Did you mean 'embedded'"),
        (str(folder / "00-red.png"), "is a file, expected a model folder"),
    ):
        with pytest.raises(ModelError, match=complaint):
            write_starter_config(
                StarterConfigOptions("lora", folder, base), tmp_path / "start.toml"
            )
    assert not (tmp_path / "start.toml").exists()


def test_a_base_that_cannot_be_looked_at_is_told(tmp_path, capsys):
    folder = folder_of(tmp_path / "mugs", "red")
    assert init("lora", folder, "--base", "someone/my-sdxl") == 0
    assert "someone/my-sdxl is not on this machine and was not looked up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--init", "lorra", "{}"], "Did you mean 'lora'"),
        (["--init", "lora", "{}", "--set", "train.steps=1"], "give --set and --dry-run with"),
        (["--init", "lora", "{}", "--out", "a.txt"], "expected the name of a .toml file"),
        (["--init", "pivotal", "{}", "--word", "my mug"], "a new word has no blanks and no commas"),
        (["{}", "--word", "<mug>"], "Got --word without --init"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, monkeypatch, capsys, options, complaint):
    folder = folder_of(tmp_path / "mugs", "red")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *(option.format(folder) for option in options)]) == 2
    assert complaint in capsys.readouterr().err


def test_help_names_every_method(capsys):
    assert main(["train", "--help"]) == 0
    told = "".join(capsys.readouterr().out.split())
    assert all(method in told for method in TRAINING_METHODS)


def test_sheets_of_a_thing_ask_for_its_word_even_where_captions_do_not_say_it(tmp_path):
    folder = folder_of(tmp_path / "mugs", "red", "green")
    for method in ("dreambooth-lora", "textual-inversion"):
        config = written(method, folder, kind="mug")
        word = "<mugs>" if method == "textual-inversion" else "sks mug"
        assert config.data.trigger == word
        assert all(word in prompt for prompt in config.samples.prompts[:3])
        assert config.samples.prompts[3] == "a photo of a mug"


def test_a_word_that_nobody_chose_is_explained_where_it_is_chosen(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red", "blue")
    chosen = [
        build_default_trigger_comment(wish)
        for wish in (
            StarterConfigOptions("dreambooth", folder, "embedded", None, "mug"),
            StarterConfigOptions("dreambooth", folder, "embedded", "zun", "mug"),
            StarterConfigOptions("full", folder, "embedded", None, None),
        )
    ]
    assert chosen[1:] == [[], []]
    said = " ".join(chosen[0])
    assert 'call it "a sks mug": sks means nothing to most models' in said
    assert said.endswith("Another one: --word.")
    write_starter_config(
        StarterConfigOptions("dreambooth", folder, "embedded", None, "mug"), tmp_path / "mug.toml"
    )
    text = (tmp_path / "mug.toml").read_text("utf-8")
    assert f"# {chosen[0][0]}\n# {chosen[0][1]}\n" in text


def test_keys_of_supervision_are_offered_for_pictures_with_masks(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red", "green")
    plain = build_starter_config_text(
        StarterConfigOptions("lora", folder, kind="mug"),
        inspect_picture_folder(folder),
        tmp_path,
        "",
    )
    assert "attention_weight" not in plain
    assert "masked_word" not in plain
    folder_of(folder / "masks", "red", "green", captions=False)
    facts = inspect_picture_folder(folder)
    assert (facts.pictures, facts.has_masks) == (2, True)
    text = build_starter_config_text(
        StarterConfigOptions("lora", folder, kind="mug"), facts, tmp_path, ""
    )
    assert "# attention_pixel_weight = 1.0" in text
    out = tmp_path / "on.toml"
    for key in ("attention_weight", "preserve_weight", "preserve_words", "masked_word"):
        assert f"# {key} = " in text
        text = text.replace(f"# {key} = ", f"{key} = ")
    out.write_text(text, "utf-8")
    config = load_run_config(out)
    assert config.target.attention_weight == 0.1
    assert config.target.preserve_words == {"sks mug": "mug"}
    assert config.data.masked_word == "sks mug"
    assert config.data.subsets[0].masks == folder / "masks"


def test_transparent_pictures_are_offered_as_masks(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder / "cut.png")
    text = build_starter_config_text(
        StarterConfigOptions("full", folder, kind="mug"),
        inspect_picture_folder(folder),
        tmp_path,
        "",
    )
    assert "# alpha_mask = true" in text
    assert "# attention_weight = 0.1" in text


def worse_ones_of(folder: Path, out: Path) -> None:
    out.mkdir()
    for path in folder.glob("*.png"):
        ImageOps.invert(Image.open(path)).save(out / path.name)


def test_pairs_are_learned_from_as_preferences(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red", "green")
    worse_ones_of(folder, folder / "losers")
    config = written("lora", folder, kind="mug")
    assert config.target.preference_beta == 2000
    assert config.data.subsets[0].losers == folder / "losers"


def test_better_and_worse_pictures_beside_each_other_are_pairs(tmp_path: Path) -> None:
    folder_of(tmp_path / "pairs/win", "red", "green")
    worse_ones_of(tmp_path / "pairs/win", tmp_path / "pairs/lose")
    config = written("lora", tmp_path / "pairs")
    assert config.target.preference_beta == 2000
    (subset,) = config.data.subsets
    assert subset.folder == tmp_path / "pairs/win"
    assert subset.losers == tmp_path / "pairs/lose"


@pytest.mark.parametrize("method", ["dreambooth", "dreambooth-lora"])
def test_pairs_are_refused_where_class_pictures_have_none(tmp_path: Path, method: str) -> None:
    folder = folder_of(tmp_path / "mugs", "red", "green")
    worse_ones_of(folder, folder / "losers")
    out = tmp_path / "start.toml"
    with pytest.raises(ArgumentError, match=rf"--init {method}: .*losers .*--init lora.*move"):
        write_starter_config(StarterConfigOptions(method, folder, kind="mug"), out)
    assert not out.exists()


def test_preservation_is_offered_where_nothing_else_keeps_the_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red")
    facts = inspect_picture_folder(folder)
    offered = {
        method
        for method in FINE_TUNES
        if "preserve_words"
        in build_starter_config_text(
            StarterConfigOptions(method, folder, kind="mug"), facts, tmp_path, ""
        )
    }
    assert offered == {"full", "cross-attention", "lora", "dora", "pivotal"}
