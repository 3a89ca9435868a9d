"""`PromptEditPipeline`: a source and its targets, drawn together."""

import numpy as np
import pytest
import torch

from pipelines.prompt_to_prompt.automatic_edits import WordEditOptions, choose_edits
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import LocalBlend, Refine, Replace, Reweight, SelfReplace, Sites, attend
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, AttentionError
from t2i.text.prompt import Prompt
from tests.tiny import tiny_sd_components

SOURCE, TARGET, LONGER = "a red cat", "a red dog", "a red cat and a blue dog"
FEW_STEPS = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_of(pipe):
    plain = TextToImagePipeline(**pipe.components)
    plain.set_progress_bar_config(disable=True)
    return plain


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_source_is_drawn_as_alone_and_the_target_is_tied_to_it(pipe):
    source, target = pipe(SOURCE, TARGET, seed=3, **FEW_STEPS).images
    plain = plain_of(pipe)
    alone = plain(SOURCE, generator=seeded(3), **FEW_STEPS).images[0]
    other = plain(TARGET, generator=seeded(3), **FEW_STEPS).images[0]
    torch.testing.assert_close(source, alone, atol=1e-5, rtol=0)
    assert (target - source).abs().max() > 1e-3
    assert (target - other).abs().max() > 1e-3


def test_auto_edits_are_the_ones_that_one_would_write(pipe):
    auto = pipe(
        SOURCE, TARGET, weights={"red": 2.0}, blend=("cat", "dog"), seed=3, **FEW_STEPS
    ).images
    latents = torch.randn(1, 4, 8, 8, generator=seeded(3)).repeat(2, 1, 1, 1)
    plain = plain_of(pipe)
    with attend(plain) as attn:
        attn.edit(Replace(source=0, target=1, steps=(0.0, 0.8)))
        attn.edit(Reweight(source=0, target=1, weights={"red": 2.0}, steps=(0.0, 0.8)))
        attn.edit(SelfReplace(source=0, target=1, steps=(0.0, 0.4)))
        attn.edit(LocalBlend(source=0, target=1, words=("cat", "dog")))
        by_hand = plain([SOURCE, TARGET], latents=latents, **FEW_STEPS).images
    assert torch.equal(auto, by_hand)


@pytest.mark.parametrize(("target", "kind"), [(TARGET, Replace), (LONGER, Refine)])
def test_prompts_of_as_many_words_are_swapped_and_others_aligned(target, kind):
    options = WordEditOptions(cross_replace=(0.0, 0.8), self_replace=(0.0, 0.4), blend=None)
    edits = choose_edits([SOURCE, target], 10, options, 256)
    assert [type(edit) for edit in edits] == [kind, SelfReplace]
    assert edits[0].steps == (0.0, 0.8)
    assert edits[1].steps == (0.0, 0.4)


def test_prompts_in_a_grammar_are_compared_without_it_at_every_step():
    weighted = [Prompt("a (red:1.2) cat"), Prompt("a red dog")]
    assert isinstance(choose_edits(weighted, 10, WordEditOptions(), 256)[0], Replace)
    grows = [SOURCE, Prompt("a red [dog:big dog:0.5]")]
    assert isinstance(choose_edits(grows, 10, WordEditOptions(), 256)[0], Refine)


def test_weights_go_to_the_targets_that_have_the_word():
    edits = choose_edits(
        [SOURCE, TARGET, "a blue cat"], 10, WordEditOptions(weights={"dog": 2.0}), 256
    )
    assert [edit.target for edit in edits if isinstance(edit, Reweight)] == [1]


def test_each_target_may_have_its_own_blend(pipe):
    pairs = [("cat", "dog"), ("red", "blue")]
    images = pipe(SOURCE, [TARGET, "a blue cat"], blend=pairs, seed=1, **FEW_STEPS).images
    assert len(images) == 3
    blends = [
        edit
        for edit in choose_edits(
            [SOURCE, TARGET, "a blue cat"], 5, WordEditOptions(blend=pairs), 256
        )
        if isinstance(edit, LocalBlend)
    ]
    assert [(edit.target, edit.words) for edit in blends] == [(1, pairs[0]), (2, pairs[1])]


def test_a_large_image_is_blended_by_its_smallest_sites(pipe):
    """256 pixels are 64 x 64 positions at every site of this model that a blend may read."""
    size = {"height": 256, "width": 256, "num_inference_steps": 1, "output_type": "latent"}
    source, target = pipe(SOURCE, TARGET, seed=1, cross_replace=None, **size).images
    assert not torch.equal(source, target)
    (*_, blend), (*_, small) = (
        pipe.choose_automatic_edits([SOURCE, TARGET], WordEditOptions(), 5, side, side)
        for side in (256, 32)
    )
    assert blend.sites == Sites(kind="cross", place=("down", "up"), max_positions=64 * 64)
    assert small.sites is None


def test_a_blend_of_sites_of_several_sizes_reads_one_size(pipe):
    blend = LocalBlend(words=("cat", "dog"), sites=Sites(kind="cross"))
    images = pipe(SOURCE, TARGET, edits=[blend], seed=1, **FEW_STEPS).images
    assert images.isfinite().all()


