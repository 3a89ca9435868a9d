"""Files of other programs: read at the strength that was meant, or refused by name."""

import contextlib
import json
import math
import pickle
import struct

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from t2i.adapters import (
    KohyaMetadata,
    LowRankUpdate,
    read_all_learned_words,
    read_lora,
    read_lora_from_models,
    write_diffusers_lora,
    write_kohya_lora,
)
from t2i.errors import ArgumentError, ModelError, T2IError
from tests.adapters.made import ATTENTION, CONFIGS, components, train
from tests.tiny import tiny_unet

DOWN = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
UP = DOWN.replace("lora_A", "lora_B")
KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def pair(rank=2, width=4, out=3):
    return {"down": torch.randn(rank, width), "up": torch.randn(out, rank)}


def only(lora):
    ((_, _, layer),) = lora.iter_layers()
    return layer


def same(one, other):
    """The same changes of the same modules, tensor by tensor."""
    assert {(p, m) for p, m, _ in one.iter_layers()} == {(p, m) for p, m, _ in other.iter_layers()}
    for part, name, layer in one.iter_layers():
        there = other.parts[part][name]
        assert layer.alpha == pytest.approx(there.alpha, rel=1e-6), name
        assert layer.named_tensors().keys() == there.named_tensors().keys()
        for field, tensor in layer.named_tensors().items():
            assert torch.equal(tensor, there.named_tensors()[field]), (name, field)


@pytest.fixture(scope="module")
def trained():
    parts = components("sd1")
    models = {"unet": parts["unet"], "text_encoder": parts["text_encoder"]}
    train(models, CONFIGS["mixed ranks and alphas"], ATTENTION)
    return models, read_lora_from_models(models, "mine")


@pytest.mark.parametrize("rslora", [False, True])
def test_what_diffusers_saves_with_metadata_has_the_strength_it_was_trained_with(tmp_path, rslora):
    unet = components("sd1")["unet"]
    unet.add_adapter(
        LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=["to_k", "to_v"],
            use_rslora=rslora,
            alpha_pattern={"mid_block.*to_k": 2},
            init_lora_weights=False,
        )
    )
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(unet), **_collate_lora_metadata({"unet": unet})
    )
    here = read_lora(tmp_path / "pytorch_lora_weights.safetensors")
    same(read_lora_from_models({"unet": unet}), here)
    by = 3**0.5 if rslora else 3
    scales = {layer.scale for _, _, layer in here.iter_layers()}
    assert sorted(scales) == pytest.approx([2 / by, 5 / by])


def test_names_of_old_diffusers_mean_the_same_layers(trained, tmp_path):
    _, lora = trained
    old = {}
    letters = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    for part, name, layer in lora.iter_layers():
        path, _, end = name.removesuffix(".0").rpartition(".")
        if part == "unet":
            key = f"unet.{path}.processor.{end}_lora"
        else:
            key = f"text_encoder.text_model.{path}.{letters[end]}_lora"
        old[f"{key}.down.weight"], old[f"{key}.up.weight"] = layer.down, layer.up
    save_file(old, tmp_path / "old.safetensors")
    here = read_lora(tmp_path / "old.safetensors")
    for part, name, layer in lora.iter_layers():
        again = here.parts[part][name]
        assert torch.equal(again.down, layer.down)
        assert again.scale == 1.0  # it says nothing of alpha


def test_a_unet_alone_and_the_names_of_diffusers_in_between_are_read(tmp_path):
    tensors = {
        "down_blocks.0.attentions.0.proj_in.lora.down.weight": torch.randn(2, 4),
        "down_blocks.0.attentions.0.proj_in.lora.up.weight": torch.randn(4, 2),
        "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": torch.randn(2, 4),
        "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight": torch.randn(8, 2),
        "diffusion_model.middle_block.1.proj_in.lora_A.weight": torch.randn(2, 4),
        "diffusion_model.middle_block.1.proj_in.lora_B.weight": torch.randn(4, 2),
    }
    save_file(tensors, tmp_path / "one.safetensors")
    assert {
        (part, name) for part, name, _ in read_lora(tmp_path / "one.safetensors").iter_layers()
    } == {
        ("unet", "down_blocks.0.attentions.0.proj_in"),
        ("unet", "mid_block.attentions.0.proj_in"),
        ("text_encoder", "encoder.layers.0.mlp.fc1"),
    }


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=3, lora_alpha=2, target_modules=["to_k"], use_rslora=True),
        LoraConfig(r=3, lora_alpha=2, target_modules=["to_k", "conv1"], use_dora=True),
        LoHaConfig(r=3, alpha=2, target_modules=["to_k", "conv1"], init_weights=False),
        LoKrConfig(r=1, alpha=2, target_modules=["to_k", "conv1"], init_weights=False),
    ],
    ids=["rslora", "dora", "loha", "lokr"],
)
def test_what_peft_saves_is_read_as_it_was_trained(config, tmp_path):
    model = get_peft_model(tiny_unet(), config)
    model.save_pretrained(tmp_path / "adapter")
    here = read_lora(tmp_path / "adapter")
    same(read_lora_from_models({"unet": model.base_model.model}), here)
    # and peft itself reads what it saved to the same
    PeftModel.from_pretrained(tiny_unet(), tmp_path / "adapter")


