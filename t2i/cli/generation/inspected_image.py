"""Heat maps of a request's image: of one that is generated, or of a photo."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from t2i.cli.generation.control_networks import build_controls
from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.image_generation import generate_image
from t2i.cli.generation.inverted_photo import add_inversion_to_request, invert_photo
from t2i.cli.generation.loaded_request import LoadedRequest
from t2i.cli.request.caption_vocabulary import read_caption_vocabulary
from t2i.cli.request.prompt_checks import find_prompt_warnings
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import locate_model
from t2i.text.word_spans import unknown_word_message

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from t2i.attention.probes.heat_maps import HeatMaps


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """Image with the heat maps of words, of a photo or of a generated image.

    request : with what is known once it is generated or inverted
    absent : words that the prompt does not contain
    maps_by_control : number of a control -> heat maps of the words inside of its ControlNet
    """

    request: Request
    image: "Image"
    maps: "HeatMaps"
    absent: Sequence[str] = ()
    maps_by_control: Mapping[int, "HeatMaps"] = field(default_factory=dict)


def generate_and_probe(loaded: LoadedRequest, words: Sequence[str], seed: int) -> InspectedImage:
    """Generate the image of a request under heat-map probes of the words, in the UNet and in each
    of its ControlNets.
    """
    from t2i.attention.attend import attend

    controls = build_controls(loaded.pipe, loaded.request)
    numbers = [number for number, one in enumerate(controls) if not one.is_adapter]
    with attend(loaded.pipe) as attn:
        maps = attn.probe(*words)
        by_control = {one: attn.probe(*words, sites=f"control.{one}") for one in numbers}
        request, image = generate_image(loaded.pipe, loaded.request, seed)
    return InspectedImage(request, image, maps, maps_by_control=by_control)


def probe_photo(
    loaded: LoadedRequest,
    words: Sequence[str],
    seed: int,
    *,
    source: "RecordedSource | None" = None,
    budget_bytes: int | None = None,
) -> InspectedImage:
    """Read the heat maps of the words from the recording of a request's photo.

    Words that the prompt does not contain are read beside it, with a warning.

    source : the photo, if it has been inverted before
    budget_bytes : most bytes of the recording; None for the default
    """
    from pipelines.prompt_to_prompt.recorded_heat_maps import (
        check_words_can_be_read,
        find_absent_words,
        read_recorded_heat_maps,
    )
    from t2i.attention.probes.concepts import Concept

    editor, request = build_prompt_to_prompt_pipeline(loaded.pipe), loaded.request
    prompt = request.parse_with_grammar(request.prompt)
    steps = request.num_inference_steps
    assert steps is not None
    absent = find_absent_words(prompt, words, steps)
    _warn_of_absent_words(request, absent)
    read = [Concept(word) if word in absent else word for word in words]
    check_words_can_be_read(editor, prompt, read, steps)
    if source is None:
        source = invert_photo(editor, request, seed, budget_bytes=budget_bytes)
    assert source.photo is not None
    maps = read_recorded_heat_maps(editor, source, *read)
    image = source.photo.image if request.edited is None else source.image
    return InspectedImage(add_inversion_to_request(request, source), image, maps, absent)


def _warn_of_absent_words(request: Request, absent: Sequence[str]) -> None:
    """Warn of words that are read beside the prompt, and of those that the model does not know."""
    if not absent:
        return
    for word in absent:
        message = unknown_word_message(word, request.prompt)
        warnings.warn(f"{message} It is read beside the prompt.", stacklevel=2)
    vocabulary = read_caption_vocabulary(locate_model(request.model))
    words = replace(request, grammar="plain")  # a word has no grammar
    for warning in find_prompt_warnings(words, [", ".join(absent)], request.model, vocabulary):
        warnings.warn(warning, stacklevel=2)
