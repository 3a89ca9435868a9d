"""What is written for a program, that program's own reader takes whole: peft, lycoris, kohya's
scripts, A1111. Of diffusers test_parity.py says the same."""

import copy
import json
import warnings
from itertools import product

import pytest
import torch
from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from t2i.adapters import (
    KohyaMetadata,
    Lora,
    LowRankUpdate,
    merge_into_weights,
    read_lora_from_models,
    write_kohya_lora,
    write_peft_folders,
)
from t2i.adapters.module_names import strip_module_name_prefixes
from tests.adapters.made import (
    CONFIGS,
    LYCORIS,
    components,
    models_of,
    train,
)
from tests.adapters.test_names import skeletons
from tests.sweeps import sweep

TEXT_AND_UNET = (
    "to_k",
    "to_out.0",
    "q_proj",
    "out_proj",
    "fc1",
    "conv1",
    "proj_in",
    "text_projection",
)
CLOSE = 1e-6


def made(family, config, endings=TEXT_AND_UNET):
    """Models as they were, the LoRA, and the weights that ours makes of them."""
    trained = models_of(components(family))
    train(trained, config, endings)
    lora = read_lora_from_models(trained, "mine")
    merged = models_of(components(family))
    merge_into_weights(merged, lora)
    return models_of(components(family)), lora, merged


def assert_merged(model, expected, before):
    there = expected.state_dict()
    state = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert state.keys() == there.keys()
    assert any(not torch.equal(there[name], before[name]) for name in there)
    for name, tensor in there.items():
        assert torch.allclose(state[name], tensor, atol=CLOSE), name


@pytest.mark.parametrize(
    ("family", "config"),
    sweep(
        product(["sd1", "sdxl"], [*CONFIGS, "loha", "loha with cores"]),
        quick=[
            *product(["sd1"], ["rslora", "dora", "loha with cores"]),
            ("sdxl", "mixed ranks and alphas"),
        ],
    ),
)
def test_peft_loads_every_layer_of_every_part(family, config, tmp_path):
    models, lora, merged = made(family, (CONFIGS | LYCORIS)[config])
    write_peft_folders(tmp_path / "peft", lora)
    assert {folder.name for folder in (tmp_path / "peft").iterdir()} == models.keys()
    for part, model in models.items():
        before = copy.deepcopy(model.state_dict())
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*adapter keys")
            loaded = PeftModel.from_pretrained(model, tmp_path / "peft" / part)
        held = [n for n, _ in loaded.named_parameters() if ".default" in n]
        assert len(held) == sum(len(layer.named_tensors()) for layer in lora.parts[part].values())
        assert_merged(loaded.merge_and_unload(), merged[part], before)


class Whole(nn.Module):
    """A text encoder under the name that it has in the versions that kohya's scripts use."""

    def __init__(self, model):
        super().__init__()
        self.text_model = model


# Not "lokr with cores": of such lycoris 4.1.3 takes the rank from the wrong side, of its own too.
@pytest.mark.parametrize(
    "config",
    sweep(
        ["alpha is not the rank", "dora", *list(LYCORIS)[:-1]],
        quick=["alpha is not the rank", "dora", "loha with cores", "lokr, both factored"],
    ),
)
def test_lycoris_loads_every_layer_of_a_kohya_file(config, tmp_path, monkeypatch):
    # Its list of names and its list of classes meet in a UNet of this diffusers.
    monkeypatch.setattr(LycorisNetworkKohya, "UNET_TARGET_REPLACE_NAME", [])
    models, lora, merged = made("sd1", (CONFIGS | LYCORIS)[config])
    path = tmp_path / "one.safetensors"
    write_kohya_lora(path, lora, KohyaMetadata(family="sd1", layers_per_block=1))
    before = {part: copy.deepcopy(model.state_dict()) for part, model in models.items()}
    text = Whole(models["text_encoder"])
    network, _ = create_network_from_weights(1.0, str(path), None, text, models["unet"])
    assert len(network.unet_loras) == len(lora.parts["unet"])
    assert len(network.text_encoder_loras) == len(lora.parts["text_encoder"])
    for module in network.unet_loras + network.text_encoder_loras:
        if config not in LYCORIS:
            module.merge_to(1.0)
            continue
        # As its forward pass has it: merge_to of 4.1.3 scales LoHa and LoKr twice.
        weight = module.org_module[0].weight
        weight.data += module.get_weight(weight.shape)
    for part, model in models.items():
        assert_merged(model, merged[part], before[part])


# kohya's scripts (sd-scripts, Apache 2.0): names made of the module tree, and how they are merged

LINEAR_ROOMS = {"Transformer2DModel", "CLIPAttention", "CLIPMLP"}
CONV_ROOMS = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}


def names_of_kohya(model, prefix, inside=""):
    """Key -> the module that the scripts' network gives it: of the classes that it looks into."""
    found = {}
    for name, room in model.named_modules():
        if type(room).__name__ not in LINEAR_ROOMS | CONV_ROOMS:
            continue
        for child, module in room.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                path = f"{inside}{name}.{child}".replace("text_model.text_model.", "text_model.")
                found[f"{prefix}_{path}".replace(".", "_")] = module
    return found


