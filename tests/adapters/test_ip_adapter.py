"""The file of an IP-Adapter fits its UNet, tensor by tensor, or is refused before it is loaded."""

import pytest
import torch
from safetensors.torch import save_file

from t2i.adapters.ip_adapter import check_ip_adapter_fits_unet
from t2i.errors import ArgumentError, ModelError
from tests.adapters.test_reading import raw
from tests.pipelines.test_adapters import adapter_for
from tests.tiny import tiny_unet

LAYER = "ip_adapter.1.to_k_ip.weight"


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


@pytest.fixture
def tensors(unet):
    found = adapter_for(unet)
    return {f"{group}.{name}": t for group, layers in found.items() for name, t in layers.items()}


def test_one_that_fits_is_taken(unet, tensors, tmp_path):
    save_file(tensors, tmp_path / "one.safetensors")
    check_ip_adapter_fits_unet(tmp_path / "one.safetensors", unet)


BROKEN = {
    "another tensor": (
        lambda t: t | {"controlnet.x": torch.ones(1)},
        r"1 of its \d+ tensors do not belong to an IP-Adapter: controlnet\.x\. Nothing",
    ),
    "a layer too few": (
        lambda t: {name: x for name, x in t.items() if name != LAYER},
        r"does not fit this model.* 1 of its tensors are missing.*ip_adapter\.1\.to_k_ip",
    ),
    "a layer too many": (
        lambda t: t | {"ip_adapter.99.to_k_ip.weight": torch.ones(2, 2)},
        r"does not fit this model.*ip_adapter\.99\.to_k_ip",
    ),
    "another width": (lambda t: t | {LAYER: t[LAYER][:, :5]}, "does not fit this model.*or of ano"),
    "blind": (
        lambda t: {name: x for name, x in t.items() if not name.startswith("image_proj.")},
        "has no image projection",
    ),
    "no numbers": (
        lambda t: t | {LAYER: t[LAYER] * float("nan")},
        "has numbers that are NaN or infinite",
    ),
    "whole numbers": (
        lambda t: t | {LAYER: t[LAYER].int()},
        "holds int32, expected floating-point",
    ),
}


@pytest.mark.parametrize(("change", "complaint"), BROKEN.values(), ids=BROKEN)
def test_one_that_does_not_fit_is_refused_by_name(change, complaint, unet, tensors, tmp_path):
    changed = {name: tensor.contiguous() for name, tensor in change(tensors).items()}
    save_file(changed, tmp_path / "one.safetensors")
    with pytest.raises(ModelError, match=complaint):
        check_ip_adapter_fits_unet(tmp_path / "one.safetensors", unet)


def test_four_bits_and_a_missing_file_are_refused(unet, tmp_path):
    raw(tmp_path / "one.safetensors", {LAYER: ("F4", [2, 4])})
    with pytest.raises(ModelError, match="holds float4"):
        check_ip_adapter_fits_unet(tmp_path / "one.safetensors", unet)
    with pytest.raises(ArgumentError, match="No such IP-Adapter"):
        check_ip_adapter_fits_unet(tmp_path / "none.safetensors", unet)