def test_targets_do_not_depend_on_one_another(pipe):
    both = pipe(SOURCE, [TARGET, LONGER], seed=4, **FEW_STEPS).images
    alone = pipe(SOURCE, LONGER, seed=4, **FEW_STEPS).images
    torch.testing.assert_close(both[2], alone[1], atol=1e-5, rtol=0)


def test_the_same_prompt_without_wishes_is_the_same_picture(pipe):
    source, target = pipe(SOURCE, SOURCE, seed=5, **FEW_STEPS).images
    torch.testing.assert_close(source, target, atol=1e-6, rtol=0)


def test_a_sampler_that_adds_noise_adds_the_same_to_all():
    components = tiny_sd_components()
    components["scheduler"] = build_scheduler("euler a", components["scheduler"].config)
    pipe = PromptEditPipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    source, target = pipe(SOURCE, SOURCE, seed=5, **FEW_STEPS).images
    torch.testing.assert_close(source, target, atol=1e-6, rtol=0)
    alone = plain_of(pipe)(SOURCE, generator=[seeded(5)], **FEW_STEPS).images[0]
    torch.testing.assert_close(source, alone, atol=1e-5, rtol=0)


def test_own_edits_take_the_place_of_auto(pipe):
    nothing = pipe(SOURCE, TARGET, edits=[], seed=2, **FEW_STEPS).images
    other = plain_of(pipe)(TARGET, generator=seeded(2), **FEW_STEPS).images[0]
    torch.testing.assert_close(nothing[1], other, atol=1e-5, rtol=0)
    edited = pipe(SOURCE, TARGET, edits=[Replace(steps=(0.0, 1.0))], seed=2, **FEW_STEPS).images
    assert (edited[1] - other).abs().max() > 1e-3


def test_pictures_of_large_latents_keep_the_layout_of_the_coarsest_sites(pipe):
    edits = pipe.choose_automatic_edits(
        [SOURCE, TARGET], WordEditOptions(), 10, height=256, width=192
    )
    (layout,) = (edit for edit in edits if isinstance(edit, SelfReplace))
    assert layout.max_positions == 32 * 24
    edits = pipe.choose_automatic_edits([SOURCE, TARGET], WordEditOptions(), 10)
    (layout,) = (edit for edit in edits if isinstance(edit, SelfReplace))
    assert layout.max_positions == 16 * 16


def test_too_few_steps_for_a_window_are_told(pipe):
    with pytest.warns(UserWarning, match=r"2 steps are too few for self_replace=\(0\.0, 0\.4\)"):
        pipe(SOURCE, TARGET, seed=1, **FEW_STEPS | {"num_inference_steps": 2})


def test_nothing_is_left_in_the_pipeline(pipe):
    before = list(pipe.step_callbacks)
    with pytest.raises(ArgumentError, match="'bird' is not in the prompt"):
        pipe(SOURCE, TARGET, blend=("bird", "dog"), seed=1, **FEW_STEPS)
    assert pipe.step_callbacks == before
    assert not [m for m in pipe.unet.modules() if "forward" in m.__dict__]


def test_it_gives_pillow_pictures_and_a_grid(pipe):
    drawn = pipe(SOURCE, TARGET, seed=1, num_inference_steps=5)
    assert [picture.size for picture in drawn.images] == [(32, 32)] * 2
    assert np.asarray(drawn.grid(columns=2)).shape == (32, 64, 3)


def test_encode_prompt_is_that_of_text_to_image(pipe):
    ours, plain = pipe.encode_prompt(SOURCE), plain_of(pipe).encode_prompt(SOURCE)
    assert torch.equal(ours[0], plain[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": ["a cat", "a dog"]}, "Got source of type list.*Expected one prompt"),
        ({"target": 3}, "Got target of type int"),
        ({"target": []}, r"Got target=\[\]: give at least one prompt"),
        ({"edits": "replace"}, 'Got edits=.*expected "auto", or a list of edits'),
        (
            {"edits": [Replace()], "weights": {"dog": 2}},
            "Got both edits and one of weights",
        ),
        ({"weights": {"dogs": 2.0}}, "weights: 'dogs' is not in any target. Nearest: dog"),
        ({"weights": {"dog": "much"}}, r"Got weights\['dog'\]='much', expected a number"),
        ({"weights": "dog"}, "Got weights='dog', expected words and their factors"),
        ({"blend": ("cat",)}, 'expected "auto", None, or a word of the source'),
        ({"blend": [("cat", "dog")] * 2}, "Got 2 pairs as blend for 1 targets"),
        ({"cross_replace": 0.8}, r"Got cross_replace=0\.8, expected two numbers"),
        ({"self_replace": (0.4, 0.0)}, "Got self_replace=.*the first to be at most the second"),
        ({"seed": 1, "generator": torch.Generator()}, "Got both seed and generator"),
        ({"generator": [torch.Generator()]}, "Got generator of type list, expected one"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "expected the noise of one image"),
        ({"height": 33}, "Got height=33, but this model needs a multiple of 4"),
    ],
)
def test_what_cannot_be_used_is_named(pipe, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        pipe(**{"source": SOURCE, "target": TARGET, **FEW_STEPS} | arguments)


def test_an_edit_of_a_prompt_that_is_not_there_is_refused(pipe):
    with pytest.raises((ArgumentError, AttentionError), match="target=2"):
        pipe(SOURCE, TARGET, edits=[Replace(target=2)], seed=1, **FEW_STEPS)
