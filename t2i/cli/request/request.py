"""The request of one image, and the model's defaults for it."""

import math
import re
import secrets
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from t2i.cli.applied_preset import AppliedPreset
from t2i.cli.option_parsing.cache_options import check_cache_options
from t2i.cli.request.control_files import ControlFilesAndSettings
from t2i.cli.request.edit_options import RegionBoxOption
from t2i.cli.request.image_prompt_files import ImagePromptFiles
from t2i.cli.request.input_files import (
    EmbeddingFile,
    InputFile,
    InputFileWithScale,
    check_file_count,
)
from t2i.cli.request.photo_inversion import PhotoInversion
from t2i.cli.request.prompt_edits import EditedPrompts
from t2i.cli.request.reference_files import ReferenceFileAndSettings, check_references
from t2i.cli.request.upscaling import Upscale
from t2i.denoiser.sampling_defaults import MAX_STEPS, read_sampling_defaults
from t2i.errors import ArgumentError
from t2i.pictures import MAX_PIXELS
from t2i.terminal import plural
from t2i.text.prompt import Prompt

Grammar = Literal["a1111", "comfy", "plain"]
"""Prompt grammar: that of a tool, or "plain", in which every letter is literal."""
DEFAULT_MODEL = "embedded"
MAX_PICTURES = 10_000
"""Maximum number of images of one prompt."""
RANDOM_SEED_LIMIT = 2**32
"""Upper limit of a random seed: at most ten digits, short enough to type again."""
MAX_REGIONS = 16
"""Boxes of a request."""
MAX_SEED = 2**53
"""Whole numbers up to this survive every JSON reader."""
MAX_GUIDANCE = 10_000
"""Far above any use; at 1e30 nothing but overflow is drawn."""
MAX_TEXT_LENGTH = 20_000
"""Maximum letters of a prompt or another text; a hundred times what the largest text encoder reads
at once."""
SIZE_PATTERN = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Request for one image: prompt, model, sampling settings and input files, all that determines
    it except its seed; None for values left to the model.
    """

    prompt: str
    negative_prompt: str = ""
    model: str = DEFAULT_MODEL
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    width: int | None = None
    height: int | None = None
    grammar: Grammar = "plain"
    guidance_method: str | None = None
    """Text for t2i.conditioning.guidance_registry.parse_guidance; None for plain CFG."""
    loras: tuple[InputFileWithScale, ...] = ()
    embeddings: tuple[EmbeddingFile, ...] = ()
    ip_adapter: InputFile | None = None
    image_prompt: InputFileWithScale | None = None
    """Image for the IP-Adapter."""
    image: InputFile | None = None
    """Image to change instead of drawing from noise; with a mask only its white part."""
    mask: InputFile | None = None
    strength: float | None = None
    upscale: Upscale | None = None
    """Upscaling of the drawn image; width and height are those before it."""
    edited: EditedPrompts | None = None
    """Prompts drawn together with it, and the edits of attention between them."""
    inversion: PhotoInversion | None = None
    """Inversion of `image`, which is then edited by its words instead of drawn anew from noise."""
    controls: tuple[ControlFilesAndSettings, ...] = ()
    image_prompts: tuple[ImagePromptFiles, ...] = ()
    """Further image prompts, each with an IP-Adapter of its own."""
    regions: tuple[RegionBoxOption, ...] = ()
    """Boxes to which words of the prompt are bound."""
    cache: tuple[str, ...] = ()
    """Texts for t2i.denoiser.caches.parse_cache."""
    references: tuple[ReferenceFileAndSettings, ...] = ()
    preset: AppliedPreset | None = None
    """Preset from which settings were taken; they are those of the request."""

    def __post_init__(self) -> None:
        check_text_length_and_encoding("PROMPT", self.prompt)
        check_text_length_and_encoding("--negative", self.negative_prompt)
        for reference in self.references:
            check_text_length_and_encoding("The prompt of --reference", reference.prompt)
            self.parse_prompt_in_grammar(reference.prompt)
        steps = self.num_inference_steps
        if steps is not None and not 1 <= steps <= MAX_STEPS:
            raise ArgumentError(
                f"Got --steps {steps}: expected a whole number from 1 to {MAX_STEPS:,}."
            )
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and abs(scale) <= MAX_GUIDANCE):
            raise ArgumentError(
                f"Got --guidance {scale}: expected a finite number, such as 7.5, up to "
                f"{MAX_GUIDANCE:,}."
            )
        if self.width is not None and self.height is not None:
            factor = 1.0 if self.upscale is None else self.upscale.factor
            check_pixel_count(int(self.width * factor), int(self.height * factor))
        if self.upscale is not None:
            self.upscale.check_leaves_a_step(self.num_inference_steps)
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ArgumentError(
                f"Got --strength {self.strength}: expected a number from 0 (the picture as it is) "
                "to 1."
            )
        check_file_count("--lora", self.loras)
        check_file_count("--embedding", self.embeddings)
        together: tuple[str, ...] = ()
        if self.edited is not None:
            _check_edited(self.edited, self)
            together = (*self.edited.chained_source_prompts, *self.edited.prompts)
            for text in together:
                check_text_length_and_encoding("A prompt drawn together with it", text)
        for text in (self.prompt, self.negative_prompt, *together):
            self.parse_prompt_in_grammar(text)
        if self.regions:
            _check_regions(self)
        is_edited = self.edited is not None or self.inversion is not None
        check_references(self.references, is_edited=is_edited)
        of_photo = self.inversion is not None and self.image is not None
        check_cache_options(self.cache, of_photo=of_photo)
        if self.guidance_method is not None:
            # Here, for it imports torch, which most requests need much later.
            from t2i.conditioning.guidance_registry import parse_guidance

            if self.guidance_method.partition(":")[0].strip().lower() == "and":
                raise ArgumentError(
                    "Got --method and: prompts are composed by writing AND into them, as in "
                    '"a cat AND a dog :0.5".'
                )
            parse_guidance(self.guidance_method, self.guidance_scale or 1.0)

    def parse_prompt_in_grammar(self, text: str) -> str | Prompt:
        """Parse a prompt in the request's grammar into the form that a pipeline takes.

        Raises ArgumentError for a mistake in its grammar.
        """
        if self.grammar == "plain":
            return text
        try:
            return Prompt(text, dialect=self.grammar)
        except ArgumentError as error:
            hint = "With --grammar plain every letter is literal."
            raise ArgumentError(f"{error}\n{hint}") from error

    def with_defaults(self, defaults: "RequestDefaults") -> "Request":
        """Return a copy of a generation request in which the values that are None are filled in
        from a model's defaults.
        """
        names = [field.name for field in fields(defaults)]
        missing = {name: getattr(defaults, name) for name in names if getattr(self, name) is None}
        return replace(self, **missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOverrides:
    """Values given on the command line or in a line of a prompts file, which replace those of a
    generation request; None leaves the value of the request.
    """

    negative_prompt: str | None = None
    model: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    width: int | None = None
    height: int | None = None
    grammar: Grammar | None = None
    guidance_method: str | None = None
    loras: tuple[InputFileWithScale, ...] | None = None
    embeddings: tuple[EmbeddingFile, ...] | None = None
    ip_adapter: InputFile | None = None
    image_prompt: InputFileWithScale | None = None
    image: InputFile | None = None
    mask: InputFile | None = None
    strength: float | None = None
    upscale: Upscale | None = None
    inversion: PhotoInversion | None = None
    controls: tuple[ControlFilesAndSettings, ...] | None = None
    image_prompts: tuple[ImagePromptFiles, ...] | None = None
    regions: tuple[RegionBoxOption, ...] | None = None
    cache: tuple[str, ...] | None = None
    references: tuple[ReferenceFileAndSettings, ...] | None = None
    preset: AppliedPreset | None = None

    def apply_to(self, request: Request) -> Request:
        """Return a copy of a generation request with the overriding values in place of its own,
        where they are given.

        No image prompts, (), take the IP-Adapter that stands alone away, too.
        """
        if self.image_prompts == ():
            request = replace(request, ip_adapter=None, image_prompt=None)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            request, **{name: value for name, value in values.items() if value is not None}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """Default sampling values of one model for the fields that a generation request leaves open;
    None where the model has none.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    strength: float | None = None


