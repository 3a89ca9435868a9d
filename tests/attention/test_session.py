"""What a session says of itself: sites, kernels and reports, before and after a run."""

import io

import pytest
import torch
from PIL import Image

from t2i.attention import (
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    SelfReplace,
    Sites,
    attend,
    load_map_tensors,
)
from t2i.errors import ArgumentError, AttentionError
from t2i.pictures import MIN_DISPLAY_WIDTH
from tests.attention.runs import CAT, DOG, assert_equal, draw, left_behind, ours, theirs
from tests.tiny import tiny_sd_components

PAIR = [CAT, DOG]


@pytest.fixture(scope="module")
def components():
    return tiny_sd_components()


@pytest.fixture(params=[ours, theirs])
def pipe(request, components):
    return request.param(**components)


def test_sites_are_told_with_their_kind_place_size_and_heads(pipe):
    with attend(pipe) as attn:
        sites = {site.name: site for site in attn.sites()}
    names = [name for name, _ in pipe.unet.named_modules() if name.endswith(("attn1", "attn2"))]
    assert sorted(sites) == sorted(names)
    site = sites["up_blocks.1.attentions.0.transformer_blocks.0.attn2"]
    assert (site.kind, site.place, site.size, site.heads) == ("cross", "up", (8, 8), 4)
    assert (site.keys, site.text, site.num_positions) == (16, (0, 16), 64)
    site = sites["mid_block.attentions.0.transformer_blocks.0.attn1"]
    assert (site.kind, site.place, site.size, site.text) == ("self", "mid", (4, 4), (0, 0))


def test_a_trial_before_the_first_run_leaves_no_trace(pipe):
    plain = draw(pipe, PAIR)
    before, seed = left_behind(pipe), torch.random.get_rng_state()
    with attend(pipe, prompts=PAIR) as attn:
        maps = attn.probe("dog", prompt=1)
        attn.edit(Replace(steps=(0, 0)))
        attn.explain()
        assert torch.equal(torch.random.get_rng_state(), seed)
        assert not maps.measurements.accumulators
        assert_equal(draw(pipe, PAIR), plain)
        assert maps["dog"].max() == 1
    assert left_behind(pipe) == before


def test_what_is_explained_before_a_run_is_what_the_run_does(pipe):
    with attend(pipe, prompts=PAIR) as attn:
        attn.probe("dog", prompt=1)
        attn.edit(Refine(steps=(0.0, 0.5)))
        attn.edit(Reweight(weights={"apple": 3.0}, steps=(0.0, 0.8)))
        attn.edit(SelfReplace(steps=(0.0, 0.5), max_positions=16))
        before = attn.explain(num_inference_steps=4)
        draw(pipe, PAIR)
        after = attn.explain()
    assert before == after
    lines = {line.split(" ")[0]: line for line in after.splitlines()}
    line = lines["mid_block.attentions.0.transformer_blocks.0.attn2"]
    assert line == (
        "mid_block.attentions.0.transformer_blocks.0.attn2 (cross, mid, 4x4, 4 heads): "
        "fused / fused, twice in 1 row; Probe, Refine, Reweight; 0 KiB"
    )
    assert "fused; SelfReplace" in lines["mid_block.attentions.0.transformer_blocks.0.attn1"]
    unwanted = lines["up_blocks.1.attentions.0.transformer_blocks.0.attn1"]
    assert "untouched; nobody" in unwanted


def test_before_prompts_are_known_kernels_are_not(components):
    pipe = ours(**components)
    with attend(pipe) as attn:
        attn.edit(SelfReplace())
        assert "known once the prompts are; SelfReplace" in attn.explain()
        draw(pipe, PAIR)
        assert "fused; SelfReplace" in attn.explain()


def test_a_model_alone_is_run_first(components):
    pipe = ours(**components)
    with attend(pipe.unet) as attn:
        with pytest.raises(AttentionError, match="nothing ran yet: make a picture inside"):
            attn.sites()
        with pytest.raises(AttentionError, match="nothing ran yet"):
            attn.explain()
        told = pipe.encode_prompt(CAT)[0]
        pipe.unet(torch.zeros(1, 4, 8, 8), 1, encoder_hidden_states=told)
        assert {site.kind for site in attn.sites()} == {"self", "cross"}


def test_a_model_alone_is_read_by_words_or_places(components):
    pipe = ours(**components)
    told, latents = pipe.encode_prompt(CAT)[0], torch.zeros(1, 4, 8, 8)
    with attend(pipe.unet, prompts=[CAT], tokenizer=pipe.tokenizer) as attn:
        by_word, by_place = attn.probe("cat", "a red"), attn.probe((9,), (1, 2))
        pipe.unet(latents, 1, encoder_hidden_states=told)
    assert_equal(by_word["cat"], by_place["(9,)"])
    assert_equal(by_word["a red"], by_place["(1, 2)"])
    with attend(pipe.unet) as attn:
        alone = attn.probe((9,))
        pipe.unet(latents, 1, encoder_hidden_states=told)
    assert_equal(alone["(9,)"], by_place["(9,)"])


