"""ControlNets and T2I-Adapters that are trained: begun, computed, written, measured, refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import t2i
from t2i.cli import main
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from tests.sweeps import sweep
from tests.train.control_runs import (
    KINDS,
    NETWORKS,
    SCENES,
    batch_of,
    run_of,
    scenes_of,
    target_of,
)
from tests.train.runs import train_only
from tests.train.states import logged, newest
from train.batches.micro_batch import MicroBatch
from train.config.load_config import load_run_config
from train.dry_run.dry_run import print_dry_run
from train.loop import run_training
from train.targets.control_network import HINT, ControlNetTarget


@pytest.fixture(scope="module", params=KINDS)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base: Path
) -> tuple[str, Path]:
    """A finished run of each kind, whole with its result; to be read only."""
    folder = tmp_path_factory.mktemp("control")
    assert run_training(run_of(folder, base, request.param, "validation.every=3"), folder / "out")
    return request.param, folder / "out"


def test_the_network_alone_is_trained_and_begins_from_the_unet(base: Path, tmp_path: Path) -> None:
    target = target_of(run_of(tmp_path, base, "controlnet"))
    assert {name.split(".")[0] for name in target.collect_trained_parameters_by_name()} == {
        "network"
    }
    theirs, ours = target.unet.state_dict(), target.network.state_dict()
    shared = [name for name in ours if name in theirs]
    assert len(shared) > 20
    assert all(torch.equal(theirs[name], ours[name]) for name in shared)


def test_without_cross_attention_it_has_the_rest_of_the_unets_weights(
    base: Path, tmp_path: Path
) -> None:
    whole = target_of(run_of(tmp_path, base, "controlnet")).network.state_dict()
    config = run_of(tmp_path, base, "controlnet", "target.cross_attention=false")
    reduced = target_of(config).network.state_dict()
    dropped = (".attentions.", "mid_block.resnets.1.")  # diffusers' plain mid block is one resnet
    assert reduced.keys() == {key for key in whole if not any(one in key for one in dropped)}
    copied = [key for key in reduced if not key.startswith("controlnet_")]
    assert len(copied) > 20
    assert all(torch.equal(whole[key], reduced[key]) for key in copied)


def test_a_trained_network_with_cross_attention_does_not_lose_it_silently(
    base: Path, tmp_path: Path
) -> None:
    for cross_attention in ("true", "false"):
        made = run_of(tmp_path, base, "controlnet", f"target.cross_attention={cross_attention}")
        target_of(made).network.save_pretrained(tmp_path / cross_attention)
    without = "target.cross_attention=false"
    with pytest.raises(ArgumentError, match=r"target\.network = .*true' has cross-attention"):
        target_of(
            run_of(tmp_path, base, "controlnet", without, f"target.network={tmp_path / 'true'}")
        )
    same = f"target.network={tmp_path / 'false'}"
    assert target_of(run_of(tmp_path, base, "controlnet", without, same)).network is not None


@pytest.mark.parametrize("cross_attention", ["true", "false"])
@torch.no_grad()
def test_a_fresh_controlnet_changes_nothing(
    cross_attention: str, base: Path, tmp_path: Path
) -> None:
    config = run_of(tmp_path, base, "controlnet", f"target.cross_attention={cross_attention}")
    target, batch = target_of(config).eval(), batch_of(config, tmp_path / "out")
    noised = target._add_noise(batch)
    told = target._build_conditioning(batch, batch.captions)
    plain = sd.run_unet(target.unet, noised.noisy_BCHW, noised.level.timestep_B, told)
    assert torch.equal(target.predict(noised.noisy_BCHW, noised.level.timestep_B, told), plain)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_trained_is_what_diffusers_computes(kind: str, base: Path, tmp_path: Path) -> None:
    config = run_of(tmp_path, base, kind)
    target, batch = target_of(config).eval(), batch_of(config, tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    for weight in target.network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)
    noised = target._add_noise(batch)
    told = target._build_conditioning(batch, batch.captions)
    assert batch.hints_BCHW is not None
    given = noised.noisy_BCHW, noised.level.timestep_B
    if kind == "controlnet":
        down, middle = target.network(
            *given, told.text_BTD, controlnet_cond=batch.hints_BCHW, return_dict=False
        )
        added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    else:
        added = {"down_intrablock_additional_residuals": target.network(batch.hints_BCHW)}
    theirs = target.unet(*given, told.text_BTD, **added).sample
    ours = target.predict(*given, told)
    assert torch.equal(ours, theirs)
    plain = sd.run_unet(target.unet, *given, told)
    assert (ours - plain).abs().max() > 1e-3


def test_the_result_loads_in_plain_diffusers_and_steers_a_pipeline(
    finished: tuple[str, Path], base: Path, tmp_path: Path
) -> None:
    kind, out = finished
    network = NETWORKS[kind].from_pretrained(out / "model")
    weights = newest(out).tensors["average"]
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[f"network.{name}"])
    notes = json.loads((out / "model/t2i.json").read_text())
    assert notes["base"] == base.name
    assert notes["trained"]["config"]["target"]["kind"] == kind
    assert str(out.parent) not in json.dumps(notes)

    pipe = t2i.load(base)
    loaded = load_control_network(out / "model", pipe.unet)
    hint = tmp_path / "hint.png"
    Image.new("RGB", (32, 32), "red").save(hint)

    def draw(*controls: Control) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        images = pipe("red apple", num_inference_steps=2, generator=generator, controls=controls)
        return np.asarray(images.images[0])

    steered = draw(Control(loaded, hint))
    assert not np.array_equal(steered, draw())
    command = [
        "generate",
        "red apple",
        "--model",
        str(base),
        "--control",
        f"{out / 'model'}:{hint}",
    ]
    command += ["--steps", "2", "--seed", "1", "--out", str(tmp_path / "image.png")]
    assert main(command) == 0
    assert (tmp_path / "image.png").exists()


def contains(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether the picture is somewhere in the sheet, pixel by pixel."""
    height, width = picture.shape[:2]
    corners = np.argwhere((sheet == picture[0, 0]).all(axis=-1))
    return any(np.array_equal(sheet[y : y + height, x : x + width], picture) for y, x in corners)


