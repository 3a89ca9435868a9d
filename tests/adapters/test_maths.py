"""Sums with LoRAs: merged they draw the same, extracted and resized they are the nearest."""

import copy
import functools
from itertools import product

import pytest
import torch

from t2i.adapters import (
    HadamardUpdate,
    Lora,
    LowRankUpdate,
    add_lora,
    extract_lora,
    merge_into_weights,
    read_lora_from_models,
    resize_lora,
    summarize_lora,
)
from t2i.errors import ArgumentError, ModelError
from tests.adapters.made import (
    ATTENTION,
    CONFIGS,
    EVERY,
    LYCORIS,
    OF_XL,
    apart,
    components,
    drawn,
    models_of,
    ours,
    train,
)
from tests.sweeps import sweep


@functools.cache
def lora_of(config, family="sd1", endings=EVERY + OF_XL, kind=torch.float64):
    """The LoRA of a trained model. Read-only: several tests look at the same."""
    models = models_of(components(family))
    for model in models.values():
        model.to(kind)
    train(models, config, endings)
    return read_lora_from_models(models, "mine")


def precise(family):
    parts = components(family)
    for model in (parts["vae"], *models_of(parts).values()):
        model.double()
    return parts


@pytest.mark.parametrize(
    ("config", "scale"),
    sweep(
        [("rslora", 1.0), *product(CONFIGS | LYCORIS, [0.6])],
        quick=[
            ("rslora", 1.0),
            ("dora", 0.6),
            ("loha with cores", 0.6),
            ("lokr, both factored", 0.6),
            ("lokr, none factored", 0.6),
            ("lokr with cores", 0.6),
        ],
    ),
)
def test_merged_into_the_weights_it_draws_as_it_does_on_them(config, scale):
    lora = lora_of((CONFIGS | LYCORIS)[config])
    one, other = precise("sd1"), precise("sd1")
    add_lora(models_of(one), lora, "one", scale)
    merge_into_weights(models_of(other), lora, scale)
    # peft holds the scale of a LoHa in float32
    assert apart(drawn(ours(one)), drawn(ours(other))) < 1e-7
    assert not hasattr(other["unet"], "peft_config")


def test_what_does_not_fit_is_not_merged():
    parts = components("sd1")
    before = copy.deepcopy(parts["text_encoder"].state_dict())
    lora = lora_of(CONFIGS["dora"], "sdxl")
    with pytest.raises(ModelError, match="The LoRA does not fit this model: 42 of its 125 layers"):
        merge_into_weights(models_of(parts), lora)
    after = parts["text_encoder"].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("family", sweep(["sd1", "sdxl"], quick=["sd1"]))
def test_the_difference_of_two_models_is_found_again(family):
    lora = lora_of(CONFIGS["mixed ranks and alphas"], family)
    before, after = precise(family), precise(family)
    merge_into_weights(models_of(after), lora)
    fit = extract_lora(models_of(before), models_of(after), rank=8)
    assert fit.kept_energy == pytest.approx(1.0)
    assert fit.unrepresented == ()
    assert {(p, n) for p, n, _ in fit.lora.iter_layers()} == {
        (p, n) for p, n, _ in lora.iter_layers()
    }
    add_lora(models_of(before), fit.lora, "one")
    assert apart(drawn(ours(before)), drawn(ours(after))) < 1e-4  # its factors are in float32
    # As low a rank as was put in does.
    fit = extract_lora(models_of(precise(family)), models_of(after), share=0.999999)
    for part, name, layer in fit.lora.iter_layers():
        assert layer.rank <= lora.parts[part][name].rank
        assert layer.scale == 1.0


def test_what_no_lora_holds_is_named():
    before, after = models_of(components("sd1")), models_of(components("sd1"))
    with torch.no_grad():
        after["unet"].conv_in.weight += 0.1
        after["unet"].conv_in.bias += 0.1
        after["text_encoder"].get_input_embeddings().weight += 0.1
    fit = extract_lora(before, after, rank=1)
    assert [(part, name) for part, name, _ in fit.lora.iter_layers()] == [("unet", "conv_in")]
    assert set(fit.unrepresented) == {
        "unet.conv_in.bias",
        "text_encoder.embeddings.token_embedding.weight",
    }
    assert fit.lora.parts["unet"]["conv_in"].down.shape == (1, 4, 3, 3)
    assert not extract_lora(before, models_of(components("sd1")), rank=1).lora.parts


