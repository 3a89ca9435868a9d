"""Layers on a model: strictly those of the file, several at once, and off again without a trace."""

import pytest
import torch
from torch import nn

from t2i.adapters import Lora, LowRankUpdate, add_lora, read_lora_from_models, remove_lora
from t2i.errors import ArgumentError, ModelError
from tests.adapters.made import (
    ATTENTION,
    CONFIGS,
    EVERY,
    LYCORIS,
    apart,
    components,
    drawn,
    models_of,
    ours,
    train,
)


def lora_of(config, endings=ATTENTION, seed=0, family="sd1"):
    models = models_of(components(family))
    train(models, config, endings, seed)
    return read_lora_from_models(models, "mine")


@pytest.fixture(scope="module")
def low():
    return lora_of(CONFIGS["alpha is not the rank"])


@pytest.fixture
def parts():
    return components("sd1")


def test_what_is_taken_off_leaves_the_very_same_modules(low, parts):
    before = {part: dict(model.named_modules()) for part, model in models_of(parts).items()}
    plain = drawn(ours(parts))
    add_lora(models_of(parts), low, "one")
    assert apart(drawn(ours(parts)), plain) > 0.01
    remove_lora(models_of(parts).values())
    for part, model in models_of(parts).items():
        assert dict(model.named_modules()) == before[part]
        assert not hasattr(model, "peft_config")
    assert torch.equal(drawn(ours(parts)), plain)
    add_lora(models_of(parts), low, "one")  # the name is free again
    remove_lora([None, *models_of(parts).values()])


def test_a_strength_of_nothing_changes_nothing_and_strengths_are_linear_in_the_weight(low, parts):
    plain = drawn(ours(parts))
    add_lora(models_of(parts), low, "one", 0.0)
    assert torch.equal(drawn(ours(parts)), plain)
    remove_lora(models_of(parts).values())
    doubled = Lora(
        {
            part: {
                name: LowRankUpdate(layer.down, layer.up * 2, layer.alpha)
                for name, layer in layers.items()
            }
            for part, layers in low.parts.items()
        }
    )
    add_lora(models_of(parts), doubled, "one", 0.5)
    twice = drawn(ours(parts))
    remove_lora(models_of(parts).values())
    add_lora(models_of(parts), low, "one")
    assert apart(twice, drawn(ours(parts))) < 1e-5


def test_nothing_is_drawn_from_the_generator_of_torch(low, parts):
    state = torch.get_rng_state()
    add_lora(models_of(parts), low, "one")
    add_lora(models_of(parts), lora_of(LYCORIS["lokr"]), "two")
    torch.manual_seed(0)
    remove_lora(models_of(parts).values())
    torch.set_rng_state(state)
    add_lora(models_of(parts), low, "one")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", ["loha", "lokr", "alpha is not the rank"])
def test_loras_of_different_kinds_add_up_on_the_same_modules(low, parts, other):
    """Each adds its product to the weight: seen on one layer, in float64."""
    second = lora_of((CONFIGS | LYCORIS)[other], seed=5)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    parts["unet"].double()
    add_lora(models_of(parts), low, "one", 0.5)
    add_lora(models_of(parts), second, "two", -2.0)
    module = parts["unet"].get_submodule(layer)
    base = module.get_base_layer()
    text = torch.randn(1, 3, base.in_features, dtype=torch.float64)
    expected = nn.functional.linear(text, base.weight)
    expected += nn.functional.linear(text, 0.5 * low.parts["unet"][layer].build_matrix().double())
    change = second.parts["unet"][layer]
    expected += nn.functional.linear(text, -2.0 * change.build_matrix().double())
    assert (module(text) - expected).abs().max() < 1e-5  # products are in float32
    remove_lora(models_of(parts).values())
    assert parts["unet"].get_submodule(layer) is base