def test_alpha_is_read_from_tensors_then_from_the_header_then_is_the_rank(tmp_path):
    path = tmp_path / "one.safetensors"
    fields = pair()
    kohya = {
        f"{KOHYA}.lora_down.weight": fields["down"],
        f"{KOHYA}.lora_up.weight": fields["up"],
        f"{KOHYA}.alpha": torch.tensor(3, dtype=torch.int64),
    }
    save_file(kohya, path)
    assert only(read_lora(path)).scale == 1.5
    plain = {DOWN: fields["down"], UP: fields["up"]}
    save_file(plain, path)
    assert only(read_lora(path)).scale == 1.0
    told = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 1}}
    save_file(plain, path, {"lora_adapter_metadata": json.dumps(told)})
    assert only(read_lora(path)).scale == 0.5
    told["unet.alpha_pattern"] = {"to_q": 1}
    save_file(plain, path, {"lora_adapter_metadata": json.dumps(told)})
    assert only(read_lora(path)).scale == 4.0


def test_a_convolution_between_the_factors_becomes_part_of_one(tmp_path):
    torch.manual_seed(2)
    down, mid, up = torch.randn(2, 4, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(5, 2, 1, 1)
    key = "lora_unet_mid_block_resnets_0_conv1"
    tensors = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    save_file({f"{key}.{name}": t for name, t in tensors.items()}, tmp_path / "cp.safetensors")
    layer = only(read_lora(tmp_path / "cp.safetensors"))
    picture = torch.randn(1, 4, 6, 6)
    whole = torch.nn.functional.conv2d(picture, layer.build_matrix().reshape(5, 4, 3, 3))
    steps = torch.nn.functional.conv2d(picture, down)
    steps = torch.nn.functional.conv2d(torch.nn.functional.conv2d(steps, mid), up)
    assert (whole - steps).abs().max() < 1e-5


def test_half_precision_is_read_as_it_is(tmp_path):
    fields = {DOWN: torch.randn(2, 4).half(), UP: torch.randn(3, 2).bfloat16()}
    save_file(fields, tmp_path / "half.safetensors")
    layer = only(read_lora(tmp_path / "half.safetensors"))
    assert layer.down.dtype == torch.float16
    assert layer.up.dtype == torch.bfloat16


# refused


def test_a_tensor_that_is_not_understood_is_named_and_nothing_is_loaded(trained, tmp_path):
    path = tmp_path / "one.safetensors"
    write_diffusers_lora(path, trained[1])
    tensors = load_file(path) | {f"unet.other.{n}.oft_blocks": torch.zeros(1) for n in range(5)}
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"5 of its \d+ tensors .*oft_blocks.* and 2 more\. Not"):
        read_lora(path)


def test_a_name_cannot_command_a_terminal(tmp_path):
    evil = "unet.\x1b]0;evil\x07.to_k"
    for key in (f"{evil}.lora_A.weight", f"{evil}.other"):
        save_file({key: torch.ones(2, 2)}, tmp_path / "one.safetensors")
        with pytest.raises(ModelError, match=r"unet.*\?\]0;evil\?\.to_k") as caught:
            read_lora(tmp_path / "one.safetensors")
        assert str(caught.value).isprintable()


