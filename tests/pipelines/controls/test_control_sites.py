"""The attention inside of ControlNets: its sites, heat maps and edits."""

import copy
import gc

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Concept, Replace, Reweight, attend
from t2i.attention.edits.share_keys_values import ShareKeysValues
from t2i.attention.site import Sites, split_control_name
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.controls.control import Control
from t2i.errors import ArgumentError, AttentionError
from tests.pipelines.controls.networks import hint, tiny_adapter, tiny_controlnet
from tests.tiny import tiny_sd_components, tiny_sdxl_components

PROMPT = "a red cat"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe():
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def net(pipe):
    return tiny_controlnet(pipe.unet)


def draw(pipe, *controls, **call):
    seed = torch.Generator().manual_seed(3)
    return pipe(**({"prompt": PROMPT, "generator": seed} | RUN | call), controls=controls).images


def test_the_sites_of_a_controlnet_have_names_of_their_own(pipe, net):
    with attend(pipe) as attn:
        draw(pipe, Control(net, hint(1)))
        sites = attn.sites()
    own = [site for site in sites if site.control_number == 0]
    others = sites[: len(sites) - len(own)]
    assert all(site.control_number is None for site in others)
    modules = dict(net.named_modules())
    twins = {site.name: site for site in others}
    assert own
    for site in own:
        prefix, name = site.name.split("/")
        assert prefix == "control.0"
        assert name in modules
        twin = twins[name]  # the halves have the same modules
        facts = ("kind", "place", "size", "heads", "keys", "text", "image")
        assert [getattr(site, one) for one in facts] == [getattr(twin, one) for one in facts]


def read(pipe, sites, *controls, steps=None, **call):
    """Heat maps of "cat" at some sites in a run."""
    with attend(pipe) as attn:
        maps = attn.probe("cat", sites=sites, steps=steps, raw=True)
        draw(pipe, *controls, **call)
    return maps


def cross_maps_by_hand(net, names, rows):
    """Probabilities of the cross-attention of a network, (rows, heads, Q, K) of each call."""
    seen = {name: [] for name in names}

    def note(name):
        def hook(module, args, kwargs):
            text = kwargs["encoder_hidden_states"]
            query, key = (
                one.unflatten(-1, (module.heads, -1)).transpose(1, 2)
                for one in (module.to_q(args[0]), module.to_k(text))
            )
            scores = (query @ key.transpose(-1, -2)).float() * module.scale
            seen[name].append(scores.softmax(-1)[rows])

        return hook

    modules = dict(net.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(note(name), with_kwargs=True) for name in names
    ]
    return seen, handles


@pytest.mark.parametrize(("mode", "row"), [("balanced", 1), ("control", 0), ("guess", 0)])
def test_heat_maps_of_a_controlnet_are_those_of_its_attention(pipe, net, mode, row):
    control = Control(net, hint(1), mode=mode)
    plain = draw(pipe, control)
    with attend(pipe) as attn:
        in_unet = attn.probe("cat", convention="mean", raw=True)
        in_net = attn.probe("cat", sites="control.0", convention="mean", raw=True)
        names = [
            split_control_name(site.name)[1]
            for site in _sites_of(pipe, control)
            if site.kind == "cross"
        ]
        seen, handles = cross_maps_by_hand(net, names, row)
        probed = draw(pipe, control)
        for handle in handles:
            handle.remove()
    assert torch.equal(probed, plain)
    found = in_net.measurements.raw
    assert set(found) == {f"control.0/{name}" for name in names}
    assert not any(name.startswith("control") for name in in_unet.measurements.raw)
    (token,) = in_net.measurements.tokens["cat"]
    for name in names:
        assert len(found[f"control.0/{name}"]) == len(seen[name]) == 4
        for own, expected in zip(found[f"control.0/{name}"], seen[name], strict=True):
            word_NQ = expected[..., 3]  # <start> a red cat
            assert torch.allclose(own[0, :, token], word_NQ, atol=1e-6)
    assert not torch.equal(in_net["cat"], in_unet["cat"])


def _sites_of(pipe, *controls):
    with attend(pipe) as attn:
        draw(pipe, *controls, num_inference_steps=1)
        return [site for site in attn.sites() if site.control_number is not None]


def test_two_controls_of_one_network_have_sites_of_their_own(pipe, net):
    controls = [Control(net, hint(1)), Control(net, hint(2), 0.5, mode="control")]
    plain = draw(pipe, *controls)
    with attend(pipe) as attn:
        first, second, both = (
            attn.probe("cat", sites=name, convention="mean", raw=True)
            for name in ("control.0", "control.1", "control")
        )
        probed = draw(pipe, *controls)
    assert torch.equal(probed, plain)
    one, two = first.measurements.raw, second.measurements.raw
    assert {name.replace("control.0", "control.1") for name in one} == set(two)
    assert set(both.measurements.raw) == {*one, *two}
    assert not torch.equal(first["cat"], second["cat"])


