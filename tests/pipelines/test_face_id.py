"""FaceID adapters, which see an embedding of a face, against diffusers."""

import pytest
import torch
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
)
from safetensors.torch import save_file

from t2i.adapters.face_id import is_face_id_adapter, read_face_embedding, read_face_id_lora
from t2i.errors import ArgumentError, DataError, ModelError
from tests.pipelines.against import assert_same
from tests.pipelines.test_adapters import PICTURE, TWO_STEPS, adapter_for, pair
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_unet

FACE_WIDTH = 8
FACE = torch.linspace(-1, 1, FACE_WIDTH)


def face_id_for(unet, rank=2):
    """Weights of a FaceID adapter in the layout of the published ones, with its LoRA layers."""
    tensors = {f"ip_adapter.{key}": one for key, one in adapter_for(unet)["ip_adapter"].items()}
    torch.manual_seed(8)
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("q", "k", "v", "out"):
            layer = attention.to_out[0] if part == "out" else getattr(attention, f"to_{part}")
            key = f"ip_adapter.{number}.to_{part}_lora"
            tensors[f"{key}.down.weight"] = torch.randn(rank, layer.in_features) * 0.3
            tensors[f"{key}.up.weight"] = torch.randn(layer.out_features, rank) * 0.3
    return tensors | {
        "image_proj.proj.0.weight": torch.randn(2 * FACE_WIDTH, FACE_WIDTH) * 0.5,
        "image_proj.proj.0.bias": torch.zeros(2 * FACE_WIDTH),
        "image_proj.proj.2.weight": torch.randn(3 * TEXT_WIDTH, 2 * FACE_WIDTH) * 0.5,
        "image_proj.proj.2.bias": torch.zeros(3 * TEXT_WIDTH),
        "image_proj.norm.weight": torch.ones(TEXT_WIDTH),
        "image_proj.norm.bias": torch.zeros(TEXT_WIDTH),
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Ours and theirs with the same FaceID adapter, and its file."""
    folder = tmp_path_factory.mktemp("face")
    pipes = pair(tiny_sd_components())
    save_file(face_id_for(pipes[0].unet), folder / "face.safetensors")
    for pipe in pipes:
        pipe.load_ip_adapter(
            str(folder), subfolder="", weight_name="face.safetensors", image_encoder_folder=None
        )
        pipe.set_ip_adapter_scale(0.8)
    return *pipes, folder / "face.safetensors"


def test_a_face_steers_as_in_diffusers_with_the_adapter_s_own_lora_layers(loaded):
    ours, theirs, _ = loaded
    (layer,) = ours.unet.encoder_hid_proj.image_projection_layers
    assert isinstance(layer, IPAdapterFaceIDImageProjection)
    call = TWO_STEPS | {"output_type": "latent"}
    embeds = torch.stack([torch.zeros(1, FACE_WIDTH), FACE[None]])
    equal = assert_same(ours, theirs, **call, ip_adapter_image_embeds=[embeds])
    for face in (FACE, FACE[None], [FACE]):
        seed = torch.Generator().manual_seed(3)
        assert torch.equal(ours(**call, ip_adapter_image=face, generator=seed).images, equal)
    seed = torch.Generator().manual_seed(3)
    assert not torch.equal(ours(**call, ip_adapter_image=-FACE, generator=seed).images, equal)


def test_what_is_no_face_is_refused(loaded):
    ours, _, _ = loaded
    with pytest.raises(ArgumentError, match=r"Got Image for a FaceID adapter.*\(8,\)"):
        ours(**TWO_STEPS, ip_adapter_image=PICTURE)
    with pytest.raises(ArgumentError, match="embedding of a face of width 4, but this FaceID ada"):
        ours(**TWO_STEPS, ip_adapter_image=FACE[:4])
    with pytest.raises(ArgumentError, match=r"a tensor of the shape \(1, 1, 8\) for a FaceID"):
        ours(**TWO_STEPS, ip_adapter_image=FACE[None, None])
    with pytest.raises(ArgumentError, match="face with numbers that are not finite"):
        ours(**TWO_STEPS, ip_adapter_image=FACE * torch.nan)


def test_the_other_embedding_of_face_id_plus_is_asked_for():
    ours, _ = pair(tiny_sd_components())
    ours.unet._load_ip_adapter_weights([adapter_for(ours.unet)])
    plus = IPAdapterFaceIDPlusImageProjection(
        embed_dims=TEXT_WIDTH, output_dims=TEXT_WIDTH, hidden_dims=6, id_embeddings_dim=8, depth=1
    )
    ours.unet.encoder_hid_proj.image_projection_layers[0] = plus
    with pytest.raises(ArgumentError, match=r"FaceID Plus.*projection_layers\[0\].clip_embeds"):
        ours(**TWO_STEPS, ip_adapter_image=FACE)
    plus.clip_embeds = torch.randn(2, 1, 5, 6)
    assert ours(**TWO_STEPS, ip_adapter_image=FACE).images


def test_its_lora_layers_are_those_of_the_file(loaded):
    _, _, path = loaded
    unet = tiny_unet()
    lora = read_face_id_lora(path, unet)
    assert len(lora.parts["unet"]) == 4 * len(unet.attn_processors)
    name = next(iter(unet.attn_processors)).removesuffix(".processor")
    layer = lora.parts["unet"][f"{name}.to_out.0"]
    assert (layer.rank, layer.scale) == (2, 1.0)


def test_files_that_are_none_are_refused(loaded, tmp_path):
    _, _, path = loaded
    unet = tiny_unet()
    tensors = face_id_for(unet)
    assert is_face_id_adapter(path)
    weights = adapter_for(unet)
    plain = {f"{group}.{name}": t for group, of in weights.items() for name, t in of.items()}
    save_file(plain, tmp_path / "plain.safetensors")
    assert not is_face_id_adapter(tmp_path / "plain.safetensors")
    assert read_face_id_lora(tmp_path / "plain.safetensors", unet) is None
    plus = tensors | {"image_proj.perceiver_resampler.proj_in.weight": torch.ones(1)}
    save_file(plus, tmp_path / "plus.safetensors")
    with pytest.raises(ModelError, match="is of FaceID Plus, which reads the CLIP embedding"):
        is_face_id_adapter(tmp_path / "plus.safetensors")
    with pytest.raises(ModelError, match=r"Cannot read .*none\.safetensors"):
        is_face_id_adapter(tmp_path / "none.safetensors")
    del tensors["ip_adapter.0.to_q_lora.up.weight"]
    save_file(tensors, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match="has half of a LoRA layer only for down_blocks"):
        read_face_id_lora(tmp_path / "half.safetensors", unet)
    far = tensors | {"ip_adapter.99.to_q_lora.up.weight": torch.ones(2, 2)}
    save_file(far, tmp_path / "far.safetensors")
    with pytest.raises(ModelError, match="is of attention 99, and the UNet has"):
        read_face_id_lora(tmp_path / "far.safetensors", unet)


def test_an_embedding_is_the_only_tensor_of_its_file(tmp_path):
    save_file({"face": FACE}, tmp_path / "face.safetensors")
    assert torch.equal(read_face_embedding(tmp_path / "face.safetensors"), FACE[None])
    wrong = [{"a": FACE, "b": FACE + 1}, {"a": FACE[None, None]}, {"a": FACE * torch.nan}]
    wrong += [{"a": FACE.int()}, {}]
    for tensors in wrong:
        save_file(tensors, tmp_path / "wrong.safetensors")
        with pytest.raises(DataError, match="is no embedding of a face: expected one tensor"):
            read_face_embedding(tmp_path / "wrong.safetensors")
    (tmp_path / "text.safetensors").write_text("face")
    with pytest.raises(DataError, match="Cannot read"):
        read_face_embedding(tmp_path / "text.safetensors")
