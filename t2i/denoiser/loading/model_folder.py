"""Checks of a model folder before anything is loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from torch import nn

from t2i.denoiser.loading.config_checks import (
    check_config_safety,
    check_no_code,
    check_tokenizer_config_safety,
    iter_config_keys_and_values,
)
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.denoiser.loading.model_parts import (
    ALLOWED_CLASSES_BY_PART,
    ALLOWED_LIBRARIES,
    MODEL_KIND_BY_PIPELINE,
    MODEL_KINDS,
    ModelKind,
)
from t2i.denoiser.loading.trial_pass import check_scheduler_runs, check_unet_and_autoencoder_run
from t2i.denoiser.loading.weight_checks import check_weights_and_build_meta_model, read_json_object
from t2i.errors import ModelError, suggest_choice

KNOWN_PARTS = {*ALLOWED_CLASSES_BY_PART, "feature_extractor", "safety_checker"}
"""Parts that an index may name, also such as are not loaded."""
MAX_TOKENIZER_BYTES = 64_000_000
"""Bytes of one file: the largest vocabularies, of a quarter of a million words, take 17 million."""


@dataclass(frozen=True, slots=True)
class FolderContents:
    """Contents of a checked model folder: the kind of model, and the class of each of its parts."""

    model_kind: str
    """One of MODEL_KINDS."""
    parts: Mapping[str, str]
    """Part -> its class. Parts that the caller brings, or that are not there, are left out."""


def read_and_check_folder(
    folder: Path, variant: str | None = None, given: Collection[str] = frozenset()
) -> FolderContents:
    """Read which kind of model a folder holds and which parts it has, and check all its files but
    the values of the weights. Raises ModelError unless it is complete and its parts fit.

    given : parts that the caller supplies

    No weights are loaded and no code of the folder is run; a pass on the meta device shows that the
    parts run together (those of our own models do, so that the pass is left out). Other
    parts, such as a safety checker, are ignored.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder.")
    if not (folder / "model_index.json").is_file():
        instead = "".join(
            f" It has a LoRA: give its base as the model and --lora {quote(str(lora))}"
            for lora in sorted(folder.glob("*lora*.safetensors"))[:1]
        )
        raise ModelError(
            f"{folder} has no model_index.json: expected a pipeline folder as diffusers saves it."
            f"{instead}"
        )
    check_no_outside_links(folder, [folder / "model_index.json"])
    index = read_json_object(folder / "model_index.json")
    kind = read_model_kind(folder, index)

    def there(part: str) -> bool:
        return index.get(part) not in (None, [None, None]) and (folder / part).is_dir()

    wanted = [*kind.required]
    if any(map(there, kind.together)):
        wanted += kind.together
    wanted += filter(there, kind.optional)
    parts: dict[str, str] = {}
    models: dict[str, nn.Module] = {}
    for part in wanted:
        if part in given:
            continue
        if not there(part):
            needed = kind.required + kind.together * (part in kind.together)
            raise ModelError(
                f"{folder} has no {part}: expected the parts {', '.join(needed)}, each in its "
                "folder."
            )
        if (
            model := check_part_and_build_meta_model(folder, part, index[part], variant)
        ) is not None:
            models[part] = model
        parts[part] = index[part][1]
    if folder not in EMBEDDED_MODELS.values():  # those of the package pass, as a test shows
        configs = {part: folder / part / "config.json" for part in models}
        check_unet_and_autoencoder_run(models, configs)
    return FolderContents(kind.name, parts)


