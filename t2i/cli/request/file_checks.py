"""Checks of the files of a request on this machine: location, type and digest."""

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os.path import expanduser
from pathlib import Path
from shlex import quote
from typing import Any

from t2i.cli.request.digests import compute_file_sha256, compute_model_digest
from t2i.cli.request.input_files import EMBEDDING_SUFFIX, InputFile, InputFileWithScale
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import (
    EMBEDDED_CONTROLS,
    locate_control_network,
    locate_model,
)
from t2i.errors import ArgumentError, DataError, ModelError, T2IError, suggest_choice
from t2i.pictures import read_picture_size
from t2i.safe_reading.files import advise_on_missing_file
from t2i.terminal import escape_controls

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
MAX_LISTED_FILES = 3
"""Maximum number of files of a folder in a message."""
IMAGE_ENCODER_FOLDER = "image_encoder"
"""Folder beside the weights of an IP-Adapter."""


@dataclass(frozen=True, slots=True)
class RequestFileField:
    """Description of a Request field that names files: its option, label and error type.

    label : name of such a file in messages
    error_type : of an error where such a file cannot be used
    """

    option: str
    label: str
    error_type: type[T2IError]

    @property
    def missing_error_type(self) -> type[T2IError]:
        """Error type for a missing file: ArgumentError for model files, otherwise `error_type`."""
        return ArgumentError if self.error_type is ModelError else self.error_type


REQUEST_FILE_FIELDS: dict[str, RequestFileField] = {
    "loras": RequestFileField("--lora", "LoRA", ModelError),
    "embeddings": RequestFileField("--embedding", "embedding", ModelError),
    "ip_adapter": RequestFileField("--ip-adapter", "IP-Adapter", ModelError),
    "image_prompt": RequestFileField("--image-prompt", "image prompt", DataError),
    "image_prompt_mask": RequestFileField("--ip-adapter", "image prompt's mask", DataError),
    "image": RequestFileField("--image", "picture", DataError),
    "mask": RequestFileField("--mask", "mask", DataError),
    "control_model": RequestFileField("--control", "control network", ModelError),
    "control_picture": RequestFileField("--control", "control picture", DataError),
    "control_mask": RequestFileField("--control", "control mask", DataError),
    "reference_picture": RequestFileField("--reference", "reference picture", DataError),
}
FILE_FIELD_NAMES = tuple(
    name
    for name in REQUEST_FILE_FIELDS
    if not name.startswith(("control_", "reference_")) and name != "image_prompt_mask"
)
"""Those of the names that are fields of a Request; others are in its `controls`, `image_prompts`
and `references`."""


def iter_request_files(request: Request) -> Iterator[tuple[str, InputFile]]:
    """Iterate over (field name, file) of each file that a request names."""
    for name in FILE_FIELD_NAMES:
        value = getattr(request, name)
        if isinstance(value, tuple):
            yield from ((name, file) for file in value)
        elif value is not None:
            yield name, value
    for prompt in request.image_prompts:
        yield from prompt.named_files
    for control in request.controls:
        yield from control.named_files
    for reference in request.references:
        yield from reference.named_files


def copy_request_with_mapped_files(
    request: Request, change: Callable[[str, InputFile], InputFile]
) -> Request:
    """Return a copy of a request with each of its input files replaced by `change(field, file)`."""
    changed: dict[str, Any] = {}
    if request.image_prompts:
        changed["image_prompts"] = tuple(
            one.copy_with_mapped_files(change) for one in request.image_prompts
        )
    if request.controls:
        changed["controls"] = tuple(
            control.copy_with_mapped_files(change) for control in request.controls
        )
    if request.references:
        changed["references"] = tuple(
            one.copy_with_mapped_files(change) for one in request.references
        )
    for name in FILE_FIELD_NAMES:
        value = getattr(request, name)
        if isinstance(value, tuple) and value:
            changed[name] = tuple(change(name, file) for file in value)
        elif value:
            changed[name] = change(name, value)
    return replace(request, **changed) if changed else request


