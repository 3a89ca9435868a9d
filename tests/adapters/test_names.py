"""Names of modules: ours, kohya's and the original code's, against diffusers' own conversion."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from t2i.adapters import (
    KohyaMetadata,
    Lora,
    LowRankUpdate,
    read_lora,
    write_diffusers_lora,
    write_kohya_lora,
)
from t2i.adapters.module_names import (
    convert_unprefixed_kohya_name,
    module_name_in_lora_file,
    replace_dots,
    strip_module_name_prefixes,
    to_original_sdxl_name,
)
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.model_location import ASSETS
from t2i.denoiser.loading.weight_checks import read_json_object
from tests.adapters.made import components, models_of


def skeletons(family):
    """Part -> names of the layers of the published models, made without memory."""
    place = ASSETS / "single_file" / family
    kinds = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
    if family == "sdxl":
        kinds["text_encoder_2"] = "CLIPTextModelWithProjection"
    return {
        part: build_meta_model(kind, read_json_object(place / part / "config.json"))
        for part, kind in kinds.items()
    }


def layers(model):
    return [
        strip_module_name_prefixes(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layer_of_the_published_models_has_a_name_of_its_own_and_it_is_read_back(family):
    for part, model in skeletons(family).items():
        names = layers(model)
        assert len(names) > 70
        written = {replace_dots(module_name_in_lora_file(part, name)) for name in names}
        assert len(written) == len(names)
        assert [
            convert_unprefixed_kohya_name(replace_dots(module_name_in_lora_file(part, name)), 2)
            for name in names
        ] == names


def test_every_layer_of_sdxl_has_a_name_in_the_original_code_that_diffusers_reads_alike():
    unet = skeletons("sdxl")["unet"]
    names = layers(unet)
    assert len(names) > 700
    assert [
        convert_unprefixed_kohya_name(to_original_sdxl_name(name, 2), 2) for name in names
    ] == names
    keys = {f"lora_unet_{to_original_sdxl_name(name, 2)}.lora_down.weight": name for name in names}
    assert len(keys) == len(names)
    mapped = _maybe_map_sgm_blocks_to_diffusers({key: key for key in keys}, unet.config)
    for converted, key in mapped.items():
        theirs = _convert_unet_lora_key(converted).replace(".processor", "")
        for end in ("q", "k", "v"):
            theirs = theirs.replace(f".to_{end}_lora.", f".to_{end}.lora.")
        theirs = theirs.replace(".to_out_lora.", ".to_out.0.lora.")
        assert theirs.removesuffix(".lora.down.weight") == keys[key]


@pytest.mark.parametrize("name", ["", "to_", "to_x", "1 2", "down_blocks_0_some_where", "_" * 99])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=r".*"):
        convert_unprefixed_kohya_name(name, 2)


@given(st.text(alphabet="abcdeilnopt_0123456789", max_size=60))
def test_no_name_breaks_the_reader(name):
    try:
        found = convert_unprefixed_kohya_name(name, 2)
    except ValueError:
        return
    assert "_" not in found.replace("_blocks", "").split(".")[0] or found


KNOWN = {
    family: {
        part: {
            strip_module_name_prefixes(name): tuple(module.weight.shape)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }
        for part, model in models_of(components(family)).items()
    }
    for family in ("sd1", "sdxl")
}
PRECISIONS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@st.composite
def loras(draw, family, one_alpha):
    """Layers on some modules of a tiny model, of any ranks, alphas and precisions."""
    alphas = st.floats(0.125, 64, width=32)
    fixed = draw(alphas)
    parts = {}
    for part, modules in KNOWN[family].items():
        chosen = draw(st.sets(st.sampled_from(sorted(modules)), max_size=4))
        dora = draw(st.booleans())
        for name in chosen:
            shape = modules[name]
            rank = draw(st.integers(1, 5))
            kind = draw(PRECISIONS)
            ones = (1,) * (len(shape) - 2)
            layer = LowRankUpdate(
                torch.randn(rank, *shape[1:]).to(kind),
                torch.randn(shape[0], rank, *ones).to(kind),
                fixed if one_alpha else draw(alphas),
                torch.rand(shape[0]).to(kind) + 1 if dora else None,
            )
            parts.setdefault(part, {})[name] = layer
    if not parts:
        parts = {
            "unet": {
                "conv_in": LowRankUpdate(torch.randn(1, 4, 3, 3), torch.randn(16, 1, 1, 1), 1.0)
            }
        }
    return Lora(parts)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_diffusers_to_kohya_and_back_loses_nothing(family, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trips")
    lora = data.draw(loras(family, one_alpha=True))
    write_diffusers_lora(folder / "one.safetensors", lora)
    first = read_lora(folder / "one.safetensors")
    write_kohya_lora(
        folder / "two.safetensors", first, KohyaMetadata(family=family, layers_per_block=1)
    )
    second = read_lora(folder / "two.safetensors", layers_per_block=1)
    write_diffusers_lora(folder / "three.safetensors", second)
    third = read_lora(folder / "three.safetensors")
    for found in (first, second, third):
        expected = {(part, name): layer for part, name, layer in lora.iter_layers()}
        assert {(part, name) for part, name, _ in found.iter_layers()} == expected.keys()
        for part, name, layer in found.iter_layers():
            there = expected[part, name]
            assert layer.alpha == there.alpha
            assert layer.named_tensors().keys() == there.named_tensors().keys()
            for field, tensor in layer.named_tensors().items():
                assert torch.equal(tensor, there.named_tensors()[field]), (part, name, field)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_several_alphas_become_one_in_a_kohya_file_and_the_changes_stay(
    family, data, tmp_path_factory
):
    lora = data.draw(loras(family, one_alpha=False))
    path = tmp_path_factory.mktemp("trips") / "one.safetensors"
    write_kohya_lora(path, lora, KohyaMetadata(family=family, layers_per_block=1))
    found = read_lora(path, layers_per_block=1)
    for part, layers in found.parts.items():
        assert len({layer.alpha for layer in layers.values()}) == 1
        for name, layer in layers.items():
            there = lora.parts[part][name]
            # bfloat16 has 8 bits: the change was rounded once more
            tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
            close = tolerance[layer.up.dtype] * there.build_matrix().abs().max()
            assert (layer.build_matrix() - there.build_matrix()).abs().max() <= close