def test_reports_count_sites_and_steps(pipe):
    with attend(pipe, prompts=PAIR) as attn:
        attn.probe("dog", prompt=1, sites=Sites(kind="cross", place=("up", "down")), steps=(1, 3))
        attn.edit(SelfReplace(steps=(0.0, 0.5), max_positions=None))
        attn.edit(LocalBlend(words=("cat", "dog")))
        draw(pipe, PAIR, callback_on_step_end=attn.on_step_end)
        probe, edit, blend = attn.report().splitlines()
    cross = [n for n, _ in pipe.unet.named_modules() if n.endswith("attn2") and "mid" not in n]
    own = [n for n, _ in pipe.unet.named_modules() if n.endswith("attn1")]
    assert probe == f"Probe('dog', prompt=1): {len(cross)} sites x 2 steps, {2 * len(cross)} calls"
    assert edit.endswith(f"{len(own)} sites x 2 steps, {2 * len(own)} calls")
    assert blend.endswith(f"{len(cross)} sites x 4 steps, {4 * len(cross)} calls")


def test_what_a_session_knows_can_be_asked_after_it(pipe):
    with attend(pipe, prompts=PAIR) as attn:
        attn.probe("dog", prompt=1)
        attn.edit(Replace(steps=(0.0, 0.5)))
        draw(pipe, PAIR)
        inside = (attn.sites(), attn.explain(), attn.report())
    before = left_behind(pipe)
    assert (attn.sites(), attn.explain(), attn.report()) == inside
    with pytest.raises(AttentionError, match=r"Probe\('cat', prompt=0\) comes too late"):
        attn.probe("cat")
    with pytest.raises(AttentionError, match=r"Replace\(.*\) comes too late"):
        attn.edit(Replace())
    assert left_behind(pipe) == before


def test_a_session_in_which_nothing_ran_knows_no_sites(pipe):
    with attend(pipe) as attn:
        pass
    for asked in (attn.sites, attn.explain):
        with pytest.raises(AttentionError, match="Nothing ran while the session was open: make a"):
            asked()


def test_selectors_that_make_no_sense():
    with pytest.raises(ArgumentError, match=r"Got kind='cros'. Did you mean 'cross'"):
        Sites(kind="cros")
    with pytest.raises(ArgumentError, match=r"Got place='top'"):
        Sites(place="top")
    with pytest.raises(ArgumentError, match=r"Got the site 'up\(', which is no regular expression"):
        Sites(name="up(")


def test_heads_are_edited_one_by_one(components):
    """All heads one after the other are all heads at once, where attention is linear."""
    pipe = ours(**components)
    with attend(pipe) as attn:
        attn.edit(Reweight(weights={"apple": 3.0}))
        together = draw(pipe, PAIR)
    with attend(pipe) as attn:
        attn.edit(Reweight(weights={"apple": 3.0}, heads=(0, 2)))
        some = draw(pipe, PAIR)
    with attend(pipe) as attn:
        attn.edit(Reweight(weights={"apple": 3.0}, heads=(0, 2)))
        attn.edit(Reweight(weights={"apple": 3.0}, heads=(1, 3)))
        assert (draw(pipe, PAIR) - together).abs().max() < 1e-5
    assert (some - together).abs().max() > 1e-4


def test_maps_are_written_and_read(components, tmp_path):
    pipe = ours(**components)
    with attend(pipe) as attn:
        maps = attn.probe("red apple", "cat", grid=(5, 7))
        draw(pipe, CAT)
    maps.save(tmp_path / "maps.safetensors")
    read = load_map_tensors(tmp_path / "maps.safetensors")
    assert read.keys() == {"red apple", "cat"}
    for word in maps:
        assert_equal(read[word], maps[word])
        assert maps[word].shape == (5, 7)
        assert (maps[word].min(), maps[word].max()) == (0, 1)
        across, down = maps.peak(word)
        assert maps[word][int(down * 5), int(across * 7)] == 1
        assert maps.mask(word, 1.0).sum() == 1
    assert abs(sum(maps.probability_share(word) for word in maps) - 1) < 1e-6


def test_heat_maps_show_themselves_as_a_sheet_of_every_word(pipe):
    with attend(pipe, prompts=PAIR) as attn:
        maps = attn.probe("dog", "a red", prompt=1)
        assert maps._repr_png_() is None  # nothing is drawn yet
        draw(pipe, PAIR, callback_on_step_end=attn.on_step_end)
    shown = Image.open(io.BytesIO(maps._repr_png_()))
    assert shown.size == maps.sheet().size
    assert shown.width > 2 * MIN_DISPLAY_WIDTH
    over = maps.sheet(Image.new("RGB", (40, 40), "white"))
    assert over.size == shown.size
    assert over.getpixel((20, 20)) != shown.getpixel((20, 20))
