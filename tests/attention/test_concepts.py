"""Concepts are read beside the prompt: exactly, and without changing the picture by a bit.

N heads, S tokens of the concepts, Q positions.
"""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_heat_maps import read_recorded_heat_maps
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Concept, Replace, Sites, WeightWords, attend
from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.errors import ArgumentError, AttentionError
from t2i.text.prompt import Prompt
from tests.attention.by_hand import asked
from tests.attention.tiny_models import pixart
from tests.tiny import diffusers_pipeline, tiny_sd_components, tiny_sdxl_components

PROMPT = "a red apple to the left of a cat"
CONCEPT = Concept("blue dog", text="the blue dog")
STEPS = 2


def ours(parts):
    return TextToImagePipeline(**parts)


def with_lora():
    pipe = ours(tiny_sd_components())
    config = LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    return pipe


FAMILIES = {
    "sd": lambda: ours(tiny_sd_components()),
    "sdxl": lambda: ours(tiny_sdxl_components()),
    "embedded": lambda: TextToImagePipeline.from_pretrained("embedded"),
    "LoRA": with_lora,
    "diffusers sd": lambda: diffusers_pipeline(tiny_sd_components()),
    "diffusers sdxl": lambda: StableDiffusionXLPipeline(
        **tiny_sdxl_components(), add_watermarker=False
    ),
}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return quiet(FAMILIES["sd"]())


def draw(pipe, prompts=PROMPT, **call):
    count = len(prompts) if isinstance(prompts, list) else 1
    settings = {
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "generator": [torch.Generator().manual_seed(3) for _ in range(count)],
        "output_type": "latent",
    }
    return pipe(prompts, **(settings | call)).images


def attending(pipe):
    return attend(pipe) if isinstance(pipe, TextToImagePipeline) else attend(pipe, [PROMPT])


def largest(difference):
    return float(difference.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_concept_is_read_as_if_it_stood_in_the_prompt(family):
    """Its tokens are really appended to the text of the first pass: up to the first
    cross-attention nothing is changed by them, and there they get these probabilities.
    """
    pipe = quiet(FAMILIES[family]())
    plain = draw(pipe)
    calls = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(bind_arguments(module, args, kwargs)),
        with_kwargs=True,
    )
    with attending(pipe) as attn:
        maps = attn.probe(CONCEPT, "cat", raw=True)
        seen = draw(pipe)
    hook.remove()
    assert torch.equal(seen, plain), "the picture is the same bit for bit"

    settings = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    embedded = pipe.encode_prompt("the blue dog", device="cpu", **settings)[0]
    tokens_SD = embedded[0, 2:4]
    given = dict(calls[0])
    text_BTD = given["encoder_hidden_states"]
    rows, length = text_BTD.shape[:2]
    given["encoder_hidden_states"] = torch.cat([text_BTD, tokens_SD.expand(rows, -1, -1)], dim=1)
    with asked(pipe.unet) as heard, torch.no_grad():
        pipe.unet(**given)
    first = next(one for one in heard if one.keys == length + 2)
    expected_NSQ = first.probs()[rows - 1, :, :, length:].transpose(-1, -2)
    found_NSQ = maps.measurements.raw[maps.sites[0].name][0][0, :, :2]
    assert largest(found_NSQ - expected_NSQ) < 1e-6
    assert maps["blue dog"].shape == maps["cat"].shape


@pytest.mark.parametrize("convention", ["default", "refined", "daam", "mean"])
def test_the_prompt_s_own_word_as_a_concept_has_the_map_of_the_word(pipe, convention):
    """Beside itself a token of probability p has p / (1 + p), at every site, head and step; its
    share of the largest is the same.
    """
    with attend(pipe) as attn:
        word = attn.probe("cat", convention=convention, raw=True)
        concept = attn.probe(Concept("cat", text=PROMPT), convention=convention, raw=True)
        draw(pipe)
    for site, steps in word.measurements.raw.items():
        for own, beside in zip(steps, concept.measurements.raw[site], strict=True):
            assert largest(beside - own / (1 + own)) < 1e-6
    if convention in ("default", "refined"):
        assert largest(concept["cat"] - word["cat"]) < 1e-4


def test_concepts_words_and_heads_are_read_together_and_do_not_disturb_one_another(pipe):
    told = {"heads": (1,), "sites": Sites(place="up")}
    with attend(pipe) as attn:
        both = attn.probe("cat", CONCEPT, "apple", Concept("tree"), **told)
        alone = [attn.probe(word, **told) for word in ("cat", CONCEPT, "apple", Concept("tree"))]
        draw(pipe)
    assert list(both) == ["cat", "blue dog", "apple", "tree"]
    for maps in alone:
        (name,) = maps
        assert largest(maps[name] - both[name]) < 1e-5, name
        assert maps.sites == both.sites