def check_file_combinations(request: Request) -> None:
    """Raise ArgumentError if a request has a file or option without another that it needs, such as
    a mask without an image, or two that exclude each other.
    """
    for name, needed in (("mask", "image"), ("strength", "image"), ("image_prompt", "ip_adapter")):
        if getattr(request, name) is not None and getattr(request, needed) is None:
            given = REQUEST_FILE_FIELDS[name].option if name in REQUEST_FILE_FIELDS else f"--{name}"
            raise ArgumentError(
                f"Got {given} without {REQUEST_FILE_FIELDS[needed].option}: it applies to that. "
                "Give both."
            )
    if request.inversion is not None and request.strength is not None:
        raise ArgumentError(
            f"Got --strength {request.strength} for a photo that was edited by its words: it is of "
            "pictures that are drawn anew from noise. Leave it out."
        )
    if request.inversion is not None and (request.ip_adapter or request.image_prompts):
        raise ArgumentError(
            "Got --ip-adapter for a photo that is inverted: image prompts are of pictures that are "
            "drawn. Leave it out."
        )
    if request.upscale is not None and request.image is not None:
        raise ArgumentError(
            "Got --upscale with --image: a picture that is changed is enlarged by naming the size, "
            "--size 256. Leave --upscale out."
        )
    if request.ip_adapter is not None and request.image_prompt is None:
        raise ArgumentError(
            "Got --ip-adapter without --image-prompt: give the image prompt for it, or with it: "
            "--ip-adapter ADAPTER:PICTURE."
        )


