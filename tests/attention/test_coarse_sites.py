"""A site too coarse to say where something is does not decide a map where finer ones exist."""

import pytest
import torch

from t2i.attention import LocalBlend, Site, attend
from t2i.attention.edits.attend_and_excite import select_loss_map_size_and_sites
from t2i.attention.probes.measurements import SiteAccumulator, leave_out_coarse_sites
from t2i.attention.probes.step_heat_maps import StepHeatMaps
from tests.attention.runs import CAT, draw, ours
from tests.tiny import tiny_sd_components, tiny_unet

SIZES = {(4, 4): {16}, (8, 8): {64}, (16, 16): {256, 64}, (32, 32): {1024, 256, 64}}
"""Size of the latents -> image positions of the sites that decide, of a UNet whose sites have that
size, a half, a quarter and an eighth of it."""
WIDE = {(16, 64): {1024, 256, 64}, (4, 8): {32}}


@pytest.fixture(scope="module")
def pipe():
    unet = tiny_unet(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 4,
        up_block_types=("CrossAttnUpBlock2D",) * 4,
    )
    return ours(**(tiny_sd_components() | {"unet": unet}))


STABLE_DIFFUSION_1 = {
    (512, 512): [(64, 64), (32, 32), (16, 16), (8, 8)],
    (512, 768): [(64, 96), (32, 48), (16, 24), (8, 12)],
    (1024, 256): [(128, 32), (64, 16), (32, 8), (16, 4)],
    (256, 256): [(32, 32), (16, 16), (8, 8)],
    (64, 64): [(8, 8)],
    (32, 32): [(4, 4)],
}
"""Size of the picture -> sizes of the sites that decide; it has sites of an eighth, a 16th, a 32nd
and a 64th of the picture."""


@pytest.mark.parametrize("picture", STABLE_DIFFUSION_1)
def test_which_sites_of_stable_diffusion_1_decide(picture):
    sizes = [(picture[0] // factor, picture[1] // factor) for factor in (8, 16, 32, 64)]
    sums = [
        SiteAccumulator(
            Site("", "cross", "", size, 8, 77, (0, 77), (0, size[0] * size[1])),
            torch.zeros(1, 1, size[0] * size[1]),
            [1],
        )
        for size in sizes
        if min(size)
    ]
    kept = [one.site.size for one in leave_out_coarse_sites(sums)]
    assert kept == STABLE_DIFFUSION_1[picture]


def probed(pipe, size, convention="default", **probe):
    """Heat maps of one run, and those of its steps."""
    with attend(pipe) as attn:
        maps = attn.probe("red apple", "cat", convention=convention, **probe)
        by_step = StepHeatMaps(maps)
        with by_step.collecting(pipe):
            draw(pipe, CAT, num_inference_steps=2, height=4 * size[0], width=4 * size[1])
    return maps, by_step.steps


def answers(maps):
    """Everything that says where a word is, or whether it is there."""
    return {
        "maps": [maps[word] for word in maps],
        "unscaled": [maps.unscaled(word) for word in maps],
        "masks": [maps.mask(word) for word in maps],
        "segments": [maps.segment().labels_HW, maps.segment(0.8, (64, 64)).labels_HW],
        "places": torch.tensor([[*maps.peak(word), *maps.mask_centroid(word)] for word in maps]),
        "words": torch.tensor([dict(maps.words_at(0.3, 0.6))[word] for word in maps]),
        "found": torch.tensor([maps.found(word).score for word in maps]),
    }


def scramble(maps, positions):
    """Replace what the sites of these numbers of image positions have measured."""
    generator = torch.Generator().manual_seed(0)
    for one in maps.measurements.accumulators.values():
        if one.site.num_positions in positions:
            one.total_NSQ = torch.rand(one.total_NSQ.shape, generator=generator)
            if one.score_1SQ is not None:
                one.score_1SQ = torch.rand(one.score_1SQ.shape, generator=generator)


def flat(found):
    return {name: torch.cat([part.flatten() for part in values]) for name, values in found.items()}


@pytest.mark.parametrize("convention", ["default", "refined"])
@pytest.mark.parametrize("size", [*SIZES, *WIDE])
def test_coarse_sites_do_not_decide_where_a_word_is(pipe, size, convention):
    fine = (SIZES | WIDE)[size]
    maps, steps = probed(pipe, size, convention)
    read = {one.site.num_positions for one in maps.measurements.accumulators.values()}
    assert read > fine  # coarser ones are read, too, as for `site_map`
    assert {site.num_positions for site in maps.sites} == fine
    for own in (maps, *steps):
        before = flat(answers(own))
        scramble(own, read - fine)
        after = flat(answers(own))
        for name, values in before.items():
            assert torch.equal(after[name], values), name
    for positions in fine:  # each of the finer sites counts
        before = maps.unscaled("cat")
        scramble(maps, {positions})
        assert not torch.equal(maps.unscaled("cat"), before)


@pytest.mark.parametrize("size", SIZES)
def test_edits_do_not_read_places_from_coarse_sites_either(pipe, size):
    maps, _ = probed(pipe, size, "mean")
    sites = [one.site for one in maps.measurements.accumulators.values()]
    least = min(64, max(site.num_positions for site in sites))
    chosen = select_loss_map_size_and_sites(dict.fromkeys(sites), torch.Size((1, 4, *size)))[1]
    assert min(site.num_positions for site in chosen) >= least

    blend = LocalBlend(words=("cat", "cat"))
    with attend(pipe) as attn:
        (probe, _) = blend.list_probes()
        attn.add_probe(probe)
        draw(pipe, CAT, num_inference_steps=1, height=4 * size[0], width=4 * size[1])
    mask = blend.compute_blend_mask(probe, 0, size)
    scramble(probe.maps, {site.num_positions for site in sites if site.num_positions < least})
    assert torch.equal(blend.compute_blend_mask(probe, 0, size), mask)


def test_a_probe_of_coarse_sites_alone_has_maps_of_them(pipe):
    """Who names them gets them: there is no finer one among those that are read."""
    whole, _ = probed(pipe, (16, 16))
    maps, _ = probed(pipe, (16, 16), sites="mid_block")
    assert [site.num_positions for site in maps.sites] == [4]
    assert maps["cat"].std() > 0
    assert not torch.equal(maps["cat"], whole["cat"])


@pytest.mark.parametrize("convention", ["mean", "daam"])
def test_the_plain_mean_and_the_published_convention_read_all_of_their_sites(pipe, convention):
    maps, _ = probed(pipe, (16, 16), convention)
    before = maps["cat"]
    assert {site.num_positions for site in maps.sites} >= {256, 64, 16}
    scramble(maps, {16})
    assert not torch.equal(maps["cat"], before)
