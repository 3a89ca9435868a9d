"""A folder saved with something attached opens again to the same pictures, here and in diffusers,
or is not written."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoHaConfig, LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.adapters import (
    Lora,
    LowRankUpdate,
    add_lora,
    read_lora,
    read_lora_from_models,
    remove_lora,
)
from t2i.adapters.peft_reading import iter_peft_layers
from t2i.errors import ModelError, OutputError
from tests.adapters.made import CONFIGS, components, drawn, models_of, ours
from tests.pipelines.test_adapters import adapter_for
from tests.sweeps import sweep

KINDS = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
ENCODERS = {"sd1": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
TEXT = ["q_proj", "v_proj", "fc1"]
TEXT_LORAS = {
    "lora": LoraConfig(r=2, lora_alpha=5, target_modules=TEXT, init_lora_weights=False),
    "rslora": LoraConfig(r=2, target_modules=TEXT, use_rslora=True, init_lora_weights=False),
    "dora": LoraConfig(r=2, target_modules=TEXT, use_dora=True, init_lora_weights=False),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=TEXT, init_weights=False),
    "patterns": LoraConfig(
        r=2,
        target_modules=TEXT,
        rank_pattern={"q_proj": 3},
        alpha_pattern={"fc1": 1},
        init_lora_weights=False,
    ),
}


def opened_by_both(kind, folder):
    """What ours and diffusers' own pipeline draw with a folder."""
    extra = {"safety_checker": None, "requires_safety_checker": False}
    extra = extra if kind is StableDiffusionPipeline else {"add_watermarker": False}
    for pipe in (
        TextToImagePipeline.from_pretrained(folder),
        kind.from_pretrained(folder, torch_dtype=torch.float32, **extra),
    ):
        pipe.set_progress_bar_config(disable=True)
        yield pipe


@pytest.mark.parametrize(
    ("family", "name"),
    sweep(
        [*(("sd1", name) for name in TEXT_LORAS), ("sdxl", "lora")],
        # What a config may say that a plain one does not, another kind of layer, two encoders.
        quick=[("sd1", "patterns"), ("sd1", "loha"), ("sdxl", "lora")],
    ),
)
def test_a_text_encoder_is_saved_with_the_lora_on_it(family, name, tmp_path):
    pipe = ours(components(family))
    plain = drawn(pipe)
    torch.manual_seed(1)
    for part in ENCODERS[family]:
        getattr(pipe, part).add_adapter(TEXT_LORAS[name])
    reference = drawn(pipe)
    assert not torch.equal(reference, plain)
    before = dict(pipe.text_encoder.named_modules())
    pipe.save_pretrained(tmp_path / "saved")
    assert dict(pipe.text_encoder.named_modules()) == before, "the very same modules stay on"
    assert torch.equal(drawn(pipe), reference)
    for again in opened_by_both(KINDS[family], tmp_path / "saved"):
        for part in ENCODERS[family]:
            assert any(iter_peft_layers(getattr(again, part))), "it may be taken off again"
        assert torch.allclose(drawn(again), reference, atol=1e-5)
    again = TextToImagePipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    again.save_pretrained(tmp_path / "twice")
    remove_lora([again.text_encoder, getattr(again, "text_encoder_2", None)])
    assert torch.allclose(drawn(again), plain, atol=1e-5)
    for twice in opened_by_both(KINDS[family], tmp_path / "twice"):
        assert torch.allclose(drawn(twice), reference, atol=1e-5)


def test_adapters_of_two_text_encoders_are_saved_also_where_each_has_its_own_name(tmp_path):
    pipe = ours(components("sdxl"))
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"], "one")
    pipe.text_encoder_2.add_adapter(TEXT_LORAS["rslora"], "two")
    pipe.set_adapters(["one", "two"])
    reference = drawn(pipe)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(drawn(pipe), reference)
    assert set(pipe.get_active_adapters()) == {"one", "two"}
    for again in opened_by_both(StableDiffusionXLPipeline, tmp_path):
        assert torch.allclose(drawn(again), reference, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_ranks_and_alphas_that_differ_by_layer_are_saved_and_read_again(family, tmp_path):
    pipe = ours(components(family))
    torch.manual_seed(1)
    for part in ENCODERS[family]:
        encoder = getattr(pipe, part)
        width = encoder.config.hidden_size
        layers = {
            f"encoder.layers.{number}.self_attn.q_proj": LowRankUpdate(
                torch.randn(rank, width), torch.randn(width, rank), alpha=alpha
            )
            for number, (rank, alpha) in enumerate([(2, 1.0), (2, 3.0), (3, 2.0)])
            if number < encoder.config.num_hidden_layers
        }
        add_lora({part: encoder}, Lora({part: layers}), "ink")
    reference = drawn(pipe)
    pipe.save_pretrained(tmp_path)
    for part in ENCODERS[family]:
        (written,) = read_lora(tmp_path / part).parts.values()
        on = read_lora_from_models({part: getattr(pipe, part)}, "ink").parts[part]
        alphas = {name: layer.alpha for name, layer in on.items()}
        assert {name: layer.alpha for name, layer in written.items()} == alphas
    for again in opened_by_both(KINDS[family], tmp_path):
        assert torch.allclose(drawn(again), reference, atol=1e-5)


def lora_on(pipe, part="unet", targets=("to_k",)):
    config = LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
    getattr(pipe, part).add_adapter(config)


def two(pipe):
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"], "one")
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"], "two")


def scaled(pipe):
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"])
    for _, module in iter_peft_layers(pipe.text_encoder):
        module.set_scale("default", 0.5)


def switched_off(pipe):
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"])
    pipe.text_encoder.disable_adapters()


def fused(pipe):
    lora_on(pipe, "text_encoder", TEXT)
    pipe.fuse_lora(components=["text_encoder"])


def deleted(pipe):
    lora_on(pipe, "text_encoder", TEXT)
    pipe.delete_adapters("default")


def seeing(pipe):
    pipe.unet._load_ip_adapter_weights([adapter_for(pipe.unet)])


def begun_elsewhere(pipe):
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=TEXT, init_lora_weights="olora"))


