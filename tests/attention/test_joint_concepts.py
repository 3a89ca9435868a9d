"""Joint attention: maps in the output space, concepts beside the prompt, and refinement, held
against blocks of SD3 and Flux computed by hand in float64.

B batch rows, N heads, Q image positions, S tokens of concepts, D text width, X all heads' outputs.
"""

import copy
from contextlib import ExitStack

import pytest
import torch
from diffusers import FluxKontextPipeline, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.normalization import AdaLayerNormContinuous
from PIL import Image
from torch import nn

from t2i.attention import Concept, Reweight, Sites, attend
from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.errors import ArgumentError, AttentionError
from tests.attention.by_hand import asked
from tests.attention.test_models_joint import CLIP_TOKENS, PICTURE, STEPS, TEXT, draw
from tests.attention.tiny_models import flux, quiet, sd3
from tests.tiny import diffusers_pipeline, tiny_sd_components

PROMPT = "the red apple"
CONCEPTS = (Concept("dog"), Concept("red cat", text="the red cat"))
POSITIONS = {
    "sd3": ((1, CLIP_TOKENS), (2, 3, CLIP_TOKENS + 1, CLIP_TOKENS + 2)),
    "flux": ((0,), (1, 2)),
}
"""Of the concepts' words in their texts; CLIP begins with a token of its own, T5 does not."""
SPANS = {"sd3": (slice(0, 2), slice(2, 6)), "flux": (slice(0, 1), slice(1, 3))}
IMAGE = {"sd3": slice(0, PICTURE), "flux": slice(TEXT["flux"], None)}
TOKENS = {"sd3": slice(PICTURE, None), "flux": slice(0, TEXT["flux"])}


@pytest.fixture(scope="module")
def pipes():
    return {"sd3": sd3(), "flux": flux()}


def joint_blocks(transformer):
    return [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]


def encode(pipe, kind):
    """Embeddings of the concepts' tokens (S, D)."""
    found = []
    for concept, positions in zip(CONCEPTS, POSITIONS[kind], strict=True):
        others = {"prompt_3": None, "do_classifier_free_guidance": False} if kind == "sd3" else {}
        text = concept.text or concept.word
        with torch.no_grad():
            embedded = pipe.encode_prompt(text, prompt_2=None, device="cpu", **others)[0]
        found.append(embedded[0, list(positions)])
    return torch.cat(found)


