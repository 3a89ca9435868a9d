"""Digests of model and adapter files: one name may come to mean another file."""

import hashlib
from os.path import expanduser
from pathlib import Path

from t2i.denoiser.loading.model_location import PRESENCE_FILE
from t2i.errors import DataError
from t2i.safe_reading import WEIGHTS_KIND, open_untrusted_file


def compute_model_digest(model: Path) -> str:
    """Return the SHA-256 over the names and bytes of a model's weights and configs, in hex.

    Its presence.json does not count: no image depends on it.

    model : a folder, or one file
    """
    weights = (path for path in model.rglob("*") if path.suffix in (".safetensors", ".json"))
    sha = hashlib.sha256()
    for path in [model] if model.is_file() else sorted(weights):
        if path.name == PRESENCE_FILE:
            continue
        sha.update((path.relative_to(model).as_posix() if path != model else path.name).encode())
        with open_untrusted_file(path, WEIGHTS_KIND) as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


def compute_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex, as sha256sum prints it."""
    with open_untrusted_file(path, WEIGHTS_KIND) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_recording_digest(folder: Path) -> str:
    """Return the SHA-256 of the manifest of a recorded photo, which has those of all its files.

    Raises DataError for a folder that is no recording.
    """
    # Here, for it imports torch, which most requests need much later.
    from pipelines.prompt_to_prompt.recording import RECORDING_MANIFEST_NAME

    path = Path(expanduser(folder)) / RECORDING_MANIFEST_NAME
    try:
        missing = not path.is_file()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"Cannot read {str(folder)!r:.80}: {error.strerror}.") from error
    if missing:
        raise DataError(
            f"{folder} is not a recorded source: there is no file {path}. Name a folder that "
            "`t2i invert` or `t2i edit --record` has written."
        )
    return compute_file_sha256(path)
