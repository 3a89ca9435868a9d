"""Digests of model and adapter files: one name may come to mean another file."""

import hashlib
from os.path import expanduser
from pathlib import Path

from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE, PRESENCE_FILE
from t2i.denoiser.presets import parse_presets, remove_presets
from t2i.errors import DataError
from t2i.safe_reading import MODEL_CONFIG_KIND, WEIGHTS_KIND, open_untrusted_file, read_bytes


def compute_model_digest(model: Path) -> str:
    """Return the SHA-256 over the names and bytes of a model's weights and configs, in hex.

    Its presence.json does not count, nor do its presets and their LoRAs: no image depends on them
    but those of a request that names them. Of its t2i.json the content counts, not the layout.

    model : a folder, or one file
    """
    weights = (path for path in model.rglob("*") if path.suffix in (".safetensors", ".json"))
    notes, left_out = _read_notes_and_lora_paths(model)
    sha = hashlib.sha256()
    for path in [model] if model.is_file() else sorted(weights):
        if path.name == PRESENCE_FILE or path in left_out:
            continue
        if notes is not None and path == model / MODEL_NOTES_FILE:
            without = remove_presets(notes)
            if without is not None:
                sha.update(MODEL_NOTES_FILE.encode() + without)
            continue
        sha.update((path.relative_to(model).as_posix() if path != model else path.name).encode())
        with open_untrusted_file(path, WEIGHTS_KIND) as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


def _read_notes_and_lora_paths(model: Path) -> tuple[bytes | None, set[Path]]:
    """Return the t2i.json of a model, None without one, and the files of its presets' LoRAs."""
    path = model / MODEL_NOTES_FILE
    if not path.is_file():
        return None, set()
    notes = read_bytes(path, MODEL_CONFIG_KIND)
    presets = parse_presets(notes, path).values()
    return notes, {model / lora.path for one in presets for lora in one.loras}


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
