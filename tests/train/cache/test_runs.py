"""Runs over a cache: the run without one, whatever happens in between."""

import gc
import json
import os
import re
import shutil
import signal
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.errors import ArgumentError, DataError, OutputError, TrainingError
from t2i.run_folder import StopSignalHandler
from tests.train import apart
from tests.train.apart import MINUTE, by_two, said
from tests.train.finetunes import finetune_run, finetune_toml
from tests.train.runs import accelerated_for, accelerator_for, tiny_run, train_only
from tests.train.states import newest
from train.batches import micro_batch
from train.cache.encoders import CacheEncoders
from train.cache.freed_weights import has_freed_weights
from train.cache.latent_cache import CachedPictureDataset
from train.cache.shards import ArraysByName, ShardFolder, ShardWriter
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import TrainingRun, run_training
from train.setup import cache_encoding

REPO = Path(__file__).resolve().parents[3]
OFF = ("cache.latents=false", "cache.texts=false")
# Small files, so that some of them are made anew beside those that stay.
SMALL = ("cache.shard_mb=1", "cache.pictures_at_once=4", "cache.captions_at_once=3")
HALVES = ("train.steps=6", *SMALL)
pytestmark = pytest.mark.usefixtures("_own_accelerator")


def weights(out: Path) -> dict[str, Tensor]:
    return dict(newest(out).tensors["weights"])


