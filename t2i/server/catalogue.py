"""The models, LoRAs, learned words and control networks that requests may name, listed when the
server starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import expanduser
from pathlib import Path

from t2i.cli.commands.models import describe_native_image_size
from t2i.cli.request.request import read_model_defaults
from t2i.denoiser.loading import hub
from t2i.denoiser.loading.model_location import (
    EMBEDDED_CONTROLS,
    EMBEDDED_MODELS,
    locate_model,
)
from t2i.denoiser.presets import ModelPresets, read_model_presets
from t2i.errors import ArgumentError, ModelError, suggest_choice
from t2i.safe_reading import MODEL_CONFIG_KIND, read_json
from t2i.server.settings import ServerSettings

FALLBACK_SIDE_PIXELS = 512
"""Pixels of a model whose configs do not name its size."""
FALLBACK_STEPS = 50
ADAPTER_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Models, LoRAs and learned words that requests to the server may name, each with its folder or
    file.

    models : the first is the default
    """

    models: Mapping[str, Path]
    loras: Mapping[str, Path]
    embeddings: Mapping[str, Path]
    controls: Mapping[str, Path] = field(default_factory=dict)

    @property
    def default_model(self) -> str:
        """Name of the server's default model, for requests that name none."""
        return next(iter(self.models))

    def resolve_model_name(self, name: str | None) -> str:
        """Return the name of a listed model, the default's for None. Raises ModelError."""
        if name is None:
            return self.default_model
        if name not in self.models:
            raise ModelError(f"Unknown model {name!r:.200}. {suggest_choice(name, self.models)}")
        return name

    def find_lora(self, name: str) -> Path:
        """Return the file of a listed LoRA. Raises ArgumentError."""
        return _find("LoRA", name, self.loras)

    def find_embedding(self, name: str) -> Path:
        """Return the file of a listed learned word. Raises ArgumentError."""
        return _find("embedding", name, self.embeddings)

    def find_control(self, name: str) -> Path:
        """Return the folder or file of a listed control network. Raises ArgumentError."""
        return _find("control", name, self.controls)

    def read_default_size(self, model: str) -> tuple[int, int]:
        """Return the default width and height in pixels of a model's images, for requests that name
        no size.
        """
        size = describe_native_image_size(self.models[model])
        if size is None:
            return FALLBACK_SIDE_PIXELS, FALLBACK_SIDE_PIXELS
        width, height = size.split("x")
        return int(width), int(height)

    def read_default_steps(self, model: str) -> int:
        """Return the default number of sampling steps of a model, for requests that name none."""
        return read_model_defaults(self.models[model]).num_inference_steps or FALLBACK_STEPS

    def read_presets(self, model: str) -> ModelPresets:
        """Return the presets in the t2i.json of a model."""
        return read_model_presets(model, self.models[model])


def _find(noun: str, name: str, known: Mapping[str, Path]) -> Path:
    if name not in known:
        hint = suggest_choice(name, known) if known else "The server has none."
        raise ArgumentError(f"Unknown {noun} {name!r:.200}. {hint}")
    return known[name]


def build_catalogue(settings: ServerSettings) -> Catalogue:
    """Build the catalogue of what requests to the server may name: models of the settings, the
    embedded one, those in the Hugging Face cache, and the files in the folders of LoRAs and
    learned words.

    Raises ModelError for a model of the settings that is not there.
    """
    models = {name: locate_model(name) for name in settings.models}
    models |= {
        name: folder
        for name, folder in {**EMBEDDED_MODELS, **hub.list_cached_models()}.items()
        if name not in models and folder.is_dir()
    }
    controls = list_control_networks(settings.control_folder)
    for name, path in list_embedded_controls(models).items():
        controls.setdefault(name, path)
    return Catalogue(
        models,
        list_tensor_files(settings.lora_folder),
        list_tensor_files(settings.embedding_folder),
        controls,
    )


def list_tensor_files(folder: Path) -> dict[str, Path]:
    """Return the .safetensors files below a folder by their path in it without the suffix."""
    place = Path(expanduser(folder))
    files = sorted(place.rglob(f"*{ADAPTER_SUFFIX}")) if place.is_dir() else []
    return {file.relative_to(place).with_suffix("").as_posix(): file for file in files}


def list_embedded_controls(models: Mapping[str, Path]) -> dict[str, Path]:
    """Return the control networks that come with the package, if their model is listed. Their paths
    are their names, as `--control` takes them and metadata record them.
    """
    return {name: Path(name) for name in EMBEDDED_CONTROLS if "embedded" in models}


def list_control_networks(folder: Path) -> dict[str, Path]:
    """Return the control networks below a folder by their path in it: folders with a config.json,
    and .safetensors files outside of them, without the suffix. A folder that is itself a network,
    with the config.json of one, is listed by its own name. Networks are absolute paths, so that no
    relative one is a name of the package's own.

    Raises ArgumentError for a file, in place of the folder that it is in, and for two networks of
    one name.
    """
    place = Path(expanduser(folder)).absolute()
    if place.is_file():
        raise ArgumentError(
            f"Got --control-dir {folder}, which is a file: expected the folder with the networks, "
            f"such as {place.parent}."
        )
    configs = sorted(place.rglob("config.json")) if place.is_dir() else []
    folders = {
        config.parent.relative_to(place).as_posix(): config.parent
        for config in configs
        if config.parent != place
    }
    inside = set(folders.values())
    if place / "config.json" in configs and "_class_name" in read_json(
        place / "config.json", MODEL_CONFIG_KIND
    ):
        _check_name_is_free(folder, place.resolve().name, place, folders)
        folders[place.resolve().name] = place
        own_weights = set(place.glob(f"*{ADAPTER_SUFFIX}"))
    else:
        own_weights = set()
    files = {
        name: file
        for name, file in list_tensor_files(folder).items()
        if inside.isdisjoint(file.parents) and file not in own_weights
    }
    for name, file in files.items():
        _check_name_is_free(folder, name, file, folders)
    return {**files, **folders}


def _check_name_is_free(folder: Path, name: str, network: Path, others: Mapping[str, Path]) -> None:
    if name in others:
        raise ArgumentError(
            f"Got --control-dir {folder}, in which two networks have the name {name!r}: {network} "
            f"and {others[name]}. Rename one of them."
        )
