"""SD3 and Flux, where text and picture look at one another in one attention, attended to."""

import pytest
import torch
from diffusers import CogView4Transformer2DModel, FluxTransformer2DModel

from t2i.attention import Replace, Reweight, attend
from t2i.errors import AttentionError
from tests.attention.by_hand import asked, assert_maps, edited
from tests.attention.tiny_models import flux, sd3
from tests.tiny import TEXT_WIDTH

PROMPTS = ["the red apple", "the blue red dog"]
PAIR = ["the red apple", "the red dog"]
STEPS = 2
CLIP_TOKENS, T5_TOKENS = 16, 24
TEXT = {"sd3": CLIP_TOKENS + T5_TOKENS, "flux": T5_TOKENS}
PICTURE = 4 * 8
"""Places of a picture of 32 x 64."""
PLACES = {
    "sd3": {"apple": (3, CLIP_TOKENS + 2), "dog": (4, CLIP_TOKENS + 3)},
    "flux": {"apple": (2,), "dog": (3,)},
}
"""CLIP begins with a token of its own, T5 does not."""


@pytest.fixture(scope="module")
def pipes():
    return {"sd3": sd3(), "flux": flux()}


def draw(pipe, prompts=PROMPTS, **call):
    settings = {
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        "height": 32,
        "width": 64,
        "max_sequence_length": T5_TOKENS,
    }
    return pipe(prompt=prompts, **(settings | call)).images


def rows_of(kind, guidance, prompt):
    return 2 * (kind == "sd3" and guidance > 1) + prompt


@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["guidance off", "guidance on"])
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_maps_are_of_the_words_in_the_picture_s_part(pipes, kind, guidance):
    pipe = pipes[kind]
    with asked(pipe.transformer) as calls:
        plain = draw(pipe, guidance_scale=guidance)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        seen = draw(pipe, guidance_scale=guidance)
        for prompt, word in enumerate(("apple", "dog")):
            first = maps[prompt].sites[0].text[0]
            columns = [first + place for place in PLACES[kind][word]]
            row = rows_of(kind, guidance, prompt)
            assert_maps(attn, maps[prompt], word, calls, TEXT[kind] + PICTURE, row, columns)
    assert torch.equal(plain, seen)
    assert {site.size for site in maps[0].sites} == {(4, 8)}
    assert maps[0]["apple"].shape == ((8, 16) if kind == "sd3" else (4, 8))


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_the_order_of_text_and_picture_is_found(pipes, kind):
    with attend(pipes[kind], prompts=PROMPTS) as attn:
        maps = attn.probe("apple")
        draw(pipes[kind])
    text, keys = TEXT[kind], TEXT[kind] + PICTURE
    orders = {((PICTURE, keys), (0, PICTURE))} if kind == "sd3" else {((0, text), (text, keys))}
    assert {(site.text, site.image) for site in maps.sites} == orders
    assert {site.kind for site in maps.sites} == {"joint"}
    assert len(maps.sites) == {"sd3": 3, "flux": 4}[kind]


@pytest.mark.parametrize("lora", [False, True], ids=["fused projections", "LoRA on them"])
def test_the_order_is_found_however_the_text_is_projected(lora):
    from peft import LoraConfig

    pipe = sd3()
    if lora:
        pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["add_v_proj", "to_v"]))
    else:
        pipe.transformer.fuse_qkv_projections()
    plain = draw(pipe)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("apple")
        assert torch.equal(draw(pipe), plain)
    assert {site.image for site in maps.sites} == {(0, PICTURE)}


def explicit(kind, weight, source, target):
    """P' in float64: a word of the target, or all of its text from the source's map."""
    text = slice(PICTURE, None) if kind == "sd3" else slice(0, TEXT[kind])
    image = slice(0, PICTURE) if kind == "sd3" else slice(TEXT[kind], None)
    columns = [text.start + place for place in PLACES_OF_PAIR[kind]]

    def change(probs_BNQK):
        made_BNQK = probs_BNQK.clone()
        if source is not None:
            made_BNQK[target, :, image, text] = probs_BNQK[source, :, image, text]
        for column in columns:
            made_BNQK[target, :, image, column] *= weight
        return made_BNQK

    return change


PLACES_OF_PAIR = {"sd3": (3, CLIP_TOKENS + 2), "flux": (2,)}
"""Of "apple" and "dog" in PAIR."""


@pytest.mark.parametrize(
    ("edits", "weight", "from_source"),
    [
        ([Reweight(target=1, weights={"dog": 3.0})], 3.0, False),
        ([Reweight(target=1, weights={"dog": -1.0})], -1.0, False),
        ([Replace(source=0, target=1)], 1.0, True),
        ([Replace(source=0, target=1), Reweight(target=1, weights={"dog": 3.0})], 3.0, True),
    ],
    ids=["Reweight", "Reweight below 0", "Replace", "Replace then Reweight"],
)
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_linear_edits_agree_with_maps_made_by_hand(pipes, kind, edits, weight, from_source):
    pipe, keys = pipes[kind], TEXT[kind] + PICTURE
    source, target = (rows_of(kind, 5.0, prompt) for prompt in range(2))
    plain = draw(pipe, PAIR)
    change = explicit(kind, weight, source if from_source else None, target)
    with edited(pipe.transformer, keys, change, range(STEPS)):
        by_hand = draw(pipe, PAIR)
    with attend(pipe, prompts=PAIR) as attn:
        for edit in edits:
            attn.edit(edit)
        made = draw(pipe, PAIR)
        assert "explicit" not in attn.explain()
    assert torch.equal(made[0], plain[0])
    effect = (by_hand[1] - plain[1]).abs().max()
    difference = (made[1] - by_hand[1]).abs().max()
    assert difference < 2e-5, f"{difference} of {effect}"
    assert effect > 100 * difference


