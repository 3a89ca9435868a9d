"""Models by name or folder: found, and checked before anything is loaded."""

import os
from collections.abc import Collection
from pathlib import Path

import diffusers

from t2i.denoiser.weights import PICKLES, check_weights, read_json
from t2i.errors import ModelError, nearest

ASSETS = Path(__file__).parent.parent / "assets"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model: one of EMBEDDED by name, or a path."""
    name = os.fspath(name_or_path)
    folder = EMBEDDED.get(name, Path(name).expanduser())
    if folder.is_dir():
        return folder
    if name in EMBEDDED:
        raise ModelError(
            f"The model {name!r} is not installed: make it with `make train-embedded`."
        )
    if folder.suffix in PICKLES:
        raise ModelError(
            f"Refused the pickled model {name}: loading it can run any code. "
            "Get its safetensors version, or convert it where you trust it."
        )
    if folder.is_file():
        raise ModelError(f"{name} is a file, expected a model folder as diffusers saves it.")
    raise ModelError(
        f"Unknown model {name!r}: neither a known name nor a folder. "
        f"{nearest(name, [*EMBEDDED, *neighbours(folder)])} "
        "A model of the hub must be downloaded first; give the path of its folder."
    )


def neighbours(folder: Path) -> list[str]:
    """Model folders beside the one that is not there."""
    if not folder.parent.is_dir():
        return []
    return [str(index.parent) for index in folder.parent.glob("*/model_index.json")]


def check_folder(
    folder: Path, variant: str | None = None, given: Collection[str] = frozenset()
) -> None:
    """Raise ModelError unless every part of a Stable Diffusion pipeline is in `folder`, whole.

    `given` names the parts that the caller brings along. Nothing is loaded and no code of the
    folder is run; other parts it may have, such as a safety checker, are never looked at.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder.")
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{folder} has no model_index.json: expected a pipeline folder as diffusers saves it."
        )
    index = read_json(folder / "model_index.json")
    if not isinstance(index.get("_class_name", ""), str):
        raise ModelError(f"Refused {folder}: its model_index.json asks for code of its own.")

    for part in PARTS:
        if part not in given:
            check_part(folder, part, index.get(part), variant)


def check_part(folder: Path, part: str, entry: object, variant: str | None) -> None:
    place = folder / part
    if entry in (None, [None, None]) or not place.is_dir():
        raise ModelError(
            f"{folder} has no {part}: expected the parts {', '.join(PARTS)}, each in its folder."
        )
    library, class_name = entry if isinstance(entry, list) and len(entry) == 2 else ("", entry)
    known_library, known_classes = PARTS[part]
    if library != known_library or class_name not in known_classes:
        raise ModelError(
            f"{folder} has {part} {library}.{class_name}, expected one of {known_library}: "
            f"{', '.join(sorted(known_classes))}."
        )

    if part == "scheduler":
        read_json(place / "scheduler_config.json")
    elif part == "tokenizer":
        check_tokenizer(place)
    else:
        check_weights(place, str(class_name), variant)


def check_tokenizer(place: Path) -> None:
    if (place / "tokenizer.json").is_file():
        read_json(place / "tokenizer.json")
        return
    read_json(place / "vocab.json")
    if not (place / "merges.txt").is_file():
        raise ModelError(f"{place / 'merges.txt'} is missing: copy or download the model again.")


EMBEDDED: dict[str, Path] = {"embedded": ASSETS / "embedded"}
"""Models that come with the package."""

PARTS: dict[str, tuple[str, Collection[str]]] = {
    "unet": ("diffusers", {"UNet2DConditionModel"}),
    "vae": ("diffusers", {"AutoencoderKL", "AutoencoderTiny"}),
    "text_encoder": ("transformers", {"CLIPTextModel"}),
    "tokenizer": ("transformers", {"CLIPTokenizer", "CLIPTokenizerFast"}),
    "scheduler": (
        "diffusers",
        {name for name in dir(diffusers) if name.endswith("Scheduler")},
    ),
}
"""Part -> the library and the classes it may come from; nothing else is ever imported."""