def end_of(config: RunConfig, out: Path) -> dict[str, Tensor]:
    return dict(train_only(config, out).tensors["weights"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A cached run by one process, beside its TOML; to be read only."""
    folder = tmp_path_factory.mktemp("alone")
    assert run_training(load_run_config(finetune_toml(folder, base, "lora")), folder / "out")
    return folder / "out"


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def ready(config: RunConfig, out: Path) -> TrainingRun:
    return TrainingRun(config, out, accelerator_for(config))


def shards_of(out: Path, kind: str) -> ShardFolder:
    (folder,) = (out / "cache").glob(f"{kind}-*")
    found = ShardFolder(folder)
    found.index_files()
    return found


@pytest.mark.parametrize(
    ("parts", "cached"),
    [
        (("lora",), {"latents", "texts"}),
        (("words",), {"latents"}),
        # Nothing of the cache depends on which weights of the denoiser are trained.
        pytest.param(("full",), {"latents", "texts"}, marks=pytest.mark.long),
        pytest.param(("pivotal",), {"latents"}, marks=pytest.mark.long),
    ],
)
def test_a_cached_run_is_the_run_without_a_cache(tmp_path, base, parts, cached, capfd):
    # With the run's own eps of 1e-5 Adam makes 1.1e-6 of the rounding for "full", with 1e-3 1.2e-7.
    eps = "optimizer.eps=1e-3"
    plain = end_of(finetune_run(tmp_path / "p", base, parts, eps, *OFF), tmp_path / "plain")
    assert "not cached" not in capfd.readouterr().err
    config = finetune_run(tmp_path / "c", base, parts, eps)
    found = end_of(config, tmp_path / "cached")
    # EncodedText alone or in a batch, the autoencoder's convolutions round otherwise.
    assert difference(plain, found) < 1e-6
    assert {path.name.split("-")[0] for path in (tmp_path / "cached/cache").iterdir()} == cached
    said = capfd.readouterr().err
    assert ("The texts are not cached: target.parts[0]" in said) == ("texts" not in cached)


@pytest.mark.slow
def test_sdxl_is_cached_with_both_its_encoders(tmp_path, base_xl):
    plain, cached = (
        finetune_run(tmp_path / "c", base_xl, ("lora",), "train.steps=2", *more)
        for more in (OFF, ())
    )
    found = end_of(cached, tmp_path / "cached")
    assert difference(end_of(plain, tmp_path / "plain"), found) < 1e-6
    assert {*shards_of(tmp_path / "cached", "texts").read("")} == {"text", "pooled"}


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["train.workers=2", "train.precision=bf16"])
def test_any_number_of_workers_and_any_precision_read_one_cache(
    tmp_path, alone, setting, monkeypatch
):
    if "workers" in setting:
        apart.ready()
        monkeypatch.setattr(
            micro_batch, "WORKER_START_METHOD", "forkserver"
        )  # test_pictures.py has "spawn"
    before = {*(alone / "cache").rglob("*")}
    config = load_run_config(
        alone.parent / "run.toml", [f"cache.folder={alone / 'cache'}", setting]
    )
    other = end_of(config, tmp_path / "two")
    assert difference(weights(alone), other) <= (0 if "workers" in setting else 1e-2)
    assert {*(alone / "cache").rglob("*")} == before


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run "half" that was stopped in its middle, beside one that is "whole"; to be read only."""
    folder = tmp_path_factory.mktemp("halves")
    config = finetune_run(folder, base, ("lora",), *HALVES)
    train_only(config, folder / "whole")
    asked = iter([False, False])  # whether to stop: after the third step
    with accelerated_for(config) as accelerator, pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.loop.is_true_on_any_process", lambda *_: next(asked, True))
        training = TrainingRun(config, folder / "half", accelerator)
        assert not training.run(StopSignalHandler())
    assert newest(folder / "half").step == 3
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["none", "gone", "damaged"])
def test_a_resumed_run_is_the_run_bit_for_bit_whatever_became_of_the_cache(
    tmp_path, half_done, harm, recwarn
):
    out = tmp_path / "half"
    shutil.copytree(half_done / "half", out)
    (file,) = (out / "cache").glob("latents-*/*.safetensors")
    if harm == "gone":
        shutil.rmtree(out / "cache")
    elif harm == "damaged":
        file.write_bytes(file.read_bytes()[:-4])
    config = load_run_config(half_done / "run.toml", HALVES)
    assert difference(weights(half_done / "whole"), end_of(config, out)) == 0
    warned = [str(one.message) for one in recwarn if "cache is damaged" in str(one.message)]
    assert len(warned) == (harm == "damaged")
    assert all(str(file) in text for text in warned)


@pytest.mark.slow
def test_what_is_there_is_not_made_again(tmp_path, base, capfd):
    config = finetune_run(tmp_path / "c", base, ("lora",))
    ready(config, tmp_path / "out")
    said = capfd.readouterr().err
    assert "encoding pictures: " in said
    assert "encoding captions: 7 to do" in said
    ready(config, tmp_path / "out")
    longer = config.model_copy(update={"train": config.train.model_copy(update={"log_every": 2})})
    ready(longer, tmp_path / "out")
    assert "encoding" not in capfd.readouterr().err


def test_another_autoencoder_is_another_cache(tmp_path, base, capfd):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    folder = f"cache.folder={tmp_path / 'cache'}"
    ready(finetune_run(tmp_path / "c", base, ("lora",), folder), tmp_path / "a")
    text = (other / "vae/config.json").read_text()
    facts = json.loads(text) | {"scaling_factor": 0.5}
    (other / "vae/config.json").write_text(json.dumps(facts))
    capfd.readouterr()
    ready(finetune_run(tmp_path / "c", other, ("lora",), folder), tmp_path / "b")
    said = capfd.readouterr().err
    assert "encoding pictures" in said
    assert "encoding captions" not in said
    assert len([*(tmp_path / "cache").glob("latents-*")]) == 2


@pytest.mark.slow
def test_two_processes_make_each_their_share_and_equal_one(tmp_path, alone):
    two = tmp_path / "two"
    assert by_two(alone.parent / "run.toml", two) == [0, 0], said(two)
    assert difference(weights(alone), weights(two)) < 1e-5
    for kind in ("latents", "texts"):
        whole, shared = (shards_of(out, kind) for out in (alone, two))
        assert (len(whole.list_file_names()), len(shared.list_file_names())) == (1, 2)
        assert whole._entries.keys() == shared._entries.keys()
        assert len(whole._entries) == sum(count(shared, name) for name in shared.list_file_names())
        for key in whole._entries:
            here, there = whole.read(key), shared.read(key)
            assert all(np.array_equal(here[name], there[name]) for name in here)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seen", ["late", "without what others wrote"])
def test_two_processes_share_out_the_same_work_whatever_each_sees_of_the_folder(
    tmp_path, alone, seen
):
    toml, folder = alone.parent / "run.toml", tmp_path / "cache"
    shutil.copytree(alone / "cache", folder)
    prepare = blind_second
    if seen == "late":
        prepare = hesitant_main
        (file,) = folder.glob("latents-*/*.safetensors")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1  # which none would notice who only opened it
        file.write_bytes(data)
    more = f"cache.folder={folder}"
    assert by_two(toml, tmp_path / "two", more, prepare=prepare) == [0, 0], said(tmp_path / "two")
    assert difference(weights(alone), weights(tmp_path / "two")) < 1e-5


def hesitant_main() -> None:
    """Let the main process take its time before it deletes a damaged file."""
    torch.set_num_threads(1)
    delete = ShardFolder.delete_files_and_stale_parts

    def late(self: ShardFolder, files: list[str]) -> None:
        time.sleep(2)
        delete(self, files)

    ShardFolder.delete_files_and_stale_parts = late


def blind_second() -> None:
    """Let the second process see none of the files, as another run writes them just now."""
    torch.set_num_threads(1)
    files = ShardFolder.list_file_names
    ShardFolder.list_file_names = lambda self: [] if os.environ["RANK"] == "1" else files(self)


@pytest.mark.parametrize(
    ("at_once", "remedy"), [(2, "set cache.pictures_at_once lower"), (1, "smaller data.size")]
)
def test_where_memory_does_not_suffice_to_encode_it_is_said_what_to_do(
    tmp_path, base, monkeypatch, at_once, remedy
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(cache_encoding, "encode_mean_and_std", full)
    config = finetune_run(tmp_path / "c", base, ("lora",), f"cache.pictures_at_once={at_once}")
    with pytest.raises(TrainingError, match=f"Out of memory .* {at_once} picture.*{remedy}"):
        ready(config, tmp_path / "out")


def test_a_held_out_picture_without_finite_latents_is_named_and_another_stands_in(
    tmp_path, base, monkeypatch
):
    settings = ("data.held_out=3", "data.bad_share=0.3", "data.buckets=false", "validation.every=2")
    config = finetune_run(tmp_path / "c", base, ("lora",), "train.steps=2", *settings)
    original = cache_encoding.encode_mean_and_std
    calls = []

    def spoiling(vae, pixels_BCHW):
        calls.append(1)
        moments_BCHW = original(vae, pixels_BCHW)
        return moments_BCHW * (float("inf") if len(calls) == 1 else 1)  # of the first, held out

    monkeypatch.setattr(cache_encoding, "encode_mean_and_std", spoiling)
    with pytest.warns(UserWarning, match="becomes latents that are not finite.*takes its place"):
        training = ready(config, tmp_path / "out")
    assert training.run(StopSignalHandler())


def count(shards: ShardFolder, file: str) -> int:
    return sum(entry.file == file for entry in shards._entries.values())


@pytest.mark.slow
def test_a_kill_in_the_middle_of_the_making_loses_no_finished_file(tmp_path, base):
    pictures = tmp_path / "c" / "pictures"
    toml = finetune_toml(tmp_path / "c", base, "lora")
    rng = np.random.default_rng(3)
    for number in range(12):
        pixels = rng.integers(0, 255, (256, 256, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"more{number}.png")
    settings = ["data.size=256", "data.bucket_step=8", "cache.shard_mb=1", "train.steps=8"]
    apart.ready()
    process = apart.start(toml, tmp_path / "killed", *settings, prepare=hang_after_first_file)
    deadline = time.monotonic() + 90
    while not [*(tmp_path / "killed").glob("cache/latents-*/*.safetensors")]:
        assert time.monotonic() < deadline
        assert process.exitcode is None
        time.sleep(0.05)
    process.kill()
    assert apart.ended(process) == -signal.SIGKILL
    before = shards_of(tmp_path / "killed", "latents")
    assert before.list_damaged_files(before.list_file_names()) == []
    ready(load_run_config(toml, settings), tmp_path / "killed")
    after = shards_of(tmp_path / "killed", "latents")
    assert {*before.list_file_names()} <= {*after.list_file_names()}
    assert before._entries.keys() < after._entries.keys()
    assert len(after._entries) == sum(count(after, name) for name in after.list_file_names())


def hang_after_first_file() -> None:
    """Let the process wait for its end with one file finished and the next one begun."""
    torch.set_num_threads(1)
    add = ShardWriter.add

    def add_or_hang(self: ShardWriter, key: str, arrays: ArraysByName) -> None:
        add(self, key, arrays)
        if self._keys and [*self.folder.glob("*.safetensors")]:
            time.sleep(MINUTE)

    ShardWriter.add = add_or_hang


def test_a_wish_to_stop_while_it_is_made_is_heard(tmp_path, base, monkeypatch, capfd):
    monkeypatch.setattr(StopSignalHandler, "__enter__", wishes_to_stop)
    config = finetune_run(tmp_path / "c", base, ("lora",), "train.steps=1")
    assert not run_training(config, tmp_path / "out")
    assert "stopped while encoding; the same command goes on from here" in capfd.readouterr().err
    monkeypatch.undo()
    assert run_training(config, tmp_path / "out")


def wishes_to_stop(stop: StopSignalHandler) -> StopSignalHandler:
    stop.wanted = True
    return stop


def test_the_encoders_are_gone_before_the_denoiser_comes(tmp_path, base, monkeypatch):
    loaded: list[weakref.ref[Tensor]] = []
    alive_at_unet: list[int] = []
    original = TextToImagePipeline.from_pretrained.__func__

    def watched(cls, place, **given):
        gc.collect()
        if given.get("unet", 1) is not None:  # the denoiser is about to be loaded
            alive_at_unet.append(sum(reference() is not None for reference in loaded))
        pipe = original(cls, place, **given)
        if given.get("unet", 1) is None:
            for part in (pipe.vae, pipe.text_encoder):
                loaded.extend(weakref.ref(weight) for weight in part.parameters())
        return pipe

    monkeypatch.setattr(TextToImagePipeline, "from_pretrained", classmethod(watched))
    training = ready(finetune_run(tmp_path / "c", base, ("lora",)), tmp_path / "out")
    assert len(loaded) > 50
    assert alive_at_unet == [0]
    assert all(name.startswith("unet.") for name, _ in training.target.named_parameters())


@pytest.mark.slow
def test_sheets_and_models_are_those_without_a_cache(tmp_path, base):
    sheets = (
        "train.steps=2",
        "samples.every=2",
        'samples.prompts=["a red apple", "the blue cat"]',
        "samples.steps=2",
        "data.held_out=2",
        "validation.every=2",
        "validation.levels=2",
    )
    for name, more in (("plain", OFF), ("cached", ())):
        config = finetune_run(tmp_path / name, base, ("full",), *sheets, *more)
        assert run_training(config, tmp_path / f"{name}-out")
    plain, cached = tmp_path / "plain-out", tmp_path / "cached-out"
    files = {path.relative_to(plain / "model") for path in (plain / "model").rglob("*")}
    assert files == {path.relative_to(cached / "model") for path in (cached / "model").rglob("*")}
    for part in ("vae", "text_encoder"):
        (weights_file,) = (plain / "model" / part).glob("*.safetensors")
        other = cached / "model" / part / weights_file.name
        assert weights_file.read_bytes() == other.read_bytes()
    one, other = (
        np.asarray(Image.open(out / "samples/step-00000002.png")).astype(int)
        for out in (plain, cached)
    )
    assert np.abs(one - other).max() <= 1
    for one, other in zip(validations(plain), validations(cached), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def validations(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").open()]
    found = [value for line in lines for key, value in line.items() if "valid" in key]
    assert found
    return [one for value in found for one in (value if isinstance(value, list) else [value])]


def test_weights_taken_up_for_a_sheet_are_let_go_again(tmp_path, base):
    training = ready(finetune_run(tmp_path / "c", base, ("lora",)), tmp_path / "out")
    parts = (training.target.vae, training.target.text_encoder)
    assert all(map(has_freed_weights, parts))
    with training.using_ema_weights() as target:
        target.build_pipeline()
        assert not any(map(has_freed_weights, parts))
    assert all(map(has_freed_weights, parts))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.shuffle_captions=true"], "texts are not cached: shuffled captions"),
        (["cache.max_gb=0.00001"], "latents are not cached: they would take .* GB, more than"),
        (["cache.max_gb=0.000001"], "texts are not cached: they would take .* GB, more than"),
    ],
)
def test_what_cannot_be_cached_is_said_and_encoded_as_it_goes(
    tmp_path, base, overrides, said, capfd
):
    config = finetune_run(tmp_path / "c", base, ("lora",), "train.steps=1", *overrides)
    for path in (tmp_path / "c/pictures").glob("*.txt"):
        path.write_text("red, apple, cat")
    training = ready(config, tmp_path / "out")
    assert said.split()[0] not in training.target.cache.facts
    assert re.search(f"The {said}", capfd.readouterr().err)
    assert training.run(StopSignalHandler())


def test_scenes_are_not_cached_and_other_targets_say_nothing(tmp_path, base, capfd):
    toml = tmp_path / "scenes.toml"
    toml.write_text(
        f'[target]\nkind = "finetune"\nbase = {json.dumps(str(base))}\n'
        '[[target.parts]]\nmethod = "lora"\n[data]\nkind = "scenes"\nsize = 32\nlength = 4\n'
        "[train]\nsteps = 1\nbatch_size = 2\n"
    )
    assert run_training(load_run_config(toml), tmp_path / "out")
    said = capfd.readouterr().err
    assert "The latents are not cached: scenes are made anew at each visit." in said
    assert not (tmp_path / "out/cache").exists()
    run_training(tiny_run(tmp_path / "other", "train.steps=1"), tmp_path / "other-out")
    assert "cached" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_choice_of_what_is_cached(tmp_path, alone):
    toml = alone.parent / "run.toml"
    shutil.copytree(alone, tmp_path / "out")
    with pytest.raises(
        ArgumentError, match=r"was started with another configuration: .*cached.latents"
    ):
        run_training(load_run_config(toml, [OFF[0]]), tmp_path / "out")
    moved = tmp_path / "moved"
    (tmp_path / "out/cache").rename(moved)
    settings = (f"cache.folder={moved}", "cache.shard_mb=3", "train.steps=5", "cache.max_gb=3")
    assert run_training(load_run_config(toml, settings), tmp_path / "out")


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path, base, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
    config = finetune_run(tmp_path / "c", base, ("lora",))
    with pytest.raises(
        OutputError, match=r"needs .* GB more, and 9e-09 GB are free: choose anothe"
    ):
        ready(config, tmp_path / "out")
    assert not (tmp_path / "out/cache").exists()


def test_a_picture_that_broke_since_it_was_checked_counts_as_broken(tmp_path, base, monkeypatch):
    settings = ("data.bad_share=0.2", "data.size=32", "train.steps=1")
    config = finetune_run(tmp_path / "c", base, ("lora",), *settings)
    harm_after_checks(monkeypatch, tmp_path / "c/pictures/1.png")
    with pytest.warns(UserWarning, match="1.png: .*another picture takes its place"):
        training = ready(config, tmp_path / "out")
    assert isinstance(training.samples, CachedPictureDataset)
    assert training.run(StopSignalHandler())
    strict = finetune_run(tmp_path / "d", base, ("lora",))
    harm_after_checks(monkeypatch, tmp_path / "d/pictures/1.png")
    with pytest.raises(DataError, match="1 of 6 pictures cannot be used"), pytest.warns():
        ready(strict, tmp_path / "strict")


def harm_after_checks(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The file is cut short when the encoders are loaded, after all pictures were looked at."""
    load_encoders = CacheEncoders.__init__

    def harming(self, *given):
        path.write_bytes(path.read_bytes()[:100])
        load_encoders(self, *given)

    monkeypatch.setattr(CacheEncoders, "__init__", harming)
