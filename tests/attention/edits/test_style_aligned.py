"""StyleAligned does what the published shared attention does, in the fused kernel.

R rows, N heads, Q positions, K keys, E width of a head.
"""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Function, SelfReplace, Sites, StyleAligned, attend
from t2i.attention.compute.shared_keys import match_statistics
from t2i.errors import ArgumentError, AttentionError
from tests.attention.edits.drawn import SOURCE, TARGET, difference, drawn
from tests.tiny import tiny_sd_components


def adain(content, style):
    """Eq. 8 of AdaIN over the positions, with the unbiased deviation of the published code."""
    mean, deviation = content.mean(-2, keepdim=True), (content.var(-2, keepdim=True) + 1e-5).sqrt()
    style_mean = style.mean(-2, keepdim=True)
    return (content - mean) / deviation * (style.var(-2, keepdim=True) + 1e-5).sqrt() + style_mean


class SharingByHand:
    """An eager processor: the odd rows of self-attention attend to [K_s; K'] of the even ones."""

    def __init__(self, weight=1.0, normalise=True, heads=None):
        self.weight, self.normalise, self.heads = weight, normalise, heads

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, **_):
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        rows, heads = len(hidden), attn.heads
        query, key, value = (
            projected.unflatten(-1, (heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
        )
        out = []
        for row in range(rows):
            q, k, v = query[row], key[row], value[row]
            if encoder_hidden_states is None and row % 2:
                q_s, k_s, v_s = query[row - 1], key[row - 1], value[row - 1]
                if self.normalise:
                    q, k = adain(q, q_s), adain(k, k_s)
                of_source = self.weight * (q @ k_s.transpose(-1, -2) * attn.scale).exp()
                own = (q @ k.transpose(-1, -2) * attn.scale).exp()
                shared = torch.cat([of_source, own], -1) @ torch.cat([v_s, v], -2)
                mixed = shared / (of_source.sum(-1) + own.sum(-1))[..., None]
                if self.heads is not None:
                    others = [head for head in range(heads) if head not in self.heads]
                    plain = (query[row] @ key[row].transpose(-1, -2) * attn.scale).softmax(-1)
                    mixed[others] = (plain @ value[row])[others]
                out.append(mixed)
            else:
                out.append((q @ k.transpose(-1, -2) * attn.scale).softmax(-1) @ v)
        return attn.to_out[0](torch.stack(out).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "options",
    [{}, {"weight": 2.0}, {"normalise": False}, {"weight": 0.5, "heads": (1,)}],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_against_an_eager_controller_in_float64(options):
    pipe = TextToImagePipeline(**tiny_sd_components()).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"source_weight" if name == "weight" else name: options[name] for name in options}
    # A site of one position has no unbiased deviation, which the code by hand has.
    edit = StyleAligned(sites="up_blocks.1|down_blocks.0", **arguments)
    ours, plain = drawn(pipe, edit), drawn(pipe)
    for name, module in pipe.unet.named_modules():
        if name.startswith(("up_blocks.1", "down_blocks.0")) and name.endswith("attn1"):
            module.set_processor(SharingByHand(**options))
    theirs = drawn(pipe)
    scale = float(theirs.abs().max())
    # 1e-9 were measured: the deviations differ by the number of positions less one, and so EPSILON.
    assert float((ours - theirs).abs().max()) < 1e-8 * scale, difference(ours, theirs)
    assert float((ours[1] - plain[1]).abs().max()) > 1e-3
    assert torch.equal(ours[0], plain[0]), "the source stays what it is"


def test_a_target_that_is_the_source_stays_what_it_is(pipe):
    def call():
        return {
            "prompts": (SOURCE, SOURCE),
            "generator": [torch.Generator().manual_seed(3) for _ in range(2)],
        }

    plain, edited = drawn(pipe, **call()), drawn(pipe, StyleAligned(), **call())
    assert float((edited - plain).abs().max()) < 1e-4 * float(plain.abs().max())


def test_statistics_become_those_of_the_style_in_each_head_and_channel():
    content, style = torch.randn(2, 9, 5) * 3 + 1, torch.randn(2, 9, 5) - 2
    matched = match_statistics(content, style)
    torch.testing.assert_close(matched.mean(-2), style.mean(-2))
    torch.testing.assert_close(matched.std(-2), style.std(-2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(match_statistics(content[:, :1], style[:, :1]), style[:, :1])


def test_it_acts_at_every_self_attention_in_the_fused_kernel(pipe):
    with attend(pipe) as attn:
        attn.edit(StyleAligned())
        pipe([SOURCE, TARGET], num_inference_steps=2, output_type="latent")
        lines = attn.explain().splitlines()
        sites = [site for site in attn.sites() if site.kind == "self"]
    touched = [line for line in lines if "StyleAligned" in line]
    assert len(touched) == len(sites) > 0
    assert all("fused, with shared keys in 2 rows;" in line for line in touched)


def test_a_heat_map_and_a_function_see_the_map_that_is_used(pipe):
    seen, site = [], Sites(kind="self", name="up_blocks.1.attentions.0")

    def look(probs_NQK):
        seen.append(probs_NQK.shape)
        torch.testing.assert_close(probs_NQK.sum(-1), torch.ones(probs_NQK.shape[:-1]))
        return probs_NQK

    edited = drawn(pipe, StyleAligned(), Function(look, target=1, sites=site))
    assert all(keys == 2 * queries for _, queries, keys in seen)
    assert seen
    plain = drawn(pipe, StyleAligned())
    assert float((edited - plain).abs().max()) < 1e-4
    with attend(pipe) as attn:
        maps = attn.probe("cat", prompt=1, convention="refined")
        attn.edit(StyleAligned())
        pipe([SOURCE, TARGET], num_inference_steps=2, output_type="latent")
    assert torch.isfinite(maps["cat"]).all()


def test_it_goes_with_other_edits_of_the_same_rows(pipe):
    """Queries and keys that are copies of the source's are what AdaIN makes of them."""
    both = drawn(pipe, SelfReplace(max_positions=None), StyleAligned())
    alone = drawn(pipe, StyleAligned())
    assert torch.isfinite(both).all()
    assert not torch.equal(both, alone)


def test_half_precision_runs(components):
    pipe = TextToImagePipeline(**tiny_sd_components()).to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert torch.isfinite(drawn(pipe, StyleAligned(source_weight=2.0))).all()


def test_two_sources_of_one_target_are_refused(pipe):
    prompts = (SOURCE, TARGET, "a blue cat")
    edits = StyleAligned(source=0, target=2), StyleAligned(source=1, target=2)
    with pytest.raises(ArgumentError, match="shares the keys of one source at a time"):
        drawn(pipe, *edits, prompts=prompts)


def test_an_eager_processor_is_refused():
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor())
    with pytest.raises(AttentionError, match="an edit shares values between rows"):
        drawn(pipe, StyleAligned())


def test_keys_are_shared_in_self_attention_alone(pipe):
    class Everywhere(StyleAligned):
        kinds = ("cross",)

    with pytest.raises(AttentionError, match="only self-attention has keys of the image alone"):
        drawn(pipe, Everywhere())


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "2", True])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ArgumentError, match=r"Got source_weight=.*expected a positive number"):
        StyleAligned(source_weight=weight)


def test_normalise_is_true_or_false():
    with pytest.raises(ArgumentError, match="Got normalise=1, expected True or False"):
        StyleAligned(normalise=1)