def read_model_defaults(folder: Path) -> RequestDefaults:
    """Read a model's sampling defaults from its t2i.json; all None without one."""
    sampling = read_sampling_defaults(folder)
    return RequestDefaults(
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        sampler=sampling.sampler,
    )


def choose_seeds(first: int | None, num: int) -> range:
    """Return one seed per image, counting up from `first`, or from a random seed if it is None."""
    check_num_images(num)
    first = choose_seed(first)
    choose_seed(first + num - 1)
    return range(first, first + num)


def check_num_images(num: int) -> None:
    """Raise ArgumentError if the number of images is out of range."""
    if not 1 <= num <= MAX_PICTURES:
        raise ArgumentError(f"Got --num {num}: expected a whole number from 1 to {MAX_PICTURES}.")


def choose_seed(seed: int | None) -> int:
    """Return the given seed, or a random one for None. Raises ArgumentError if out of range."""
    if seed is None:
        return secrets.randbelow(RANDOM_SEED_LIMIT)
    if not 0 <= seed <= MAX_SEED:
        raise ArgumentError(f"Got --seed {seed}: expected a whole number from 0 to {MAX_SEED}.")
    return seed


def parse_size(text: str, name: str = "--size") -> tuple[int, int]:
    """Parse "512x384", or "512" for a square, into (width, height). Raises ArgumentError."""
    match = SIZE_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ArgumentError(
            f"Got {name} {text!r:.80}: expected width x height in pixels, as in 512x384, "
            "or one number for a square."
        )
    width, height = match.groups()
    return int(width), int(height or width)


