"""Models of the Hugging Face hub: download of JSON, vocabularies and safetensors, and the cache."""

import re
from pathlib import Path

from huggingface_hub import constants

from t2i.errors import ModelError
from t2i.safe_reading import decode_utf8, read_bounded

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w][\w./-]*)?", re.ASCII)
MAX_REF_BYTES = 1000
"""Bytes of a file that names a commit."""
COMMIT_NAME = re.compile(r"[\w][\w.-]*", re.ASCII)
"""A folder's name below `snapshots`; nothing that climbs out of it."""
WEIGHT_FILE_STEMS = ("diffusion_pytorch_model", "model")


def is_hub_id(name: str) -> bool:
    """Return True for a hub id of the form "owner/name" or "owner/name@revision"."""
    return HUB_ID.fullmatch(name) is not None


def download_hub_model(name: str, variant: str | None = None) -> Path:
    """Return the cache folder of a hub model, downloading it if needed.

    Raises ModelError where neither hub nor cache has it, or the hub refuses.
    """
    from huggingface_hub import snapshot_download  # slow to import, and most models are here

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list_download_patterns(variant)
        )
    except Exception as error:  # Of its HTTP library too, which is another in each version.
        # Without a network huggingface_hub gives no folder that lacks any file of these patterns,
        # be it of a part that nobody needs; which parts are needed is checked after this.
        if (
            here := find_cached_snapshot(
                build_repository_cache_path(repository), revision or "main"
            )
        ) is not None:
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


def list_download_patterns(variant: str | None) -> list[str]:
    """Return the file patterns to download of a hub model: JSON, vocabularies and safetensors
    weights of known parts.
    """
    from t2i.denoiser.loading.model_parts import (
        ALLOWED_CLASSES_BY_PART,  # it imports diffusers; who looks names up does not
    )

    infixes = ["", f".{variant}"] if variant else [""]
    weights = [
        name
        for stem in WEIGHT_FILE_STEMS
        for infix in infixes
        for name in (
            f"{stem}{infix}.safetensors",
            f"{stem}{infix}-?????-of-?????.safetensors",
            f"{stem}-?????-of-?????{infix}.safetensors",
        )
    ]
    names = ["*.json", "*.txt", *dict.fromkeys(weights)]
    return [
        "model_index.json",
        *(f"{part}/{name}" for part in ALLOWED_CLASSES_BY_PART for name in names),
    ]


def list_cached_models() -> dict[str, Path]:
    """Return hub id -> folder of every pipeline model whose main revision is in the cache."""
    found = {}
    for place in sorted(
        build_repository_cache_path("*/*").parent.glob(build_repository_cache_path("*/*").name)
    ):
        name = place.name.removeprefix("models--").replace("--", "/", 1)
        if is_hub_id(name) and (folder := find_cached_snapshot(place, "main")) is not None:
            found[name] = folder
    return found


def build_repository_cache_path(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache."""
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def find_cached_snapshot(place: Path, revision: str) -> Path | None:
    """Return the cached folder of a hub repository at a branch, tag or commit; None if it is
    missing or broken.
    """
    ref = place / "refs" / revision
    try:
        commit = (
            decode_utf8(read_bounded(ref, MAX_REF_BYTES)).strip() if ref.is_file() else revision
        )
        folder = place / "snapshots" / commit
        return (
            folder
            if COMMIT_NAME.fullmatch(commit) and (folder / "model_index.json").is_file()
            else None
        )
    except (OSError, ValueError):  # not to be read, not UTF-8, no path
        return None