def test_models_of_different_kinds_have_no_difference():
    one, other = models_of(components("sd1")), models_of(components("sdxl"))
    with pytest.raises(ModelError, match=r"One of the models has a text_encoder_2|differ in more"):
        extract_lora(one, other, rank=4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_lower_rank_is_the_nearest_there_is(rank):
    lora = lora_of(CONFIGS["alpha is not the rank"], endings=(*ATTENTION, "conv1"))
    fit = resize_lora(lora, rank=rank)
    whole = lost = 0.0
    for part, name, layer in lora.iter_layers():
        new = fit.lora.parts[part][name]
        assert new.rank == rank
        assert new.down.dim() == layer.down.dim()
        values = torch.linalg.svdvals(layer.build_matrix().double())
        missed = torch.linalg.matrix_norm(
            layer.build_matrix().double() - new.build_matrix().double()
        )
        assert missed == pytest.approx(float(values[rank:].square().sum().sqrt()), abs=1e-5)
        whole += float(values.square().sum())
        lost += float(values[rank:].square().sum())
    assert fit.kept_energy == pytest.approx(1 - lost / whole, abs=1e-6)


def test_the_same_rank_and_the_whole_energy_change_nothing():
    lora = lora_of(CONFIGS["dora"])
    for fit in (
        resize_lora(lora, rank=99),
        resize_lora(lora, share=1.0),
        resize_lora(lora, rank=3, share=0.99999),
    ):
        assert fit.kept_energy == pytest.approx(1.0, abs=1e-4)
        for part, name, layer in lora.iter_layers():
            new = fit.lora.parts[part][name]
            assert (new.build_matrix() - layer.build_matrix()).abs().max() < 1e-2
            assert torch.equal(new.magnitude, layer.magnitude)
    exact = resize_lora(lora, rank=99)
    for part, name, layer in lora.iter_layers():
        product = exact.lora.parts[part][name].build_matrix()
        assert (product - layer.build_matrix()).abs().max() < 1e-6


def test_the_share_is_kept_with_as_low_a_rank_as_does():
    values = torch.tensor([3.0, 2.0, 1.0])
    layer = LowRankUpdate(torch.diag(values), torch.eye(3), 3.0)
    for share, rank in ((0.6, 1), (9 / 14, 1), (0.65, 2), (13 / 14, 2), (0.95, 3), (1.0, 3)):
        fit = resize_lora(Lora({"unet": {"conv_in": layer}}), share=share)
        assert fit.lora.parts["unet"]["conv_in"].rank == rank
        assert fit.kept_energy >= share - 1e-6


@pytest.mark.parametrize("config", sweep(LYCORIS, quick=["loha with cores", "lokr with cores"]))
def test_a_loha_or_lokr_becomes_the_lora_nearest_to_it(config):
    lora = lora_of(LYCORIS[config])
    fit = resize_lora(lora, share=1.0)
    assert fit.lora.kinds == {"lora"}
    one, other = precise("sd1"), precise("sd1")
    add_lora(models_of(one), lora, "one")
    add_lora(models_of(other), fit.lora, "one")
    assert apart(drawn(ours(one)), drawn(ours(other))) < 1e-4  # its factors are in float32


def test_the_wish_is_checked():
    lora = lora_of(CONFIGS["dora"], endings=ATTENTION)
    for wish, complaint in (
        ({}, "Missing how much to keep"),
        ({"rank": 0}, "Got the rank 0: expected a whole number from 1"),
        ({"share": 1.5}, r"Got the share 1\.5: expected a number above 0"),
    ):
        with pytest.raises(ArgumentError, match=complaint):
            resize_lora(lora, **wish)


def test_facts_are_those_of_the_whole_matrices():
    lora = lora_of(CONFIGS["mixed ranks and alphas"])
    unet, text = summarize_lora(lora)
    assert (unet.part, text.part) == ("unet", "text_encoder")
    layers = lora.parts["unet"]
    lengths = {name: float(layer.build_matrix().norm()) for name, layer in layers.items()}
    assert unet.layers == len(layers)
    assert unet.length == pytest.approx(sum(v**2 for v in lengths.values()) ** 0.5, rel=1e-5)
    assert unet.largest[0] == max(lengths, key=lengths.get)
    assert unet.kinds == {"lora": len(layers)}
    assert sum(unet.ranks.values()) == len(layers)
    assert set(unet.ranks) == {1, 2, 3}
    assert set(unet.alphas) == {1, 5, 7}
    assert unet.modules["attn2.to_k"] == sum(name.endswith("attn2.to_k") for name in layers)
    assert "self_attn.q_proj" in text.modules
    assert summarize_lora(lora_of(CONFIGS["dora"], endings=ATTENTION))[0].kinds.keys() == {"dora"}


def test_products_that_are_no_numbers_are_refused_before_they_are_written():
    down, up = torch.full((1, 4), 1e30), torch.full((4, 1), 1e30)
    loha = {name: torch.full((4, 4), 1e20) for name in ("w1_a", "w1_b", "w2_a", "w2_b")}
    for layer in (LowRankUpdate(down, up, 1e300), HadamardUpdate(loha, 1.0)):
        lora = Lora({"unet": {"conv_in": layer}})
        with pytest.raises(ModelError, match="update of conv_in overflows"):
            resize_lora(lora, rank=1)
    unet = components("sd1")["unet"].half()
    before = unet.conv_in.weight.clone()
    change = LowRankUpdate(
        torch.full((1, 4, 3, 3), 300.0), torch.full((before.shape[0], 1, 1, 1), 300.0), 1.0
    )
    with pytest.raises(ModelError, match="update of conv_in overflows"):
        merge_into_weights({"unet": unet}, Lora({"unet": {"conv_in": change}}))
    assert torch.equal(unet.conv_in.weight, before)
