"""Heat maps of a request's image: of one that is generated, or of a photo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.image_generation import generate_image
from t2i.cli.generation.inverted_photo import add_inversion_to_request, invert_photo
from t2i.cli.generation.loaded_request import LoadedRequest
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from t2i.attention.probes.heat_maps import HeatMaps


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """Image with the heat maps of words.

    request : with what is known once it is generated or inverted
    """

    request: Request
    image: "Image"
    maps: "HeatMaps"


def generate_and_probe(loaded: LoadedRequest, words: Sequence[str], seed: int) -> InspectedImage:
    """Generate the image of a request under a heat-map probe of the words."""
    from t2i.attention.attend import attend

    with attend(loaded.pipe) as attn:
        maps = attn.probe(*words)
        request, image = generate_image(loaded.pipe, loaded.request, seed)
    return InspectedImage(request, image, maps)


def probe_photo(
    loaded: LoadedRequest,
    words: Sequence[str],
    seed: int,
    *,
    source: "RecordedSource | None" = None,
    budget: int | None = None,
) -> InspectedImage:
    """Read the heat maps of the words from the recording of a request's photo.

    source : the photo, if it has been inverted before
    budget : most bytes of the recording; None for the default
    """
    from pipelines.prompt_to_prompt.recorded_heat_maps import (
        check_prompt_has_words,
        read_recorded_heat_maps,
    )

    editor, request = build_prompt_to_prompt_pipeline(loaded.pipe), loaded.request
    if source is None:
        assert request.num_inference_steps is not None
        prompt = request.parse_with_grammar(request.prompt)
        check_prompt_has_words(editor, prompt, words, request.num_inference_steps)
        source = invert_photo(editor, request, seed, budget=budget)
    assert source.photo is not None
    maps = read_recorded_heat_maps(editor, source, *words)
    return InspectedImage(add_inversion_to_request(request, source), source.photo.image, maps)
