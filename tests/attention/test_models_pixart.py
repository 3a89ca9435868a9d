"""PixArt, a transformer that looks at T5's text by cross-attention, attended to."""

import pytest
import torch

from t2i.attention import Replace, Reweight, attend
from tests.attention.by_hand import asked, assert_maps
from tests.attention.tiny_models import pixart

PROMPTS = ["the red apple", "the blue red dog"]
PLACES = {"apple": (2,), "dog": (3,)}
FILLED = (4, 5)
"""Tokens of each with the last, special one."""
KEYS = 20


@pytest.fixture(scope="module")
def pipe():
    return pixart()


def draw(pipe, prompts=PROMPTS, **call):
    settings = {
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        "height": 32,
        "width": 64,
        "use_resolution_binning": False,
        "max_sequence_length": KEYS,
    }
    return pipe(prompts, **(settings | call)).images


@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["CFG off", "CFG on"])
def test_maps_are_of_the_right_rows_and_columns(pipe, guidance):
    call = {"guidance_scale": guidance, "num_images_per_prompt": 2}
    with asked(pipe.transformer) as calls:
        plain = draw(pipe, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        seen = draw(pipe, **call)
        uncond = 0 if guidance == 1 else 4
        for prompt, word in enumerate(PLACES):
            for picture in range(2):
                row = uncond + 2 * prompt + picture
                of = maps[prompt].for_image(picture)
                assert_maps(attn, of, word, calls, KEYS, row, PLACES[word])
        assert attn.report().splitlines()[0].endswith("2 sites x 2 steps, 4 calls")
    assert torch.equal(plain, seen)
    assert {site.size for site in maps[0].sites} == {(4, 8)}
    assert maps[0]["apple"].shape == (8, 16)


def test_nobody_looks_at_padding(pipe):
    places = tuple(range(KEYS))
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = [attn.probe(*((place,) for place in places), prompt=p, convention="mean")
                for p in range(2)]  # fmt: skip
        draw(pipe)
    for prompt, filled in enumerate(FILLED):
        means = torch.tensor([maps[prompt][f"({place},)"].mean() for place in places])
        assert (means[:filled] > 0.01).all()
        assert means[filled:].max() < 1e-6


@pytest.mark.parametrize(
    "edit",
    [Replace(source=0, target=1), Reweight(target=1, weights={"dog": 3.0})],
    ids=lambda edit: type(edit).__name__,
)
def test_edits_change_the_target_alone(pipe, edit):
    prompts = ["the red apple", "the red dog"]
    plain = draw(pipe, prompts)
    with attend(pipe, prompts=prompts) as attn:
        attn.edit(edit)
        made = draw(pipe, prompts)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])


def test_words_are_found_in_what_the_pipeline_makes_of_the_prompt(pipe):
    """It reads small letters; capitals are other tokens to this tokenizer."""
    ids = pipe.tokenizer("THE RED apple").input_ids
    assert ids != pipe.tokenizer("the red apple").input_ids
    with attend(pipe, prompts=["THE RED apple"]) as attn:
        shouted = attn.probe("apple")
        draw(pipe, ["THE RED apple"])
    with attend(pipe, prompts=["the red apple"]) as attn:
        said = attn.probe("apple")
        draw(pipe, ["the red apple"])
    assert torch.equal(shouted["apple"], said["apple"])
