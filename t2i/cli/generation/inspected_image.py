"""Heat maps of a request's image: of one that is generated, or of a photo."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.control_networks import build_controls
from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.image_generation import generate_image_and_fill_request
from t2i.cli.generation.inverted_photo import copy_request_with_inversion
from t2i.cli.inspected_words import ANIMATION_ENDING, SEGMENT_ENDING, list_content_words
from t2i.cli.prompt_checks.caption_vocabulary import read_caption_vocabulary
from t2i.cli.prompt_checks.prompt_checks import find_prompt_warnings
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import locate_model
from t2i.errors import ArgumentError
from t2i.text.word_spans import build_unknown_word_message

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.probes.concepts import Concept
    from t2i.attention.probes.heat_maps import HeatMaps
    from t2i.attention.probes.segmentation import Segmentation

POSITION_NAMES = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)
"""Name of each ninth of an image, in rows from the top."""

MAPS_ENDING, CONTROL_MAPS_ENDING = ".safetensors", "-control-{}.safetensors"
NEGATIVE_MAPS_ENDING = "-negative.safetensors"


def list_file_endings(
    controls: Iterable[int], *, segment: bool, animate: bool, negative: bool
) -> list[str]:
    """Return the file-name endings of what `t2i inspect` writes beside the strip image: heat maps
    of the UNet and of each ControlNet, label picture, animation of the steps.
    """
    extras = (
        [NEGATIVE_MAPS_ENDING] * negative
        + [SEGMENT_ENDING] * segment
        + [ANIMATION_ENDING] * animate
    )
    return [*_list_map_endings(controls), *extras]


def _list_map_endings(controls: Iterable[int]) -> list[str]:
    return [MAPS_ENDING, *(CONTROL_MAPS_ENDING.format(number) for number in controls)]


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """Image with the heat maps of words, of a photo or of a generated image.

    request : with what is known once it is generated or inverted
    absent : words that the prompt does not contain
    maps_by_control : number of a control -> heat maps of the words inside of its ControlNet
    steps : heat maps of each step, if they are asked for
    negative_maps : heat maps of the negative prompt's words, where there are any
    """

    request: Request
    image: "Image"
    maps: "HeatMaps"
    absent: Sequence[str] = ()
    maps_by_control: Mapping[int, "HeatMaps"] = field(default_factory=dict)
    steps: Sequence["HeatMaps"] = ()
    negative_maps: "HeatMaps | None" = None

    def build_strip(self) -> "Image":
        """Return the image and each word's heat map over it, side by side with labels; a further
        row for each ControlNet begins with its hint, and one of the negative prompt's words with
        the image.
        """
        from t2i.attention.probes.overlays import draw_overlays
        from t2i.pictures import build_picture_grid, open_picture

        request, maps = self.request, self.maps
        label = request.prompt if request.edited is not None else "the picture"
        if request.image is not None and request.edited is None:
            label = Path(request.image.path).name
        tiles, labels = draw_overlays(self.image, maps), [label, *maps]
        for number, one in self.maps_by_control.items():
            hint = open_picture(Path(expanduser(request.controls[number].picture.path)))
            _, *overlays = draw_overlays(self.image, one)
            tiles += [hint.convert("RGB").resize(tiles[0].size), *overlays]
            labels += [f"control {number}", *(f"{word}, control {number}" for word in one)]
        if self.negative_maps is not None:
            base, *overlays = draw_overlays(self.image, self.negative_maps)
            for first in range(0, len(overlays), len(maps)):
                row = slice(first, first + len(maps))
                words = list(self.negative_maps)[row]
                tiles += [base, *overlays[row]]
                labels += ["negative prompt", *(f"{word}, negative" for word in words)]
        return build_picture_grid(tiles, labels, columns=1 + len(maps))

    def segment(self) -> "Segmentation":
        """Return the segmentation of an image by the heat maps of its words: the word of each
        pixel, at the size at which the image is displayed.
        """
        from t2i.attention.probes.overlays import enlarge_to_display_width

        picture = enlarge_to_display_width(self.image)
        return self.maps.segment(size=(picture.height, picture.width))

    def build_writers_by_file_ending(
        self, *, segment: bool, animate: bool
    ) -> "dict[str, Callable[[Path], object]]":
        """Return the functions that write the files beside the strip image of `t2i inspect`, by the
        endings of the files' names.
        """
        # A T2I-Adapter, known once it is loaded, has no maps.
        maps = (self.maps, *self.maps_by_control.values())
        writers: dict[str, Callable[[Path], object]] = {
            ending: one.save
            for ending, one in zip(_list_map_endings(self.maps_by_control), maps, strict=True)
        }
        if self.negative_maps is not None:
            writers[NEGATIVE_MAPS_ENDING] = self.negative_maps.save
        if segment:
            writers[SEGMENT_ENDING] = self.save_segmentation
        if animate:
            writers[ANIMATION_ENDING] = self.save_step_animation
        return writers

    def save_segmentation(self, path: Path) -> None:
        """Save an inspected image with the word of each place drawn over it, and their legend, as a
        PNG.
        """
        from t2i.attention.probes.overlays import enlarge_to_display_width
        from t2i.pictures import save_picture

        save_picture(self.segment().sheet(enlarge_to_display_width(self.image)), path)

    def save_step_animation(self, path: Path) -> None:
        """Save the heat maps of each step over the image as an animated PNG."""
        from t2i.attention.probes.overlays import draw_animation_frames, save_animated_png

        save_animated_png(draw_animation_frames(self.image, self.steps, list(self.maps)), path)

    def compute_word_stats(self) -> dict[str, dict[str, object]]:
        """Return JSON data for each inspected word: whether the prompt contains it, and the peak,
        place and attention share of its heat map.
        """
        described = compute_word_stats(self.maps)
        return {
            word: {"in_prompt": word not in self.absent, **one} for word, one in described.items()
        }


def find_word_peak_place_and_share(
    maps: "HeatMaps", word: str
) -> tuple[tuple[float, float], str, float]:
    """Return of a word's heat map the position of its peak (across, down), the place of its centre
    in words such as "upper left", and its share of the attention probability.
    """
    place = describe_image_position(*maps.mask_centroid(word))
    return maps.peak(word), place, maps.probability_share(word)


def compute_word_stats(maps: "HeatMaps") -> dict[str, dict[str, object]]:
    """Return JSON data for each word of heat maps: the position of the map's peak, its place in
    words, and its attention share.
    """
    words: dict[str, dict[str, object]] = {}
    for word in maps:
        (across, down), place, share = find_word_peak_place_and_share(maps, word)
        found = maps.found(word)
        probability = found.probability
        words[word] = {
            "peak": {"across": round(across, 4), "down": round(down, 4)},
            "place": place,
            "share": round(share, 4),
            "found": {
                "probability": None if probability is None else round(probability, 4),
                "is_missing": found.is_missing,
                "score": round(found.score, 4),
                "remark": found.remark,
            },
        }
    return words


def describe_image_position(across: float, down: float) -> str:
    """Describe a point of an image, from 0 to 1, in words such as "upper left"."""
    return POSITION_NAMES[min(int(down * 3), 2)][min(int(across * 3), 2)]


def generate_and_probe(
    pipe: "TextToImagePipeline",
    request: Request,
    words: Sequence[str],
    seed: int,
    *,
    show_progress: bool = True,
    keep_steps: bool = False,
) -> InspectedImage:
    """Generate the image of a request under heat-map probes of the words, in the UNet and in each
    of its ControlNets that has cross-attention.

    words : see `_find_words_to_read`
    keep_steps : whether to keep the heat maps of each step, too
    """
    from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
    from t2i.attention.attend import attend
    from t2i.attention.probes.step_heat_maps import StepHeatMaps

    read, absent = _find_words_to_read(pipe, request, words)
    controls = build_controls(pipe, request)
    numbers = [number for number, one in enumerate(controls) if one.has_cross_attention]
    negative_words = list_negative_words(request)
    with ExitStack() as stack:
        attn = stack.enter_context(attend(pipe))
        maps = attn.probe(*read)
        by_control = {one: attn.probe(*read, sites=f"control.{one}") for one in numbers}
        negative = None
        if negative_words:
            text = get_cond_text_at_step(request.parse_prompt_in_grammar(request.negative_prompt))
            negative = attn.probe(*negative_words, negative_prompt=text)
        by_step = StepHeatMaps(maps)
        if keep_steps:
            stack.enter_context(by_step.collecting(pipe))
        request, image = generate_image_and_fill_request(
            pipe, request, seed, show_progress=show_progress
        )
    if negative is not None and not negative.measurements.accumulators:
        negative = None  # guidance had no branch of the negative prompt
    return InspectedImage(request, image, maps, absent, by_control, by_step.steps, negative)


def list_negative_words(request: Request) -> list[str]:
    """Return the content words of a request's negative prompt; none of a prompt that changes
    during the run.
    """
    negative = request.parse_prompt_in_grammar(request.negative_prompt)
    changes = not isinstance(negative, str) and len(negative.list_change_steps(1000)) > 1
    if changes or not request.negative_prompt.strip():
        return []
    try:
        return list_content_words(negative)
    except ArgumentError:  # function words alone
        return []


def probe_photo(
    pipe: "TextToImagePipeline",
    request: Request,
    words: Sequence[str],
    get_source: "Callable[[PromptEditPipeline], RecordedSource]",
    *,
    keep_steps: bool = False,
) -> InspectedImage:
    """Read the heat maps of the words from the recording of a request's photo.

    words : see `_find_words_to_read`
    get_source : inverts the photo, or returns what has been inverted before
    keep_steps : whether to keep the heat maps of each step, too
    """
    from pipelines.prompt_to_prompt.recorded_heat_maps import read_recorded_heat_maps

    editor = build_prompt_to_prompt_pipeline(pipe)
    read, absent = _find_words_to_read(editor, request, words)
    source = get_source(editor)
    assert source.photo is not None
    steps: list[HeatMaps] = []
    maps = read_recorded_heat_maps(editor, source, *read, steps=steps if keep_steps else None)
    image = source.photo.image if request.edited is None else source.image
    inverted = copy_request_with_inversion(request, source)
    return InspectedImage(inverted, image, maps, absent, steps=steps)


def _find_words_to_read(
    pipe: "TextToImagePipeline", request: Request, words: Sequence[str]
) -> "tuple[list[str | Concept], list[str]]":
    """Return the words whose maps are read, and those of them that the prompt does not contain,
    which are read beside it, with a warning.

    words : all but the function words of the prompt where it is empty
    """
    from pipelines.prompt_to_prompt.recorded_heat_maps import (
        check_heat_map_words,
        find_absent_words,
    )
    from t2i.attention.probes.concepts import Concept

    prompt, steps = request.parse_prompt_in_grammar(request.prompt), request.num_inference_steps
    assert steps is not None
    words = words or list_content_words(prompt)
    absent = find_absent_words(prompt, words, steps)
    _warn_of_absent_words(request, absent)
    read = [Concept(word) if word in absent else word for word in words]
    check_heat_map_words(pipe, prompt, read, steps)
    return read, absent


def _warn_of_absent_words(request: Request, absent: Sequence[str]) -> None:
    """Warn of words that are read beside the prompt, and of those that the model does not know."""
    if not absent:
        return
    for word in absent:
        message = build_unknown_word_message(word, request.prompt)
        warnings.warn(f"{message} It is read beside the prompt.", stacklevel=2)
    vocabulary = read_caption_vocabulary(locate_model(request.model))
    words = replace(request, grammar="plain")  # a word has no grammar
    for warning in find_prompt_warnings(words, [", ".join(absent)], request.model, vocabulary):
        warnings.warn(warning, stacklevel=2)
