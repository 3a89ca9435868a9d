"""What does not fit into memory is said before it is drawn, and in words where it was tried."""

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.attention import attend
from t2i.denoiser import activation_memory
from t2i.denoiser import memory_checks as memory
from t2i.denoiser.activation_memory import (
    estimate_decoder_bytes_per_position,
    estimate_unet_bytes_per_position,
    measure_pass_peak_bytes,
)
from t2i.denoiser.loading.trial_pass import run_unet_on_zeros
from t2i.denoiser.memory_checks import (
    list_container_free_bytes,
    read_free_bytes,
    translating_out_of_memory,
)
from t2i.errors import GenerationError
from tests.denoiser.tiny_models import kandinsky_components
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_small_vae, tiny_unet, tiny_vae

STEPS = {"num_inference_steps": 1, "output_type": "latent"}


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def leave(monkeypatch, size):
    monkeypatch.setattr(memory, "read_free_bytes", lambda device: size)


# counted


def test_each_tensor_of_a_pass_is_counted_while_it_lives():
    layer = torch.nn.Linear(256, 256, device="meta")

    def run():
        one = layer(torch.zeros(10, 256))  # 10 kB in, 10 kB out
        for _ in range(5):
            one = one + 1  # old and new, never more
            one = one.view(2, 5, 256).view(10, 256)

    row = 10 * 256 * 4
    assert 2 * row <= measure_pass_peak_bytes(layer, run) <= 3 * row


def test_fused_attention_is_counted_without_its_map():
    nothing = torch.nn.Module()
    query = torch.zeros(1, 2, 4096, 8, device="meta")
    attend = torch.nn.functional.scaled_dot_product_attention
    assert measure_pass_peak_bytes(nothing, lambda: attend(query, query, query)) == query.nbytes


def test_a_wider_model_and_a_larger_type_need_more():
    small, wide = (
        estimate_unet_bytes_per_position(tiny_unet()),
        estimate_unet_bytes_per_position(tiny_unet(block_out_channels=(32, 64))),
    )
    assert 1.7 * small < wide < 2.3 * small
    assert estimate_unet_bytes_per_position(tiny_unet().half()) == small / 2
    assert (
        estimate_decoder_bytes_per_position(tiny_vae())
        > estimate_decoder_bytes_per_position(tiny_small_vae())
        > 16 * 3 * 4
    )


def test_an_open_attention_session_changes_no_estimate(monkeypatch, parts):
    expected = measure_unet_afresh(monkeypatch)
    pipe = quiet(TextToImagePipeline(**parts))
    with attend(pipe) as attn:
        attn.probe("cat")
        assert measure_unet_afresh(monkeypatch) == expected
        inside = []

        def ask(*_):
            inside.append(measure_unet_afresh(monkeypatch))
            return {}

        pipe("a cat", callback_on_step_end=ask, **STEPS)
    assert inside == [expected]


def measure_unet_afresh(monkeypatch):
    """Return the estimate of a small UNet, counted now."""
    monkeypatch.setattr(activation_memory, "PEAK_BYTES_CACHE", {})
    return estimate_unet_bytes_per_position(tiny_unet())


# refused before


@pytest.mark.parametrize("side", [4096, 8192])
def test_a_picture_that_does_not_fit_is_refused_with_what_to_lower(monkeypatch, parts, side):
    leave(monkeypatch, 10**8)
    pipe = quiet(TextToImagePipeline(**parts))
    message = rf"A picture of {side}x{side} pixels: about .* GB .*0.1 GB are free. Draw a smaller"
    with pytest.raises(GenerationError, match=message):
        pipe("a cat", height=side, width=side, **STEPS)


def test_many_pictures_at_once_are_counted(monkeypatch, parts):
    leave(monkeypatch, 4 * 10**6)
    pipe = quiet(TextToImagePipeline(**parts))
    pipe("a cat", num_images_per_prompt=2, **STEPS)
    with pytest.raises(GenerationError, match=r"200 pictures of 32x32 .*num_images_per_prompt="):
        pipe("a cat", num_images_per_prompt=200, **STEPS)


def test_edits_and_decoders_of_embeddings_are_refused_too(monkeypatch, parts):
    leave(monkeypatch, 10**7)
    with pytest.raises(GenerationError, match="2 pictures of 1024x1024"):
        quiet(PromptEditPipeline(**parts))("a cat", "a dog", height=1024, width=1024, **STEPS)
    embeds = torch.zeros(1, TEXT_WIDTH)
    pipe = quiet(UnclipPipeline(**kandinsky_components()))
    with pytest.raises(GenerationError, match="A picture of 1024x1024"):
        pipe(image_embeds=embeds, negative_image_embeds=embeds, height=1024, width=1024, **STEPS)


def test_tiles_need_no_more_for_a_larger_picture(monkeypatch, parts):
    leave(monkeypatch, 10**9)
    pipe = quiet(TextToImagePipeline(**parts | {"vae": tiny_vae(block_out_channels=(64, 64, 64))}))
    latents = torch.zeros(1, 4, 256, 256)
    with pytest.raises(GenerationError, match="1024x1024"):
        memory.check_sampling_memory(pipe.unet, pipe.vae, latents, 1)
    pipe.vae.enable_tiling()
    memory.check_sampling_memory(pipe.unet, pipe.vae, latents, 1)


def test_where_nobody_knows_what_is_free_or_needed_it_is_tried(monkeypatch, parts):
    latents = torch.zeros(1, 4, 64, 64)
    leave(monkeypatch, None)
    memory.check_sampling_memory(parts["unet"], parts["vae"], latents, 1)
    leave(monkeypatch, 1)
    own = type("OwnUNet", (type(parts["unet"]),), {})
    unet = own(**{**parts["unet"].config})
    memory.check_sampling_memory(unet, parts["vae"], latents, 1)


def test_what_is_free_is_no_more_than_a_container_leaves(tmp_path):
    assert 0 < read_free_bytes(torch.device("cpu")) < 2**50
    assert read_free_bytes(torch.device("meta")) is None
    assert list_container_free_bytes(tmp_path) == [2**62]
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert min(list_container_free_bytes(tmp_path)) == 300
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 150\n")
    assert min(list_container_free_bytes(tmp_path)) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert list_container_free_bytes(tmp_path) == [2**62]


# said afterwards


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=repr,
)
def test_out_of_memory_while_drawing_says_what_to_lower(parts, error):
    def callback(pipe, step, timestep, tensors):
        raise error

    pipe = quiet(TextToImagePipeline(**parts))
    with pytest.raises(
        GenerationError, match=r"Out of memory while drawing. Draw a smaller picture"
    ):
        pipe("a cat", callback_on_step_end=callback, **STEPS)


def test_other_errors_pass_as_they_are():
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        translating_out_of_memory(),
    ):
        raise RuntimeError("shapes cannot be multiplied")


# once in a process


def test_a_pass_is_counted_once_for_models_that_differ_in_their_weights_alone(monkeypatch):
    passes = []

    def counted(unet, *args, **options):
        passes.append(unet.config["sample_size"])
        return run_unet_on_zeros(unet, *args, **options)

    monkeypatch.setattr(activation_memory, "PEAK_BYTES_CACHE", {})
    monkeypatch.setattr(activation_memory, "run_unet_on_zeros", counted)
    found = [estimate_unet_bytes_per_position(tiny_unet(sample_size=size)) for size in (11, 11, 13)]
    assert passes == [11, 13]
    assert found[0] == found[1]