def test_edits_act_beside_concepts_and_their_picture_stays(pipe):
    prompts = [PROMPT, "a red apple to the left of a dog"]

    def run(*words):
        with attend(pipe) as attn:
            attn.edit(Replace())
            attn.edit(WeightWords(target=0, weights={"cat": 0.2}))
            maps = attn.probe(*words, prompt=1) if words else None
            return draw(pipe, prompts), maps

    plain, _ = run()
    seen, maps = run(CONCEPT, "dog")
    assert torch.equal(seen, plain)
    assert float(maps["blue dog"].max()) == 1


def test_a_scheduled_prompt_keeps_the_columns_of_concepts(pipe):
    prompt = Prompt("a [red:blue:0.5] cat")
    with attend(pipe) as attn:
        maps = attn.probe("blue", CONCEPT, "red")
        draw(pipe, prompt)
    with attend(pipe) as attn:
        alone = attn.probe(CONCEPT)
        draw(pipe, prompt)
    assert torch.equal(maps["blue dog"], alone["blue dog"])
    assert maps.measurements.accumulators[0, maps.sites[0].name].steps[:2] == [STEPS, STEPS]


def test_a_recorded_source_is_read_without_a_pass():
    pipe = quiet(PromptEditPipeline(**tiny_sd_components()))
    source = pipe.remember(PROMPT, seed=3, num_inference_steps=STEPS)
    maps = read_recorded_heat_maps(pipe, source, "cat", Concept("dog"))
    same = read_recorded_heat_maps(pipe, source, Concept("cat", text=PROMPT))
    assert largest(same["cat"] - maps["cat"]) < 1e-5
    with attend(pipe) as attn:
        expected = attn.probe(Concept("dog"))
        TextToImagePipeline.__call__(
            pipe, PROMPT, generator=torch.Generator().manual_seed(3), num_inference_steps=STEPS
        )
    assert largest(maps["dog"] - expected["dog"]) < 1e-5


def test_a_call_with_embeddings_is_not_taken_for_another_prompt():
    """The text encoder reads the concept only: that is no prompt of the call."""
    pipe = quiet(diffusers_pipeline(tiny_sd_components()))
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    with attend(pipe, [PROMPT]) as attn:
        maps = attn.probe(CONCEPT)
        pipe(
            prompt_embeds=cond,
            negative_prompt_embeds=uncond,
            num_inference_steps=1,
            output_type="latent",
        )
    assert float(maps["blue dog"].max()) == 1


def test_the_embedded_model_finds_a_concept_where_the_word_is():
    """Encoded alone, beside a prompt without it: the region is that of the prompt's own word."""
    pipe = quiet(FAMILIES["embedded"]())
    prompt = "a red apple to the left of a cat"
    with attend(pipe) as attn:
        maps = attn.probe("cat", "apple")
        beside = attn.probe(Concept("cat"), Concept("apple"))
        draw(pipe, prompt, num_inference_steps=6)
    for word in ("cat", "apple"):
        across, own = beside.mask_centroid(word)[0], maps.mask_centroid(word)[0]
        assert abs(across - own) < 0.15, (word, across, own)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Concept(""), "Got word='' for a Concept, expected text"),
        (lambda: Concept("cat", text=3), "Got text=3 for a Concept"),
    ],
)
def test_what_is_no_concept_is_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((Concept("cat", text="a dog"),), "cat"),
        (("cat", Concept("cat")), "a concept and another word have one name"),
    ],
)
def test_concepts_that_cannot_be_read_are_refused(pipe, words, message):
    with attend(pipe) as attn, pytest.raises(ArgumentError, match=message):
        attn.probe(*words)


def test_models_with_neither_a_unet_nor_joint_attention_refuse_concepts_in_words(pipe):
    for one in (pixart(), pipe.unet):
        with attend(one) as attn, pytest.raises(ArgumentError, match="Got a Concept for a"):
            attn.probe(CONCEPT)


def test_a_concept_of_a_unet_that_its_tokenizer_cannot_split_is_refused(pipe):
    message = r"Got Concept\('\u732b'\), which the \w+ of this model cannot split .* '<\|endoftext"
    with attend(pipe) as attn, pytest.raises(ArgumentError, match=message):
        attn.probe(Concept("\u732b"))


def test_self_attention_has_no_concepts(pipe):
    def run():
        with attend(pipe) as attn:
            attn.probe(CONCEPT, sites=Sites(kind="self"))
            draw(pipe)

    with pytest.raises(AttentionError, match="fits none of the"):
        run()
