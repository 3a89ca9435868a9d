"""Options of `t2i train --init`, with the checks that they go together."""

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from t2i.denoiser.loading.hub import is_hub_id, list_cached_models
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS, locate_model
from t2i.errors import ArgumentError, suggest_choice
from train.starter_config.picture_folder import PictureFolderStats, map_subset_keys_to_folders
from train.starter_config.template_values import CONTROL_METHODS, TEMPLATE_PIECES_BY_METHOD

TRAINING_METHODS = tuple(TEMPLATE_PIECES_BY_METHOD)
METHODS_WITH_CLASS_PICTURES = ("dreambooth", "dreambooth-lora")
METHODS_WITH_NEW_WORDS = ("textual-inversion", "pivotal")


@dataclass(frozen=True, slots=True)
class StarterConfigOptions:
    """Options of `t2i train --init`: method, folder of pictures, base model, trigger
    word, class.

    kind : class of the subject, such as "mug"
    """

    method: str
    folder: Path
    base: str = "embedded"
    word: str | None = None
    kind: str | None = None


def check_options(options: StarterConfigOptions) -> None:
    """Raise ArgumentError for options of `t2i train --init` that are wrong: an unknown method, a
    missing class, an invalid word.
    """
    if options.method not in TRAINING_METHODS:
        raise ArgumentError(
            f"--init {options.method}: {suggest_choice(options.method, TRAINING_METHODS)}"
        )
    if options.method in METHODS_WITH_CLASS_PICTURES and not options.kind:
        raise ArgumentError(
            f"--init {options.method} needs the class of the thing, which is to stay what it is: "
            "give it, as in --class mug."
        )
    if options.method in CONTROL_METHODS and (options.word or options.kind):
        raise ArgumentError(
            f"--init {options.method} trains a control, which learns to read hints and no word: "
            "leave out --word and --class."
        )
    word = options.word if options.method in METHODS_WITH_NEW_WORDS else None
    if word is not None and (word.split() != [word] or "," in word):
        raise ArgumentError(
            f"Got --word {word!r}; a new word has no blanks and no commas: write it as <my-mug>."
        )
    check_base_model(options.base)


def check_method_allows_preference_pairs(
    options: StarterConfigOptions, facts: PictureFolderStats
) -> None:
    """Raise ArgumentError for preference pairs with a DreamBooth method, as class pictures have
    no worse ones, and with a control.
    """
    if facts.has_losers and options.method in CONTROL_METHODS:
        losers = map_subset_keys_to_folders(options.folder)["losers"]
        raise ArgumentError(
            f"--init {options.method}: {losers} makes pairs of the pictures, from which a control "
            "does not learn: move that folder out."
        )
    if facts.has_losers and options.method in METHODS_WITH_CLASS_PICTURES:
        losers = map_subset_keys_to_folders(options.folder)["losers"]
        raise ArgumentError(
            f"--init {options.method}: {losers} makes pairs of the pictures, "
            "and class pictures have no worse ones: choose a method without class pictures, as "
            "--init lora, or move that folder out."
        )


def check_base_model(base: str) -> None:
    """Raise ModelError if the base model of a starter config is not one; hub ids are not
    checked.
    """
    place = Path(expanduser(base))
    is_local = base in EMBEDDED_MODELS or place.exists() or place.suffix == ".safetensors"
    if (is_local or not is_hub_id(base)) and (found := locate_model(base)).is_dir():
        read_and_check_folder(found)


def needs_download(base: str) -> bool:
    """Return True if a base model is on the hub and not in the local cache."""
    return (
        base not in EMBEDDED_MODELS
        and not Path(expanduser(base)).exists()
        and base not in list_cached_models()
    )