ATTACHED = {
    "a UNet": (
        lora_on,
        "A LoRA is on the unet, and diffusers' folders cannot hold it.*fuse_lora",
    ),
    "a VAE": (lambda pipe: lora_on(pipe, "vae", ["to_q"]), "A LoRA is on the vae"),
    "two": (two, "text_encoder, and a folder can hold only one of its 2 adapters"),
    "another strength": (scaled, "its scale is not its own"),
    "off": (switched_off, "it is switched off"),
    "fused": (fused, "it is merged already.*unload_lora_weights"),
    "deleted": (deleted, "all of its adapters were deleted.*unload_lora_weights"),
    "pissa and the like": (begun_elsewhere, "init_lora_weights = 'olora'"),
    "an IP-Adapter": (seeing, r"An IP-Adapter is on the unet.*unload_ip_adapter\(\)"),
    "fused projections": (
        lambda pipe: pipe.unet.fuse_qkv_projections(),
        "The unet could not be loaded again: .*unexpected",
    ),
    "another module": (
        lambda pipe: setattr(pipe.text_encoder, "more", nn.Linear(2, 2)),
        "The text_encoder could not be loaded again: .*more.bias",
    ),
}


@pytest.mark.parametrize(("attach", "complaint"), ATTACHED.values(), ids=ATTACHED)
def test_what_a_folder_has_no_place_for_is_refused_and_nothing_is_written(
    attach, complaint, tmp_path
):
    pipe = PromptEditPipeline(**components("sd1"))  # any of ours
    attach(pipe)
    with pytest.raises(ModelError, match=complaint):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_remedy_saves_the_same_pictures(tmp_path):
    pipe = ours(components("sd1"))
    lora_on(pipe)
    reference = drawn(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "saved")
    for again in opened_by_both(StableDiffusionPipeline, tmp_path / "saved"):
        assert torch.allclose(drawn(again), reference, atol=1e-5)


def test_the_lora_of_an_earlier_save_does_not_join_a_model_without_one(tmp_path):
    pipe = ours(components("sd1"))
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"])
    pipe.save_pretrained(tmp_path)
    remove_lora([pipe.text_encoder])
    with pytest.raises(OutputError, match=r"holds the LoRA of another model.*adapter_config\.json"):
        pipe.save_pretrained(tmp_path)


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe = ours(components("sd1"))
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"])
    pipe.save_pretrained(folder)
    return folder


def renamed(tensors):
    return {name.replace("q_proj", "k_proj"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: {}, "it has 0 tensors"),
        (renamed, "of one of them alone: 6 layers, such as encoder.layers.0"),
        (lambda t: {n: x * float("nan") for n, x in t.items()}, "NaN or infinite"),
    ],
)
def test_a_folder_whose_lora_is_none_is_refused(with_lora, change, complaint):
    path = with_lora / "text_encoder/adapter_model.safetensors"
    kept = path.read_bytes()
    save_file(change(load_file(path)), path)
    try:
        with pytest.raises(ModelError, match=complaint):
            TextToImagePipeline.from_pretrained(with_lora)
    finally:
        path.write_bytes(kept)


def test_of_a_folder_with_a_lora_what_the_lora_is_for_is_never_fetched(with_lora):
    path = with_lora / "text_encoder/adapter_config.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"base_model_name_or_path": "evil/model"}))
    try:
        assert any(iter_peft_layers(TextToImagePipeline.from_pretrained(with_lora).text_encoder))
    finally:
        path.write_text(kept)


def test_loras_of_a_request_come_off_again_and_the_models_own_stays():
    parts = components("sd1")
    pipe = ours(parts)
    torch.manual_seed(1)
    pipe.text_encoder.add_adapter(TEXT_LORAS["lora"])
    own = drawn(pipe)
    other = components("sd1")
    for model in models_of(other).values():
        model.add_adapter(CONFIGS["alpha is not the rank"](["to_k", "q_proj", "out_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn_like(parameter)
    lora = read_lora_from_models(dict(models_of(other).items()))
    with_magnitude = Lora(
        {
            part: {
                name: LowRankUpdate(x.down, x.up, x.alpha, torch.ones(x.up.shape[0]))
                if name.endswith("out_proj")
                else x
                for name, x in layers.items()
            }
            for part, layers in lora.parts.items()
        }
    )
    add_lora(models_of(parts), with_magnitude, "lora0")
    assert not torch.equal(drawn(pipe), own)
    remove_lora(models_of(parts).values(), "lora0")
    assert torch.equal(drawn(pipe), own)
    assert list(pipe.text_encoder.peft_config) == ["default"]
    assert not hasattr(pipe.unet, "peft_config")