class ByHand:
    """The stream of concepts through the blocks, in float64, beside a plain run."""

    def __init__(self, pipe, kind, attend_to_all):
        self.kind, self.transformer = kind, pipe.transformer
        self.concepts_SD = encode(pipe, kind).double()
        count = len(self.concepts_SD)
        self.visible_SS = torch.ones(count, count, dtype=torch.bool)
        if not attend_to_all:
            self.visible_SS[:] = False
            for span in SPANS[kind]:
                self.visible_SS[span, span] = True

    def run(self, calls, temb_of_passes, row):
        """Return for each site what each of its passes told: cosine, probability, ratio."""
        blocks = joint_blocks(self.transformer)
        sites = [[] for _ in blocks]
        for number, temb_BD in enumerate(temb_of_passes):
            embed = copy.deepcopy(self.transformer.context_embedder).double()
            concept_1SD = embed(self.concepts_SD)[None]
            own = calls[number * len(blocks) : (number + 1) * len(blocks)]
            for at, (block, call) in enumerate(zip(blocks, own, strict=True)):
                block = copy.deepcopy(block).double()
                temb_1D = temb_BD[row : row + 1].double()
                concept_1SD, told = self.block(block, concept_1SD, temb_1D, call, row)
                sites[at].append(told)
        return sites

    def block(self, block, concept_1SD, temb_1D, call, row):
        single = not hasattr(block, "norm1_context")
        norm = block.norm if single else block.norm1_context
        if isinstance(norm, AdaLayerNormContinuous):
            normed_1SD, gates = norm(concept_1SD, temb_1D), ()
        else:
            normed_1SD, *gates = norm(concept_1SD, emb=temb_1D)
        attn = block.attn
        query, key, value = (
            getattr(attn, name)(normed_1SD)[0].unflatten(-1, (call.query_BNQE.shape[1], -1))
            for name in (("to_q", "to_k", "to_v") if single else ADDED)
        )
        norms = ("norm_q", "norm_k") if single else ("norm_added_q", "norm_added_k")
        query, key = (getattr(attn, n)(part) for n, part in zip(norms, (query, key), strict=True))
        query_NSE, key_NSE, value_NSE = (part.transpose(0, 1) for part in (query, key, value))
        told, output_NSE = self.site(call, row, query_NSE, key_NSE, value_NSE)
        output_1SX = output_NSE.transpose(0, 1).flatten(1)[None]
        if single:
            mlp = block.act_mlp(block.proj_mlp(normed_1SD))
            made = block.proj_out(torch.cat([output_1SX, mlp], dim=-1))
            return concept_1SD + gates[0][:, None] * made, told
        if not gates:  # SD3's last block: nothing reads its text afterwards
            return concept_1SD, told
        gate_msa, shift_mlp, scale_mlp, gate_mlp = (one[:, None] for one in gates)
        concept_1SD = concept_1SD + gate_msa * attn.to_add_out(output_1SX)
        changed = block.norm2_context(concept_1SD) * (1 + scale_mlp) + shift_mlp
        return concept_1SD + gate_mlp * block.ff_context(changed), told

    def site(self, call, row, query_NSE, key_NSE, value_NSE):
        image, text = IMAGE[self.kind], TOKENS[self.kind]
        scale = query_NSE.shape[-1] ** -0.5
        all_query, all_key, all_value = (
            one[row].double() for one in (call.query_BNQE, call.key_BNKE, call.value_BNKE)
        )
        scores_NQK = all_query[:, image] @ all_key.transpose(-1, -2) * scale
        image_NQE = scores_NQK.softmax(dim=-1) @ all_value

        keys = torch.cat([all_key[:, image], key_NSE], dim=1)
        values = torch.cat([all_value[:, image], value_NSE], dim=1)
        scores_NSK = query_NSE @ keys.transpose(-1, -2) * scale
        scores_NSK[:, :, PICTURE:].masked_fill_(~self.visible_SS, -torch.inf)
        output_NSE = scores_NSK.softmax(dim=-1) @ values

        image_QX, output_SX = (o.transpose(0, 1).flatten(1) for o in (image_NQE, output_NSE))
        cosine_SQ = torch.cosine_similarity(output_SX[:, None], image_QX[None], dim=-1)
        own_NQS = all_query[:, image] @ key_NSE.transpose(-1, -2) * scale
        probs, ratios = [], []
        for span in SPANS[self.kind]:
            among = torch.cat([scores_NQK, own_NQS[..., span]], dim=-1).softmax(dim=-1)
            word = among[..., scores_NQK.shape[-1] :]
            texts = torch.cat([among[..., : scores_NQK.shape[-1]][..., text], word], dim=-1)
            probs.append(word.mean(dim=0))
            ratios.append((word / texts.amax(dim=-1, keepdim=True)).mean(dim=0))
        told = (cosine_SQ, *(torch.cat(one, dim=-1).T for one in (probs, ratios)))
        return told, output_NSE


ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def plain_run(pipe):
    """Return the pictures of a plain run, what attention was asked, and the blocks' time embedding
    of each pass."""
    seen = []
    first = joint_blocks(pipe.transformer)[0]

    def note(module, args, kwargs):
        seen.append(bind_arguments(module, args, kwargs)["temb"].clone())

    with ExitStack() as stack:
        stack.callback(first.register_forward_pre_hook(note, with_kwargs=True).remove)
        calls = stack.enter_context(asked(pipe.transformer))
        drawn = draw(pipe, [PROMPT])
    return drawn, calls, seen


def largest(difference):
    return float(difference.abs().max())


