"""Locating a model: a path, the name of an embedded model, or an id of the Hugging Face hub; and
the network of a control.

Nothing here imports torch: `t2i models` and `t2i show` use it too.
"""

import os
from os.path import expanduser
from pathlib import Path

from t2i.atomic_folders import restore_folder_from_backup
from t2i.denoiser.loading import hub
from t2i.errors import ModelError, suggest_choice

ASSETS = Path(__file__).parents[2] / "assets"
MODEL_NOTES_FILE = "t2i.json"
"""Beside a model of ours: how it was trained, and how it likes to be sampled."""
PRESENCE_FILE = "presence.json"
"""Beside a model: its fit of `HeatMaps.found`, which no image depends on."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def locate_model(name_or_path: str | os.PathLike[str], variant: str | None = None) -> Path:
    """Return the folder or safetensors file of a model, downloading it from the hub if needed.

    Accepts a path, a name in EMBEDDED_MODELS, or a hub id ("owner/name", "owner/name@revision").
    Local models take precedence; `variant` chooses among the weights of a hub model. Raises
    ModelError where there is no such model.
    """
    if not isinstance(name_or_path, str | os.PathLike) or not os.fspath(name_or_path):
        raise ModelError(
            f"Got the model {name_or_path!r}, expected a name such as 'embedded', a path or a hub "
            "id."
        )
    name = os.fspath(name_or_path)
    path = EMBEDDED_MODELS.get(name, Path(expanduser(name)))
    restore_folder_from_backup(path)
    try:
        if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
            return path
        is_file = path.is_file()
    except OSError as error:  # longer than a path may be
        raise ModelError(f"The model {name[:80]!r}... is no path: {error.strerror}.") from error

    if name in EMBEDDED_MODELS:
        raise ModelError(
            f"The model {name!r} is not installed: make it with `make train-embedded`."
        )
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(
            f"Refused the pickled model {name}: loading it can run any code. "
            "Get its safetensors version, or convert it where you trust it."
        )
    if is_file:
        raise ModelError(
            f"{name} is a file, expected a model folder as diffusers saves it, or a .safetensors "
            "checkpoint."
        )
    known = [*EMBEDDED_MODELS, *list_sibling_models(path), *hub.list_cached_models()]
    unknown = (
        f"Unknown model {name!r}: neither a known name nor a folder. "
        f"{suggest_choice(name, known)} "
        "`t2i models` says more of those that are here."
    )
    if not hub.is_hub_id(name):
        raise ModelError(unknown)
    try:
        return hub.download_hub_model(name, variant)
    except ModelError as error:
        raise ModelError(f"{unknown} {error}") from error


def locate_control_network(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder or file of a control's network: of a name in EMBEDDED_CONTROLS, or the path
    itself, which need not exist.

    A name is a string: Path("./segments") is the folder, though it does not keep its "./".
    """
    path = Path(expanduser(name_or_path))
    return EMBEDDED_CONTROLS.get(name_or_path, path) if isinstance(name_or_path, str) else path


def list_sibling_models(folder: Path) -> list[str]:
    """Return the paths of the model folders that lie beside a missing one, to suggest in an error
    message.
    """
    if not folder.parent.is_dir():
        return []
    return [str(index.parent) for index in folder.parent.glob("*/model_index.json")]


EMBEDDED_MODELS: dict[str, Path] = {"embedded": ASSETS / "embedded"}
"""Models that come with the package."""
EMBEDDED_CONTROLS: dict[str, Path] = {"segments": ASSETS / "controls" / "segments"}
"""Control networks for the model "embedded" that come with the package."""
