"""Every field of peft's configs: what peft makes of it, we make of it, or it is refused by name."""

import dataclasses
import json
import typing

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn

from t2i.adapters import read_lora, read_lora_from_models
from t2i.adapters.lora_files.adapter_config import (
    build_adapter_config_from_peft,
    pattern_matches_module,
)
from t2i.adapters.peft_fields import (
    HARMLESS_FIELDS,
    READ_FIELDS,
    SUPPORTED_INITIALIZATIONS,
    UNSUPPORTED_FIELDS,
    check_peft_config_fields,
)
from t2i.errors import ModelError
from tests.adapters.made import components

CLASSES = (LoraConfig, LoHaConfig, LoKrConfig)
ROOM = "mid_block.attentions.0"
ODD: dict[str, list[object]] = {
    # read
    "peft_type": ["OFT"],
    "r": [4],
    "lora_alpha": [3],
    "alpha": [3],
    "rank_pattern": [{"proj_in": 4}],
    "alpha_pattern": [{"proj_in": 3, "^mid_block.*proj_out": 5}],
    "use_rslora": [True],
    "use_dora": [True],
    # harmless
    "task_type": ["FEATURE_EXTRACTION"],
    "auto_mapping": [{"base_model_class": "A"}],
    "peft_version": ["0.1"],
    "base_model_name_or_path": ["somewhere"],
    "revision": ["1"],
    "inference_mode": [True],
    "lora_dropout": [0.5],
    "rank_dropout": [0.5],
    "rank_dropout_scale": [True],
    "module_dropout": [0.5],
    "target_modules": [["proj_in"]],
    "exclude_modules": [["proj_out"]],
    "layers_to_transform": [[0]],
    "layers_pattern": ["attentions"],
    "runtime_config": [{"ephemeral_gpu_offload": True}],
    "megatron_core": ["other"],
    "qalora_group_size": [4],
    "loftq_config": [{"loftq_bits": 8}],
    "eva_config": [{"rho": 1.0}],
    "corda_config": [{"corda_method": "kpm"}],
    "lora_ga_config": [{"scale": "unit"}],
    "use_effective_conv2d": [True],
    "decompose_both": [True],
    "decompose_factor": [2],
    # how it began
    "init_lora_weights": [
        False, "gaussian", "eva", "orthogonal", "mica",
        "pissa", "pissa_niter_2", "PiSSA", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new",
    ],
    "init_weights": [False, "lycoris", "pissa"],
    # refused unless unset
    "bias": ["all", "lora_only"],
    "fan_in_fan_out": [True],
    "modules_to_save": [["proj_out"]],
    "megatron_config": [{"a": 1}],
    "trainable_token_indices": [[1]],
    "velora_config": [{"num_groups": 2}],
    "alora_invocation_tokens": [[1]],
    "use_qalora": [True],
    "monteclora_config": [{"num_samples": 2}],
    "layer_replication": [[[0, 1], [0, 1]]],
    "lora_bias": [True],
    "target_parameters": [["proj_in.weight"]],
    "use_bdlora": [{"nblocks": 2}],
    "arrow_config": [{"top_k": 1}],
    "kasa_config": [{"beta": 0.1}],
    "ensure_weight_tying": [True],
}  # fmt: skip
"""Field -> values that are not its default."""
UNTRIED = ["eva", "corda", "lora_ga", "loftq", "PiSSA", "new"]
"""Beginnings that peft makes from data, or with packages of their own, or does not make."""


def fields(kind):
    return {field.name: field for field in dataclasses.fields(kind)}


def default(field):
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def room():
    """Modules that bear names of a UNet's."""
    torch.manual_seed(2)
    layers = nn.ModuleDict({"proj_in": nn.Linear(16, 12), "proj_out": nn.Linear(12, 16)})
    return nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([layers])})})


def trained(config):
    """The model with weights of its own under the config, and its weights as they were before."""
    model = room()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model = get_peft_model(model, config)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".default" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
            parameter.data += 2.0 if "magnitude" in name else 0.0
    return model, before


def weights(model):
    """Name -> what peft makes of each weight."""
    merged = model.merge_and_unload(safe_merge=True)
    return {name: tensor for name, tensor in merged.state_dict().items() if "weight" in name}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_of_peft_stands_in_one_table_and_is_tried_here(kind):
    tables = [
        READ_FIELDS,
        HARMLESS_FIELDS,
        UNSUPPORTED_FIELDS,
        frozenset(SUPPORTED_INITIALIZATIONS),
    ]
    for name, field in fields(kind).items():
        assert sum(name in table for table in tables) == 1, f"decide what {name} does"
        assert default(field) not in ODD[name]
    check_peft_config_fields("x", {name: default(field) for name, field in fields(kind).items()})