@pytest.mark.parametrize("convention", ["concept_attention", "default", "mean"])
@pytest.mark.parametrize("kind", ["sd3", "flux"])
@torch.no_grad()
def test_concepts_are_read_as_blocks_computed_by_hand_in_float64_say(pipes, kind, convention):
    pipe = pipes[kind]
    plain, calls, temb_of_passes = plain_run(pipe)
    with attend(pipe, [PROMPT]) as attn:
        maps = attn.probe("apple", *CONCEPTS, convention=convention)
        seen = draw(pipe, [PROMPT])
        assert "apple" in attn.report()
    assert torch.equal(seen, plain), "the picture is the same bit for bit"

    row = len(seen) * (kind == "sd3")  # behind the row of the empty prompt
    by_hand = ByHand(pipe, kind, attend_to_all=convention == "concept_attention")
    expected = by_hand.run(calls, temb_of_passes, row)
    measured = maps.measurements
    assert len(maps.sites) == len(expected)
    count = len(by_hand.concepts_SD)
    for site, told in zip(maps.sites, expected, strict=True):
        found = measured.accumulators[0, site.name]
        cosine, probs, ratios = (torch.stack(one).mean(dim=0) for one in zip(*told, strict=True))
        assert largest(found.mean_over_steps_NSQ[0, :count] - probs) < 1e-6
        if convention != "mean":
            score = cosine if convention == "concept_attention" else ratios
            assert largest(found.mean_score_1SQ[0, :count] - score) < 1e-6
            assert score.std() > 1e-3
    assert maps["dog"].shape == maps["apple"].shape


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_prompt_s_own_word_has_the_cosine_of_its_output_and_the_image_s(pipes, kind):
    pipe = pipes[kind]
    plain, calls, _ = plain_run(pipe)
    with attend(pipe, [PROMPT]) as attn:
        maps = attn.probe("apple", convention="concept_attention")
        one_head = attn.probe("apple", convention="concept_attention", heads=(1,))
        assert torch.equal(draw(pipe, [PROMPT]), plain)
    places = {"sd3": [PICTURE + 3, PICTURE + CLIP_TOKENS + 2], "flux": [2]}[kind]
    row = int(kind == "sd3")
    for probe, heads in ((maps, slice(None)), (one_head, slice(1, 2))):
        for number, site in enumerate(probe.sites):
            total = 0
            own = calls[number :: len(maps.sites)]
            for call in own:
                probs = call.probs(slice(row, row + 1))[0]
                output_NKE = (probs @ call.value_BNKE[row].double())[heads]
                output_KX = output_NKE.transpose(0, 1).flatten(1)
                image_QX, words_SX = output_KX[IMAGE[kind]], output_KX[places]
                total = total + torch.cosine_similarity(words_SX[:, None], image_QX[None], dim=-1)
            found = probe.measurements.accumulators[0, site.name].mean_score_1SQ[0]
            assert largest(found - total / len(own)) < 1e-6
    assert 0 <= float(maps["apple"].min()) < float(maps["apple"].max()) == 1


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_refinement_uses_what_image_positions_pay_one_another(pipes, kind):
    pipe = pipes[kind]
    plain, calls, _ = plain_run(pipe)
    with attend(pipe, [PROMPT]) as attn:
        refined = attn.probe("apple", convention="refined", grid=(4, 8))
        default = attn.probe("apple", grid=(4, 8))
        assert torch.equal(draw(pipe, [PROMPT]), plain)
    image, row = IMAGE[kind], int(kind == "sd3")
    last = calls[-len(default.sites) * (STEPS - int(0.4 * STEPS)) :]
    affinity_QQ = torch.stack(
        [call.probs(slice(row, row + 1))[0, :, image, image].mean(dim=0) for call in last]
    ).mean(dim=0)
    weights_QQ = affinity_QQ**2
    expected = weights_QQ @ default.unscaled("apple").double().flatten()
    expected = expected / weights_QQ.sum(dim=-1)
    assert largest(refined.unscaled("apple").flatten() - expected) < 1e-6
    assert largest(refined["apple"] - default["apple"]) > 1e-3


def test_refinement_reads_the_chosen_sites_alone_also_beside_a_concept(pipes):
    pipe = pipes["flux"]
    chosen = {"convention": "refined", "sites": "transformer_blocks.1"}
    with attend(pipe, [PROMPT]) as attn:
        alone = attn.probe("apple", **chosen)
        beside = attn.probe("apple", Concept("dog"), **chosen)
        draw(pipe, [PROMPT])
    ((_, one),) = alone.measurements.affinities.items()
    ((_, other),) = beside.measurements.affinities.items()
    assert one.count == other.count
    assert torch.equal(alone["apple"], beside["apple"])


