"""Networks of controls from single files, in both layouts that people exchange."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t2i.controls.loading import load_control_network
from t2i.errors import ModelError
from tests.denoiser.original_layout import unet as as_original_unet
from tests.pipelines.controls.networks import tiny_controlnet
from tests.tiny import tiny_unet

OWN = ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding")


def as_original(network: Any) -> dict[str, Tensor]:
    """The tensors of a ControlNet as the original code names them."""
    state = network.state_dict()
    shared = {name: one for name, one in state.items() if not name.startswith(OWN)}
    body = as_original_unet(SimpleNamespace(config=network.config, state_dict=lambda: shared))
    tensors = {
        name.replace("model.diffusion_model.", "control_model."): t for name, t in body.items()
    }
    count = len(network.controlnet_cond_embedding.blocks)
    places = {"conv_in": 0, "conv_out": 14} | {f"blocks.{i}": 2 * i + 2 for i in range(count)}
    for leaf in ("weight", "bias"):
        for number in range(len(network.controlnet_down_blocks)):
            own = state[f"controlnet_down_blocks.{number}.{leaf}"]
            tensors[f"control_model.zero_convs.{number}.0.{leaf}"] = own
        tensors[f"control_model.middle_block_out.0.{leaf}"] = state[f"controlnet_mid_block.{leaf}"]
        for name, place in places.items():
            own = state[f"controlnet_cond_embedding.{name}.{leaf}"]
            tensors[f"control_model.input_hint_block.{place}.{leaf}"] = own
    return tensors


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_file_is_read_in_both_layouts(tmp_path: Path, layout: str, dtype) -> None:
    unet = tiny_unet(layers_per_block=2).to(dtype)
    widths = {"conditioning_embedding_out_channels": (4, 4, 8, 8)}
    network = tiny_controlnet(unet, **widths)
    tensors = network.state_dict() if layout == "diffusers" else as_original(network)
    save_file(
        {name: one.contiguous() for name, one in tensors.items()}, tmp_path / "net.safetensors"
    )
    loaded = load_control_network(tmp_path / "net.safetensors", unet)
    assert loaded.dtype == dtype
    assert not loaded.training
    assert tuple(loaded.config["conditioning_embedding_out_channels"]) == (4, 4, 8, 8)
    found = loaded.state_dict()
    assert found.keys() == network.state_dict().keys()
    for name, one in network.state_dict().items():
        assert torch.equal(found[name], one.to(dtype)), name


def test_an_ip_adapter_of_the_unet_changes_no_config(tmp_path: Path) -> None:
    unet = tiny_unet()
    network = tiny_controlnet(unet)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    load_control_network(tmp_path / "net.safetensors", unet)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="Cannot read"):
        load_control_network(tmp_path / "net.safetensors", tiny_unet())