BROKEN = {
    "down alone": ({DOWN: torch.ones(2, 4)}, "attn2.to_k: it has down alone"),
    "alpha alone": ({f"{KOHYA}.alpha": torch.tensor(1.0)}, "it has alpha alone"),
    "ranks that differ": (
        {DOWN: torch.ones(2, 4), UP: torch.ones(4, 3)},
        r"down is \[2, 4\] and up \[4, 3\]",
    ),
    "no rank": ({DOWN: torch.ones(0, 4), UP: torch.ones(4, 0)}, r"expected \[rank, in\]"),
    "not a number": (
        {DOWN: torch.full((2, 4), float("nan")), UP: torch.ones(4, 2)},
        "to_k.lora_A.weight has numbers that are NaN or infinite",
    ),
    "whole numbers": (
        {DOWN: torch.ones(2, 4, dtype=torch.int32), UP: torch.ones(4, 2)},
        "holds int32, expected floating-point",
    ),
    "many alphas": (
        {
            f"{KOHYA}.lora_down.weight": torch.ones(2, 4),
            f"{KOHYA}.lora_up.weight": torch.ones(4, 2),
            f"{KOHYA}.alpha": torch.ones(3),
        },
        r"is \[3\], expected one finite number",
    ),
    "lengths of columns": (
        {
            f"{KOHYA}.lora_down.weight": torch.ones(2, 4),
            f"{KOHYA}.lora_up.weight": torch.ones(4, 2),
            f"{KOHYA}.dora_scale": torch.ones(1, 4),
        },
        r"dora_scale is \[1, 4\], one number for each input",
    ),
    "half a loha": ({f"{KOHYA}.hada_w1_a": torch.ones(2, 4)}, "w1_b is missing"),
    "a loha that is none": (
        {f"{KOHYA}.hada_{n}": torch.ones(2, 3) for n in ("w1_a", "w1_b", "w2_a", "w2_b")},
        "cannot be multiplied",
    ),
    "two kinds at once": (
        {
            f"{KOHYA}.lokr_w1": torch.ones(2, 2),
            f"{KOHYA}.lokr_w2": torch.ones(2, 2),
            f"{KOHYA}.lora_down.weight": torch.ones(2, 2),
        },
        "down cannot be used beside a LoHa or LoKr",
    ),
    "one twice": (
        {DOWN: torch.ones(2, 4), f"{KOHYA}.lora_down.weight": torch.ones(2, 4)},
        "twice, under different names",
    ),
    "a name of nothing": (
        {"lora_unet_some_where.lora_down.weight": torch.ones(2, 4)},
        "1 of its 1 tensor .*lora_unet_some_where",
    ),
}


@pytest.mark.parametrize(("tensors", "complaint"), BROKEN.values(), ids=BROKEN)
def test_tensors_that_make_no_lora_are_refused(tensors, complaint, tmp_path):
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(ModelError, match=complaint):
        read_lora(tmp_path / "one.safetensors")


BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "F8_E8M0": 8, "NEW": 8}
BITS |= {f"{sign}{size}": size for sign in "IU" for size in (8, 16, 32, 64)}
BITS |= {"BF16": 16, "F16": 16, "F32": 32, "F64": 64, "F8_E5M2": 8, "F8_E4M3": 8}
BITS |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
"""Types of numbers that a safetensors file may hold, and one that it may not."""
FRACTIONS = ("BF16", "F16", "F32", "F64", "F8_E5M2", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def raw(path, tensors):
    """A safetensors file of tensors whose types torch need not know."""
    header, data = {}, b""
    for name, (kind, shape) in tensors.items():
        content = bytes([0x38]) * (math.prod(shape) * BITS[kind] // 8)
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("kind", BITS)
def test_numbers_of_every_type_are_read_or_refused_by_name(kind, tmp_path):
    path = tmp_path / "one.safetensors"
    pairs = {DOWN: (kind, [2, 4]), UP: (kind, [4, 2])}
    ones = {DOWN: (kind, [1, 8]), UP: (kind, [8, 1])}
    alone = {DOWN: ("F32", [1, 8]), UP: ("F32", [8, 1]), f"{KOHYA}.alpha": (kind, [8])}
    for tensors in (pairs, ones, alone, {"<sun>": (kind, [2, 4])}):
        raw(path, tensors)
        reader = read_all_learned_words if "<sun>" in tensors else read_lora
        if kind in FRACTIONS and tensors is not alone:
            assert reader(path)
            continue
        with pytest.raises(T2IError) as caught:
            reader(path)
        assert "implemented" not in str(caught.value)
    if BITS[kind] >= 8 and kind != "NEW":
        raw(path, {**dict(list(alone.items())[:2]), f"{KOHYA}.alpha": (kind, [])})
        if kind in (*FRACTIONS, "I8", "I16", "I32", "I64", "U8"):
            assert only(read_lora(path)).alpha > 0
        else:
            with pytest.raises(T2IError, match="alpha holds"):
                read_lora(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_junk_in_a_file_gets_past_the_typed_errors(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "junk.safetensors"
    keys = st.sampled_from([DOWN, UP, f"{KOHYA}.alpha", f"{KOHYA}.hada_w1_a", f"{KOHYA}.lokr_w2"])
    keys |= st.sampled_from([f"{KOHYA}.dora_scale", f"{KOHYA}.lora_mid.weight", "emb_params"])
    keys |= st.text(max_size=20)
    shapes = st.lists(st.integers(0, 4), max_size=4)
    kinds = st.sampled_from([kind for kind in BITS if BITS[kind] >= 8])
    raw(path, data.draw(st.dictionaries(keys, st.tuples(kinds, shapes), max_size=4)))
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(whole)))
        whole = whole[:cut] + data.draw(st.binary(max_size=8)) + whole[cut + 3 :]
        path.write_bytes(whole)
    for reader in (read_lora, read_all_learned_words):
        with contextlib.suppress(T2IError):
            reader(path)


TOLD = {
    "no json": ("{", "lora_adapter_metadata is not JSON"),
    "deep": ("[" * 100_000, "lora_adapter_metadata is not JSON"),
    "a list": ("[1]", "holds no JSON object"),
    "no number": ('{"unet.lora_alpha": "8"}', "alpha is '8', expected a finite number"),
    "infinite": ('{"unet.lora_alpha": Infinity}', "alpha is inf, expected a finite number"),
    "endless": ('{"unet.alpha_pattern": {"(a+)+b": 1}}', r"alpha_pattern has '\(a\+\)\+b'"),
    "no pattern": ('{"unet.alpha_pattern": [1]}', "alpha_pattern is no JSON object"),
}


@pytest.mark.parametrize(("text", "complaint"), TOLD.values(), ids=TOLD)
def test_a_header_that_lies_is_refused(text, complaint, tmp_path):
    save_file(
        {DOWN: torch.ones(2, 4), UP: torch.ones(4, 2)},
        tmp_path / "one.safetensors",
        {"lora_adapter_metadata": text},
    )
    with pytest.raises(ModelError, match=complaint):
        read_lora(tmp_path / "one.safetensors")


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"Refused the pickled LoRA .*evil\.pt"):
        read_lora(tmp_path / "evil.pt")
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        read_lora(tmp_path / "evil.safetensors")
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 10**15) + b"{}")
    with pytest.raises(ModelError, match="header claims 1000000000000000 bytes"):
        read_lora(tmp_path / "huge.safetensors")
    save_file({DOWN: torch.ones(2, 4)}, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        read_lora(tmp_path / "cut.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ModelError, match="it has 0 tensors"):
        read_lora(tmp_path / "empty.safetensors")
    with pytest.raises(ArgumentError, match=r"No such LoRA: .*none\.safetensors"):
        read_lora(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match=r"holds no LoRA: expected adapter_config.json"):
        read_lora(tmp_path)


# written


def test_a_file_says_what_it_is(trained, tmp_path):
    path = tmp_path / "ink.safetensors"
    write_kohya_lora(
        path, trained[1], KohyaMetadata(family="sd1", title="ink", extra={"ss_epoch": "3"})
    )
    header = read_lora(path).header
    assert header["ss_base_model_version"] == "sd_v1"
    assert header["ss_network_module"] == "networks.lora"
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert header["modelspec.title"] == header["ss_output_name"] == "ink"
    assert header["ss_epoch"] == "3"
    assert path.stat().st_mode & 0o044, "others may read it"
    write_diffusers_lora(path, read_lora(path))
    again = read_lora(path)
    assert again.header["ss_epoch"] == "3"
    same(again, read_lora(path))


def test_what_cannot_be_written_is_refused(trained, tmp_path):
    path = tmp_path / "one.safetensors"
    with pytest.raises(ModelError, match="give --family sd1, sd2 or sdxl"):
        write_kohya_lora(path, trained[1])
    factor = torch.ones(2, 2)
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    loha = read_of({f"{KOHYA}.hada_{name}": torch.ones(2, 2) for name in names}, path)
    with pytest.raises(ModelError, match="diffusers reads no LoHa file"):
        write_diffusers_lora(path, loha)
    mixed = type(loha)(
        {
            "unet": {
                "a": LowRankUpdate(factor, factor, 1.0),
                "b": LowRankUpdate(factor, factor, 1.0, torch.ones(2)),
            }
        }
    )
    with pytest.raises(ModelError, match="Some layers of unet are DoRA and others are not"):
        write_diffusers_lora(path, mixed)
    with pytest.raises(ModelError, match="The LoRA changes nothing"):
        write_kohya_lora(path, type(loha)({}))


def read_of(tensors, path):
    save_file(tensors, path)
    return read_lora(path)