def test_sd3_without_t5_finds_words_in_clip_s_tokens(pipes):
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline(**pipes["sd3"].components | {"text_encoder_3": None})
    pipe.set_progress_bar_config(disable=True)
    with asked(pipe.transformer) as calls:
        draw(pipe)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("apple")
        draw(pipe)
        keys = maps.sites[0].keys
        assert_maps(attn, maps, "apple", calls, keys, 2, (PICTURE + 3,))


def test_a_long_prompt_of_sd3_is_read_by_t5_where_clip_has_no_room(pipes):
    prompt = "the red apple " * 4 + "of the dog"
    with asked(pipes["sd3"].transformer) as calls:
        draw(pipes["sd3"], [prompt])
    with attend(pipes["sd3"], prompts=[prompt]) as attn:
        maps = attn.probe("dog")
        draw(pipes["sd3"], [prompt])
        columns = (PICTURE + CLIP_TOKENS + 14,)
        assert_maps(attn, maps, "dog", calls, TEXT["sd3"] + PICTURE, 1, columns)


def test_true_guidance_of_flux_is_a_pass_that_nobody_reads_or_edits(pipes):
    pipe = pipes["flux"]
    call = {"negative_prompt": ["blue", "blue"], "true_cfg_scale": 3.0}
    with asked(pipe.transformer) as calls:
        plain = draw(pipe, **call)
    cond = [call for number, call in enumerate(calls) if number // 4 % 2 == 0]
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(draw(pipe, **call), plain)
        keys = TEXT["flux"] + PICTURE
        assert_maps(attn, maps, "dog", cond, keys, 1, PLACES["flux"]["dog"])
    assert "cache_context" not in vars(pipe.transformer)


def test_another_size_of_flux_is_looked_at_anew(pipes):
    with attend(pipes["flux"], prompts=PROMPTS) as attn:
        maps = attn.probe("apple")
        draw(pipes["flux"])
        assert maps["apple"].shape == (4, 8)
        draw(pipes["flux"], height=64, width=32)
        assert maps["apple"].shape == (8, 4)


def test_a_native_backend_is_heard(pipes):
    pipe = pipes["flux"]
    try:
        pipe.transformer.set_attention_backend("_native_math")
        plain = draw(pipe)
        with attend(pipe, prompts=PROMPTS) as attn:
            maps = attn.probe("apple")
            assert torch.equal(draw(pipe), plain)
        assert len(maps.sites) == 4
    finally:
        pipe.transformer.set_attention_backend("native")


def test_a_backend_that_goes_another_way_is_refused(pipes):
    pipe = pipes["flux"]

    def run():
        with attend(pipe, prompts=PROMPTS) as attn:
            attn.probe("apple")
            draw(pipe, num_inference_steps=1)

    try:
        pipe.transformer.set_attention_backend("flex")
        with pytest.raises(AttentionError, match=r"4 attention modules .* set_attention_backend"):
            run()
    finally:
        pipe.transformer.set_attention_backend("native")


@pytest.mark.parametrize("height", [8, 16])
def test_the_order_is_found_where_text_and_picture_share_their_projections(height):
    torch.manual_seed(1)
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(4, 4),
    ).eval()
    size_B2 = torch.tensor([[64.0, 64.0]] * 2)
    given = {
        "hidden_states": torch.randn(2, 4, height, 12),
        "encoder_hidden_states": torch.randn(2, 10, 16),
        "timestep": torch.tensor([5, 5]),
        "original_size": size_B2,
        "target_size": size_B2,
        "crop_coords": size_B2 * 0,
    }

    @torch.no_grad()
    def denoise():
        return transformer(**given).sample

    with asked(transformer) as calls:
        plain = denoise()
    with attend(transformer) as attn:
        maps = attn.probe((3,), prompt=1)
        assert torch.equal(denoise(), plain)
        assert {site.text for site in maps.sites} == {(0, 10)}
        assert {site.size for site in maps.sites} == {(height // 2, 6)}
        assert_maps(attn, maps, "(3,)", calls, 10 + height * 3, 1, (3,))


def test_an_order_that_cannot_be_seen_is_refused():
    """Blocks of a single stream alone put text and picture side by side before their attention."""
    parts = flux().transformer.config
    transformer = FluxTransformer2DModel.from_config(dict(parts) | {"num_layers": 0}).eval()
    given = {
        "hidden_states": torch.randn(1, 24, 16),
        "encoder_hidden_states": torch.randn(1, 10, TEXT_WIDTH),
        "pooled_projections": torch.randn(1, TEXT_WIDTH),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.cartesian_prod(*map(torch.arange, (1, 4, 6))).float(),
        "txt_ids": torch.zeros(10, 3),
    }

    def run():
        with attend(transformer) as attn, torch.no_grad():
            attn.probe((3,))
            transformer(**given)

    with pytest.raises(AttentionError, match=r"'single_transformer_blocks.0.attn' attends to text"):
        run()
