"""Reference pictures read by the runs of every kind of pipeline, at the noise levels of each."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler

import pipelines.reference
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.inversion.edit_friendly import EditFriendlyInversion
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.reference import (
    REFERENCE_NOISE_SEED,
    attending_to_reference,
    list_run_timesteps,
    record_reference,
)
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import StyleAligned, attend
from t2i.conditioning.guidance import ClassifierFree, Conditional, ZeroStar
from t2i.conditioning.guidance_interval import Interval
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, DataError
from t2i.text.prompt import Prompt
from tests.pipelines.controls.networks import hint
from tests.pipelines.test_adapters import PICTURE, adapted, seeing
from tests.tiny import picture, tiny_sd_components

__all__ = ["seeing"]  # a fixture

STEPS = 4
SD1_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}


@pytest.fixture
def pipe() -> TextToImagePipeline:
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    return pipe


def editor(pipe: Any) -> PromptEditPipeline:
    editor = PromptEditPipeline(**pipe.components)
    editor.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    return editor


def draw(pipe: Any, **call: Any) -> np.ndarray:
    settings: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "np"}
    settings |= {"generator": torch.Generator().manual_seed(3)}
    images: np.ndarray = pipe(**({"prompt": "a red cat"} | settings | call)).images
    return images


@pytest.mark.filterwarnings("ignore:Drawn again from its noise")
def test_it_is_shared_attention_over_an_inversion_of_independent_noise(pipe: Any) -> None:
    steps = (0.0, 0.75)
    reference = record_reference(
        editor(pipe), hint(1), "a dog", steps=steps, num_inference_steps=STEPS
    )
    with attending_to_reference(pipe, reference, 2.0):
        drawn = draw(pipe)
    edit = StyleAligned(normalise=False, source_weight=2.0, steps=steps)
    kept = editor(pipe).invert(
        *(hint(1), "a dog", EditFriendlyInversion()),
        for_edits=[edit],
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(REFERENCE_NOISE_SEED),
    )
    with attend(pipe, recorded_source=kept) as attn:
        attn.edit(edit)
        expected = draw(pipe)
    assert np.array_equal(drawn, expected)
    assert not np.array_equal(drawn, draw(pipe))


def test_keys_and_values_of_its_self_attention_alone_are_recorded(pipe: Any) -> None:
    reference = record_reference(editor(pipe), hint(1), steps=(0, 2), num_inference_steps=STEPS)
    parts = [
        {(name.split("/")[0].split(".")[-1], name.split("/")[-1]) for name in step if "/" in name}
        for step in map(reference.source.steps.__getitem__, range(STEPS))
    ]
    read = {("attn1", "key"), ("attn1", "value")}
    assert parts == [read, read, set(), set()]


@pytest.mark.parametrize("steps", [(0.0, 1.0), (0.25, 0.75)])
@pytest.mark.parametrize(
    "guidance",
    [
        None,
        Conditional(),
        Interval(ClassifierFree(3.0), 0.3, 0.8),
        ZeroStar(3.0, zero_init_steps=1),
    ],
)
def test_its_size_is_known_before_it_is_made(
    pipe: Any, guidance: Any, steps: tuple[float, float]
) -> None:
    call = {"num_inference_steps": STEPS, "guidance": guidance, "height": 40, "width": 32}
    reference = record_reference(editor(pipe), hint(1), steps=steps, **call)
    source = reference.source
    beside = sum(source.steps[step]["residual"].nbytes for step in range(STEPS))
    most = source.bytes - beside
    record_reference(editor(pipe), hint(1), steps=steps, **call, budget=source.bytes)
    words = f"for an image of 32x40 pixels in 4 steps takes {most / (1 << 30):.3g} GiB of main"
    with pytest.raises(ArgumentError, match=re.escape(words)):
        record_reference(editor(pipe), hint(1), steps=steps, **call, budget=most - 1)


@contextmanager
def running_nothing(pipe: Any) -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise AssertionError("the UNet was run")

    hook = pipe.unet.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_one_that_exceeds_its_budget_is_refused_before_anything_is_run(pipe: Any) -> None:
    whole = record_reference(editor(pipe), hint(1), num_inference_steps=STEPS).source.bytes
    words = r"the budget is .*--reference PICTURE:steps=0-0\.7, which takes .* or take a smaller"
    with running_nothing(pipe), pytest.raises(ArgumentError, match=words):
        record_reference(editor(pipe), hint(1), num_inference_steps=STEPS, budget=whole // 2 + 5000)
    half = record_reference(
        editor(pipe), hint(1), steps=(0.0, 0.7), num_inference_steps=STEPS, budget=whole
    )
    assert half.source.bytes <= whole // 2 + 5000
    with running_nothing(pipe), pytest.raises(ArgumentError, match=r"GiB\. Take a smaller image"):
        record_reference(editor(pipe), hint(1), num_inference_steps=STEPS, budget=1000)
    words = r"steps=0-2, which takes"
    with running_nothing(pipe), pytest.raises(ArgumentError, match=words):
        record_reference(
            editor(pipe), hint(1), steps=(0, 4), num_inference_steps=STEPS, budget=whole // 2 + 5000
        )


def test_one_that_exceeds_the_free_memory_is_refused_before_anything_is_run(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.reference, "read_free_bytes", lambda _device: 100_000)
    with running_nothing(pipe), pytest.raises(ArgumentError, match="of free memory there are"):
        record_reference(editor(pipe), hint(1), num_inference_steps=STEPS)


def test_fifty_steps_of_stable_diffusion_in_half_precision_do_not_fit(
    pipe: Any,
) -> None:
    unet = build_meta_model("UNet2DConditionModel", SD1_UNET).to(torch.float16)
    large = editor(pipe)
    large.register_modules(unet=unet)
    # Keys and values of 16 sites, in both branches, in half precision.
    sites = {64: 5, 32: 5, 16: 5, 8: 1}
    widths = {64: 320, 32: 640, 16: 1280, 8: 1280}
    values = sum(count * side**2 * widths[side] for side, count in sites.items())
    latents = 50 * 4 * 64 * 64 * 2
    needed = 50 * 2 * 2 * values * 2 + latents
    size = {"height": 256, "width": 256}  # a quarter of it in latents, with the tiny autoencoder
    words = (
        f"for an image of 256x256 pixels in 50 steps takes {needed / (1 << 30):.3g} GiB of main "
        "memory, its keys and values of each step, but the budget is 4 GiB. Read it in fewer "
        "steps, as in --reference PICTURE:steps=0-0.9, which takes"
    )
    with pytest.raises(ArgumentError, match=re.escape(words)):
        record_reference(large, hint(1), num_inference_steps=50, **size)


def test_a_batch_shares_one_recording(pipe: Any) -> None:
    reference = record_reference(editor(pipe), hint(1), num_inference_steps=STEPS)

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    with attending_to_reference(pipe, reference):
        both = draw(pipe, num_images_per_prompt=2, generator=seeds())
    with attending_to_reference(pipe, reference):
        prompts = draw(pipe, prompt=["a red cat", "a dog"], generator=seeds())
    for number, seed in enumerate((3, 4)):
        for prompt, batch in (("a red cat", both), (("a red cat", "a dog")[number], prompts)):
            with attending_to_reference(pipe, reference):
                one = draw(pipe, prompt=prompt, generator=torch.Generator().manual_seed(seed))
            assert np.abs(batch[number] - one[0]).max() < 1e-5


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75, 1.0])
def test_a_run_from_a_start_picture_reads_its_own_noise_levels(pipe: Any, strength: float) -> None:
    reference = record_reference(
        editor(pipe), hint(1), strength=strength, num_inference_steps=STEPS
    )
    count = int(STEPS * strength)
    assert reference.source.steps.count == count
    timesteps = list_run_timesteps(pipe.scheduler, STEPS, strength)
    assert timesteps == [step.timestep for step in reference.source.path_steps]
    drawer = ImageToImagePipeline(**pipe.components)
    call = {"image": picture(), "strength": strength}
    with attending_to_reference(drawer, reference):
        drawn = draw(drawer, **call)
    assert not np.array_equal(drawn, draw(drawer, **call))


def test_a_redrawn_part_reads_the_reference(pipe: Any) -> None:
    drawer = InpaintPipeline(**pipe.components)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    call = {"image": picture(), "mask_image": mask, "strength": 1.0}
    reference = record_reference(editor(pipe), hint(1), strength=1.0, num_inference_steps=STEPS)
    with attending_to_reference(drawer, reference):
        drawn = draw(drawer, **call)
    assert not np.array_equal(drawn, draw(drawer, **call))


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "euler a", "dpm++ 2m", "lcm"])
@pytest.mark.parametrize("strength", [None, 0.5])
def test_every_step_of_a_sampler_reads_the_level_of_its_timestep(
    pipe: Any, sampler: str, strength: float | None
) -> None:
    """A sampler of second order makes two passes of a step, some of them between two levels."""
    pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    reference = record_reference(
        editor(pipe), hint(1), strength=strength, steps=(0.0, 0.6), num_inference_steps=STEPS
    )
    path = [step.timestep for step in reference.source.path_steps]
    read = [path[one] for one in reference.step_of_recording]
    assert read == list_run_timesteps(pipe.scheduler, STEPS, strength)
    drawer = pipe if strength is None else ImageToImagePipeline(**pipe.components)
    call = {} if strength is None else {"image": picture(), "strength": strength}
    with attending_to_reference(drawer, reference):
        drawn = draw(drawer, **call)
    assert not np.array_equal(drawn, draw(drawer, **call))


def test_a_prompt_of_several_windows_and_its_weights_read_a_reference(pipe: Any) -> None:
    prompt = Prompt("a (red:1.4) cat " + "on a chair " * 40)
    reference = record_reference(editor(pipe), hint(1), "a dog", num_inference_steps=STEPS)
    call = {"num_inference_steps": STEPS, "output_type": "np"}
    found = []
    for reads in (True, False):
        generator = torch.Generator().manual_seed(3)
        if reads:
            with attending_to_reference(pipe, reference):
                found.append(pipe(prompt, generator=generator, **call).images)
        else:
            found.append(pipe(prompt, generator=generator, **call).images)
    assert not np.array_equal(*found)


def test_a_window_without_a_step_and_a_sampler_without_noise_levels_are_refused(pipe: Any) -> None:
    words = "Got a reference picture with steps=0-0.1: no step of a run of 4 steps is among them."
    with pytest.raises(ArgumentError, match=re.escape(words)):
        record_reference(editor(pipe), hint(1), steps=(0.0, 0.1), num_inference_steps=STEPS)
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(ArgumentError, match="A picture cannot be inverted with EDMEuler"):
        record_reference(editor(pipe), hint(1), num_inference_steps=STEPS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"num_inference_steps": STEPS + 2}, "a run of 6 steps with a source recorded for 4"),
        ({"num_inference_steps": STEPS - 1}, "a run of 3 steps with a source recorded for 4"),
        ({"height": 64}, "latents of 8x16 and a source recorded with 8x8"),
    ],
)
def test_a_run_of_other_settings_than_the_recording_is_refused(
    pipe: Any, call: dict[str, Any], words: str
) -> None:
    reference = record_reference(editor(pipe), hint(1), num_inference_steps=STEPS)
    kept = editor(pipe).remember("a dog", seed=1, num_inference_steps=STEPS)
    for block in (
        attending_to_reference(pipe, reference),
        attend(pipe, recorded_source=kept),
    ):
        with pytest.raises(ArgumentError, match=re.escape(words)), block:
            draw(pipe, **call)


def test_the_model_is_left_as_it_was(pipe: Any) -> None:
    before = draw(pipe)
    reference = record_reference(editor(pipe), hint(1), num_inference_steps=STEPS)
    with attending_to_reference(pipe, reference):
        draw(pipe)
    assert np.array_equal(draw(pipe), before)


def test_image_prompts_are_of_the_image_alone(seeing: dict[str, Any]) -> None:
    plain = TextToImagePipeline(**seeing)
    adapted_pipe = adapted(seeing)[0]
    call = {"num_inference_steps": STEPS}
    for one in (plain, adapted_pipe):
        one.set_progress_bar_config(disable=True)
    processors = adapted_pipe.unet.attn_processors
    projection = adapted_pipe.unet.encoder_hid_proj
    alone, beside = (
        record_reference(editor(one), hint(1), **call) for one in (plain, adapted_pipe)
    )
    # It is read as without an adapter, and the adapter is there as before.
    for step in range(STEPS):
        kept, expected = beside.source.steps[step], alone.source.steps[step]
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[name], expected[name]) for name in kept)
    assert adapted_pipe.unet.encoder_hid_proj is projection
    assert all(adapted_pipe.unet.attn_processors[name] is one for name, one in processors.items())

    look = {"ip_adapter_image": PICTURE}
    with attending_to_reference(plain, alone, 2.0):
        without = draw(plain)
    prompted = draw(adapted_pipe, **look)
    with attending_to_reference(adapted_pipe, beside, 2.0):
        both = draw(adapted_pipe, **look)
        adapted_pipe.set_ip_adapter_scale(0.0)
        unscaled = draw(adapted_pipe, **look)
    assert np.array_equal(unscaled, without)
    assert not np.array_equal(both, without)
    assert not np.array_equal(both, prompted)


def test_an_adapter_is_put_back_where_a_picture_cannot_be_read(seeing: dict[str, Any]) -> None:
    pipe = adapted(seeing)[0]
    projection = pipe.unet.encoder_hid_proj
    with pytest.raises(DataError, match="gone"):
        record_reference(editor(pipe), "gone.png", num_inference_steps=STEPS)
    assert pipe.unet.encoder_hid_proj is projection
    assert pipe.unet.config.encoder_hid_dim_type == "ip_image_proj"