def _check_edited(edited: EditedPrompts, request: Request) -> None:
    """Raise ArgumentError for a request that cannot be drawn under edits."""
    if request.prompt != edited.prompts[edited.picture]:
        raise ArgumentError(
            f"Picture {edited.picture} of the edited ones is of "
            f"{edited.prompts[edited.picture]!r}, but the prompt is {request.prompt!r}."
        )
    if edited.earlier and request.inversion is None:
        raise ArgumentError(
            "Got edits of a photo, one upon the other, without the inversion of the photo."
        )
    if request.image is not None and request.inversion is None:
        raise ArgumentError(
            "Got --image for a picture that was edited by its words: these cannot be drawn "
            "together. Leave one of them out."
        )


def _check_regions(request: Request) -> None:
    """Raise ArgumentError for words that cannot be bound to boxes in a request."""
    if len(request.regions) > MAX_REGIONS:
        raise ArgumentError(
            f"Got --region {len(request.regions)} times: at most {MAX_REGIONS} are taken."
        )
    if request.edited is not None or request.inversion is not None:
        raise ArgumentError(
            "Got --region for a picture that was edited by its words: its boxes are among its "
            "edits. Bind words with t2i edit --region."
        )
    parsed = request.parse_prompt_in_grammar(request.prompt)
    if not isinstance(parsed, str) and len(parsed.texts_at_step(0, 1)) > 1:
        raise ArgumentError(
            f"Got --region with {request.prompt!r:.200}: its parts joined by AND are encoded "
            "alone, and words are looked up in one text. Give one of the parts, or --grammar plain."
        )


def check_pixel_count(width: int, height: int) -> None:
    """Raise ArgumentError if an image would have more pixels than t2i reads."""
    if width * height > MAX_PIXELS:
        raise ArgumentError(
            f"Got a size of {width}x{height}: a picture has at most "
            f"{MAX_PIXELS // 1_000_000} million pixels."
        )


def check_text_length_and_encoding(name: str, text: str) -> None:
    """Raise ArgumentError for a text above MAX_TEXT_LENGTH, or that is not valid UTF-8.

    name : of the text, for messages
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ArgumentError(
            f"{name} is {plural(len(text), 'letter')} long, at most {MAX_TEXT_LENGTH:,} are read. "
            "Shorten it."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} is not valid UTF-8 at character {error.start}: {text!r:.80}. "
            "Check the encoding of the terminal or of the script that wrote it."
        ) from error