def test_a_session_sees_the_networks_of_each_of_its_runs(pipe, net):
    other = tiny_controlnet(pipe.unet, 8)
    with attend(pipe) as attn:
        counts = []
        for controls in ([net], [other, net], [], [other]):
            draw(pipe, *(Control(one, hint(1)) for one in controls))
            counts.append({site.control_number for site in attn.sites()})
        maps = attn.probe("cat", sites="control.0", convention="mean")
        draw(pipe, Control(other, hint(1)))
        last = maps["cat"].clone()
        draw(pipe, Control(net, hint(1)))
        assert not torch.equal(maps["cat"], last)
    assert counts == [{None, 0}, {None, 0, 1}, {None}, {None, 0}]


def test_a_network_that_begins_later_is_read_from_then_on(pipe, net):
    control = Control(net, hint(1), steps=(2, 4))
    plain = draw(pipe, control)
    with attend(pipe) as attn:
        maps = attn.probe("cat", sites="control.0", convention="mean", raw=True)
        assert torch.equal(draw(pipe, control), plain)
    assert {len(steps) for steps in maps.measurements.raw.values()} == {2}


def test_an_edit_that_names_a_control_acts_there_alone(pipe, net):
    control = Control(net, hint(1))
    plain = draw(pipe, control)
    inputs = []
    handle = net.register_forward_hook(lambda *found: inputs.append(found[2][1].clone()))

    def edited(sites):
        inputs.clear()
        with attend(pipe) as attn:
            attn.edit(Reweight(weights={"cat": 6.0}, target=0, sites=sites))
            drawn = draw(pipe, control)
            return drawn, inputs[0].clone(), attn.explain()

    draw(pipe, control)
    of_free = inputs[0].clone()
    default, of_default, _ = edited(None)
    inside, of_inside, text = edited("control.0")
    handle.remove()
    assert torch.equal(of_default, of_free)
    assert not torch.equal(default, plain)
    # the conditional row alone, in the network alone
    assert torch.equal(of_inside[0], of_free[0])
    assert not torch.equal(of_inside[1], of_free[1])
    assert not torch.equal(inside, plain)
    for line in text.splitlines():
        assert ("Reweight" in line) == (line.startswith("control.0/") and "cross" in line)


def test_an_edit_inside_a_controlnet_is_what_it_is_by_hand(pipe, net):
    control = Control(net, hint(1), mode="control")
    prompts = ["a red cat", "a red dog"]
    with attend(pipe) as attn:
        attn.edit(Replace(source=0, target=1, sites="control.0"))
        edited = draw(pipe, control, prompt=prompts, num_inference_steps=1)
    by_hand = copy.deepcopy(net)
    for module in by_hand.modules():
        if getattr(module, "is_cross_attention", False):
            module.set_processor(MapOfFirstRow())
    same = draw(
        pipe, Control(by_hand, hint(1), mode="control"), prompt=prompts, num_inference_steps=1
    )
    assert torch.allclose(edited, same, atol=1e-5)
    assert not torch.allclose(edited, draw(pipe, control, prompt=prompts, num_inference_steps=1))


class MapOfFirstRow:
    """Attention in which the second of two rows has the map of the first."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        query, key, value = (
            layer(one).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, one in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        out = (probs[:1] @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def test_concepts_are_read_in_a_controlnet_by_its_own_keys(pipe, net):
    control = Control(net, hint(1))
    plain = draw(pipe, control)
    with attend(pipe) as attn:
        maps = attn.probe(Concept("dog"), "cat", sites="control.0", convention="mean")
        assert torch.equal(draw(pipe, control), plain)
    (site, *_) = [name for _, name in maps.measurements.accumulators]
    copied = copy.deepcopy(net)
    copied.get_submodule(split_control_name(site)[1]).to_k.weight.data *= 3
    with attend(pipe) as attn:
        others = attn.probe(Concept("dog"), "cat", sites=f"{site}$", convention="mean")
        draw(pipe, Control(copied, hint(1)))
    assert not torch.allclose(others.site_map("dog", site), maps.site_map("dog", site))


def test_sdxl_and_further_branches_have_control_sites():
    pipe = TextToImagePipeline(**tiny_sdxl_components())
    pipe.set_progress_bar_config(disable=True)
    net = tiny_controlnet(pipe.unet)
    for guidance in (None, PerturbedAttention(3.0, 2.0)):
        plain = draw(pipe, Control(net, hint(1)), guidance=guidance)
        with attend(pipe) as attn:
            maps = attn.probe("cat", sites=Sites(name="control.0", place="down"))
            assert torch.equal(draw(pipe, Control(net, hint(1)), guidance=guidance), plain)
        assert torch.isfinite(maps["cat"]).all()


def test_older_processors_inside_a_controlnet_are_read(pipe, net):
    older = copy.deepcopy(net)
    older.set_attn_processor(AttnProcessor())
    control = Control(older, hint(1))
    plain = draw(pipe, control)
    with attend(pipe) as attn:
        maps = attn.probe("cat", sites="control.0")
        assert torch.equal(draw(pipe, control), plain)
    with attend(pipe) as attn:
        expected = attn.probe("cat", sites="control.0")
        draw(pipe, Control(net, hint(1)))
    assert torch.allclose(maps["cat"], expected["cat"], atol=1e-4)


def test_a_bypass_inside_a_controlnet_is_an_error_for_those_who_name_it(pipe, net):
    bypassing = copy.deepcopy(net)
    bypassing.set_attn_processor(Bypass())
    control = Control(bypassing, hint(1))
    read(pipe, None, control)
    with pytest.raises(AttentionError, match=r"never came to the tap.*of the control's network"):
        read(pipe, "control", control)


class Bypass(MapOfFirstRow):
    """Attention without torch's function for it."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        return super().__call__(attn, hidden_states, text)


