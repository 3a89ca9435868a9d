"""What people switch on for speed and memory, on a tiny model: the picture stays what it was.

`torch.compile` runs with the backend "eager" here: all of tracing and guarding, without a compiler.
"""

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderTiny
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.text.prompt import Prompt
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components, tiny_sdxl_components, tiny_unet

PROMPT = "a red apple to the left of the cat"
ROUNDING = 2e-5
"""Of latents of magnitude 4 in float32, where the same sums are taken in another order."""


def fresh():
    """With parts of its own: these tests change them."""
    return quiet(TextToImagePipeline(**tiny_sd_components()))


def fresh_and_small():
    """Of one block each way, as the compiler traces each block by itself."""
    unet = tiny_unet(
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    return quiet(TextToImagePipeline(**tiny_sd_components() | {"unet": unet}))


@pytest.fixture
def pipe():
    return fresh()


@pytest.fixture
def small():
    return fresh_and_small()


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.fixture
def backends():
    """diffusers keeps the backend chosen last for the whole process."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt=PROMPT, **call):
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **options | call).images


def assert_near(changed, plain, tolerance=ROUNDING):
    difference = (changed - plain).abs()
    assert difference.max() <= tolerance, f"max {difference.max()}, mean {difference.mean()}"


# torch.compile


def as_a_new_object(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def in_place(pipe):
    pipe.unet.compile(backend="eager")


def its_blocks(pipe):
    pipe.unet.compile_repeated_blocks(backend="eager")


def with_lora(pipe):
    torch.manual_seed(4)
    names = ["to_q", "to_k", "to_v"]
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False), "style")


COMPILE = pytest.mark.parametrize("compiled", [as_a_new_object, in_place, its_blocks])
# The quickest way to compile in the usual run, the others in the long one.
LAST = pytest.mark.parametrize(
    "compiled", sweep([as_a_new_object, in_place, its_blocks], quick=[its_blocks])
)


def frames():
    """How many functions the compiler has traced since the last reset."""
    return torch._dynamo.utils.counters["frames"]["ok"]


@pytest.mark.slow
@COMPILE
def test_a_compiled_denoiser_draws_the_same(small, compiled):
    plain = draw(small)
    torch._dynamo.utils.counters.clear()
    compiled(small)
    first = draw(small)
    assert frames() > 0
    assert torch.equal(first, plain)
    assert torch.equal(draw(small), plain)


@pytest.mark.slow
@LAST
def test_a_compiled_denoiser_has_perturbed_rows(small, compiled):
    method = PerturbedAttention(4.0, sites=("mid", "up_blocks"))
    plain = draw(small, guidance=method)
    compiled(small)
    assert torch.equal(draw(small, guidance=method), plain)


@pytest.mark.long
@COMPILE
def test_a_compiled_denoiser_hears_a_schedule(small, compiled):
    call = {"prompt": Prompt("a (red:1.3) [apple:cat:0.5]"), "guidance_scale": 1.0}
    plain = draw(small, **call)
    compiled(small)
    assert torch.equal(draw(small, **call), plain)


@pytest.mark.long
@COMPILE
def test_a_second_picture_compiles_nothing_again(small, compiled):
    compiled(small)
    draw(small)
    torch._dynamo.utils.counters.clear()
    draw(small, "a blue dog")
    assert not torch._dynamo.utils.counters["frames"]


@pytest.mark.long
def test_the_whole_denoiser_is_one_graph(small):
    plain = draw(small)
    small.unet = torch.compile(small.unet, backend="eager", fullgraph=True)
    assert torch.equal(draw(small), plain)


@pytest.mark.slow
@LAST
def test_lora_layers_are_compiled_too(small, compiled):
    without = draw(small)
    with_lora(small)
    plain = draw(small)
    compiled(small)
    assert torch.equal(draw(small), plain)
    assert not torch.equal(plain, without)


@pytest.mark.long
@COMPILE
def test_a_lora_loaded_after_compiling_is_seen(small, compiled):
    other = fresh_and_small()
    with_lora(other)
    compiled(small)
    without = draw(small)
    with_lora(small)
    assert torch.equal(draw(small), draw(other))
    assert not torch.equal(draw(small), without)


@pytest.mark.long
@COMPILE
def test_perturbed_attention_works_after_pictures_without_it(small, compiled):
    method = PerturbedAttention(1.0, sites=("mid",))  # two rows, as guidance alone has
    plain = [draw(small), draw(small, guidance=method)]
    compiled(small)
    assert torch.equal(draw(small), plain[0])
    assert torch.equal(draw(small, guidance=method), plain[1])


@pytest.mark.long
def test_sdxl_is_compiled():
    pipe = quiet(TextToImagePipeline(**tiny_sdxl_components()))
    plain = draw(pipe)
    as_a_new_object(pipe)
    assert torch.equal(draw(pipe), plain)


@pytest.mark.long
def test_other_pipelines_share_the_compiled_denoiser(small):
    picture = draw(small, output_type="pil")[0]
    change = quiet(ImageToImagePipeline.from_pipe(small))
    plain = draw(change, image=picture, strength=0.7)
    as_a_new_object(small)
    change = quiet(ImageToImagePipeline.from_pipe(small))
    assert change.unet is small.unet
    assert torch.equal(draw(change, image=picture, strength=0.7), plain)


@pytest.mark.long
def test_a_compiled_pipeline_is_saved_and_loaded(small, tmp_path):
    plain = draw(small)
    as_a_new_object(small)
    small.save_pretrained(tmp_path)
    loaded = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    assert torch.equal(draw(loaded), plain)


@pytest.mark.long
def test_a_compiled_autoencoder_and_text_encoder_give_the_same(small):
    plain = draw(small, output_type="pt")
    small.vae = torch.compile(small.vae, backend="eager")
    small.text_encoder.compile(backend="eager")
    assert torch.equal(draw(small, output_type="pt"), plain)


# layout


def test_channels_last_changes_roundings_only(pipe):
    plain = draw(pipe, output_type="pt")
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert_near(draw(pipe, output_type="pt"), plain)
    method = PerturbedAttention(4.0, sites=("mid",))
    assert_near(draw(pipe, guidance=method), draw(fresh(), guidance=method))


# attention backends


@pytest.mark.parametrize("name", ["native", "_native_math"])
def test_a_backend_of_torch_is_taken(pipe, backends, name):
    plain = draw(pipe)
    pipe.unet.set_attention_backend(name)
    assert _AttentionBackendRegistry._active_backend == AttentionBackendName(name)
    assert torch.equal(draw(pipe), plain)


def test_a_backend_that_is_not_installed_is_refused(pipe, backends):
    before = _AttentionBackendRegistry._active_backend
    with pytest.raises(RuntimeError, match=r"'flash' is not usable.*install `flash-attn"):
        pipe.unet.set_attention_backend("flash")
    with pytest.raises(ValueError, match=r"backend='flesh'` must be one of.*native"):
        pipe.unet.set_attention_backend("flesh")
    assert _AttentionBackendRegistry._active_backend == before


def test_the_kernel_of_torch_is_chosen_around_the_call(pipe):
    plain = draw(pipe)
    with sdpa_kernel(SDPBackend.MATH):
        explicit = draw(pipe)
    assert not torch.equal(explicit, plain)
    assert_near(explicit, plain)


def test_attention_in_slices_draws_the_same(pipe):
    plain = draw(pipe)
    processors = list(pipe.unet.attn_processors.values())
    pipe.enable_attention_slicing(1)
    assert_near(draw(pipe), plain)
    pipe.disable_attention_slicing()
    assert [type(p) for p in pipe.unet.attn_processors.values()] == [type(p) for p in processors]


# the autoencoder


def test_pictures_decoded_one_by_one_are_the_same(pipe):
    plain = draw(pipe, num_images_per_prompt=3, output_type="pt")
    pipe.vae.enable_slicing()
    decodes = count_decodes(pipe)
    assert_near(draw(pipe, num_images_per_prompt=3, output_type="pt"), plain)
    assert decodes == [1, 1, 1]


def count_decodes(pipe):
    """The rows of each call of the decoder from now on."""
    rows = []
    pipe.vae.decoder.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def test_a_picture_of_one_tile_is_the_same(pipe):
    plain = draw(pipe, output_type="pt")
    pipe.vae.enable_tiling()
    assert torch.equal(draw(pipe, output_type="pt"), plain)


def test_a_picture_of_many_tiles_is_nearly_the_same(pipe):
    plain = draw(pipe, height=64, width=96, output_type="pt")
    pipe.vae.enable_tiling()
    decodes = count_decodes(pipe)
    tiled = draw(pipe, height=64, width=96, output_type="pt")
    assert len(decodes) == 12
    assert tiled.shape == plain.shape
    assert 0 < (tiled - plain).abs().mean() < 0.05
    pipe.vae.disable_tiling()
    assert torch.equal(draw(pipe, height=64, width=96, output_type="pt"), plain)


def test_a_small_autoencoder_is_sliced_and_tiled():
    torch.manual_seed(2)
    # NOTE AutoencoderTiny puts tiles together as of eight pixels to a latent, whatever it has.
    widths, blocks = (8,) * 4, (1,) * 4
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    ).eval()
    pipe = quiet(TextToImagePipeline(**tiny_sd_components() | {"vae": vae}))
    call = {"height": 64, "width": 128, "num_images_per_prompt": 2, "output_type": "pt"}
    plain = draw(pipe, **call)
    pipe.vae.enable_slicing()
    assert_near(draw(pipe, **call), plain)
    pipe.vae.tile_latent_min_size = 8
    pipe.vae.enable_tiling()
    tiled = draw(pipe, **call)
    assert tiled.shape == plain.shape
    assert 0 < (tiled - plain).abs().mean() < 0.05


# offload


def test_offloaded_parts_draw_the_same(pipe):
    plain = draw(pipe, output_type="pt")
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload(part, execution_device="cpu")
    assert pipe.unet.conv_in.weight.is_meta
    assert torch.equal(draw(pipe, output_type="pt"), plain)
    assert torch.equal(draw(pipe, output_type="pt"), plain)
    assert pipe.unet.conv_in.weight.is_meta


def test_offload_without_an_accelerator_says_so(pipe, monkeypatch):
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.get_device", lambda: "cpu")
    for switch in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(RuntimeError, match="requires accelerator, but not found"):
            switch()
