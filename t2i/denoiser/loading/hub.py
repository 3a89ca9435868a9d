"""Models of the Hugging Face hub: fetched into its cache, and nothing of them but JSON, words and
safetensors."""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from t2i.errors import ModelError
from t2i.safe_reading import decode_utf8, read_bounded

ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w][\w./-]*)?", re.ASCII)
LONGEST_REF = 1000
"""Bytes of a file that names a commit."""
COMMIT = re.compile(r"[\w][\w.-]*", re.ASCII)
"""A folder's name below `snapshots`; nothing that climbs out of it."""
WEIGHTS = ("diffusion_pytorch_model", "model")


def is_id(name: str) -> bool:
    """Whether a name reads as "owner/name" or "owner/name@revision"."""
    return ID.fullmatch(name) is not None


def download(name: str, variant: str | None = None) -> Path:
    """The folder of a hub model in the local cache, fetched where a network is and it is not there.

    Raises ModelError where neither has it, or where the hub refuses.
    """
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=patterns(variant)
        )
    except Exception as error:  # Of its HTTP library too, which is another in each version.
        # Without a network huggingface_hub gives no folder that lacks any file of these patterns,
        # be it of a part that nobody needs; which parts are needed is checked after this.
        if (here := snapshot(storage(repository), revision or "main")) is not None:
            return here
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ModelError(
            f"No model {name!r} comes from the hub either ({type(error).__name__}: {reason}). "
            "Check the name and the network (is HF_HUB_OFFLINE set? does a gated model need "
            "`hf auth login`?), or download it elsewhere and give the path of its folder."
        ) from error
    if not (Path(folder) / "model_index.json").is_file():
        raise ModelError(
            f"The hub's {name!r} has no model_index.json: it is no pipeline folder as diffusers "
            "saves it. If it is a single checkpoint, download that file and give its path."
        )
    return Path(folder)


def patterns(variant: str | None) -> list[str]:
    """Of each known part its JSON, its words, and the weights in safetensors that would be read."""
    from t2i.denoiser.loading.model_parts import (
        CLASSES,  # it imports diffusers; who looks names up does not
    )

    infixes = ["", f".{variant}"] if variant else [""]
    weights = [
        name
        for stem in WEIGHTS
        for infix in infixes
        for name in (
            f"{stem}{infix}.safetensors",
            f"{stem}{infix}-?????-of-?????.safetensors",
            f"{stem}-?????-of-?????{infix}.safetensors",
        )
    ]
    names = ["*.json", "*.txt", *dict.fromkeys(weights)]
    return ["model_index.json", *(f"{part}/{name}" for part in CLASSES for name in names)]


def cached() -> dict[str, Path]:
    """Id -> folder of every pipeline model whose main revision is in the local cache."""
    found = {}
    for place in sorted(storage("*/*").parent.glob(storage("*/*").name)):
        name = place.name.removeprefix("models--").replace("--", "/", 1)
        if is_id(name) and (folder := snapshot(place, "main")) is not None:
            found[name] = folder
    return found


def storage(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def snapshot(place: Path, revision: str) -> Path | None:
    """The pipeline folder of a branch, tag or commit in the cache, if it has any.

    None too where what lies there is broken: an entry of the cache must not hide the others.
    """
    ref = place / "refs" / revision
    try:
        commit = decode_utf8(read_bounded(ref, LONGEST_REF)).strip() if ref.is_file() else revision
        folder = place / "snapshots" / commit
        return (
            folder if COMMIT.fullmatch(commit) and (folder / "model_index.json").is_file() else None
        )
    except (OSError, ValueError):  # not to be read, not UTF-8, no path
        return None
