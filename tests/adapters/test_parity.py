"""What is written here, diffusers' own loaders read to the same pictures; what others write, we
read, at the strength that was meant."""

import copy
import functools
from itertools import product

import pytest
import torch

from t2i.adapters import (
    KohyaMetadata,
    add_lora,
    read_lora,
    read_lora_from_models,
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_folders,
)
from tests.adapters.made import (
    CONFIGS,
    EVERY,
    LYCORIS,
    OF_XL,
    apart,
    components,
    drawn,
    models_of,
    ours,
    theirs,
    train,
)
from tests.sweeps import sweep

CLOSE = 5e-5
"""Of latents around 4, in float32: scales that are no powers of two are rounded. In float64, as
the last of these tests has it, the same differences are below FINE."""
FINE = 1e-6
"""In float64, of latents around 4: kohya's alpha is written in float32."""
ROUNDING = 1e-12
"""In float64, between ours and diffusers' on the same files. On processors with AVX-512 they are
equal bit for bit; with AVX2 alone SDXL's differ by 1e-5 in float32 and by 3e-14 in float64.
"""


@functools.cache
def trained(family, name, endings=EVERY + OF_XL, kind=torch.float64):
    """The parts of a model as they were, the LoRA, and what the trained model draws.

    Read-only: several tests look at the same.
    """
    config = (CONFIGS | LYCORIS)[name]
    parts = components(family)
    for model in (parts["vae"], *models_of(parts).values()):
        model.to(kind)
    plain = copy.deepcopy(parts)
    train(models_of(parts), config, endings)
    reference = drawn(ours(parts))
    assert apart(reference, drawn(ours(plain))) > 0.01
    return plain, read_lora_from_models(models_of(parts), "mine"), reference


def read_here(parts, path, name="again"):
    """What ours draws with the file on it."""
    parts = copy.deepcopy(parts)
    add_lora(models_of(parts), read_lora(path, layers_per_block=1), name)
    return drawn(ours(parts))


@pytest.mark.parametrize(
    ("family", "config"),
    sweep(
        [*product(["sd1"], CONFIGS), ("sdxl", "mixed ranks and alphas"), ("sdxl", "dora")],
        quick=[("sd1", "dora"), ("sd1", "rslora"), ("sdxl", "mixed ranks and alphas")],
    ),
)
def test_what_is_written_as_diffusers_its_own_loader_reads_to_the_same_picture(
    family, config, tmp_path
):
    plain, lora, reference = trained(family, config)
    write_diffusers_lora(tmp_path / "one.safetensors", lora)
    pipe = theirs(family, plain)
    pipe.load_lora_weights(tmp_path, weight_name="one.safetensors")
    here, there = read_here(plain, tmp_path / "one.safetensors"), drawn(pipe)
    assert apart(here, there) < ROUNDING
    assert apart(here, reference) < FINE


@pytest.mark.parametrize(
    ("family", "config"),
    sweep(
        [
            ("sd1", "alpha is not the rank"),
            ("sd1", "mixed ranks and alphas"),
            ("sd1", "rslora"),
            ("sdxl", "mixed ranks and alphas"),
        ],
        quick=[("sd1", "rslora"), ("sdxl", "mixed ranks and alphas")],
    ),
)
def test_what_is_written_as_kohya_diffusers_own_loader_reads_to_the_same_picture(
    family, config, tmp_path
):
    plain, lora, reference = trained(family, config, EVERY)
    write_kohya_lora(
        tmp_path / "one.safetensors", lora, KohyaMetadata(family=family, layers_per_block=1)
    )
    pipe = theirs(family, plain)
    pipe.load_lora_weights(tmp_path, weight_name="one.safetensors")
    here, there = read_here(plain, tmp_path / "one.safetensors"), drawn(pipe)
    assert apart(here, there) < ROUNDING
    assert apart(here, reference) < CLOSE


@pytest.mark.parametrize(
    ("family", "config"),
    sweep(
        [
            *product(["sd1"], CONFIGS | LYCORIS),
            # Of the other family the names are others, not the sums: one of each kind.
            *product(["sdxl"], ["mixed ranks and alphas", "loha", "lokr with cores"]),
        ],
        quick=[
            ("sd1", "dora"),
            ("sd1", "rslora"),
            ("sd1", "loha with cores"),
            ("sd1", "lokr, both factored"),
            ("sd1", "lokr, none factored"),
            ("sd1", "lokr with cores"),
            ("sdxl", "mixed ranks and alphas"),
        ],
    ),
)
def test_what_is_written_is_read_here_at_the_strength_it_was_trained_with(family, config, tmp_path):
    plain, lora, reference = trained(family, config)
    facts = KohyaMetadata(family=family, layers_per_block=1)
    write_kohya_lora(tmp_path / "kohya.safetensors", lora, facts)
    assert apart(read_here(plain, tmp_path / "kohya.safetensors"), reference) < FINE
    if not config.startswith("lokr"):
        write_peft_folders(tmp_path / "peft", lora)
        assert apart(read_here(plain, tmp_path / "peft"), reference) < FINE


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize(
    ("family", "endings"),
    [("sd1", ("fc1", "fc2")), ("sdxl", ("text_projection", "fc1")), ("sdxl", OF_XL[:2])],
)
def test_a_few_layers_away_from_attention_are_read_by_diffusers_too(
    family, endings, layout, tmp_path
):
    plain, lora, _ = trained(family, "alpha is not the rank", endings, torch.float32)
    path = tmp_path / "one.safetensors"
    if layout == "diffusers":
        write_diffusers_lora(path, lora)
    else:
        write_kohya_lora(path, lora, KohyaMetadata(family=family, layers_per_block=1))
    pipe = theirs(family, plain)
    pipe.load_lora_weights(tmp_path, weight_name="one.safetensors")
    assert torch.equal(read_here(plain, path), drawn(pipe))