def original_of_sdxl(key):
    """Of a key with diffusers' names the one with the original code's, by the table of Stability's
    conversion, which the scripts use: three levels, two resnets going down, three going up."""
    table = {}
    for level in range(3):
        for place in range(3):
            down, up = f"down_blocks_{level}", f"up_blocks_{level}"
            if place < 2:
                number = 3 * level + place + 1
                table[f"{down}_resnets_{place}_"] = f"input_blocks_{number}_0_"
                table[f"{down}_attentions_{place}_"] = f"input_blocks_{number}_1_"
            table[f"{up}_resnets_{place}_"] = f"output_blocks_{3 * level + place}_0_"
            table[f"{up}_attentions_{place}_"] = f"output_blocks_{3 * level + place}_1_"
        table[f"down_blocks_{level}_downsamplers_0_conv"] = f"input_blocks_{3 * (level + 1)}_0_op"
        table[f"up_blocks_{level}_upsamplers_0_"] = f"output_blocks_{3 * level + 2}_2_"
    table["mid_block_attentions_0_"] = "middle_block_1_"
    table |= {f"mid_block_resnets_{place}_": f"middle_block_{2 * place}_" for place in (0, 1)}
    for theirs, ours in table.items():
        key = key.replace(theirs, ours)
    inner = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    inner["conv_shortcut"] = "skip_connection"
    for theirs, ours in inner.items():
        key = key.removesuffix(theirs) + ours if key.endswith(f"_{theirs}") else key
    return key


def kohya_tree(family, models):
    te = "lora_te1" if family == "sdxl" else "lora_te"
    unet = names_of_kohya(models["unet"], "lora_unet")
    if family == "sdxl":
        unet = {original_of_sdxl(key): module for key, module in unet.items()}
    found = unet | names_of_kohya(models["text_encoder"], te, "text_model.")
    if "text_encoder_2" in models:
        found |= names_of_kohya(models["text_encoder_2"], "lora_te2", "text_model.")
    return found


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layer_that_kohyas_scripts_train_is_written_under_their_names(family, tmp_path):
    models = skeletons(family)
    tree = kohya_tree(family, models)
    assert len(tree) > 300
    names = {
        id(module): (part, name) for part, m in models.items() for name, module in m.named_modules()
    }
    parts, expected = {}, set()
    for number, (key, module) in enumerate(tree.items()):
        part, name = names[id(module)]
        shape = module.weight.shape
        down = torch.full((1, *[1] * len(shape[1:])), float(number))
        parts.setdefault(part, {})[strip_module_name_prefixes(name)] = LowRankUpdate(
            down, torch.ones(1, 1), 1.0
        )
        expected.add(key)
    write_kohya_lora(tmp_path / "one.safetensors", Lora(parts), KohyaMetadata(family=family))
    header, _ = header_of(tmp_path / "one.safetensors")
    assert {key.partition(".")[0] for key in header} - {"__metadata__"} == expected
    state = load_file(tmp_path / "one.safetensors")
    for number, key in enumerate(tree):
        assert state[f"{key}.lora_down.weight"].flatten()[0] == number, "each at its own module"


@pytest.mark.parametrize(
    "config",
    sweep(
        ["alpha is not the rank", "mixed ranks and alphas", "rslora"],
        quick=["mixed ranks and alphas", "rslora"],
    ),
)
def test_merged_as_kohyas_scripts_do_it_is_what_ours_merges(config, tmp_path):
    models, lora, merged = made("sd1", CONFIGS[config])
    path = tmp_path / "one.safetensors"
    write_kohya_lora(path, lora, KohyaMetadata(family="sd1", layers_per_block=1))
    before = {part: copy.deepcopy(model.state_dict()) for part, model in models.items()}
    state, tree = load_file(path), kohya_tree("sd1", models)
    for key in {name.partition(".")[0] for name in state}:
        down, up = (state[f"{key}.lora_{side}.weight"] for side in ("down", "up"))
        scale = float(state[f"{key}.alpha"]) / down.shape[0]
        weight = tree[key].weight
        with torch.no_grad():
            weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    for part, model in models.items():
        assert_merged(model, merged[part], before[part])


# A1111 and the like read the header by themselves


def header_of(path):
    """The header as the UIs read it: its length, then JSON that begins with an object's name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(2)
        text = start + file.read(length - 2)
    assert length > 2
    assert start == b'{"', "or they say it is no safetensors file"
    content = json.loads(text)
    told = {}
    for name, value in content.get("__metadata__", {}).items():
        assert isinstance(value, str)
        told[name] = json.loads(value) if value.startswith("{") else value
    return content, told


@pytest.mark.parametrize(("family", "version"), [("sd1", "sd_v1"), ("sdxl", "sdxl_base_v1-0")])
def test_the_uis_find_what_they_look_for_in_the_header(family, version, tmp_path):
    _, lora, _ = made(family, CONFIGS["mixed ranks and alphas"])
    path = tmp_path / "one.safetensors"
    tags = json.dumps({"10_sks dog": {"sks dog": 10}})
    facts = KohyaMetadata(
        family=family, title="ink", layers_per_block=1, extra={"ss_tag_frequency": tags}
    )
    write_kohya_lora(path, lora, facts)
    _, told = header_of(path)
    assert told["ss_tag_frequency"] == {"10_sks dog": {"sks dog": 10}}
    assert told["ss_base_model_version"] == version
    assert told["ss_v2"] == "False"
    assert told["ss_output_name"] == "ink"
    assert int(told["ss_network_dim"]) > 0
    assert float(told["ss_network_alpha"]) > 0
    assert told["ss_network_module"] == "networks.lora"