def sd3_with_dual_attention():
    """Stable Diffusion 3.5's: a self-attention of the image beside the joint attention."""
    pipe = sd3()
    changed = dict(pipe.transformer.config) | {"dual_attention_layers": (0, 1)}
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel.from_config(changed).eval()
    return quiet(StableDiffusion3Pipeline(**pipe.components | {"transformer": transformer}))


def kontext():
    parts = flux().components | {"feature_extractor": None, "image_encoder": None}
    return quiet(FluxKontextPipeline(**parts))


EDITED = {"image": [Image.new("RGB", (64, 32), "teal")], "_auto_resize": False}
EDITED |= {"max_area": 64 * 32}


@pytest.mark.parametrize(
    ("make", "call", "row"),
    [(sd3, {}, 1), (flux, {}, 0), (sd3_with_dual_attention, {}, 1), (kontext, EDITED, 0)],
)
def test_the_image_goes_through_the_blocks_as_in_the_run_s_own_pass(make, call, row):
    pipe = make()
    plain = draw(pipe, [PROMPT], **call)
    seen = []

    def note(module, args, kwargs):
        seen.append(bind_arguments(module, args, kwargs)["hidden_states"][row].clone())

    hook = joint_blocks(pipe.transformer)[-1].register_forward_pre_hook(note, with_kwargs=True)
    with attend(pipe, [PROMPT]) as attn:
        maps = attn.probe(Concept("dog"), convention="concept_attention")
        assert torch.equal(draw(pipe, [PROMPT], **call), plain)
    hook.remove()
    assert len(seen) == 2 * STEPS
    for own, beside in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(own, beside)
    assert not torch.equal(seen[0], seen[2])
    assert maps["dog"].isfinite().all()


def test_edits_and_two_probes_act_beside_concepts(pipes):
    pipe = pipes["flux"]
    prompts = [PROMPT, "the blue red dog"]

    def run(*probes):
        with attend(pipe, prompts) as attn:
            attn.edit(Reweight(target=1, weights={"dog": 3.0}))
            maps = [
                attn.probe(Concept("cat"), prompt=1, convention=convention) for convention in probes
            ]
            return draw(pipe, prompts), maps

    plain, _ = run()
    seen, maps = run("default", "concept_attention")
    assert torch.equal(seen, plain)
    for one, convention in zip(maps, ("default", "concept_attention"), strict=True):
        _, (alone,) = run(convention)
        assert torch.equal(one["cat"], alone["cat"])


def test_concepts_of_a_part_of_the_sites_and_steps_are_led_through_all_blocks(pipes):
    pipe = pipes["sd3"]
    with attend(pipe, [PROMPT]) as attn:
        everywhere = attn.probe(Concept("dog"), steps=(1, 2))
        last = attn.probe(Concept("dog"), sites="transformer_blocks.2", steps=(1, 2))
        draw(pipe, [PROMPT])
    assert [site.name for site in last.sites] == ["transformer_blocks.2.attn"]
    name = last.sites[0].name
    assert torch.equal(everywhere.site_map("dog", name), last.site_map("dog", name))


def test_concepts_do_not_disturb_one_another_unless_the_paper_lets_them(pipes):
    pipe = pipes["flux"]
    with attend(pipe, [PROMPT]) as attn:
        both = attn.probe(*CONCEPTS)
        alone = attn.probe(CONCEPTS[0])
        draw(pipe, [PROMPT])
    assert largest(both["dog"] - alone["dog"]) < 1e-5


def test_concepts_cost_one_more_pass_at_each_probed_step_and_words_none(pipes):
    calls = []
    transformer = pipes["sd3"].transformer
    hook = transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    for words, passes in ((("apple",), STEPS), (("apple", *CONCEPTS), STEPS + 1)):
        calls.clear()
        with attend(pipes["sd3"], [PROMPT]) as attn:
            attn.probe(*words, convention="concept_attention", steps=(1, 2))
            draw(pipes["sd3"], [PROMPT])
        assert len(calls) == passes
    hook.remove()


def test_true_guidance_of_flux_leaves_the_negative_pass_alone(pipes):
    call = {"negative_prompt": ["blue"], "true_cfg_scale": 3.0}
    plain = draw(pipes["flux"], [PROMPT], **call)
    with attend(pipes["flux"], [PROMPT]) as attn:
        maps = attn.probe(Concept("dog"))
        assert torch.equal(draw(pipes["flux"], [PROMPT], **call), plain)
    assert set(maps.measurements.accumulators[0, maps.sites[0].name].steps) == {STEPS}


