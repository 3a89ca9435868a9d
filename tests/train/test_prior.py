"""DreamBooth's class pictures: drawn once, by the base model, and learned from as the class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import t2i
from t2i.errors import ArgumentError, DataError
from t2i.run_folder import StopSignalHandler
from tests.train.finetunes import finetune_run
from tests.train.runs import accelerator_for, train_only
from train.config.run_config import RunConfig
from train.data.class_picture_config import PriorPreservationConfig
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.registry import build_dataset
from train.loop import run_training
from train.setup import class_pictures
from train.setup.class_pictures import (
    GENERATION_SETTINGS_FILE,
    ClassPictureSpec,
    build_class_picture_spec,
    format_class_picture_name,
    generate_class_pictures_on_main,
    generate_missing_class_pictures,
)
from train.setup.run_data import add_class_picture_subset

pytestmark = pytest.mark.usefixtures("_own_accelerator")

PRIOR = 'prior={prompt="a cat", count=5, steps=2, batch_size=2, weight=0.5}'
CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path, base: Path) -> RunConfig:
    return finetune_run(tmp_path / "run", base, ("lora",), PRIOR, "train.steps=2")


def pictures_of(config: RunConfig, out: Path) -> ClassPictureSpec:
    found = build_class_picture_spec(config, out)
    assert found is not None
    return found


def drawn(config: RunConfig, out: Path) -> dict[str, bytes]:
    generate_missing_class_pictures(pictures_of(config, out), CPU, StopSignalHandler())
    return {path.name: path.read_bytes() for path in sorted((out / "prior").glob("*.png"))}


@pytest.fixture(scope="module")
def all_five(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The class pictures of `config`, by another run of it; to be read only."""
    folder = tmp_path_factory.mktemp("prior")
    drawn(finetune_run(folder, base, ("lora",), PRIOR, "train.steps=2"), folder / "out")
    return folder / "out" / "prior"


@pytest.fixture
def out(tmp_path: Path, all_five: Path) -> Path:
    """The folder of a run whose class pictures are all there."""
    shutil.copytree(all_five, tmp_path / "out" / "prior")
    return tmp_path / "out"


def with_changes(config: RunConfig, **changes: object) -> RunConfig:
    assert config.prior is not None
    prior = config.prior.model_dump() | changes
    return config.model_copy(update={"prior": PriorPreservationConfig.model_validate(prior)})


def test_the_base_model_draws_the_class_each_picture_of_its_own_seed(tmp_path, config, base):
    files = drawn(config, tmp_path / "out")
    assert [*files] == [format_class_picture_name(number) for number in range(5)]
    expected = t2i.load(str(base))(
        "a cat",
        num_inference_steps=2,
        guidance_scale=4.0,
        height=config.data.size,
        width=config.data.size,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    with Image.open(tmp_path / "out" / "prior" / format_class_picture_name(3)) as found:
        difference = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert difference.max() <= 1  # of another batch, and so rounded otherwise


def test_what_is_there_is_not_drawn_again_and_what_is_missing_is(out, config):
    whole = drawn(config, out)
    lost = out / "prior" / format_class_picture_name(2)
    kept = out / "prior" / format_class_picture_name(4)
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert drawn(config, out) == whole
    assert kept.stat().st_mtime_ns == before


def test_nothing_is_loaded_where_all_are_there(out, config, monkeypatch):
    whole = {path.name: path.read_bytes() for path in sorted((out / "prior").glob("*.png"))}
    monkeypatch.setattr(class_pictures, "generate_class_picture_batch", None)
    monkeypatch.setattr("pipelines.text_to_image.TextToImagePipeline.from_pretrained", None)
    assert drawn(config, out) == whole


def test_pictures_of_ones_own_count_and_only_the_rest_is_drawn(tmp_path, config):
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number * 50, 0, 0)).save(folder / f"mine-{number}.png")
    shared = with_changes(config, folder=folder)
    generate_missing_class_pictures(pictures_of(shared, tmp_path / "out"), CPU, StopSignalHandler())
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [
        format_class_picture_name(0),
        format_class_picture_name(1),
        "mine-0.png",
        "mine-1.png",
        "mine-2.png",
    ]
    assert not (tmp_path / "out").exists()