def test_nothing_is_left_in_a_network_after_a_session(pipe, net):
    def state(module):
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        return [*map(len, hooks), sorted(module.__dict__), module.forward]

    before = [state(module) for module in net.modules()]
    read(pipe, "control", Control(net, hint(1)))
    handle = net.mid_block.register_forward_hook(_stop)
    with pytest.raises(RuntimeError, match="stop"):
        read(pipe, "control", Control(net, hint(1)))
    handle.remove()
    gc.collect()
    assert [state(module) for module in net.modules()] == before


def _stop(*_):
    raise RuntimeError("stop")


def test_a_run_that_a_network_stopped_can_be_repeated_in_its_session(pipe, net):
    control = Control(net, hint(1))
    plain = draw(pipe, control)
    with attend(pipe) as attn:
        maps = attn.probe("cat", sites="control", raw=True)
        handle = net.mid_block.register_forward_hook(_stop)
        with pytest.raises(RuntimeError, match="stop"):
            draw(pipe, control)
        handle.remove()
        assert torch.equal(draw(pipe, control), plain)
    assert {len(steps) for steps in maps.measurements.raw.values()} == {4}


# what cannot be read


def test_sites_of_absent_controls_are_refused(pipe, net):
    for controls, name in (([], "control"), ([Control(net, hint(1))], "control.1")):
        with pytest.raises(AttentionError, match="those in the ControlNets of a run"):
            read(pipe, name, *controls)


def test_a_control_whose_steps_the_probe_misses_is_said(pipe, net):
    with pytest.raises(AttentionError, match="never fired"):
        read(pipe, "control.0", Control(net, hint(1), steps=(2, 4)), steps=(0, 1))


@pytest.fixture(scope="module")
def editor(pipe):
    editor = PromptEditPipeline(**pipe.components)
    editor.set_progress_bar_config(disable=True)
    return editor


def test_an_edit_of_prompts_may_name_a_control(editor, net):
    call = {"seed": 3, "controls": [Control(net, hint(1))]} | RUN
    free = editor(PROMPT, "a red dog", edits=[], **call).images
    inside = editor(PROMPT, "a red dog", edits=[Replace(sites="control")], **call).images
    assert torch.equal(inside[0], free[0])
    assert not torch.equal(inside[1], free[1])


def test_recorded_sources_have_no_sites_of_controls(editor, net):
    call = {key: RUN[key] for key in ("num_inference_steps", "guidance_scale")}
    kept = editor.remember(PROMPT, seed=3, controls=[Control(net, hint(1))], **call)
    assert not any(name.startswith("control") for name in kept.steps[0])
    with pytest.raises(ArgumentError, match="of which nothing is recorded"):
        editor(kept, "a red dog", edits=[Replace(sites="control.0")])
    with pytest.raises(ArgumentError, match="of which nothing is recorded"):
        editor.remember(PROMPT, for_edits=[ShareKeysValues(sites="control")], **call)
    # an edit of the target alone reads no source
    edits = [Reweight(weights={"dog": 6.0}, target=1, sites="control.0")]
    options = {"output_type": "latent"}
    changed = editor(kept, "a red dog", edits=edits, **options).images[1]
    assert not torch.equal(changed, editor(kept, "a red dog", edits=[], **options).images[1])


def test_adapters_have_no_sites():
    from tests.pipelines.controls.test_adapters import FOUR, SIZE
    from tests.tiny import tiny_unet

    pipe = TextToImagePipeline(**(tiny_sd_components() | {"unet": tiny_unet(**FOUR)}))
    pipe.set_progress_bar_config(disable=True)
    control = Control(tiny_adapter(pipe.unet), hint(1))
    with pytest.raises(AttentionError, match="T2I-Adapter has none"):
        read(pipe, "control", control, **SIZE)


def test_names_are_split_at_the_control():
    names = {
        "control.0/mid_block.attentions.0": (0, "mid_block.attentions.0"),
        "control.12": (12, ""),
        "control/mid": ("any", "mid"),
        "control": ("any", ""),
        "controlled": (None, "controlled"),
        "up_blocks.1": (None, "up_blocks.1"),
        "": (None, ""),
    }
    assert {name: split_control_name(name) for name in names} == names
    with pytest.raises(ArgumentError, match="no regular expression"):
        Sites(name="control.0/(")
    assert Sites().contains_all_of(Sites(name="up"))
    assert not Sites().contains_all_of(Sites(name="control.0/down"))
