"""A source that is remembered: later edits compute the targets alone."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from t2i.attention import Replace, SelfReplace, attend
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.share_keys_values import ShareKeysValues
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, AttentionError, DataError, OutputError
from t2i.text.prompt import Prompt
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components, tiny_sdxl_components

SOURCE, TARGET, LONGER = "a red cat", "a red dog", "a red cat and a blue dog"
RUN = {"num_inference_steps": 5, "guidance_scale": 3.0}
NEAR = {torch.float32: 3e-6, torch.float64: 1e-13}
"""Of the largest latent. Measured after 50 steps: 1e-6 in float32, 1.3e-15 in float64, so rounding:
a batch of other size is summed in another order."""


def quiet(components):
    pipe = PromptEditPipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(alone, both):
    assert alone.shape == both.shape
    difference = float((alone - both).abs().max())
    assert difference <= NEAR[both.dtype] * float(both.abs().max()), difference


@pytest.fixture(scope="module")
def pipe():
    return quiet(tiny_sd_components())


@pytest.fixture(scope="module")
def kept(pipe):
    return pipe.remember(SOURCE, seed=3, **RUN)


EDITS = [
    {"target": [TARGET, LONGER]},
    {"target": TARGET, "self_replace": (0.2, 1.0)},
    {"target": TARGET, "edits": [Replace(steps=(0.0, 1.0), words={"dog": (0.0, 0.4)})]},
    {"target": LONGER, "weights": {"dog": -1.0}, "cross_replace": (0.0, 0.5)},
    {"target": SOURCE, "weights": {"red": 3.0}},
    {"target": TARGET, "blend": ("cat", "dog")},
    {"target": TARGET},
    {"target": LONGER},
]
"""First those that have all that the others have, but for the blend: it has tests of its own."""


@pytest.mark.parametrize("asked", sweep(EDITS, quick=4), ids=str)
def test_an_edit_equals_the_one_with_the_source_beside_it(pipe, kept, asked):
    both = pipe(SOURCE, seed=3, output_type="latent", **RUN, **asked).images
    alone = pipe(kept, output_type="latent", **asked).images
    assert_same(alone, both)


@pytest.mark.parametrize("asked", sweep(EDITS[5:2:-1], quick=1), ids=str)
def test_in_double_precision_nothing_but_rounding_is_left(asked):
    pipe = quiet(tiny_sd_components()).to(torch.float64)
    kept = pipe.remember(SOURCE, seed=3, **RUN)
    both = pipe(SOURCE, seed=3, output_type="latent", **RUN, **asked).images
    assert_same(pipe(kept, output_type="latent", **asked).images, both)


def test_the_source_is_not_computed_again(pipe, kept):
    rows = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        pipe(kept, TARGET)
    finally:
        hook.remove()
    assert rows == [2] * 5  # uncond and cond of the target


def test_pictures_come_as_pillow_and_the_source_is_the_first(pipe, kept):
    drawn = pipe(kept, TARGET)
    both = pipe(SOURCE, TARGET, seed=3, **RUN)
    assert drawn.images[0] == kept.image == both.images[0]
    assert drawn.images[1].size == (32, 32)


def with_sampler(name):
    return build_scheduler(name, tiny_sd_components()["scheduler"].config)


@pytest.mark.parametrize("sampler", sweep(["euler a", "heun", "dpm++ 2m"], quick=2))
def test_samplers_that_add_noise_or_turn_twice_a_step(sampler):
    pipe = quiet({**tiny_sd_components(), "scheduler": with_sampler(sampler)})
    kept = pipe.remember(SOURCE, seed=3, **RUN)
    both = pipe(SOURCE, TARGET, blend=("cat", "dog"), seed=3, output_type="latent", **RUN).images
    alone = pipe(kept, TARGET, blend=("cat", "dog"), output_type="latent").images
    assert_same(alone, both)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": "blue"},
        {"negative_prompt": Prompt("(blue:1.2)")},
        {"height": 48, "width": 32},
        {"guidance": Interval(AdaptiveProjected(3.0), 0.2, 0.8)},
        {"latents": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_all_settings_are_taken_over(pipe, settings):
    told = {"num_inference_steps": 4} | settings
    kept = pipe.remember(SOURCE, seed=3, **told)
    both = pipe(SOURCE, TARGET, seed=3, output_type="latent", **told).images
    alone = pipe(kept, TARGET, output_type="latent").images
    assert_same(alone, both)


def test_a_prompt_in_a_grammar_is_remembered_at_every_step(pipe, tmp_path):
    source, target = Prompt("a [red:blue:0.5] cat"), Prompt("a [red:blue:0.5] dog")
    pipe.remember(source, seed=3, folder=tmp_path / "kept", **RUN)
    kept = load_recorded_source(tmp_path / "kept")
    both = pipe(source, target, seed=3, output_type="latent", **RUN).images
    alone = pipe(kept, target, output_type="latent").images
    assert_same(alone, both)


def test_sdxl():
    pipe = quiet(tiny_sdxl_components())
    kept = pipe.remember(SOURCE, seed=3, **RUN)
    both = pipe(SOURCE, TARGET, seed=3, output_type="latent", **RUN).images
    alone = pipe(kept, TARGET, output_type="latent").images
    assert_same(alone, both)


def test_half_precision_keeps_half_and_equals_within_its_rounding(pipe):
    half = quiet(tiny_sd_components()).to(torch.bfloat16)
    kept = half.remember(SOURCE, seed=3, **RUN)
    assert kept.bytes == pipe.remember(SOURCE, seed=3, **RUN).bytes // 2
    both = half(SOURCE, TARGET, seed=3, output_type="latent", **RUN).images
    alone = half(kept, TARGET, output_type="latent").images
    torch.testing.assert_close(alone.float(), both.float(), atol=0.1, rtol=0)


def test_on_disk_it_is_the_same_and_read_step_by_step(pipe, kept, tmp_path):
    folder = tmp_path / "cat"
    written = pipe.remember(SOURCE, seed=3, folder=folder, **RUN)
    again = load_recorded_source(folder)
    assert written.bytes == again.bytes == kept.bytes
    expected = pipe(kept, TARGET, output_type="latent").images
    for one in (written, again):
        assert torch.equal(pipe(one, TARGET, output_type="latent").images, expected)
    names = sorted(path.name for path in folder.iterdir())
    assert names[:3] == ["begun.safetensors", "ended.safetensors", "remembered.json"]
    assert names[3:] == [f"step-{step:05d}.safetensors" for step in range(5)]
    assert not again.steps.kept
    assert again.image == kept.image


def test_a_run_that_fails_leaves_no_folder(pipe, tmp_path):
    with pytest.raises(ArgumentError, match="Recording this source takes"):
        pipe.remember(SOURCE, seed=3, folder=tmp_path / "cat", budget=1000, **RUN)
    assert not list(tmp_path.iterdir())


def test_the_budget_is_kept_after_the_first_step(pipe, kept):
    passes = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(ArgumentError, match=r"takes .* GiB, but the budget is .*raise it"):
            pipe.remember(SOURCE, seed=3, budget=kept.bytes - 1, **RUN)
    finally:
        hook.remove()
    assert len(passes) == 1
    assert pipe.remember(SOURCE, seed=3, budget=kept.bytes, **RUN).bytes == kept.bytes


def test_a_folder_of_somebody_else_is_not_replaced(pipe, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a recorded source: it is not replaced"):
        pipe.remember(SOURCE, folder=tmp_path, **RUN)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    pipe.remember(SOURCE, folder=tmp_path / "new", seed=3, **RUN)
    pipe.remember(TARGET, folder=tmp_path / "new", seed=3, **RUN)
    assert load_recorded_source(tmp_path / "new").prompt == TARGET


@dataclass(frozen=True, kw_only=True)
class CopyValues(Edit):
    kinds = ("self",)
    source: int = 0
    target: int = 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_inference_steps": 6}, "recorded with num_inference_steps=5, but this call"),
        ({"guidance_scale": 7.0}, r"guidance_scale=3\.0"),
        ({"seed": 4}, "seed=3"),
        ({"negative_prompt": "x"}, "negative_prompt=None"),
        ({"width": 48}, "width=32"),
        ({"generator": torch.Generator()}, "Got generator or latents with a recorded source"),
        ({"edits": [ShareKeysValues()]}, "ShareKeysValues reads of its source .* not for this"),
        ({"edits": [CopyValues()]}, "CopyValues cannot read a recorded source: only Replace"),
        ({"edits": [Replace(source=1, target=0)]}, "target=0, which is the recorded source"),
        ({"edits": [SelfReplace(max_positions=None)]}, "SelfReplace has max_positions=None"),
    ],
)
def test_what_does_not_fit_is_refused(pipe, kept, given, message):
    with pytest.raises(ArgumentError, match=message):
        pipe(kept, TARGET, **given)


def test_another_model_sampler_or_precision_is_refused(kept):
    other = quiet(tiny_sd_components())
    assert len(other(kept, TARGET).images) == 2  # the same weights
    with torch.no_grad():
        other.unet.conv_in.bias[0] += 0.1
    with pytest.raises(ArgumentError, match="The source was recorded with model="):
        other(kept, TARGET)
    sampled = quiet({**tiny_sd_components(), "scheduler": with_sampler("euler")})
    with pytest.raises(ArgumentError, match="sampler='DDIMScheduler'"):
        sampled(kept, TARGET)


def test_a_probe_reads_the_target_while_the_source_is_remembered(pipe, kept):
    with attend(pipe) as attn:
        maps = attn.probe("dog")
        pipe(kept, TARGET)
    with attend(pipe) as attn:
        expected = attn.probe("dog", prompt=1)
        pipe(SOURCE, TARGET, seed=3, **RUN)
    torch.testing.assert_close(maps["dog"], expected["dog"], atol=1e-4, rtol=0)


def test_an_older_processor_is_refused(kept):
    from diffusers.models.attention_processor import AttnProcessor

    pipe = quiet(tiny_sd_components())
    pipe.unet.set_attn_processor(AttnProcessor())
    with pytest.raises(
        AttentionError, match=r"older processor.*set_attn_processor\(AttnProcessor2_0"
    ):
        pipe(kept, TARGET)


def test_folders_that_are_none_are_named(pipe, tmp_path):
    with pytest.raises(DataError, match="is not a recorded source"):
        load_recorded_source(tmp_path)
    folder = tmp_path / "cat"
    pipe.remember(SOURCE, seed=3, folder=folder, **RUN)
    (folder / "step-00003.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks step-00003\.safetensors: record"):
        load_recorded_source(folder)
    pipe.remember(SOURCE, seed=3, folder=folder, **RUN)
    (folder / "ended.safetensors").write_bytes(b"{}")
    with pytest.raises(DataError, match=r"ended\.safetensors has changed since it was written"):
        load_recorded_source(folder)
    shutil.rmtree(folder)
    pipe.remember(SOURCE, seed=3, folder=folder, **RUN)
    manifest = json.loads((folder / "remembered.json").read_text()) | {"version": 9}
    (folder / "remembered.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="format 9, this t2i reads 2"):
        load_recorded_source(folder)


FILES = ["begun.safetensors", "ended.safetensors", "remembered.json", "step-00001.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_bit_that_has_flipped_is_noticed(pipe, tmp_path, name):
    folder = tmp_path / "cat"
    pipe.remember(SOURCE, seed=3, folder=folder, num_inference_steps=2)
    load_recorded_source(folder)
    content = bytearray((folder / name).read_bytes())
    place = content.index(b"red cat") if name.endswith("json") else len(content) - 5
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"cat/{name} has changed since it was written.*again"):
        load_recorded_source(folder)


def test_a_folder_without_digests_is_of_another_layout(pipe, tmp_path):
    pipe.remember(SOURCE, seed=3, folder=tmp_path / "cat", num_inference_steps=2)
    path = tmp_path / "cat" / "remembered.json"
    manifest = json.loads(path.read_text()) | {"version": 1}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="format 1, this t2i reads 2: record the source again"):
        load_recorded_source(tmp_path / "cat")


def test_a_remembered_source_with_files_of_somebody_else_is_not_replaced(pipe, tmp_path):
    folder = tmp_path / "cat"
    pipe.remember(SOURCE, seed=3, folder=folder, num_inference_steps=2)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds mine\.txt, and is not a .* it is not replaced"):
        pipe.remember(TARGET, seed=3, folder=folder, num_inference_steps=2)
    assert (folder / "mine.txt").read_text() == "mine"
    assert load_recorded_source(folder).prompt == SOURCE
