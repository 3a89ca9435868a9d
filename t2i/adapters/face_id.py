"""FaceID adapters (Ye et al. 2023), IP-Adapters that see an embedding of a face: their LoRA layers,
and files of such embeddings.

I faces, D width of an embedding.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from t2i.adapters.lora_layers import Lora, LowRankUpdate
from t2i.adapters.tensor_files import read_tensors_and_metadata
from t2i.errors import DataError, ModelError
from t2i.safe_reading.tensors import open_tensors, read_tensors

FACE_ID_KEYS = frozenset({"image_proj.proj.0.weight", "image_proj.norm.weight"})
"""Tensors of the projection of a FaceID adapter; those of other adapters lack one of them."""
FACE_ID_PLUS_PREFIX = "image_proj.perceiver_resampler."
LORA_KEY_PATTERN = re.compile(r"ip_adapter\.(\d{1,4})\.to_(q|k|v|out)_lora\.(down|up)\.weight")


def is_face_id_adapter(path: Path) -> bool:
    """Return True for the file of a FaceID adapter, which sees no picture.

    Raises ModelError for one of FaceID Plus, which sees a picture and an embedding together.
    """
    try:
        with open_tensors(path) as file:
            names = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot read {path}: {error}.") from error
    if any(name.startswith(FACE_ID_PLUS_PREFIX) for name in names):
        raise ModelError(
            f"{path} is of FaceID Plus, which reads the CLIP embedding of the face beside its "
            "identity: here FaceID without Plus can be used. In Python, load it with "
            "pipe.load_ip_adapter and set clip_embeds of its projection, as in diffusers."
        )
    return names >= FACE_ID_KEYS


def read_face_id_lora(path: Path, unet: Any) -> Lora | None:
    """Return the LoRA layers that a FaceID adapter has for the UNet beside its own; None if it has
    none.

    Raises ModelError for a layer without its other half, or of an attention that the UNet lacks.
    """
    tensors, _ = read_tensors_and_metadata(path, "IP-Adapter")
    halves: dict[str, dict[str, Tensor]] = {}
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    for key, tensor in tensors.items():
        found = LORA_KEY_PATTERN.fullmatch(key)
        if found is None:
            continue
        number, part, half = int(found[1]), found[2], found[3]
        if number >= len(names):
            raise ModelError(
                f"{path} does not fit this model: {key} is of attention {number}, and the UNet has "
                f"{len(names)}. Choose one made for this kind of model."
            )
        module = f"{names[number]}.to_{part}{'.0' if part == 'out' else ''}"
        halves.setdefault(module, {})[half] = tensor
    if not halves:
        return None
    _check_halves(path, halves.items())
    layers = {
        module: LowRankUpdate(half["down"], half["up"], alpha=float(half["down"].shape[0]))
        for module, half in halves.items()
    }
    return Lora({"unet": layers})


def _check_halves(path: Path, halves: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
    alone = [module for module, half in halves if len(half) != 2]
    if alone:
        raise ModelError(f"{path} has half of a LoRA layer only for {alone[0]}: it is incomplete.")


def read_face_embedding(path: Path) -> Tensor:
    """Return the embeddings of faces (I, D) that a .safetensors file holds as its only tensor, (D,)
    or (I, D): for example the `normed_embedding` of insightface.

    Raises DataError for anything else.
    """
    try:
        tensors = read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    (embedding,) = tensors.values() if len(tensors) == 1 else (None,)
    if (
        embedding is None
        or embedding.ndim not in (1, 2)
        or not embedding.is_floating_point()
        or not torch.isfinite(embedding).all()
    ):
        held = ", ".join(f"{name} {list(one.shape)}" for name, one in [*tensors.items()][:3])
        raise DataError(
            f"{path} is no embedding of a face: expected one tensor of finite numbers, [width] or "
            f"[faces, width]; it holds {held or 'nothing'}."
        )
    return embedding if embedding.ndim == 2 else embedding[None]