def test_the_model_is_as_before_afterwards(pipes):
    transformer = pipes["flux"].transformer
    before = [module.__dict__.get("forward") for module in transformer.modules()]
    with attend(pipes["flux"], [PROMPT]) as attn:
        attn.probe(Concept("dog"))
        draw(pipes["flux"], [PROMPT])
    assert [module.__dict__.get("forward") for module in transformer.modules()] == before
    assert not any(module._forward_hooks for module in transformer.modules())


# refused

UNKNOWN = "\u732b"


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_concept_that_the_tokenizer_cannot_split_is_refused(pipes, kind):
    message = rf"Got Concept\('{UNKNOWN}'\), which the \w+ of this model cannot split"
    with attend(pipes[kind], [PROMPT]) as attn, pytest.raises(ArgumentError, match=message):
        attn.probe(Concept(UNKNOWN))


def test_more_concepts_than_the_text_has_tokens_are_refused(pipes):
    many = [Concept(letter * 9) for letter in "abcdefg"]

    def run():
        with attend(pipes["flux"], [PROMPT]) as attn:
            attn.probe(*many)
            draw(pipes["flux"], [PROMPT])

    with pytest.raises(ArgumentError, match=r"concepts of \d+ tokens .* this run has 24"):
        run()


@pytest.mark.parametrize("keep", ["grad", "raw"])
def test_gradients_and_raw_maps_of_joint_concepts_are_refused(pipes, keep):
    with attend(pipes["flux"], [PROMPT]) as attn, pytest.raises(ArgumentError, match="its own"):
        attn.probe(Concept("dog"), **{keep: True})


@pytest.mark.parametrize(
    ("convention", "needs"),
    [("concept_attention", "compares the outputs of joint attention, as in SD3 and Flux")],
)
def test_output_space_maps_of_a_unet_are_refused(convention, needs):
    pipe = diffusers_pipeline(tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)

    def run():
        with attend(pipe, [PROMPT]) as attn:
            attn.probe("apple", convention=convention)
            pipe(PROMPT, num_inference_steps=1, output_type="latent")

    with pytest.raises(AttentionError, match=f'convention="{convention}" {needs}'):
        run()


def test_refinement_on_sites_that_are_too_large_names_them(pipes):
    with attend(pipes["flux"], [PROMPT]) as attn:
        maps = attn.probe("apple", convention="refined")
        draw(pipes["flux"], [PROMPT], height=272, width=256, num_inference_steps=1)
    with pytest.raises(ArgumentError, match=r"read in joint-attention on 34 x 32\. Choose another"):
        maps["apple"]


def test_a_denoiser_that_keeps_features_is_refused(pipes):
    from diffusers import FirstBlockCacheConfig

    pipe = pipes["flux"]

    def run():
        with attend(pipe, [PROMPT]) as attn:
            attn.probe(Concept("dog"))
            draw(pipe, [PROMPT])

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    try:
        with pytest.raises(AttentionError, match=r"pipe\.transformer\.disable_cache\(\)"):
            run()
    finally:
        pipe.transformer.disable_cache()


@pytest.mark.parametrize("steps", [None, (0.0, 0.5), (0.5, 1.0)], ids=str)
def test_memory_of_joint_concepts_counts_in_the_budget(pipes, steps):
    def run():
        with attend(pipes["flux"], [PROMPT], budget=12_000) as attn:
            attn.probe(Concept("dog"), convention="mean", steps=steps)
            draw(pipes["flux"], [PROMPT])

    with pytest.raises(AttentionError, match=r"The probes would keep .* and the budget is"):
        run()


def test_sites_and_bare_models_of_joint_concepts_are_refused(pipes):
    def run():
        with attend(pipes["flux"], [PROMPT]) as attn:
            attn.probe(Concept("dog"), sites=Sites(place="up"))
            draw(pipes["flux"], [PROMPT])

    with pytest.raises(AttentionError, match="fits none of the 4 sites"):
        run()
    model: nn.Module = pipes["flux"].transformer
    with attend(model) as attn, pytest.raises(ArgumentError, match="joint attention of Stable"):
        attn.probe(Concept("dog"))