def test_one_lora_may_hold_layers_of_all_kinds(parts):
    torch.manual_seed(3)
    kinds = [lora_of(CONFIGS["dora"]), lora_of(LYCORIS["loha"]), lora_of(LYCORIS["lokr"])]
    kinds.append(lora_of(CONFIGS["mixed ranks and alphas"]))
    mixed = Lora(
        {
            part: {
                name: kinds[number % 4].parts[part][name]
                for number, name in enumerate(kinds[0].parts[part])
            }
            for part in kinds[0].parts
        }
    )
    assert mixed.kinds == {"lora", "loha", "lokr"}
    add_lora(models_of(parts), mixed, "one", 0.7)
    for part, name, layer in mixed.iter_layers():
        module = models_of(parts)[part].get_submodule(name)
        (scaling,) = module.scaling.values()
        assert scaling == pytest.approx(0.7 * layer.scale)


def test_a_layer_that_finds_no_module_leaves_the_models_as_they_were(low, parts):
    plain = drawn(ours(parts))
    before = list(parts["text_encoder"].modules())
    extra = {
        f"mid_block.other.{n}": LowRankUpdate(torch.ones(1, 4), torch.ones(4, 1), 1)
        for n in range(4)
    }
    wrong = Lora(dict(low.parts) | {"unet": dict(low.parts["unet"]) | extra})
    complaint = r"4 of its \d+ layers for the unet have no module .*mid_block.other.0.* 1 more"
    with pytest.raises(ModelError, match=complaint):
        add_lora(models_of(parts), wrong, "one")
    assert list(parts["text_encoder"].modules()) == before
    assert torch.equal(drawn(ours(parts)), plain)


def misfits():
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    wide = {"unet": {name: LowRankUpdate(torch.ones(1, 5), torch.ones(16, 1), 1.0)}}
    norm = {"unet": {"conv_norm_out": LowRankUpdate(torch.ones(1, 4), torch.ones(16, 1), 1.0)}}
    other = {
        "text_encoder_2": {
            "encoder.layers.0.mlp.fc1": LowRankUpdate(torch.ones(1, 4), torch.ones(4, 1), 1)
        }
    }
    return {
        "wide": (wide, r"changes a weight of \[16, 5\] in unet\.down_blocks.*which is \[16, 16\]"),
        "norm": (norm, r"unet\.conv_norm_out, a GroupNorm, expected a linear layer or a conv"),
        "part": (other, r"it changes a text_encoder_2, which this model does not have"),
    }


@pytest.mark.parametrize(("layers", "complaint"), misfits().values(), ids=misfits())
def test_what_does_not_fit_is_refused(parts, layers, complaint):
    with pytest.raises(ModelError, match=complaint):
        add_lora(models_of(parts), Lora(layers), "one")


def test_names_are_taken_once_and_hold_no_dot(low, parts):
    add_lora(models_of(parts), low, "one")
    with pytest.raises(ArgumentError, match="The unet already has a LoRA 'one'"):
        add_lora(models_of(parts), low, "one")
    with pytest.raises(ArgumentError, match="expected one without a dot"):
        add_lora(models_of(parts), low, "a.b")


def test_layers_of_a_name_that_nobody_gave_are_missed(parts):
    train(models_of(parts), CONFIGS["dora"], EVERY)
    with pytest.raises(ModelError, match="No layer of text_encoder, unet has an adapter other"):
        read_lora_from_models(models_of(parts), "other")
    found = read_lora_from_models(models_of(parts), ["other", "mine"])
    assert len(list(found.iter_layers())) > 60


def test_averaged_weights_may_stand_in_for_those_in_the_modules(parts):
    models = models_of(parts)
    train(models, CONFIGS["alpha is not the rank"], ATTENTION)
    states = {"unet": {n: t * 2 for n, t in models["unet"].state_dict().items()}}
    plain, other = (
        read_lora_from_models(models, "mine"),
        read_lora_from_models(models, "mine", states),
    )
    for name, layer in other.parts["unet"].items():
        assert torch.equal(layer.down, plain.parts["unet"][name].down * 2)
    for name, layer in other.parts["text_encoder"].items():
        assert torch.equal(layer.down, plain.parts["text_encoder"][name].down)