def test_the_sheet_has_each_hint_beside_its_image(
    finished: tuple[str, Path], base: Path, tmp_path: Path
) -> None:
    kind, out = finished
    sheet = np.asarray(Image.open(out / "samples/step-00000006.png"))
    batch = batch_of(run_of(tmp_path, base, kind), tmp_path / "out", rows=12)
    assert batch.hints_BCHW is not None
    for hint_CHW, pixels_CHW in zip(batch.hints_BCHW, batch.pixels_BCHW, strict=True):
        hint = (hint_CHW * 255).round().byte().permute(1, 2, 0).numpy()
        assert contains(sheet, hint)
        picture = ((pixels_CHW + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert not contains(sheet, picture)


def test_held_out_pictures_are_measured_under_their_hints(
    finished: tuple[str, Path], base: Path, tmp_path: Path
) -> None:
    kind, out = finished
    measured = [line["validation_loss"] for line in logged(out) if "validation_loss" in line]
    assert len(measured) == 3
    config = run_of(tmp_path, base, kind, "validation.every=3")
    for path in (tmp_path / "hints").iterdir():
        Image.new("RGB", Image.open(path).size).save(path)
    train_only(config, tmp_path / "black")
    lines = logged(tmp_path / "black")
    black = [line["validation_loss"] for line in lines if "validation_loss" in line]
    if kind == "controlnet":
        assert black[0] == measured[0]  # which adds nothing yet
    assert black[-1] != measured[-1]


def test_trained_weights_can_be_started_from(
    finished: tuple[str, Path], base: Path, tmp_path: Path
) -> None:
    kind, out = finished
    target = target_of(run_of(tmp_path, base, kind, f"target.network={out / 'model'}"))
    trained = NETWORKS[kind].from_pretrained(out / "model").state_dict()
    assert all(torch.equal(w, trained[n]) for n, w in target.network.state_dict().items())
    other = next(one for one in KINDS if one != kind)
    with pytest.raises(ArgumentError, match=rf"is a {NETWORKS[kind].__name__}, and target\.kind"):
        target_of(run_of(tmp_path, base, other, f"target.network={out / 'model'}"))


def test_weights_for_another_model_are_refused(
    finished: tuple[str, Path], base_xl: Path, tmp_path: Path
) -> None:
    kind, out = finished
    if kind == "controlnet":  # an adapter reads no text, and has no family beside its widths
        with pytest.raises(ArgumentError, match="Control 0 is a ControlNet for text embeddings of"):
            target_of(run_of(tmp_path, base_xl, kind, f"target.network={out / 'model'}"))


def test_hint_dropout_blackens_a_share_of_the_rows_the_same_in_any_part(
    base: Path, tmp_path: Path
) -> None:
    config = run_of(tmp_path, base, "controlnet", "target.hint_dropout=0.5")
    target, batch = target_of(config), batch_of(config, tmp_path / "out")
    assert batch.hints_BCHW is not None
    black = []
    for step in range(40):
        rows = MicroBatch(step, batch.slots, batch.names, batch.captions, batch.pixels_BCHW,
                          hints_BCHW=batch.hints_BCHW)  # fmt: skip
        hints_BCHW = target._drop_hints(rows).hints_BCHW
        assert hints_BCHW is not None
        for row, (kept, whole) in enumerate(zip(hints_BCHW, batch.hints_BCHW, strict=True)):
            assert torch.equal(kept, whole) or not kept.any(), row
            black.append(not kept.any())
        alone = MicroBatch(step, batch.slots[1:2], batch.names[1:2], batch.captions[1:2],
                           batch.pixels_BCHW[1:2], hints_BCHW=batch.hints_BCHW[1:2])  # fmt: skip
        dropped_alone = target._drop_hints(alone).hints_BCHW
        assert dropped_alone is not None
        assert torch.equal(dropped_alone[0], hints_BCHW[1])
    assert 0.35 < np.mean(black) < 0.65
    told = target._build_conditioning(batch, batch.captions)
    assert torch.equal(told.extra[HINT], batch.hints_BCHW)  # as validation has it


def test_a_sheet_draws_given_prompts_under_given_hints_with_heat_maps(
    base: Path, tmp_path: Path
) -> None:
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{number}.png")
    config = run_of(
        tmp_path, base, "controlnet", "samples.hints=['0.png', '1.png']",
        "samples.prompts=['red apple', 'the cat']", "samples.words=['cat']",
    )  # fmt: skip
    assert config.samples.hints == (tmp_path / "0.png", tmp_path / "1.png")
    target, batch = target_of(config).eval(), batch_of(config, tmp_path / "out")
    sheet = np.asarray(target.draw_sample_sheet(batch, config.samples))
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (sheet == colour).all(axis=-1).sum() >= 32 * 32


def refused(
    folder: Path, base: Path, message: str, *overrides: str, kind: str = "controlnet"
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run_of(folder, base, kind, *overrides)


def test_keys_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    bare = f"data.subsets=[{{folder = '{mine}'}}]"
    refused(tmp_path, base, "learns to read a hint beside each picture.*hint_column", bare)
    run_of(tmp_path, base, "controlnet", bare, "data.hint=canny")
    adapter = ("target.kind='t2i-adapter'", "target.cross_attention=false")
    refused(tmp_path, base, r"'target\.cross_attention' is not for this kind", *adapter)
    refused(tmp_path, base, "train.compile compiles the denoiser", "train.compile=true")
    refused(tmp_path, base, "Got 1 samples.prompts and 0 samples.hints", "samples.prompts=['a']")
    path = tmp_path / "no-hint.toml"
    text = SCENES.format(kind="controlnet", base=json.dumps(str(base)))
    path.write_text(text.replace('hint = "segments"', ""))
    with pytest.raises(ArgumentError, match=r'data\.hint, as to "segments"'):
        load_run_config(path)
    finetune = ("target={kind = 'finetune', parts = [{method = 'full'}]}",)
    refused(tmp_path, base, "data has hints, which target.kind = 'finetune'", *finetune)


def test_pictures_that_an_adapter_cannot_halve_are_refused(base: Path, tmp_path: Path) -> None:
    config = scenes_of(tmp_path, base, "t2i-adapter", "data.size=36")
    with pytest.raises(ArgumentError, match=r"data\.size = 36, .*multiples of 8.*data\.size = 40"):
        target_of(config)


def test_a_dry_run_says_what_is_trained(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, words in (
        ("controlnet", "ControlNet, from the UNet"),
        ("t2i-adapter", "from nothing"),
    ):
        print_dry_run(scenes_of(tmp_path, base, kind), as_json=False)
        told = capsys.readouterr().out
        assert words in told
        assert "activations could not be counted" not in told


def test_a_target_has_the_network_in_its_pieces(base: Path, tmp_path: Path) -> None:
    target = target_of(run_of(tmp_path, base, "controlnet"))
    assert isinstance(target, ControlNetTarget)
    target.train()
    assert target.network.training
    assert not target.unet.training


@pytest.mark.parametrize("kind", sweep(KINDS, quick=["controlnet"]))
def test_the_loss_on_one_batch_falls_by_the_network_alone(
    kind: str, base: Path, tmp_path: Path
) -> None:
    config = run_of(tmp_path, base, kind, "target.hint_dropout=0", "target.caption_dropout=0")
    target, batch = target_of(config).train(), batch_of(config, tmp_path / "out")
    steps = torch.optim.Adam(target.collect_trained_parameters_by_name().values(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = target(batch).mean()
        loss.backward()
        steps.step()
        steps.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
