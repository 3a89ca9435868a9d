"""A run's TOML: what is unknown, missing or impossible is said in the user's words."""

from pathlib import Path

import pytest
import torch

from t2i.denoiser.build import NewModelConfig, build_fresh_components
from t2i.errors import ArgumentError
from tests.train.runs import MODEL, RUN, tiny_model, tiny_run, write_run
from train.config.config_changes import list_forbidden_changes
from train.config.load_config import load_run_config
from train.targets.denoiser import ScratchDenoiserTargetConfig
from train.targets.finetune import FineTuneTargetConfig
from train.targets.parts.adapters import AdapterPartConfig


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "target.vae=../vae")
    assert config.model == tmp_path / "model.toml"
    assert isinstance(config.target, ScratchDenoiserTargetConfig)
    assert config.target.vae == tmp_path / "../vae"


def test_overrides_are_toml_values_or_bare_words(tmp_path: Path) -> None:
    config = tiny_run(
        tmp_path, "train.steps=9", "optimizer.betas=[0.5, 0.6]", "objective.prediction=sample"
    )
    assert config.train.steps == 9
    assert config.optimizer.betas == (0.5, 0.6)
    assert config.objective.prediction == "sample"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=9", r"Unknown key 'train.stepz'. Did you mean 'steps'\?"),
        ("objektive.weight=none", r"Unknown key 'objektive'. Did you mean 'objective'\?"),
        ("target.caption_dropuot=0.5", r"Did you mean 'caption_dropout'\?"),
        ("data.sizze=32", r"Did you mean 'size'\?"),
        ("train.steps=-1", r"train.steps: .*greater than or equal to 1 \(given: -1\)"),
        ("objective.prediction=epsilom", "objective.prediction: .*'epsilon'"),
        ("target.kind=lora", "'denoiser'"),
        ("nonsense", "expected KEY=VALUE"),
        ("seed.deep=1", "'seed' is a value, not a table"),
        ("train.batch_size=true", r"train.batch_size: expected a whole number.*, got true\."),
        ('train.batch_size="8"', r'train.batch_size: expected a whole number.*, got "8"\.'),
        ("train.batch_size=some", r'train.batch_size: expected a whole number.*, got "some"\.'),
        ("train.tensorboard=1", r"train.tensorboard: expected true or false, got 1\."),
        ("samples.prompts=a fish", r'samples.prompts: expected a list in brackets, got "a fish"'),
        ("samples.prompts=[5]", r"samples.prompts.0: expected text in quotes.*, got 5\."),
        ("train=5", r"train: expected a table, got 5\."),
        ("data.kind=foo", r"data.kind: expected one of 'scenes', .*, got 'foo'\."),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny_run(tmp_path, override)


PICTURES = ("data.kind=pictures", "data.folder=cups")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.folder=5", r'data.folder: expected a path in quotes, as in "my-pictures", got 5\.$'),
        ("data.size=100", r"bucket_step = 8: choose one that is, as 96 or 104\.$"),
        ("data.size=360", r"step = 64: choose one that is, as 320 or 384, or bucket_step = 8 for"),
        ("data.held_out=true", r"data.held_out: expected a whole number.*, got true\."),
        ("data.held_out=some", r'data.held_out: expected a whole number.*, got "some"\.'),
        ("data.subsets=[{folder=5}]", r"data.subsets.0.folder: expected a path in quotes"),
    ],
)
def test_a_wrong_value_of_pictures_is_said_without_their_table(
    tmp_path: Path, override: str, message: str
) -> None:
    path = write_run(tmp_path, RUN.split("[data]")[0] + "[train]\nsteps = 1\nbatch_size = 1\n")
    with pytest.raises(ArgumentError, match=message) as refused:
        load_run_config(path, [*PICTURES, override])
    assert "{" not in str(refused.value)
    assert "Path(" not in str(refused.value)


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


def test_an_override_may_name_an_entry_of_a_list() -> None:
    overrides = ("target.parts.0.rank=4", "samples.prompts.1=a dog")
    config = load_run_config(CONFIGS / "lora.toml", overrides)
    assert isinstance(config.target, FineTuneTargetConfig)
    assert isinstance(config.target.parts[0], AdapterPartConfig)
    assert config.target.parts[0].rank == 4
    assert config.samples.prompts[1] == "a dog"


@pytest.mark.parametrize("entry", ["2", "first", "-1"])
def test_an_entry_that_a_list_does_not_have_is_named(entry: str) -> None:
    message = (
        f"'target.parts' is a list and has no entry '{entry}'.*target.parts.0 to target.parts.1"
    )
    with pytest.raises(ArgumentError, match=message):
        load_run_config(CONFIGS / "lora.toml", (f"target.parts.{entry}.rank=4",))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, RUN.replace("steps = 4\n", ""))
    with pytest.raises(ArgumentError, match=r"'train.steps' is missing"):
        load_run_config(path)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"No such training config: .*absent.toml"):
        load_run_config(tmp_path / "absent.toml")
    (tmp_path / "my cups").mkdir()
    with pytest.raises(ArgumentError, match=r"is a folder, .* t2i train --init lora '.*my cups'$"):
        load_run_config(tmp_path / "my cups")
    with pytest.raises(ArgumentError, match="Cannot read the training config"):
        load_run_config(write_run(tmp_path, "steps = = 3"))


def test_the_reason_for_refusing_epsilon_with_zero_terminal_snr_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="predicting it teaches nothing"):
        tiny_run(tmp_path, "objective.prediction=epsilon")


def test_only_harmful_differences_count(tmp_path: Path) -> None:
    before = tiny_run(tmp_path).model_dump(mode="json")
    harmless = tiny_run(tmp_path, "train.steps=99", "train.keep=7", "samples.columns=3")
    assert list_forbidden_changes(before, harmless.model_dump(mode="json")) == []
    harmful = tiny_run(tmp_path, "train.batch_size=8", "objective.weight=min_snr")
    assert list_forbidden_changes(before, harmful.model_dump(mode="json")) == [
        "objective.weight: none -> min_snr",
        "train.batch_size: 4 -> 8",
    ]


def test_an_unknown_key_of_a_model_is_named(tmp_path: Path) -> None:
    for wrong, message in [
        ("sample_sizes = 4", "Unknown key of .unet.: 'sample_sizes'. Did you mean 'sample_size'"),
        ("[unett]", "Unknown table of model.toml: 'unett'. Did you mean 'unet'"),
    ]:
        write_run(tmp_path, model=MODEL.replace("[unet]", f"[unet]\n{wrong}"))
        with pytest.raises(ArgumentError, match=message):
            build_fresh_components(NewModelConfig.load_toml(tmp_path / "model.toml"))


def test_an_unknown_autoencoder_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, model=MODEL.replace('"AutoencoderTiny"', '"AutoencoderTny"'))
    with pytest.raises(ArgumentError, match="Did you mean 'AutoencoderTiny'"):
        build_fresh_components(NewModelConfig.load_toml(tmp_path / "model.toml"))


def test_words_of_a_fresh_text_encoder_are_not_drowned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embeddings = (
        build_fresh_components(tiny_model(tmp_path)).text_encoder.get_input_embeddings().weight
    )
    assert embeddings.std().item() == pytest.approx(1, rel=0.05)