def find_usable_file_path(field_name: str, file: InputFile) -> Path:
    """Check that an input file of a request exists and has a usable type, and return its path; for
    an IP-Adapter that of its weights.

    field_name : field of the request that names the file

    Only names are read: a device or a pipe would block a long run. Raises ArgumentError,
    ModelError or DataError where it cannot be used.
    """
    kind = REQUEST_FILE_FIELDS[field_name]
    try:
        path = _locate(field_name, file)
        if field_name == "ip_adapter" and path.is_dir():
            path = _find_adapter_weights(path)
        if field_name == "loras" and is_peft_folder(path):
            return path
        if field_name == "control_model" and (path / "config.json").is_file():
            return path
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        where = str(_locate(field_name, file)) if getattr(file, "in_model", None) else file.path
        advice = advise_on_missing_file(where)
        if field_name == "control_model":
            advice += f" Those of t2i: {suggest_choice(file.path, EMBEDDED_CONTROLS)}"
        raise kind.missing_error_type(f"No such {kind.label}: {where}. {advice}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: ~name of nobody
        raise kind.missing_error_type(f"Cannot read {file.path}: {error}.") from error
    if not regular:
        raise kind.missing_error_type(
            f"{file.path} is not a regular file: expected the file of the {kind.label}."
            f"{_folder_advice(kind, path)}"
        )
    if kind.error_type is ModelError and path.suffix != ".safetensors":
        if path.suffix in PICKLE_SUFFIXES:
            raise ModelError(
                f"Refused the pickled {kind.label} {file.path}: loading it can run any code. "
                f"{_pickle_advice(kind, path)}"
            )
        raise ArgumentError(f"{file.path} is no {kind.label}: expected a .safetensors file.")
    return path


def _locate(field_name: str, file: InputFile) -> Path:
    """Return the path of an input file. Raises ModelError for one of a model that is not here."""
    if field_name == "control_model":
        return locate_control_network(file.path)
    if isinstance(file, InputFileWithScale) and file.in_model is not None:
        return locate_model(file.in_model) / file.path
    return Path(expanduser(file.path))


def _pickle_advice(kind: RequestFileField, path: Path) -> str:
    if kind.label != "embedding":
        return "Get its safetensors version, or convert it where you trust it."
    command = build_pickle_conversion_command(path, path.with_suffix(".safetensors"))
    return f"Its tensors alone are read, and written without the rest, by: {command}"


def build_pickle_conversion_command(path: Path, out: Path) -> str:
    """Return the command that converts a pickled learned word to safetensors."""
    return f"t2i convert {quote(str(path))} {quote(str(out))} --allow-pickle"


def _folder_advice(kind: RequestFileField, folder: Path) -> str:
    """Return which files to give instead of a folder, such as the one that a training run wrote."""
    if kind.error_type is not ModelError:
        return ""
    files = [path for place in (folder, folder / "model") for path in place.glob("*.safetensors")]
    named = [path for path in files if path.stem == kind.label.lower()] or sorted(files)
    listed = f" or {kind.option} ".join(quote(str(path)) for path in named[:MAX_LISTED_FILES])
    return f" Give a file in it: {kind.option} {listed}" if listed else ""


def is_peft_folder(path: Path) -> bool:
    """Return True for a folder that holds an adapter saved by peft, or one per submodel."""
    folders = (path, *(path / part for part in ("unet", "text_encoder", "text_encoder_2")))
    return any((folder / "adapter_config.json").is_file() for folder in folders)


def check_request_files(request: Request) -> None:
    """Raise an error for the first file of a request that is missing or cannot be used."""
    for name, file in iter_request_files(request):
        check_input_file(name, file)


def check_input_file(field_name: str, file: InputFile) -> None:
    """Raise an error for a request's file that is missing or cannot be used.

    Of pictures the header is read, so that what is no picture, or too large a one, is refused
    before the model is loaded; not of embeddings of faces, which stand for image prompts.
    """
    path = find_usable_file_path(field_name, file)
    if field_name == "image_prompt" and path.suffix == EMBEDDING_SUFFIX:
        return
    if REQUEST_FILE_FIELDS[field_name].error_type is DataError:
        read_picture_size(path)


def _find_adapter_weights(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ArgumentError(
            f"{folder} has {len(found)} .safetensors files, expected the one of an IP-Adapter: "
            f"name one of its files. Found: {names}."
        )
    return found[0]


def compute_file_digest(field_name: str, file: InputFile) -> str:
    """Return the SHA-256 of a request's file; of an IP-Adapter, with its image encoder."""
    path = find_usable_file_path(field_name, file)
    try:
        sha = compute_model_digest(path) if path.is_dir() else compute_file_sha256(path)
        if field_name == "ip_adapter" and (path.parent / IMAGE_ENCODER_FOLDER).is_dir():
            both = f"{sha} {compute_model_digest(path.parent / IMAGE_ENCODER_FOLDER)}"
            sha = hashlib.sha256(both.encode()).hexdigest()
    except OSError as error:
        raise REQUEST_FILE_FIELDS[field_name].error_type(
            f"Cannot read {path}: {error.strerror or error}."
        ) from error
    return sha


class FileDigests:
    """Cache of the SHA-256 digests of a request's files."""

    def __init__(self) -> None:
        self.digests: dict[tuple[str, str, str | None], str] = {}

    def copy_request_with_digests(self, request: Request) -> Request:
        """Return the request with the digests of its files as they are now.

        Raises for a missing file.
        """
        return copy_request_with_mapped_files(
            request, lambda name, file: replace(file, sha256=self.get_digest(name, file))
        )

    def get_digest(self, field_name: str, file: InputFile) -> str:
        """Return the SHA-256 of an input file of a request, computed on its first use and then
        cached.
        """
        key = (field_name, file.path, getattr(file, "in_model", None))
        if key not in self.digests:
            self.digests[key] = compute_file_digest(field_name, file)
        return self.digests[key]

    def describe_changed_files(self, request: Request) -> list[str]:
        """List the request's files that changed since their digests were recorded, as lines."""
        return [
            escape_controls(
                f"made with {REQUEST_FILE_FIELDS[name].label} {Path(file.path).name} "
                f"{file.sha256[:10]}, here is {self.get_digest(name, file)[:10]}"
            )
            for name, file in iter_request_files(request)
            if file.sha256 is not None and file.sha256 != self.get_digest(name, file)
        ]


def locate_and_verify_file(field_name: str, file: InputFile) -> Path:
    """Return the path of a request's file, after its SHA-256 is compared with the recorded one.

    field_name : field of the request
    Raises ModelError or DataError for another content, and as `find_usable_file_path` does.
    """
    path = find_usable_file_path(field_name, file)
    if file.sha256 is not None and compute_file_digest(field_name, file) != file.sha256:
        raise REQUEST_FILE_FIELDS[field_name].error_type(
            f"{file.path} is not the {REQUEST_FILE_FIELDS[field_name].label} of the request, "
            f"sha256 {file.sha256[:10]}...: it was changed, or differs on this machine. Copy it "
            "again."
        )
    return path


def format_request_files_by_label(request: Request) -> Mapping[str, str]:
    """Return a request's files as text: label -> names, scales, and starts of the SHA-256."""
    found: dict[str, list[str]] = {}
    for name, file in iter_request_files(request):
        sha = "" if file.sha256 is None else f" ({file.sha256[:10]})"
        found.setdefault(REQUEST_FILE_FIELDS[name].label, []).append(
            f"{replace(file, path=Path(file.path).name).option_value}{sha}"
        )
    return {word: "; ".join(files) for word, files in found.items()}
