"""What people write with diffusers' pipelines works with ours, or is refused in words."""

import sys

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

import t2i
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.errors import ArgumentError
from tests.denoiser.tiny_models import kandinsky_components, prior_components
from tests.tiny import diffusers_pipeline, tiny_sd_components, tiny_sdxl_components, tiny_small_vae

OURS = {
    "Text2Image": t2i.TextToImagePipeline,
    "Image2Image": t2i.ImageToImagePipeline,
    "Inpainting": t2i.InpaintPipeline,
}
THEIRS = {
    "SD": ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"],
    "SDXL": ["StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"],
}
THEIRS["SD"].append("StableDiffusionInpaintPipeline")
THEIRS["SDXL"].append("StableDiffusionXLImg2ImgPipeline")
TASKS = (
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
)
CALL = {"num_inference_steps": 2, "output_type": "latent", "return_dict": False}


@pytest.fixture(scope="module")
def parts():
    return {"SD": tiny_sd_components(), "SDXL": tiny_sdxl_components()}


@pytest.fixture
def ours(parts):
    return {name: t2i.TextToImagePipeline(**own) for name, own in parts.items()}


@pytest.fixture
def theirs(parts):
    sdxl = diffusers.StableDiffusionXLPipeline(**parts["SDXL"], add_watermarker=False)
    return {"SD": diffusers_pipeline(parts["SD"]), "SDXL": sdxl}


def drawn(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red cat", generator=torch.Generator().manual_seed(3), **CALL)[0]


@pytest.mark.parametrize("family", ["SD", "SDXL"])
@pytest.mark.parametrize("kind", OURS.values(), ids=OURS)
def test_components_of_diffusers_make_ours_and_from_pipe_too(theirs, family, kind):
    made = kind(**theirs[family].components)
    from_pipe = kind.from_pipe(theirs[family])
    assert made.unet is from_pipe.unet is theirs[family].unet
    if kind is t2i.TextToImagePipeline:
        expected = drawn(theirs[family])
        assert torch.equal(drawn(made), expected)
        assert torch.equal(drawn(from_pipe), expected)


@pytest.mark.parametrize("family", ["SD", "SDXL"])
def test_our_components_make_diffusers_pipelines_and_from_pipe_too(ours, family):
    for name in THEIRS[family]:
        kind = getattr(diffusers, name)
        made, from_pipe = kind(**ours[family].components), kind.from_pipe(ours[family])
        assert made.unet is from_pipe.unet is ours[family].unet
    made, from_pipe = (
        getattr(diffusers, THEIRS[family][0]).from_pipe(ours[family]),
        getattr(diffusers, THEIRS[family][0])(**ours[family].components),
    )
    expected = drawn(ours[family])
    assert torch.equal(drawn(made), expected)
    assert torch.equal(drawn(from_pipe), expected)
    assert torch.equal(drawn(t2i.TextToImagePipeline.from_pipe(made)), expected)


@pytest.mark.parametrize("family", ["SD", "SDXL"])
@pytest.mark.parametrize("task", OURS)
def test_auto_pipelines_of_diffusers_give_ours_around_the_same_parts(ours, family, task):
    auto = getattr(diffusers, f"AutoPipelineFor{task}")
    for kind in OURS.values():
        made = auto.from_pipe(kind.from_pipe(ours[family]))
        assert type(made) is OURS[task]
        assert made.unet is ours[family].unet
    edit = auto.from_pipe(t2i.PromptEditPipeline(**ours[family].components))
    assert isinstance(edit, OURS[task])


def test_a_small_autoencoder_goes_to_diffusers_when_it_is_named():
    ours = t2i.TextToImagePipeline(**tiny_sd_components() | {"vae": tiny_small_vae()})
    made = StableDiffusionPipeline.from_pipe(ours, vae=ours.vae)
    assert (made.vae, made.unet) == (ours.vae, ours.unet)


@pytest.mark.parametrize("name", ["load", *(name for name in t2i.__all__ if "Pipeline" in name)])
def test_auto_pipelines_know_whatever_t2i_gives(monkeypatch, ours, name):
    for task in TASKS:
        for key in ("t2i", "t2i-prompt-edit"):
            monkeypatch.delitem(task, key, raising=False)
    monkeypatch.delitem(sys.modules, "pipelines.auto_pipelines")
    kind = getattr(t2i, name)
    given = kind("embedded") if name == "load" else kind(**ours["SD"].components)
    made = diffusers.AutoPipelineForImage2Image.from_pipe(given)
    assert type(made) is ImageToImagePipeline


@pytest.mark.parametrize("family", ["SD", "SDXL"])
def test_what_we_save_is_opened_by_diffusers_without_a_name(ours, family, tmp_path):
    ours[family].save_pretrained(tmp_path)
    opened = DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert type(opened).__name__ == THEIRS[family][0]
    assert torch.equal(drawn(opened), drawn(ours[family]))
    for task in OURS:
        auto = getattr(diffusers, f"AutoPipelineFor{task}")
        assert type(auto.from_pretrained(tmp_path)).__name__ in THEIRS[family]
    again = t2i.TextToImagePipeline.from_pretrained(tmp_path, safety_checker=None)
    assert torch.equal(drawn(again), drawn(ours[family]))


def checker():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    return StableDiffusionSafetyChecker(
        CLIPConfig(text_config=tower, vision_config=tower | {"image_size": 8, "patch_size": 4})
    )


@pytest.mark.parametrize("kind", OURS.values(), ids=OURS)
def test_a_safety_checker_is_refused_and_never_dropped(parts, kind):
    own = parts["SD"] | {"safety_checker": checker(), "feature_extractor": CLIPImageProcessor()}
    with_checker = StableDiffusionPipeline(**own, requires_safety_checker=False)
    words = (
        "Got a StableDiffusionSafetyChecker as safety_checker, and this pipeline runs none.*None"
    )
    with pytest.raises(ArgumentError, match=words):
        kind(**with_checker.components)
    with pytest.raises(ArgumentError, match=words):
        kind.from_pipe(with_checker)
    without = kind.from_pipe(with_checker, safety_checker=None)
    assert without.unet is with_checker.unet


def test_a_stable_diffusion_is_no_sdxl_for_diffusers_either(ours):
    with pytest.raises(TypeError, match="text_encoder_2"):
        diffusers.StableDiffusionXLPipeline.from_pipe(ours["SD"])


def test_kandinskys_parts_go_both_ways():
    parts = {f"prior_{name}": part for name, part in prior_components().items()}
    combined = diffusers.KandinskyV22CombinedPipeline(**kandinsky_components(), **parts)
    ours = UnclipPipeline(**combined.components)
    assert ours.unet is UnclipPipeline.from_pipe(combined).unet is combined.unet
    assert diffusers.KandinskyV22CombinedPipeline(**ours.components).unet is ours.unet
    assert diffusers.KandinskyV22Pipeline.from_pipe(ours).unet is ours.unet
