"""The request that draws the picture of another image's metadata again."""

from dataclasses import replace
from pathlib import Path

from t2i.cli.metadata.reading import ImageMetadata, build_request_from_metadata, read_metadata
from t2i.cli.request.file_checks import (
    REQUEST_FILE_FIELDS,
    check_input_file,
    iter_request_files,
)
from t2i.cli.request.presets import (
    fill_from_preset,
    note_replaced_settings,
    remove_recorded_preset,
)
from t2i.cli.request.prompt_loras import (
    build_lora_finder,
    remove_network_tags,
    set_prompt_and_extract_loras,
)
from t2i.cli.request.request import Request, RequestOverrides
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.errors import ModelError, T2IError
from t2i.terminal import escape_controls


def read_metadata_request_and_seed(
    picture: Path, overrides: RequestOverrides, lora_dir: Path, preset: str | None = None
) -> tuple[ImageMetadata, Request, int | None]:
    """Read from an image's metadata the request, with overrides, and the seed that reproduce it.

    preset : that takes the place of the recorded settings of sampling; None keeps them as they
        are, also where the image was made with a preset that has changed since

    Returns metadata, request and seed. Raises DataError for an image without metadata, ModelError
    for a model that is not found here.
    """
    metadata = read_metadata(picture)
    request, seed = build_request_from_metadata(metadata)
    if (
        overrides.model is None
        and request.model not in EMBEDDED_MODELS
        and not Path(request.model).exists()
    ):
        # Looked for here alone: a picture must not make anybody download what it names.
        raise ModelError(
            f"{picture} was made with the model {request.model!r}, which is not found here. "
            "Give its folder, or another model, with --model; those that are here are listed by: "
            "t2i models"
        )
    request = _name_model_of_preset_loras(picture, request, overrides.model or request.model)
    if preset is None:
        request = note_replaced_settings(request, overrides.apply_to(request))
    else:
        request = remove_recorded_preset(request)
        if overrides.inversion is None:
            overrides = replace(overrides, inversion=request.inversion)
        overrides = fill_from_preset(overrides, preset, overrides.model or request.model)
        request = overrides.apply_to(request)
    if metadata.request is None and request.grammar != "plain":
        # Another tool wrote the names of its LoRAs; ours are in the request.
        if overrides.loras == ():
            request = replace(request, prompt=remove_network_tags(request.prompt))
        else:
            request = set_prompt_and_extract_loras(
                request, request.prompt, build_lora_finder(lora_dir)
            )
    _check_files_found(picture, request)
    return metadata, request, seed


def _name_model_of_preset_loras(picture: Path, request: Request, model: str) -> Request:
    """Return a recorded request whose LoRAs of a preset are those in the folder of `model`, with
    which it is drawn. Raises ModelError for those of other models: a picture names them, and must
    not make anybody download one.
    """
    for lora in request.loras:
        if lora.in_model not in (None, request.model):
            raise ModelError(
                f"{picture} was made with {lora.path!r:.200}, a LoRA in the folder of the model "
                f"{lora.in_model!r:.200}, but with the model {request.model!r:.200}. Give the LoRA "
                "with --lora."
            )
    loras = (
        lora if lora.in_model is None else replace(lora, in_model=model) for lora in request.loras
    )
    return replace(request, loras=tuple(loras))


def _check_files_found(picture: Path, request: Request) -> None:
    """Raise where a file that the image was made with cannot be used here."""
    for name, file in iter_request_files(request):
        try:
            check_input_file(name, file)
        except T2IError as error:
            if file.sha256 is None:  # it was typed
                raise
            kind = REQUEST_FILE_FIELDS[name]
            raise type(error)(
                f"{picture} was made with the {kind.label} {file.path!r:.200}, sha256 "
                f"{file.sha256[:10]}..., which cannot be used here: "
                f"{escape_controls(str(error))} Or give another with {kind.option}."
            ) from error
