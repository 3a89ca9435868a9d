"""What people load beside a model: LoRA layers, IP-Adapters, new words; against diffusers."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import t2i
from pipelines.text_to_image import TextToImagePipeline
from t2i.errors import ArgumentError, ModelError
from tests.pipelines.against import assert_same
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple to the left of the cat"
PICTURE = Image.new("RGB", (40, 30), "teal")
TWO_STEPS = {"prompt": PROMPT, "num_inference_steps": 2}


def pair(parts, kind=StableDiffusionPipeline):
    """Ours and theirs, each with parts of its own, as adapters change them."""
    extra = {"add_watermarker": False} if kind is StableDiffusionXLPipeline else {}
    if kind is StableDiffusionPipeline:
        extra = {"safety_checker": None, "requires_safety_checker": False}
        extra |= {"feature_extractor": None} if "feature_extractor" not in parts else {}
    return TextToImagePipeline(**copy.deepcopy(parts)), kind(**copy.deepcopy(parts), **extra)


# LoRA


def lora_of(model, seed):
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    names = [n for n, _ in model.named_modules() if n.split(".")[-1] in ("to_k", "to_v", "q_proj")]
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=names))
    state = get_peft_model_state_dict(model)
    return {name: torch.randn_like(weight) * 0.3 for name, weight in state.items()}


@pytest.mark.parametrize(
    ("parts", "kind", "models"),
    [
        (tiny_sd_components, StableDiffusionPipeline, ("unet", "text_encoder")),
        (
            tiny_sdxl_components,
            StableDiffusionXLPipeline,
            ("unet", "text_encoder", "text_encoder_2"),
        ),
    ],
    ids=["SD1", "SDXL"],
)
def test_a_lora_does_the_same_here_and_in_diffusers(parts, kind, models, tmp_path):
    parts = parts()
    ours, theirs = pair(parts, kind)
    plain = assert_same(ours, theirs, **TWO_STEPS)
    layers = {
        f"{name}.{key}": weight
        for seed, name in enumerate(models)
        for key, weight in lora_of(parts[name], seed).items()
    }
    save_file(layers, tmp_path / "pytorch_lora_weights.safetensors")
    for pipe in (ours, theirs):
        pipe.load_lora_weights(tmp_path)
    full = assert_same(ours, theirs, **TWO_STEPS)
    half = assert_same(ours, theirs, **TWO_STEPS, cross_attention_kwargs={"scale": 0.5})
    assert not torch.equal(full, plain)
    assert not torch.equal(half, full)

    ours.unload_lora_weights()
    theirs.unload_lora_weights()
    assert torch.equal(assert_same(ours, theirs, **TWO_STEPS), plain)


# IP-Adapter


def adapter_for(unet, width=TEXT_WIDTH):
    """Weights of an IP-Adapter in the layout of the published ones."""
    torch.manual_seed(7)
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        processor = IPAdapterAttnProcessor(attention.query_dim, width)
        layers[f"{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight.detach()
        layers[f"{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight.detach()
        number += 2
    projection = {
        "proj.weight": torch.randn(4 * width, 24) * 0.3,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": layers}


@pytest.fixture(scope="module")
def seeing():
    """The parts of a pipeline that can look at pictures."""
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        image_size=32,
        patch_size=8,
    )
    return {
        **tiny_sd_components(),
        "image_encoder": CLIPVisionModelWithProjection(config).eval(),
        "feature_extractor": CLIPImageProcessor(size=32, crop_size=32),
    }


def adapted(parts, count=1):
    pipes = pair(parts)
    for pipe in pipes:
        pipe.unet._load_ip_adapter_weights([adapter_for(pipe.unet)] * count)
        pipe.set_ip_adapter_scale([0.8] * count)
    return pipes


@pytest.mark.parametrize(
    "call",
    [
        {"ip_adapter_image": PICTURE},
        {"ip_adapter_image": PICTURE, "guidance_scale": 1.0},
        {"ip_adapter_image": PICTURE, "num_images_per_prompt": 2},
        {"ip_adapter_image_embeds": [torch.randn(2, 1, 24)]},
    ],
    ids=lambda call: " ".join(call),
)
def test_a_picture_steers_as_in_diffusers(seeing, call):
    ours, theirs = adapted(seeing)
    steered = assert_same(ours, theirs, **TWO_STEPS, **call)
    for pipe in (ours, theirs):
        pipe.set_ip_adapter_scale(0.0)
    assert not torch.equal(steered, assert_same(ours, theirs, **TWO_STEPS, **call))


def test_two_adapters_take_a_picture_each(seeing):
    ours, theirs = adapted(seeing, count=2)
    pictures = [PICTURE, Image.new("RGB", (30, 40), "gold")]
    both = assert_same(ours, theirs, **TWO_STEPS, ip_adapter_image=pictures)
    swapped = assert_same(ours, theirs, **TWO_STEPS, ip_adapter_image=pictures[::-1])
    assert not torch.equal(both, swapped)


def test_pictures_and_adapters_must_go_together(seeing, components):
    ours, _ = adapted(seeing)
    with pytest.raises(ArgumentError, match="1 IP-Adapters are loaded, but no image is given"):
        ours(PROMPT)
    with pytest.raises(ArgumentError, match="Got 2 images or embeddings for 1 IP-Adapters"):
        ours(PROMPT, ip_adapter_image=[PICTURE, PICTURE])
    with pytest.raises(ArgumentError, match="Got both ip_adapter_image and ip_adapter_image_embe"):
        ours(PROMPT, ip_adapter_image=PICTURE, ip_adapter_image_embeds=[torch.zeros(2, 1, 24)])
    with pytest.raises(ArgumentError, match="embeds of 3 rows: with guidance half of them"):
        ours(PROMPT, ip_adapter_image_embeds=[torch.zeros(3, 1, 24)])
    plain = TextToImagePipeline(**components)
    with pytest.raises(ArgumentError, match=r"for 0 IP-Adapters.*load_ip_adapter"):
        plain(PROMPT, ip_adapter_image=PICTURE)


# new words


def test_a_learned_word_is_read_here_and_in_diffusers(tmp_path):
    ours, theirs = pair(tiny_sd_components())
    torch.manual_seed(4)
    save_file({"<sun>": torch.randn(1, TEXT_WIDTH)}, tmp_path / "learned_embeds.safetensors")
    call = {"prompt": "a red <sun>", "num_inference_steps": 2}
    before = assert_same(ours, theirs, **call)
    for pipe in (ours, theirs):
        pipe.load_textual_inversion(str(tmp_path / "learned_embeds.safetensors"))
    assert not torch.equal(assert_same(ours, theirs, **call), before)


def test_a_word_of_several_vectors_is_read_here_and_in_diffusers(tmp_path):
    ours, theirs = pair(tiny_sd_components())
    torch.manual_seed(4)
    save_file({"<sun>": torch.randn(3, TEXT_WIDTH)}, tmp_path / "learned_embeds.safetensors")
    for pipe in (ours, theirs):
        pipe.load_textual_inversion(str(tmp_path / "learned_embeds.safetensors"))
    asked = {"num_inference_steps": 2, "output_type": "latent"}
    plain = assert_same(ours, theirs, prompt="a red <sun>", **asked)
    seed = torch.Generator().manual_seed(3)
    assert torch.equal(ours(t2i.Prompt("a red <sun>"), generator=seed, **asked).images, plain)


@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_word_does_not_act_inside_other_words(count):
    pipe = TextToImagePipeline(**tiny_sd_components())
    prompts = ("a red sunflower", "a sun, red", "the <s0> sun0")

    def drawn(prompt):
        seed = torch.Generator().manual_seed(3)
        return pipe(prompt, num_inference_steps=2, generator=seed, output_type="latent").images

    pipe.set_progress_bar_config(disable=True)
    inside, word, other = map(drawn, prompts)
    torch.manual_seed(4)
    pipe.load_textual_inversion({"sun": torch.randn(count, TEXT_WIDTH)}, token="sun")
    assert torch.equal(drawn(prompts[0]), inside)
    assert not torch.equal(drawn(prompts[1]), word)
    assert not torch.equal(drawn(prompts[2].replace("sun0", "sun")), other)
    learned = [word for word in pipe.tokenizer.added_tokens_decoder.values() if not word.special]
    assert len(learned) == count
    assert all(word.single_word for word in learned)
    pipe.unload_textual_inversion()
    assert torch.equal(drawn(prompts[1]), word)


def test_words_that_the_model_knows_and_vectors_of_another_width_are_refused():
    pipe = TextToImagePipeline(**tiny_sd_components())
    size = len(pipe.tokenizer)
    vectors = torch.randn(2, TEXT_WIDTH)
    for word in ("apple", "Apple", "apple</w>"):
        with pytest.raises(ValueError, match=r"[Aa]pple"):
            pipe.load_textual_inversion({word: vectors}, token=word)
    with pytest.raises(ArgumentError, match=r"knows the word 'Apple' already.*token='<Apple-2>'"):
        pipe.load_textual_inversion({"Apple": vectors}, token="Apple")
    with pytest.raises(ModelError, match=f"not {TEXT_WIDTH} wide"):
        pipe.load_textual_inversion({"<sun>": torch.randn(1, 3)}, token="<sun>")
    pipe.text_encoder = None
    with pytest.raises(ArgumentError, match="has no text_encoder and tokenizer of those names"):
        pipe.load_textual_inversion({"<sun>": vectors}, token="<sun>")
    assert len(pipe.tokenizer) == size