def test_every_beginning_that_peft_names_is_tried_here():
    named = typing.get_args(typing.get_type_hints(LoraConfig)["init_lora_weights"])
    words = {word for kind in named for word in typing.get_args(kind)}
    assert len(words) > 7
    assert {word.replace("_[number of iters]", "_2") for word in words} <= {
        value for value in ODD["init_lora_weights"] if isinstance(value, str)
    }


CASES = [
    (kind, name, value)
    for kind in CLASSES
    for name in fields(kind)
    for value in ODD[name]
    if name in READ_FIELDS | HARMLESS_FIELDS | SUPPORTED_INITIALIZATIONS.keys()
    and name != "peft_type"
]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_config_with_it_is_read_to_what_peft_makes_of_it_or_is_refused(
    kind, name, value, tmp_path
):
    base = {"r": 2, "target_modules": ["proj_in", "proj_out"]}
    base["lora_alpha" if kind is LoraConfig else "alpha"] = 5
    built = name != "runtime_config" and value not in UNTRIED
    built = built and not (name == "init_weights" and isinstance(value, str))
    wishes = base | ({name: value} if built else {})
    if name == "layers_pattern":
        wishes["layers_to_transform"] = [0]
    model, before = trained(kind(**wishes))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    if not built:
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    state = model.get_base_model().state_dict()
    after = {key.replace(".base_layer", ""): tensor for key, tensor in state.items()}
    moved = any(not torch.equal(before[key], after[key]) for key in before)
    if complaint := refusal(tmp_path):
        assert f"its config has {name} = " in complaint
        assert moved or not built
        return
    assert not moved, "the numbers count from other weights"
    assert value == "eva" or value not in UNTRIED
    there = weights(model)
    layers = read_lora(tmp_path).parts["unet"]
    assert layers.keys() <= {key.removesuffix(".weight") for key in before}
    for place, layer in layers.items():
        if name == "use_dora":
            assert layer.magnitude is not None
            continue
        made = before[f"{place}.weight"] + layer.build_matrix()
        assert torch.allclose(made, there[f"{place}.weight"], atol=1e-5), place


def refusal(folder):
    try:
        read_lora(folder)
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n in sorted(UNSUPPORTED_FIELDS) for v in ODD[n]]
    + [("some_new_field", 3), ("peft_type", "OFT")],
)
def test_a_field_that_changes_the_meaning_or_is_unknown_is_refused_by_name(name, value, tmp_path):
    model, _ = trained(LoraConfig(r=2, target_modules=["proj_in"]))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {name: value}))
    with pytest.raises(ModelError, match=rf"adapter_config\.json: its config .*{name}"):
        read_lora(tmp_path)
    path.write_text(json.dumps(config | {"some_new_field": None}))
    assert read_lora(tmp_path).parts  # unset, it does nothing