def test_a_stopped_drawing_goes_on_where_it_was(tmp_path, config, monkeypatch, capsys):
    stop, draw = StopSignalHandler(), class_pictures.generate_class_picture_batch

    def draw_and_stop(*arguments):
        stop.wanted = True
        return draw(*arguments)

    out, accelerator = tmp_path / "out", accelerator_for(config)
    with monkeypatch.context() as patch:
        patch.setattr(class_pictures, "generate_class_picture_batch", draw_and_stop)
        assert not generate_class_pictures_on_main(pictures_of(config, out), accelerator, stop)
    assert len([*(out / "prior").glob("*.png")]) == 2
    assert "the same command goes on" in capsys.readouterr().err
    assert generate_class_pictures_on_main(
        pictures_of(config, out), accelerator, StopSignalHandler()
    )
    assert len([*(out / "prior").glob("*.png")]) == 5


def test_pictures_that_were_drawn_otherwise_are_refused_with_the_difference(out, config):
    other = with_changes(config, prompt="a dog")
    with pytest.raises(
        ArgumentError, match=r"drawn with other settings \(prompt: 'a cat' -> 'a dog'\)"
    ):
        generate_missing_class_pictures(pictures_of(other, out), CPU, StopSignalHandler())


def test_a_base_that_moved_may_keep_its_pictures_but_not_add_to_them(out, config):
    notes = out / "prior" / GENERATION_SETTINGS_FILE
    notes.write_text(json.dumps(json.loads(notes.read_text()) | {"base": "elsewhere"}))
    generate_missing_class_pictures(pictures_of(config, out), CPU, StopSignalHandler())
    more = pictures_of(with_changes(config, count=6), out)
    with pytest.raises(ArgumentError, match="base: 'elsewhere' -> "):
        generate_missing_class_pictures(more, CPU, StopSignalHandler())


def test_they_are_learned_from_as_the_class_with_their_weight(out, config):
    own = build_dataset(config.data)
    data = add_class_picture_subset(config.data, config.prior, out)
    assert isinstance(data, PictureDatasetConfig)
    both = build_dataset(data.model_copy(update={"prefix": "a photo of", "flip": True}))
    assert isinstance(both, Pictures)
    assert len(both) == len(own) + 5
    prior = [
        both.read_example(index, 0) for index in range(len(both)) if both.is_class_picture(index)
    ]
    thing = [
        both.read_example(index, 0)
        for index in range(len(both))
        if not both.is_class_picture(index)
    ]
    assert {(sample.caption, sample.weight) for sample in prior} == {("a cat", 0.5)}
    assert {sample.weight for sample in thing} == {1.0}
    assert all(sample.caption.startswith("a photo of") for sample in thing)


def test_a_run_draws_them_first_and_goes_on_with_them(tmp_path, config, capsys):
    out = tmp_path / "out"
    assert run_training(config, out)
    assert "class pictures 5/5" in capsys.readouterr().err
    longer = config.train.model_copy(update={"steps": 3})
    assert run_training(config.model_copy(update={"train": longer}), out)
    assert (out / "model" / "lora.safetensors").is_file()


def test_a_run_does_not_go_on_with_other_class_pictures(out, config):
    train_only(config, out)
    Image.new("RGB", (32, 32), "red").save(out / "prior" / format_class_picture_name(0))
    longer = config.train.model_copy(update={"steps": 3})
    with pytest.raises(DataError, match=r"class-00000.png: is missing since the run began"):
        run_training(config.model_copy(update={"train": longer}), out)


def test_they_are_for_a_fine_tune_on_pictures_alone(tmp_path, config):
    tree = config.model_dump()
    tree["data"] = {"kind": "scenes"}
    with pytest.raises(ValidationError, match=r"\[prior\] is for target.kind = 'finetune'"):
        RunConfig.model_validate(tree)
