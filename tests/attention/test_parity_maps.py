"""Maps against maps that are made: DAAM's, and the means of softmax(QK) at every site."""

from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

import t2i
from t2i.attention import attend
from t2i.attention.compute import probabilities
from t2i.attention.compute.probabilities import compute_mean_ratio_to_max_token
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes import measurements
from t2i.errors import ArgumentError, AttentionError
from t2i.evaluate.inspection.map_scores import score_map_against_mask
from t2i.evaluate.inspection.scene_heat_maps import compute_rendered_scene_heat_maps
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.attention.published import Eager
from tests.attention.runs import CAT, DOG, draw, ours, theirs
from tests.sweeps import sweep
from tests.tiny import tiny_scheduler, tiny_sd_components, tiny_unet

PLACES = {"a red apple": [1, 2, 3], "apple": [3], "cat": [9], "zebra": [10, 11, 12, 13, 14]}
OBJECTS = ("apple", "banana", "sunflower", "cat", "dog", "fish", "car", "rocket", "house", "star")
LAST = "a red apple to the left of the blue zebra"


@pytest.fixture(scope="module")
def parts():
    """Every block has sites, of two numbers of heads; the maps are far from even."""
    unet = tiny_unet(
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=(2, 4),
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight *= 3
    return tiny_sd_components() | {"unet": unet}


def captured(parts, prompts, *, cross=True, **call):
    """Site -> for each pass the maps of its text, (B, N, Q, T), or of its self-attention; made by
    diffusers' pipeline.
    """
    pipe = theirs(**parts)
    before, seen = dict(pipe.unet.attn_processors), {}

    def record(site, probs_BNQK, is_cross, _place):
        if is_cross == cross:
            seen.setdefault(site, []).append(probs_BNQK)
        return probs_BNQK

    pipe.unet.set_attn_processor(
        {
            name: Eager(partial(record, name.removesuffix(".processor")), name.split("_")[0])
            for name in before
        }
    )
    try:
        draw(pipe, prompts, **call)
    finally:
        pipe.unet.set_attn_processor(before)
    return seen


def daam(seen, tokens, grid):
    """Tang et al. 2022 (arXiv 2210.04885), of one picture drawn with guidance."""
    every = []
    for site, passes in seen.items():
        if not site.startswith(("up", "down")):
            continue
        for head_QT in torch.stack(passes)[:, 1].sum(0):
            side = int(len(head_QT) ** 0.5)
            for token_Q in head_QT.T[tokens]:
                map_11HW = token_Q.view(1, 1, side, side)
                every.append(functional.interpolate(map_11HW, grid, mode="bicubic").clamp(min=0))
    return torch.cat(every).mean(dim=(0, 1))


@pytest.mark.parametrize("of", [ours, theirs])
def test_against_daam(parts, of):
    seen = captured(parts, LAST)
    heads = {passes[0].shape[1] for passes in seen.values()}
    assert len(heads) == 2
    pipe = of(**parts)
    with attend(pipe, prompts=[LAST]) as attn:
        maps = attn.probe("apple", "zebra", "a red apple", convention="daam")
        draw(pipe, LAST)
    for word in maps:
        expected = daam(seen, PLACES[word], (8, 8))
        assert_near(maps[word], expected, 1e-4)
        assert expected.max() > 1.5 * expected.min()


RUNS = {
    "guided": ([CAT], {}),
    "unguided": ([CAT], {"guidance_scale": 1.0}),
    "tall": ([CAT], {"height": 48, "width": 32}),
    "wide and unguided": ([CAT], {"height": 32, "width": 64, "guidance_scale": 0.0}),
    "several of each": ([DOG, CAT, LAST], {"num_images_per_prompt": 2}),
    "several of each, unguided": (
        [DOG, CAT],
        {"num_images_per_prompt": 3, "guidance_scale": 1.0, "height": 16, "width": 32},
    ),
    "v-prediction": ([CAT], {}),
}


@pytest.mark.parametrize(
    ("of", "run"),
    sweep(
        product([ours, theirs], RUNS),
        quick=[*product([ours], RUNS), (theirs, "wide and unguided"), (theirs, "several of each")],
    ),
)
def test_means_of_every_site_are_those_of_softmax(parts, run, of):
    prompts, call = RUNS[run]
    if run == "v-prediction":
        parts = parts | {"scheduler": tiny_scheduler(prediction_type="v_prediction")}
    seen = captured(parts, prompts, **call)
    pipe, cat = of(**parts), prompts.index(CAT)
    with attend(pipe, prompts=prompts) as attn:
        all_steps = attn.probe("cat", "a red apple", prompt=cat)
        late = attn.probe("cat", prompt=cat, steps=(2, 4), heads=(1,), sites="up")
        draw(pipe, prompts, **call)
        sites = {site.name: site for site in attn.sites() if site.kind == "cross"}

    assert sites.keys() == seen.keys()
    count = call.get("num_images_per_prompt", 1)
    for name, passes in seen.items():
        rows = len(passes[0])
        first = (rows // 2 if rows > len(prompts) * count else 0) + cat * count
        for picture in range(count):
            probs_SNQT = torch.stack(passes)[:, first + picture]
            for word in ("cat", "a red apple"):
                mean_Q = probs_SNQT[..., PLACES[word]].mean(dim=(0, 1, 3))
                expected = mean_Q.view(sites[name].size)
                assert_near(all_steps.for_image(picture).site_map(word, name), expected, 1e-5)
            if name.startswith("up"):
                mean_Q = probs_SNQT[2:4, 1][..., PLACES["cat"]].mean(dim=(0, 2))
                expected = mean_Q.view(sites[name].size)
                assert_near(late.for_image(picture).site_map("cat", name), expected, 1e-5)


def test_default_maps_are_in_proportion_to_the_strongest_token(parts):
    """Of each head at each step, before any mean; then the mean of the sites of 8 x 8 positions,
    stretched. Those of 4 x 4 are too coarse.
    """
    seen = captured(parts, CAT)
    pipe = ours(**parts)
    with attend(pipe) as attn:
        maps = attn.probe("cat", "a red apple")
        late = attn.probe("cat", steps=(2, 4), heads=(1,), sites="up")
        draw(pipe, CAT)

    def expected(word, steps, heads, place):
        of_sites = []
        for name, passes in seen.items():
            if name.startswith(place) and passes[0].shape[-2] == 64:
                probs_SNQT = torch.stack(passes)[steps, 1][:, heads]
                rivals_SNQ1 = probs_SNQT.amax(-1, keepdim=True)
                mean_Q = (probs_SNQT / rivals_SNQ1)[..., PLACES[word]].mean(dim=(0, 1, 3))
                of_sites.append(mean_Q.view(8, 8))
        assert 0 < len(of_sites) < len(seen)
        map_HW = torch.stack(of_sites).mean(dim=0)
        return (map_HW - map_HW.min()) / (map_HW.max() - map_HW.min())

    for word in maps:
        assert_near(maps[word], expected(word, slice(None), slice(None), ""), 1e-4)
    assert_near(late["cat"], expected("cat", slice(2, 4), [1], "up"), 1e-4)
    assert torch.equal(maps.mask("cat"), maps["cat"] >= 0.5)
    assert torch.equal(maps.mask("cat", 0.3), maps["cat"] >= 0.3)


@pytest.mark.parametrize("of", [ours, theirs])
def test_refined_maps_are_means_of_the_positions_that_a_position_attends_to(parts, of):
    """Written out in float64: the larger of two decoder blocks, squared, its last steps; the words
    at its 8 x 8 positions alone.
    """
    cross, selves = captured(parts, CAT), captured(parts, CAT, cross=False)
    pipe = of(**parts)
    with attend(pipe, prompts=[CAT]) as attn:
        maps = attn.probe("cat", "a red apple", convention="refined")
        first_steps = attn.probe("cat", convention="refined", steps=(0, 2), grid=(4, 4))
        draw(pipe, CAT)

    def expected(word, words_steps, affinity_steps, grid=(8, 8)):
        of_sites = []
        for name, passes in cross.items():
            if name.startswith("up") and passes[0].shape[-2] == 64:
                probs_SNQT = torch.stack(passes)[words_steps, 1].double()
                ratio_SNQT = probs_SNQT / probs_SNQT.amax(-1, keepdim=True)
                mean_Q = ratio_SNQT[..., PLACES[word]].mean(dim=(0, 1, 3))
                of_sites.append(mean_Q)
        map_Q = torch.stack(of_sites).mean(dim=0)
        sides = {name: passes[0].shape[-1] for name, passes in selves.items() if "up" in name}
        (largest, *_) = [name for name in sides if sides[name] == 64]
        affinity_QQ = torch.stack(selves[largest])[affinity_steps, 1].double().mean(dim=(0, 1))
        refined_Q = [(row**2 / (row**2).sum() * map_Q).sum() for row in affinity_QQ]
        map_11HW = torch.stack(refined_Q).view(1, 1, 8, 8)
        map_HW = functional.interpolate(map_11HW, grid, mode="bilinear", antialias=True)[0, 0]
        return ((map_HW - map_HW.min()) / (map_HW.max() - map_HW.min())).float()

    for word in maps:
        # Self-attention counts from the share 0.4 of four steps on: from step 1.
        assert_near(maps[word], expected(word, slice(None), slice(1, 4)), 1e-4)
    assert_near(first_steps["cat"], expected("cat", slice(2), slice(2), (4, 4)), 1e-4)
    assert torch.equal(maps.mask("cat"), maps["cat"] >= 0.5)


def test_refined_maps_without_self_attention_are_refused():
    pipe = ours()
    with attend(pipe) as attn:
        maps = attn.probe("cat", convention="refined")
        # The only site of this decoder has 40 x 40 positions.
        draw(pipe, CAT, num_inference_steps=1, height=160, width=160)
    with pytest.raises(ArgumentError, match="at most 32 x 32 positions, and this run has none"):
        maps["cat"]


def test_a_refined_probe_of_sites_without_text_is_refused_as_any_other():
    """Its self-attention is read at a site that the probe did not choose."""
    pipe = ours()
    for sites in ("nowhere", "attn1"):
        with attend(pipe) as attn:
            attn.probe("cat", convention="refined", sites=sites)
            with pytest.raises(AttentionError, match="fits none of the"):
                draw(pipe, CAT, num_inference_steps=1)


def test_maps_of_the_embedded_model_lie_closer_on_its_objects_than_others_do(monkeypatch):
    """Than DAAM's, and than those of all sites, among which are coarse ones of 4 x 4 positions."""
    pipe = t2i.load("embedded")
    scenes = SceneDataset(
        SceneDatasetConfig(size=128, seed=5, length=6, max_objects=2, vocabulary=OBJECTS)
    )
    ious = {}

    def score(name, method, heat, scene):
        for one, placed in enumerate(scene.objects):
            map_HW = heat.resized_word_map(method, "all", one, [])
            scores = score_map_against_mask(map_HW, torch.from_numpy(placed.mask))
            # at the best threshold: the maps of two conventions are scaled differently
            ious.setdefault(name, []).append(max(scores.ious))

    for number in range(6):
        scene = scenes.render_scene(number)
        heat = compute_rendered_scene_heat_maps(
            pipe, scene, (0.7, 0.4, 0.2), torch.Generator().manual_seed(number)
        )
        for method in ("default", "refined", "daam"):
            score(method, method, heat, scene)
        with monkeypatch.context() as patched:
            patched.setattr(measurements, "MIN_POSITIONS", 1)
            score("all sites", "default", heat, scene)
    mean = {name: np.mean(values) for name, values in ious.items()}
    assert mean["default"] > mean["all sites"] + 0.01 > mean["daam"] + 0.02, mean
    assert mean["refined"] > mean["daam"] + 0.03, mean


def test_a_map_does_not_ask_how_strongly_a_place_looks_at_the_text():
    """Tokens beside it that are looked at as much as before, at some places less than at others."""
    probs_NQT = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    dimmed_NQT = probs_NQT * torch.tensor([1.0, 0.5, 0.1, 0.01, 1.0])[:, None]
    words, dimmed = probs_NQT[..., :2].mT, dimmed_NQT[..., :2].mT
    assert_near(
        compute_mean_ratio_to_max_token(dimmed, dimmed_NQT),
        compute_mean_ratio_to_max_token(words, probs_NQT),
        1e-6,
    )
    assert_near(
        compute_mean_ratio_to_max_token(probs_NQT.amax(-1)[:, None], probs_NQT),
        torch.ones(1, 1, 5),
        1e-6,
    )


def test_raw_maps_are_those_of_every_step_and_head(parts):
    seen = captured(parts, CAT)
    pipe = ours(**parts)
    with attend(pipe) as attn:
        maps = attn.probe("cat", "apple", raw=True)
        draw(pipe, CAT)
    for name, passes in seen.items():
        for step, probs_BNQT in enumerate(passes):
            expected_NSQ = probs_BNQT[1][..., [9, 3]].transpose(-1, -2)
            assert_near(maps.measurements.raw[name][step][0], expected_NSQ, 1e-5)


def test_maps_that_are_alive_have_the_gradients_of_the_maps_that_are_made():
    """In float64, with regard to the latents: of how much a word is looked at, squared."""
    pipe = ours(**tiny_sd_components()).to(torch.float64)
    unet, site = pipe.unet, "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)).double()
    told = pipe.encode_prompt(CAT, do_classifier_free_guidance=False)[0]

    own = latents.clone().requires_grad_()
    with torch.enable_grad(), attend(unet, prompts=[CAT], tokenizer=pipe.tokenizer) as attn:
        maps = attn.probe("cat", sites=site, grad=True)
        unet(own, 500, encoder_hidden_states=told)
        (maps.measurements.live[site] ** 2).sum().backward()

    kept, before = {}, dict(unet.attn_processors)

    def keep(name, probs_BNQK, _is_cross, _place):
        kept[name] = probs_BNQK
        return probs_BNQK

    made = latents.clone().requires_grad_()
    unet.set_attn_processor({name: Eager(partial(keep, name), "") for name in before})
    try:
        unet(made, 500, encoder_hidden_states=told)
    finally:
        unet.set_attn_processor(before)
    (kept[f"{site}.processor"][0, ..., 9] ** 2).sum().backward()
    assert_near(own.grad, made.grad, 1e-9 * float(made.grad.abs().max()))


@dataclass(frozen=True, kw_only=True)
class Through(Edit):
    """Every map is made, and left as it is; `seen` are the sizes that were handed over."""

    needs = "probs"
    kinds = ("self", "cross")
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def add_to_plan(self, plan, call):
        def keep(probs_NQK):
            self.seen.append(tuple(probs_NQK.shape))
            assert_near(probs_NQK.sum(-1), torch.ones(probs_NQK.shape[:2]), 1e-5)
            return probs_NQK

        plan.add_map_function(call.denoiser_pass.cond_rows_of_prompt(0), keep)


@pytest.mark.parametrize("at_once", [None, 500])
def test_maps_that_are_made_whole_or_in_parts_draw_the_same(parts, at_once, monkeypatch):
    pipe = ours(**parts)
    with attend(pipe) as attn:
        maps = attn.probe("cat", convention="mean")
        plain = draw(pipe, CAT)
    if at_once is not None:
        monkeypatch.setattr(probabilities, "MAX_CHUNK_ELEMENTS", at_once)
    edit = Through()
    with attend(pipe) as attn:
        attn.edit(edit)
        made = attn.probe("cat", convention="mean")
        assert_near(draw(pipe, CAT), plain, 1e-4)
    assert_near(made["cat"], maps["cat"], 1e-5)
    largest = max(heads * queries * keys for heads, queries, keys in edit.seen)
    assert largest <= at_once if at_once else largest == 2 * 64 * 64


def assert_near(left, right, tolerance):
    assert left.shape == right.shape
    difference = (left - right).abs()
    assert difference.max() < tolerance, f"max {difference.max()}, mean {difference.mean()}"
