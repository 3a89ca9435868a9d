"""Edits that read rows of self-attention of a recorded source, and what is recorded for them."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from pipelines.prompt_to_prompt.recording import RecordedSteps
from pipelines.prompt_to_prompt.recording_size import estimate_recording_bytes
from pipelines.prompt_to_prompt.replayable_edits import check_replayable_edits
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import InjectQueriesKeys, Replace, ShareKeysValues, Sites, StyleAligned, attend
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.errors import ArgumentError, AttentionError
from tests.sweeps import sweep
from tests.tiny import picture, tiny_sd_components, tiny_sdxl_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, TARGET = "a red cat", "a red dog"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0}
EDITS = [
    [ShareKeysValues()],
    [InjectQueriesKeys()],
    [ShareKeysValues(steps=(2, 4), sites=None), InjectQueriesKeys(steps=(0, 2), heads=(0,))],
    [Replace(), ShareKeysValues(sites=Sites(place=("up", "mid")))],
    [StyleAligned(source_weight=2.0, steps=(1, 4))],
]
NEAR = 1e-12
"""Of the largest latent, in float64."""


def quiet(components):
    pipe = PromptEditPipeline(**components).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return quiet(tiny_sd_components())


def assert_near(left, right):
    difference = float((left - right).abs().max())
    assert difference <= NEAR * float(right.abs().max()), difference


def names(edits):
    return "+".join(type(edit).__name__ for edit in edits)


@pytest.mark.parametrize("edits", sweep(EDITS, quick=EDITS[2:]), ids=names)
def test_a_target_equals_the_one_with_the_source_beside_it(pipe, edits):
    targets = [TARGET, "a blue cat"]
    both = pipe(SOURCE, targets, edits=edits, seed=3, output_type="latent", **RUN).images
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, **RUN)
    alone = pipe(kept, targets, edits=edits, output_type="latent").images
    assert_near(alone, both)
    plain = pipe(kept, TARGET, edits=[], output_type="latent").images
    assert float((alone[1] - plain[1]).abs().max()) > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": "blue"},
        {"guidance": Interval(AdaptiveProjected(3.0), 0.2, 0.8)},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_branch_is_recorded_that_the_run_has(pipe, settings):
    told = {"num_inference_steps": 4} | settings
    edits = [ShareKeysValues(), InjectQueriesKeys()]
    both = pipe(SOURCE, TARGET, edits=edits, seed=3, output_type="latent", **told).images
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, **told)
    assert_near(pipe(kept, TARGET, edits=edits, output_type="latent").images, both)


def test_sdxl():
    pipe = quiet(tiny_sdxl_components())
    edits = [ShareKeysValues(steps=None)]
    both = pipe(SOURCE, TARGET, edits=edits, seed=3, output_type="latent", **RUN).images
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, **RUN)
    assert_near(pipe(kept, TARGET, edits=edits, output_type="latent").images, both)


@pytest.mark.parametrize("method", sweep(["edit-friendly", "bdia", "ddim"], quick=2))
def test_a_picture_equals_the_run_of_both_rows_along_its_path(pipe, method):
    """Where the recorded run is guided, its rows are those that the source has in the batch."""
    edits = [ShareKeysValues(), InjectQueriesKeys(), StyleAligned()]
    source = pipe.invert(picture(), SOURCE, method, seed=1, for_edits=edits, **RUN)
    alone = pipe(source, TARGET, edits=edits, output_type="latent").images
    with pipe.overriding_calls(source.call_overrides(pipe)), attend(pipe) as attn:
        for edit in edits:
            attn.edit(edit)
        both = TextToImagePipeline.__call__(
            pipe,
            [SOURCE, TARGET],
            latents=source.noise.repeat(2, 1, 1, 1),
            output_type="latent",
            **RUN | {"num_inference_steps": source.steps.count},
        ).images
    assert_near(alone, both)


def test_the_style_of_a_picture_with_noise_of_its_own(pipe):
    edit = StyleAligned(source_weight=2.0)
    source = pipe.invert(picture(), SOURCE, "direct", for_edits=[edit], **RUN)

    def drawn(*edits):
        with attend(pipe, recorded_source=source) as attn:
            for one in edits:
                attn.edit(one)
            noise = torch.Generator().manual_seed(5)
            call = RUN | {"generator": noise, "output_type": "latent"}
            return TextToImagePipeline.__call__(pipe, TARGET, **call).images

    styled, plain = drawn(edit), drawn()
    assert float((styled - plain).abs().max()) > 1e-3
    free = TextToImagePipeline.__call__(
        pipe, TARGET, generator=torch.Generator().manual_seed(5), output_type="latent", **RUN
    ).images
    assert torch.equal(plain, free)


def test_without_a_row_of_the_negative_prompt_the_target_takes_that_of_the_prompt(pipe):
    """A path of guidance 1 has the branch "cond" alone; both branches of the target copy it."""
    edits = [ShareKeysValues(steps=None, sites=None)]
    source = pipe.invert(picture(), SOURCE, "direct", for_edits=edits, **RUN)
    assert source.branches_at_step(0) == ("cond",)
    expected = pipe(source, TARGET, edits=edits, output_type="latent").images

    def with_uncond(tensors):
        added = {}
        for name, tensor in tensors.items():
            site, _, part = name.rpartition("/")
            if part in ("key", "value"):
                added[f"{site}/uncond/{part}"] = tensor
        return tensors | added

    steps = [with_uncond(dict(source.steps[step])) for step in range(source.steps.count)]
    explicit = dataclasses.replace(source, steps=RecordedSteps(kept=steps, count=len(steps)))
    assert explicit.branches_at_step(0) == ("cond", "uncond")
    assert torch.equal(pipe(explicit, TARGET, edits=edits, output_type="latent").images, expected)


def test_rows_of_a_recorded_source_lie_behind_the_batch():
    one = DenoiserPass(0, 4, ("uncond", "cond"), 2, 2, num_recorded=1)
    assert one.rows_of_prompt_in_all_branches(0) == (4, 4)
    assert one.rows_of_prompt_in_all_branches(1) == (0, 2)
    assert one.rows_of_prompt_in_all_branches(2) == (1, 3)
    whole = dataclasses.replace(one, recorded_branches=("cond", "uncond"))
    assert whole.rows_of_prompt_in_all_branches(0) == (5, 4)
    assert whole.cond_rows_of_prompt(0) == one.cond_rows_of_prompt(0) == (4,)


def test_a_folder_gives_the_same_pictures(pipe, tmp_path):
    edits = [ShareKeysValues()]
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, folder=tmp_path / "cat", **RUN)
    again = load_recorded_source(tmp_path / "cat")
    drawn = [pipe(one, TARGET, edits=edits, output_type="latent").images for one in (kept, again)]
    assert torch.equal(*drawn)


def test_only_what_the_edits_read_is_recorded_and_its_size_is_known_after_one_step(pipe):
    plain = pipe.remember(SOURCE, seed=3, **RUN)
    edits = [ShareKeysValues(steps=(2, 4), sites="up_blocks.1.attentions.0")]
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, **RUN)
    assert plain.steps[1].keys() == kept.steps[1].keys()
    added = {name for name in kept.steps[2] if name not in plain.steps[2]}
    assert all(name.startswith("up_blocks.1.attentions.0") for name in added)
    assert {name.split("/", 1)[1] for name in added} == {"value", "uncond/value", "uncond/key"}
    passes = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(ArgumentError, match="or fewer sites and steps in for_edits="):
            pipe.remember(SOURCE, seed=3, for_edits=edits, budget=kept.bytes - 1, **RUN)
    finally:
        hook.remove()
    assert len(passes) == 1
    again = pipe.remember(SOURCE, seed=3, for_edits=edits, budget=kept.bytes, **RUN)
    assert again.bytes == kept.bytes


def test_without_guidance_the_size_is_known_before_it_is_recorded(pipe):
    edits = [ShareKeysValues(steps=(1, 3)), InjectQueriesKeys(sites=Sites(place="mid"))]
    run = {"num_inference_steps": 4, "guidance_scale": 1.0, "max_positions": 4}
    kept = pipe.remember(SOURCE, seed=3, for_edits=edits, **run)
    assert estimate_recording_bytes(pipe, 4, 32, 32, 4, edits) == kept.bytes


@pytest.mark.parametrize(
    ("recorded", "asked", "covered"),
    [
        (ShareKeysValues(steps=None), ShareKeysValues(), True),
        (ShareKeysValues(), ShareKeysValues(steps=None), False),
        (ShareKeysValues(sites=None), ShareKeysValues(sites="up_blocks"), True),
        (ShareKeysValues(), ShareKeysValues(sites="up_blocks"), False),
        (ShareKeysValues(), ShareKeysValues(sites=Sites(place="up", max_positions=64)), True),
        (ShareKeysValues(sites=Sites(max_positions=16)), ShareKeysValues(), False),
        (ShareKeysValues(sites=Sites(place=("up", "mid"))), ShareKeysValues(), True),
        (ShareKeysValues(steps=None), InjectQueriesKeys(), False),
        (ShareKeysValues(heads=(0,)), ShareKeysValues(), True),
        (StyleAligned(), InjectQueriesKeys(), True),
        (ShareKeysValues(sites=None, steps=None), StyleAligned(), False),
        (StyleAligned(source_weight=2.0), StyleAligned(), True),
    ],
)
def test_an_edit_is_covered_by_one_that_reads_as_much(recorded, asked, covered):
    assert recorded.reads_superset_of(asked, 50) is covered


def test_what_was_not_recorded_is_refused_in_words(pipe):
    kept = pipe.remember(SOURCE, seed=3, **RUN)
    with pytest.raises(ArgumentError, match=r"not for this source: .*for_edits=\[ShareKeysVal"):
        pipe(kept, TARGET, edits=[ShareKeysValues()])
    less = pipe.remember(SOURCE, seed=3, for_edits=[ShareKeysValues(steps=(0, 1))], **RUN)
    with pytest.raises(ArgumentError, match=r"was recorded for ShareKeysValues\(.* only: record"):
        pipe(less, TARGET, edits=[ShareKeysValues()])


def test_a_session_of_one_s_own_refuses_it_at_the_site(pipe):
    kept = pipe.remember(SOURCE, seed=3, for_edits=[ShareKeysValues(steps=(0, 1))], **RUN)

    def run():
        with attend(pipe, recorded_source=kept) as attn:
            attn.edit(ShareKeysValues(steps=None))
            TextToImagePipeline.__call__(pipe, TARGET, **RUN)

    with pytest.raises(AttentionError, match="copies values of the recorded source at up_blocks"):
        run()


def test_a_folder_of_an_earlier_commit_refuses_in_words(tmp_path):
    folder = Path(__file__).parent / "recorded_source_v2"
    kept = load_recorded_source(shutil.copytree(folder, tmp_path / "kept"))
    with pytest.raises(ArgumentError, match=r"recorded only on request.*for_edits=\[InjectQ"):
        check_replayable_edits([InjectQueriesKeys()], kept)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("auto", r"Got for_edits='auto', expected a list of the edits"),
        ([ShareKeysValues], r"Got for_edits=\[<class"),
        ([ShareKeysValues(source=1, target=2)], "ShareKeysValues with source=1 in for_edits"),
    ],
)
def test_what_is_no_edit_of_a_source_is_refused(pipe, edits, message):
    with pytest.raises(ArgumentError, match=message):
        pipe.remember(SOURCE, for_edits=edits, **RUN)
