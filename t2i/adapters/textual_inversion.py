"""Reading and writing learned words (textual inversion) of diffusers, kohya and A1111."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2i.adapters.module_names import printable_name, summarize_names
from t2i.adapters.tensor_files import (
    check_tensors_finite_floats,
    read_tensors_and_metadata,
    write_tensor_file,
)
from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading import UntrustedFileKind, read_bytes
from t2i.terminal import plural

ENCODER_BY_KEY = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
KEY_WITHOUT_TOKEN = "emb_params"
"""Key of a learned word whose token is the name of its file."""
FILE_METADATA = {"format": "pt"}
MAX_VECTORS = 1024
PICKLE_KIND = UntrustedFileKind("embedding", 64_000_000, ModelError)


@dataclass(frozen=True, slots=True)
class LearnedWord:
    """Embeddings of a learned word (textual inversion), by text encoder, and the word's token.

    vectors : "text_encoder" and/or "text_encoder_2" -> (n, width), one vector per token
    token : its spelling in a prompt; None where the file does not contain it

    Raises ArgumentError for vectors of other shapes.
    """

    vectors: Mapping[str, Tensor]
    token: str | None = None

    def __post_init__(self) -> None:
        counts = {tensor.shape[0] for tensor in self.vectors.values() if tensor.dim() == 2}
        shapes = {part: list(tensor.shape) for part, tensor in self.vectors.items()}
        sound = bool(shapes) and all(tensor.dim() == 2 for tensor in self.vectors.values())
        if not sound or not self.vectors.keys() <= set(ENCODER_BY_KEY.values()):
            raise ArgumentError(f"Got vectors {shapes}: expected [n, width] for a text encoder.")
        if len(counts) != 1 or not 1 <= min(counts) <= MAX_VECTORS:
            raise ArgumentError(
                f"Got vectors {shapes}: expected 1 to {MAX_VECTORS}, as many for each encoder."
            )

    @property
    def num_vectors(self) -> int:
        """Number of vectors, one per token, that the learned word has for each text encoder."""
        return next(iter(self.vectors.values())).shape[0]


def read_learned_word(path: Path, *, pickles: bool = False) -> LearnedWord:
    """Read a file that holds a single learned word; see `read_all_learned_words`.

    Raises ModelError also for a file with several words.
    """
    words = read_all_learned_words(path, pickles=pickles)
    if len(words) > 1:
        names = summarize_names(str(word.token) for word in words)
        raise ModelError(f"{path} holds {plural(len(words), 'word')}: {names}. Expected one.")
    return words[0]


def read_all_learned_words(path: Path, *, pickles: bool = False) -> list[LearnedWord]:
    """Read every learned word (textual inversion) of a file.

    pickles : also accept .pt and .bin files, of which only tensors are loaded

    Raises ModelError for a file that holds no learned words.
    """
    if pickles and path.suffix in (".pt", ".bin"):
        tensors = read_pickled_tensors(path)
    else:
        tensors, _ = read_tensors_and_metadata(path, "embedding")
    rows = {name: as_vector_matrix(path, name, tensor) for name, tensor in tensors.items()}
    try:
        if rows.keys() <= ENCODER_BY_KEY.keys():
            return [LearnedWord({ENCODER_BY_KEY[name]: tensor for name, tensor in rows.items()})]
        if KEY_WITHOUT_TOKEN in rows:
            if len(rows) > 1:
                raise ModelError(
                    f"{path} has {summarize_names(rows.keys() - {KEY_WITHOUT_TOKEN})} beside "
                    f"{KEY_WITHOUT_TOKEN}: expected one."
                )
            return [LearnedWord({"text_encoder": rows[KEY_WITHOUT_TOKEN]})]
        return [LearnedWord({"text_encoder": tensor}, token) for token, tensor in rows.items()]
    except ArgumentError as error:
        raise ModelError(f"{path} is no embedding: {error}") from error


def as_vector_matrix(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a learned word's vectors as a matrix (n, width). Raises ModelError for other shapes
    and dtypes.
    """
    if tensor.dim() == 1:
        tensor = tensor[None]
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise ModelError(
            f"{path} is no embedding: {printable_name(name)} is {list(tensor.shape)}, expected "
            "[n, width]."
        )
    return tensor


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a pickled file, without running any code in it.

    Accepts A1111's {"string_to_param": {"*": tensor}, "name": token}, and {token: tensor}.
    """
    data = read_bytes(path, PICKLE_KIND)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # A hostile file can raise anything.
        raise ModelError(
            f"{path} is not a pickle of tensors only, and nothing else is loaded. Get its "
            "safetensors version."
        ) from error
    named = content if isinstance(content, dict) else {}
    params = named.get("string_to_param")
    if isinstance(params, dict) and len(params) == 1:
        token = named.get("name")
        vectors = next(iter(params.values()))
        named = {token if isinstance(token, str) and token else KEY_WITHOUT_TOKEN: vectors}
    if not named or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in named.items()
    ):
        raise ModelError(
            f'{path} is no embedding: expected {{"string_to_param": {{"*": tensor}}}} or '
            "{token: tensor}."
        )
    tensors = {key: value.detach() for key, value in named.items()}
    check_tensors_finite_floats(path, tensors)
    return tensors


def write_learned_word(path: Path, word: LearnedWord) -> None:
    """Write a learned word to a file in diffusers' format: {token: vectors}; for two text encoders
    {clip_l, clip_g}.

    The token of a word for two encoders is the name of the file. Raises ArgumentError for a
    missing token, OutputError for a failed write.
    """
    if word.vectors.keys() == {"text_encoder"}:
        if word.token is None:
            raise ArgumentError("An embedding in diffusers' format has a token: give it one.")
        write_tensor_file(path, {word.token: word.vectors["text_encoder"]}, FILE_METADATA)
    else:
        write_learned_word_kohya(path, word)


def write_learned_word_kohya(path: Path, word: LearnedWord) -> None:
    """Write a learned word to a file in kohya's format: {emb_params}; for two text encoders
    {clip_l, clip_g}.

    The token is the name of the file.
    """
    if word.vectors.keys() == {"text_encoder"}:
        write_tensor_file(path, {KEY_WITHOUT_TOKEN: word.vectors["text_encoder"]}, FILE_METADATA)
    else:
        keys = {part: key for key, part in ENCODER_BY_KEY.items()}
        named = {keys[part]: vectors for part, vectors in word.vectors.items()}
        write_tensor_file(path, named, FILE_METADATA)