def test_the_header_of_diffusers_is_read_by_the_same_tables(tmp_path):
    key = f"{ROOM}.proj_in.lora_{{}}.weight"
    tensors = {key.format("A"): torch.ones(2, 4), key.format("B"): torch.ones(3, 2)}
    path = tmp_path / "one.safetensors"
    for mark in ("unet.", ""):
        told = {f"{mark}r": 2, f"{mark}lora_alpha": 6}
        save_file(
            {mark + name: t for name, t in tensors.items()},
            path,
            {"lora_adapter_metadata": json.dumps(told)},
        )
        assert read_lora(path).parts["unet"][f"{ROOM}.proj_in"].scale == 3.0
        told[f"{mark}init_lora_weights"] = "pissa"
        save_file(
            {mark + name: t for name, t in tensors.items()},
            path,
            {"lora_adapter_metadata": json.dumps(told)},
        )
        with pytest.raises(ModelError, match=r"'pissa'.*path_initial_model_for_weight_conversion"):
            read_lora(path)
    both = {"unet.r": 2, "lora_alpha": 6}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(both)})
    with pytest.raises(ModelError, match="has 'lora_alpha' beside names of parts"):
        read_lora(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"r": 3}, "its tensors are of rank 2, and its config says 3"),
        ({"rank_pattern": {"proj_in": 5}}, "its tensors are of rank 2, and its config says 5"),
        ({"use_dora": True}, "its tensors lack the magnitude of DoRA, .* use_dora = true"),
        ({"peft_type": "LOHA"}, "its tensors are of a lora, and its config is of a loha"),
        ({"use_rslora": "yes"}, "its use_rslora is 'yes', expected true or false"),
        ({"rank_pattern": [1]}, "its rank_pattern is no JSON object"),
        ({"lora_alpha": 10**400}, "a number has 401 digits"),
        ({"init_lora_weights": 3}, "its config has init_lora_weights = 3, which is unknown"),
        ({"init_lora_weights": "loftq"}, "'loftq': it applies to the rounded weights"),
        ({"x\x1b[1m": 1}, r"its config has x\?\[1m = 1, which is unknown"),
    ],
)
def test_a_config_that_contradicts_its_tensors_is_refused(change, complaint, tmp_path):
    model, _ = trained(LoraConfig(r=2, target_modules=["proj_in"]))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=complaint):
        read_lora(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["LORA", "LOHA", "pissa", "gaussian", "(a+)+", "proj_in"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


# A few keys: the first that is refused hides the others.
@settings(max_examples=200, deadline=None)
@given(config=st.dictionaries(st.sampled_from(sorted(ODD)) | st.text(max_size=8), JSON, max_size=3))
@example(config={"peft_type": ["LORA"]})
@example(config={"alpha_pattern": {"": 1}, "lora_alpha": 10**400})
def test_no_config_gets_past_the_typed_errors(config):
    try:
        told = build_adapter_config_from_peft("x", config)
    except ModelError as error:
        complaint = str(error)
    else:
        complaint = ""
        assert told.compute_alpha("mid_block.attentions.0.proj_in", 4) is not None
    assert all(letter.isprintable() for letter in complaint.replace("\n", ""))


def test_a_magnitude_that_the_config_denies_is_refused(tmp_path):
    model, _ = trained(LoraConfig(r=2, target_modules=["proj_in"]))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    key = f"base_model.model.{ROOM}.proj_in.lora_magnitude_vector"
    save_file(load_file(path) | {key: torch.ones(12)}, path)
    with pytest.raises(ModelError, match=r"have the magnitude of DoRA, .* use_dora = false"):
        read_lora(tmp_path)


@pytest.mark.parametrize("beginning", ["pissa", "olora"])
def test_what_peft_converts_on_saving_is_read_to_the_trained_model(beginning, tmp_path):
    config = LoraConfig(r=2, target_modules=["proj_in", "proj_out"], init_lora_weights=beginning)
    model = get_peft_model(room(), config)
    model.save_pretrained(tmp_path / "first")
    for name, parameter in model.named_parameters():
        if ".default" in name:
            parameter.data += 0.1
    # Read again, the first adapter takes its part out of the weights once more, unless told not to.
    path = tmp_path / "first/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    model.save_pretrained(
        tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "first")
    )
    lora, before, there = read_lora(tmp_path / "lora"), room().state_dict(), weights(model)
    for place, layer in lora.parts["unet"].items():
        made = before[f"{place}.weight"] + layer.build_matrix()
        assert torch.allclose(made, there[f"{place}.weight"], atol=1e-5)


def test_layers_that_count_from_changed_weights_are_not_taken_off_a_model():
    unet = components("sd1")["unet"]
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights="olora"))
    with pytest.raises(ModelError, match=r"adapter 'default' of unet: its config has .*'olora'"):
        read_lora_from_models({"unet": unet})


@pytest.mark.parametrize("named", ["{}", "text_model.{}"])
@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.0.self_attn.q_proj",
        "{}",
        "^{}",
        "^{}$",
        r"^{}\.self_attn\.q_proj",
        "layers.1.self_attn.q_proj",
        "proj",
        "encoder",
        ".*q_proj",
    ],
)
def test_a_pattern_fits_a_module_of_a_text_encoder_where_it_fits_for_peft(named, pattern):
    module = "encoder.layers.0.self_attn.q_proj"
    escaped = named.format(module).replace(".", r"\.")
    if r"\." in pattern:
        escaped = escaped.removesuffix(r"\.self_attn\.q_proj")
    pattern = pattern.format(escaped)
    theirs = get_pattern_key([pattern], named.format(module)) == pattern
    assert pattern_matches_module(pattern, module) is theirs
