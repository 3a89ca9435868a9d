"""A number that is none never becomes a picture: wherever it comes in, it is an error that says
where."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.denoiser.families import sd
from t2i.denoiser.finite_checks import FiniteLatentsCheck, check_pixels_finite, check_weights_finite
from t2i.errors import ArgumentError, GenerationError, ModelError
from tests.denoiser.original_layout import write_sd1
from tests.denoiser.tiny_models import kandinsky_components, kandinsky_folder, prior_folder
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_sd_folder

NAN, INF = float("nan"), float("inf")
STEPS = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def spoil(model, number=NAN):
    """One number of one weight in the middle."""
    weights = [one for one in model.parameters() if one.numel() > 4]
    with torch.no_grad():
        weights[len(weights) // 2].view(-1)[3] = number
    return model


def change(path, number):
    """One number of one tensor in a file."""
    tensors = load_file(path)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].view(-1)[0] = number
    save_file(tensors, path)
    return name


# while weights are read


@pytest.mark.parametrize(
    ("part", "number"),
    [("unet", NAN), ("unet", INF), ("unet", -INF), ("vae", INF), ("text_encoder", NAN)],
)
def test_a_folder_with_one_such_weight_is_refused_by_the_names_of_part_and_weight(
    tmp_path, part, number
):
    folder = tiny_sd_folder(tmp_path)
    name = change(folder / part / WEIGHTS[part], number).removeprefix("text_model.")
    with pytest.raises(ModelError, match=rf"Refused {folder}/{part}: of its weight .*{name}, 1 of"):
        TextToImagePipeline.from_pretrained(folder)


def test_a_single_file_with_one_such_weight_is_refused(tmp_path):
    folder = tiny_sd_folder(tmp_path / "folder")
    path = write_sd1(tmp_path / "model.safetensors", tiny_sd_components())
    change(path, NAN)
    with pytest.raises(ModelError, match=rf"Refused {path}, its \w+: of its weight .* NaN or inf"):
        TextToImagePipeline.from_pretrained(path, config=folder)


def test_a_decoder_and_its_prior_are_refused_too(tmp_path):
    decoder, prior = kandinsky_folder(tmp_path / "decoder"), prior_folder(tmp_path / "prior")
    change(prior / "prior/diffusion_pytorch_model.safetensors", NAN)
    with pytest.raises(ModelError, match=f"Refused {prior}/prior: of its weight"):
        UnclipPipeline.from_pretrained(decoder, prior=prior)
    change(decoder / "movq/diffusion_pytorch_model.safetensors", NAN)
    with pytest.raises(ModelError, match=f"Refused {decoder}/movq: of its weight"):
        UnclipPipeline.from_pretrained(decoder)


def test_what_overflows_only_in_half_precision_says_so(tmp_path):
    folder = tiny_sd_folder(tmp_path)
    change(folder / "unet" / WEIGHTS["unet"], 70_000.0)
    TextToImagePipeline.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"Half precision .* 65,504: load .*dtype=torch.float32"):
        TextToImagePipeline.from_pretrained(folder, dtype=torch.float16)


def test_weights_without_numbers_or_memory_are_passed_over():
    model = torch.nn.Module()
    model.empty = torch.nn.Parameter(torch.zeros(0, 3))
    model.elsewhere = torch.nn.Parameter(torch.zeros(3, device="meta"))
    model.register_buffer("count", torch.tensor(3))
    check_weights_finite("a model", model)


# while it is drawn


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("unet", "NaN or infinite in step 1 of 3, in the pass of the denoiser or in the sampler"),
        ("text_encoder", "embeddings of the prompt .* the weights of the text encoder"),
        ("vae", "when the latents, which were sound, were decoded. Check the weights of the auto"),
    ],
)
def test_parts_brought_along_are_found_out_by_what_they_make(part, message):
    parts = tiny_sd_components()
    spoil(parts["vae"].decoder if part == "vae" else parts[part])
    with pytest.raises(GenerationError, match=message):
        quiet(TextToImagePipeline(**parts))("a red cat", **STEPS)


@pytest.mark.parametrize("output_type", ["latent", "np", "pil", "pt"])
def test_latents_that_are_given_are_looked_at(pipe, output_type):
    latents = torch.zeros(1, 4, 8, 8)
    latents[0, 1, 2, 3] = NAN
    with pytest.raises(GenerationError, match=r"The latents that the run begins from .*latents="):
        pipe("a cat", latents=latents, **STEPS | {"output_type": output_type})


def test_embeddings_that_are_given_are_looked_at(pipe):
    embeds = torch.full((1, 16, TEXT_WIDTH), INF)
    with pytest.raises(GenerationError, match=r"embeddings of the prompt .*prompt_embeds="):
        pipe(prompt_embeds=embeds, **STEPS | {"guidance_scale": 1.0})


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_callback_that_returns_them_is_told_its_step(pipe, step):
    def callback(pipe, now, timestep, tensors):
        return {"latents": tensors["latents"] * (NAN if now == step else 1)}

    with pytest.raises(
        ArgumentError, match=f"no finite numbers after step {step + 1}: what it com"
    ):
        pipe("a cat", callback_on_step_end=callback, **STEPS)


def test_pictures_that_are_given_are_looked_at(components):
    picture = np.zeros((32, 32, 3), np.float32)
    picture[3, 4] = NAN
    with pytest.raises(GenerationError, match=r"begins from .*the picture that was given"):
        quiet(ImageToImagePipeline(**components))("a cat", picture, strength=0.9, **STEPS)
    mask = np.ones((32, 32), np.float32)
    with pytest.raises(GenerationError, match="NaN or infinite"):
        quiet(InpaintPipeline(**components))(
            "a cat", picture, mask, strength=0.9, height=32, width=32, **STEPS
        )


def test_edited_and_remembered_pictures_are_looked_at():
    parts = tiny_sd_components()
    spoil(parts["vae"].decoder)
    editor = quiet(PromptEditPipeline(**parts))
    with pytest.raises(GenerationError, match="The pixels of picture 0, 1 became NaN"):
        editor("a red cat", "a blue cat", seed=1, **STEPS)
    with pytest.raises(GenerationError, match="The pixels became NaN"):
        editor.remember("a red cat", seed=1, num_inference_steps=2)


@pytest.mark.parametrize("part", ["unet", "movq"])
def test_a_decoder_of_embeddings_is_looked_at(part):
    parts = kandinsky_components()
    spoil(parts["unet"] if part == "unet" else parts["movq"].decoder)
    pipe = quiet(UnclipPipeline(**parts))
    embeds = torch.zeros(1, TEXT_WIDTH)
    with pytest.raises(GenerationError, match="in step 1 of" if part == "unet" else "were decoded"):
        pipe(image_embeds=embeds, negative_image_embeds=embeds, **STEPS)


def test_an_autoencoder_that_overflows_in_half_precision_says_how_to_decode(components):
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.float16)
    pixels[1, 0, 0, 0] = INF
    with pytest.raises(GenerationError, match=r"of picture 1 .*pipe.vae.to\(torch.float32\)"):
        check_pixels_finite(pixels)
    half = TextToImagePipeline(**tiny_sd_components() | {"vae": components["vae"]})
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.float16)
    assert (
        sd.decode_latents_to_pixels(half.vae, latents).dtype == torch.float32
    )  # the remedy is taken


def test_on_another_device_the_first_of_several_steps_is_named_when_the_run_is_over():
    watch = FiniteLatentsCheck(4)
    watch.record_whether_finite = lambda numbers, problem: watch.flags.append(
        (numbers.isfinite().all(), problem)
    )
    sound, broken = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), NAN)
    watch.record_inputs(sound, sound)
    for step, latents in enumerate([sound, broken, broken, broken]):
        watch.record_step(latents, step)
        watch.record_after_callbacks(latents, step)
    with pytest.raises(GenerationError, match="in step 2 of 4, in the pass"):
        watch.raise_first_problem()
