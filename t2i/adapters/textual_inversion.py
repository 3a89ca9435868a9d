"""Learned words (textual inversion): files of diffusers, kohya, A1111, and SDXL's two encoders."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2i.adapters.lora_writer import write_tensors
from t2i.adapters.module_names import shown, spell
from t2i.adapters.tensor_files import check_finite, read_tensors
from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading import FileKind, read_bytes
from t2i.terminal import several

OF_TWO = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NAMELESS = "emb_params"
"""The key of an embedding that has no name of its own but that of its file."""
PLAIN = {"format": "pt"}
MOST_VECTORS = 1024
PICKLE = FileKind("embedding", 64_000_000, ModelError)


@dataclass(frozen=True, slots=True)
class Embedding:
    """One learned word.

    vectors : "text_encoder", or "text_encoder_2", or both -> (n, width), a vector a token
    token : that stands for it in a prompt; None where its file does not say
    """

    vectors: Mapping[str, Tensor]
    token: str | None = None

    def __post_init__(self) -> None:
        counts = {tensor.shape[0] for tensor in self.vectors.values() if tensor.dim() == 2}
        shapes = {part: list(tensor.shape) for part, tensor in self.vectors.items()}
        sound = bool(shapes) and all(tensor.dim() == 2 for tensor in self.vectors.values())
        if not sound or not self.vectors.keys() <= set(OF_TWO.values()):
            raise ArgumentError(f"Got vectors {shapes}: expected [n, width] for a text encoder.")
        if len(counts) != 1 or not 1 <= min(counts) <= MOST_VECTORS:
            raise ArgumentError(
                f"Got vectors {shapes}: expected 1 to {MOST_VECTORS}, as many for each encoder."
            )

    @property
    def count(self) -> int:
        return next(iter(self.vectors.values())).shape[0]


def read_embedding(path: Path, *, pickles: bool = False) -> Embedding:
    """One learned word from a safetensors file; with `pickles` also from a .pt or .bin, of which
    nothing but tensors is loaded.

    Raises ModelError for what is no such file, or holds more than one word.
    """
    found = read_embeddings(path, pickles=pickles)
    if len(found) > 1:
        names = spell(str(embedding.token) for embedding in found)
        raise ModelError(f"{path} holds {several(len(found), 'word')}: {names}. Expected one.")
    return found[0]


def read_embeddings(path: Path, *, pickles: bool = False) -> list[Embedding]:
    """Every learned word of a file."""
    if pickles and path.suffix in (".pt", ".bin"):
        tensors = unpickled(path)
    else:
        tensors, _ = read_tensors(path, "embedding")
    rows = {name: row(path, name, tensor) for name, tensor in tensors.items()}
    try:
        if rows.keys() <= OF_TWO.keys():
            return [Embedding({OF_TWO[name]: tensor for name, tensor in rows.items()})]
        if NAMELESS in rows:
            if len(rows) > 1:
                raise ModelError(
                    f"{path} has {spell(rows.keys() - {NAMELESS})} beside {NAMELESS}: expected one."
                )
            return [Embedding({"text_encoder": rows[NAMELESS]})]
        return [Embedding({"text_encoder": tensor}, token) for token, tensor in rows.items()]
    except ArgumentError as error:
        raise ModelError(f"{path} is no embedding: {error}") from error


def row(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.dim() == 1:
        tensor = tensor[None]
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise ModelError(
            f"{path} is no embedding: {shown(name)} is {list(tensor.shape)}, expected [n, width]."
        )
    return tensor


def unpickled(path: Path) -> dict[str, Tensor]:
    """A1111's layout {"string_to_param": {"*": tensor}, "name": token}, or {token: tensor}."""
    data = read_bytes(path, PICKLE)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # A hostile file makes it fail in any way.
        raise ModelError(
            f"{path} is no pickle of tensors alone, and nothing else is loaded. Get its "
            "safetensors version."
        ) from error
    named = content if isinstance(content, dict) else {}
    params = named.get("string_to_param")
    if isinstance(params, dict) and len(params) == 1:
        token = named.get("name")
        vectors = next(iter(params.values()))
        named = {token if isinstance(token, str) and token else NAMELESS: vectors}
    if not named or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in named.items()
    ):
        raise ModelError(
            f'{path} is no embedding: expected {{"string_to_param": {{"*": tensor}}}} or '
            "{token: tensor}."
        )
    tensors = {key: value.detach() for key, value in named.items()}
    check_finite(path, tensors)
    return tensors


def write_embedding(path: Path, embedding: Embedding) -> None:
    """As diffusers has it: {token: vectors}; for two encoders {clip_l, clip_g}, whose token is the
    name of the file. Raises OutputError where the disk refuses."""
    if embedding.vectors.keys() == {"text_encoder"}:
        if embedding.token is None:
            raise ArgumentError("An embedding in diffusers' layout has a token: give it one.")
        write_tensors(path, {embedding.token: embedding.vectors["text_encoder"]}, PLAIN)
    else:
        write_embedding_kohya(path, embedding)


def write_embedding_kohya(path: Path, embedding: Embedding) -> None:
    """As kohya and the UIs have it: {emb_params}; for two encoders {clip_l, clip_g}. Its token is
    the name of the file."""
    if embedding.vectors.keys() == {"text_encoder"}:
        write_tensors(path, {NAMELESS: embedding.vectors["text_encoder"]}, PLAIN)
    else:
        keys = {part: key for key, part in OF_TWO.items()}
        named = {keys[part]: vectors for part, vectors in embedding.vectors.items()}
        write_tensors(path, named, PLAIN)