def read_model_kind(folder: Path, index: Mapping[str, object]) -> ModelKind:
    """Return the kind of model that a folder's model_index.json names. Raises ModelError if the
    index refers to code, or to an unsupported pipeline.
    """
    for key, value in iter_config_keys_and_values(index):
        check_no_code(folder / "model_index.json", key, value)
    for part, entry in index.items():
        checked_later = part in ALLOWED_CLASSES_BY_PART and (folder / part).is_dir()
        if not checked_later and isinstance(entry, list) and not has_allowed_library(entry):
            raise ModelError(
                f"Refused {folder}: its model_index.json has {part} {entry}, which requires code "
                f"of its own; expected classes of diffusers and transformers."
            )
        if not checked_later and part in KNOWN_PARTS and not isinstance(entry, list | None):
            raise ModelError(
                f"{folder / 'model_index.json'} has {part} = {entry!r:.80}, expected a library and "
                'a class such as ["transformers", "CLIPTextModel"]: correct it, or copy the file '
                "from the model again."
            )
    for key in ("force_zeros_for_empty_prompt", "requires_aesthetics_score"):
        if not isinstance(index.get(key), bool | None):
            raise ModelError(
                f"{folder / 'model_index.json'} has {key} = {index[key]!r:.80}, expected true or "
                "false."
            )
    pipeline = str(index.get("_class_name", ""))
    if pipeline not in MODEL_KIND_BY_PIPELINE:
        raise ModelError(
            f"{folder} is the model of a pipeline {pipeline!r}, which is none of those that can "
            f"be loaded. {suggest_choice(pipeline, MODEL_KIND_BY_PIPELINE)}"
        )
    return MODEL_KINDS[MODEL_KIND_BY_PIPELINE[pipeline]]


def has_allowed_library(entry: list[object]) -> bool:
    """Return True for an entry of a model_index.json that names no class, or one of a library in
    ALLOWED_LIBRARIES.
    """
    sound = len(entry) == 2 and all(isinstance(one, str | None) for one in entry)
    return sound and entry[0] in ALLOWED_LIBRARIES


def check_part_and_build_meta_model(
    folder: Path, part: str, entry: object, variant: str | None
) -> nn.Module | None:
    """Check one part of a model folder; return its model on the meta device, or None for a part
    without weights.

    Raises ModelError unless the part is complete and of a known class.
    """
    library, class_name = entry if isinstance(entry, list) and len(entry) == 2 else ("", entry)
    known_library, known_classes = ALLOWED_CLASSES_BY_PART[part]
    if library != known_library or str(class_name) not in known_classes:
        raise ModelError(
            f"{folder / 'model_index.json'} has {part} = {entry!r:.80}, expected one of "
            f"{known_library}: {', '.join(sorted(known_classes))}."
        )

    place = folder / part
    check_no_outside_links(folder, [place, *place.rglob("*")])
    own = part.removeprefix("prior_")
    if own == "scheduler":
        check_scheduler_runs(place / "scheduler_config.json", str(class_name))
    elif own in ("feature_extractor", "image_processor"):
        check_config_file(place / "preprocessor_config.json")
    elif own.startswith("tokenizer"):
        check_vocabulary_files(place)
    else:
        return check_weights_and_build_meta_model(place, str(class_name), variant)
    return None


def check_config_file(path: Path) -> None:
    """Raise ModelError for a config file that refers to code or outside files, or has huge
    numbers.
    """
    check_config_safety(path, read_json_object(path))


def check_no_outside_links(folder: Path, paths: Collection[Path]) -> None:
    """Raise ModelError for special files, and for links to files outside the folder.

    Links into the blobs folder of the hub's cache are allowed.
    """
    root = folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    for path in paths:
        real = path.resolve()
        if not any(real.is_relative_to(home) for home in homes):
            raise ModelError(
                f"Refused {path}: it is a link to {real}, outside the folder. Copy the file here."
            )
        if real.exists() and not (real.is_file() or real.is_dir()):
            raise ModelError(f"Refused {path}: it is not a plain file.")


def check_vocabulary_files(place: Path) -> None:
    """Raise ModelError unless a tokenizer folder contains its vocabulary in a supported format."""
    config = place / "tokenizer_config.json"
    if config.is_file():
        check_tokenizer_config_safety(config, read_json_object(config))
    if (place / "tokenizer.json").is_file():
        read_json_object(place / "tokenizer.json", MAX_TOKENIZER_BYTES)
        return
    if (place / "vocab.txt").is_file():
        return
    if (place / "spiece.model").is_file():
        raise ModelError(
            f"{place} has its words in spiece.model only, which cannot be read: load the tokenizer "
            "once with transformers and save_pretrained it, which writes tokenizer.json."
        )
    read_json_object(place / "vocab.json", MAX_TOKENIZER_BYTES)
    if not (place / "merges.txt").is_file():
        raise ModelError(f"{place / 'merges.txt'} is missing: copy or download the model again.")
