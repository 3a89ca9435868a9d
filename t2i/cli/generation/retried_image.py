"""An image that is drawn again, with the next seeds, while a thing that it names is missing."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.image_generation import (
    convert_pipeline,
    find_pipeline_class,
    generate_image_and_fill_request,
)
from t2i.cli.inspected_words import Retry
from t2i.cli.request.options import check_no_composed_prompts
from t2i.cli.request.request import MAX_SEED, Request
from t2i.errors import ArgumentError, ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, read_text
from t2i.terminal import plural

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.probes.heat_maps import Convention
    from t2i.attention.probes.presence import PresenceFit

CONVENTIONS: tuple["Convention", ...] = ("refined", "default")
"""Conventions of heat maps by which presence is judged, the most accurate first."""


@dataclass(frozen=True, slots=True)
class DrawnSeed:
    """One draw of an image: its seed, and the probability that each thing is there.

    missing : words whose things count as missing
    """

    seed: int
    found: Mapping[str, float]
    missing: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, float]:
        """Rank among draws of the same prompt, the best lowest: number of missing things, then
        how improbable the least probable one is.
        """
        return len(self.missing), -min(self.found.values(), default=1.0)

    def to_json(self) -> dict[str, object]:
        """Return the draw as JSON data, for the metadata of the image and a report."""
        found = {word: round(value, 4) for word, value in self.found.items()}
        return {"seed": self.seed, "found": found, "missing": list(self.missing)}


@dataclass(frozen=True, slots=True)
class RetriedImage:
    """Image that was drawn once or several times.

    request : with what is known once it is drawn
    seed : of the draw that was kept
    draws : all of them, in order; none where there was nothing to look for
    """

    request: Request
    image: "Image"
    seed: int
    draws: Sequence[DrawnSeed] = field(default=())

    def to_json(self) -> list[dict[str, object]] | None:
        """Return the draws as JSON data; None without any."""
        return [draw.to_json() for draw in self.draws] or None

    def describe(self) -> str:
        """Describe what was drawn anew, in one line; "" where the first draw has everything."""
        if not self.draws or (len(self.draws) == 1 and not self.draws[0].missing):
            return ""
        lines = [
            f"seed {draw.seed}: "
            + (", ".join(f"{word} {draw.found[word]:.0%}" for word in draw.missing) or "all found")
            for draw in self.draws
        ]
        kept = next(draw for draw in self.draws if draw.seed == self.seed)
        state = f"still without {', '.join(kept.missing)}" if kept.missing else "all found"
        return (
            f"Drawn {plural(len(self.draws), 'time')} ({'; '.join(lines)}); kept seed "
            f"{self.seed}, {state}."
        )


def check_can_retry(request: Request) -> None:
    """Raise ArgumentError for a request whose image is not drawn anew by another seed, or whose
    words are not looked up in one text.
    """
    if request.edited is not None or request.inversion is not None:
        raise ArgumentError(
            "Got --retry for a picture that was edited by its words: it looks for the words of "
            "one prompt. Leave it out."
        )
    if request.loras or request.embeddings:
        raise ArgumentError(
            "Got --retry with a LoRA or a learned word: the model's presence fit, by which it sees "
            "what is missing, is not for the weights with it. Leave one of them out."
        )
    _check_no_gated_cache(request)
    check_no_composed_prompts(request, [request.prompt])


def _check_no_gated_cache(request: Request) -> None:
    if not request.cache:
        return
    # Here, for it imports torch, which most requests need much later.
    from t2i.denoiser.caches.gated_cross_attention import GatedCrossAttention
    from t2i.denoiser.caches.registry import parse_cache

    gated = [text for text in request.cache if isinstance(parse_cache(text), GatedCrossAttention)]
    if gated:
        raise ArgumentError(
            f"Got --retry with --cache {gated[0]}: it leaves out the attention of the later steps, "
            "and the model's presence fit, by which it sees what is missing, is for the heat maps "
            "of all steps. Leave one of them out."
        )


def read_presence_file(model: Path) -> "PresenceFit":
    """Return the presence fit of a model's folder, whatever weights it is for; its weights are not
    read. Raises ModelError for a folder without one.
    """
    from t2i.attention.probes.presence import parse_presence_fit
    from t2i.denoiser.loading.model_location import PRESENCE_FILE

    path = model / PRESENCE_FILE
    if not path.is_file():
        raise _missing_fit_error()
    return parse_presence_fit(read_text(path, MODEL_CONFIG_KIND), path)


def _missing_fit_error() -> ModelError:
    from t2i.attention.probes.presence import FIT_COMMAND

    return ModelError(
        "Got --retry for a model that has no presence fit, by which it would see what is "
        f"missing. Make one: {FIT_COMMAND}"
    )


def require_presence_fit(pipe: "TextToImagePipeline") -> "tuple[PresenceFit, Convention]":
    """Return the presence fit of a model for its present weights, and the convention to read.

    Raises ModelError for a model without one.
    """
    from t2i.attention.probes.presence import (
        FIT_COMMAND,
        compute_attention_fingerprint,
        find_presence_fit,
    )

    fit = find_presence_fit(pipe)
    known = [one for one in CONVENTIONS if fit is not None and one in fit.conventions]
    if fit is None or not known:
        raise _missing_fit_error()
    if fit.weights != compute_attention_fingerprint(pipe):
        raise ModelError(
            "Got --retry for weights that the model's presence fit is not for: a LoRA or a "
            "learned word is attached, or the model was changed. Leave it out, or fit the model "
            f"as it is: {FIT_COMMAND}"
        )
    return fit, known[0]


def check_retry_words(request: Request, retry: Retry, fit: "PresenceFit") -> None:
    """Raise ArgumentError for words of retries that the prompt of a request, in its grammar, has at
    no step, or that the presence fit of its model is not for; the model is not needed.
    """
    from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
    from pipelines.prompt_to_prompt.recorded_heat_maps import find_absent_words
    from t2i.text.alignment import join_text_without_weights
    from t2i.text.word_spans import build_unknown_word_message

    defaults = find_pipeline_class(request).choose_fallback_defaults(is_sdxl=False)
    steps = request.num_inference_steps or defaults["num_inference_steps"]
    prompt = request.parse_prompt_in_grammar(request.prompt)
    absent = find_absent_words(prompt, retry.words, steps)
    if absent:
        text = join_text_without_weights(get_cond_text_at_step(prompt, 0, steps))
        raise ArgumentError(build_unknown_word_message(absent[0], text))
    check_fit_knows_words(fit, retry)


def check_fit_knows_words(fit: "PresenceFit", retry: Retry) -> None:
    """Raise ArgumentError for words of retries that a presence fit is not for."""
    unknown = [word for word in retry.words if not fit.knows(word)]
    if unknown:
        raise ArgumentError(
            f"Got --retry with {unknown[0]!r:.80}, which the model's presence fit is not for: it "
            f"knows {', '.join(fit.words):.400}."
        )


def choose_words(pipe: "TextToImagePipeline", request: Request, retry: Retry) -> list[str]:
    """Return the words to look for: those of --retry, else those of the fit that the prompt has,
    without one that is a part of another.
    """
    from pipelines.prompt_to_prompt.recorded_heat_maps import (
        check_heat_map_words,
        find_absent_words,
    )

    prompt, steps = request.parse_prompt_in_grammar(request.prompt), request.num_inference_steps
    assert steps is not None
    fit, _ = require_presence_fit(pipe)
    if retry.words:
        check_heat_map_words(pipe, prompt, retry.words, steps)
        check_fit_knows_words(fit, retry)
        return list(retry.words)
    absent = set(find_absent_words(prompt, fit.words, steps))
    there = [word for word in fit.words if word not in absent]
    return [
        word
        for word in there
        if not any(f" {word} " in f" {other} " for other in there if other != word)
    ]


def generate_with_retries(
    pipe: "TextToImagePipeline",
    request: Request,
    seeds: Sequence[int],
    retry: Retry,
    *,
    show_progress: bool = True,
) -> RetriedImage:
    """Generate the image of a request with the first seed at which nothing is missing; if something
    is missing at all of them, keep the best.

    seeds : to be tried in this order
    """
    from t2i.attention.attend import attend

    check_can_retry(request)
    _, convention = require_presence_fit(pipe)
    words = choose_words(pipe, request, retry)
    if not words:
        warnings.warn(
            f"--retry has nothing to look for in {request.prompt!r:.80}: it names nothing that "
            f"the presence fit knows. Name words, as in --retry {retry.num}:cat.",
            stacklevel=2,
        )
        request, image = generate_image_and_fill_request(
            pipe, request, seeds[0], show_progress=show_progress
        )
        return RetriedImage(request, image, seeds[0])
    drawer = convert_pipeline(pipe, find_pipeline_class(request))
    draws: list[DrawnSeed] = []
    best: RetriedImage | None = None
    for seed in seeds:
        with attend(drawer) as attn:
            maps = attn.probe(*words, convention=convention)
            filled, image = generate_image_and_fill_request(
                drawer, request, seed, show_progress=show_progress, attention=attn
            )
        presences = [maps.found(word) for word in words]
        remarks = list(dict.fromkeys(one.remark for one in presences if one.remark))
        if remarks and not draws:
            warnings.warn(" ".join(["--retry judges by heat maps.", *remarks]), stacklevel=2)
        found = {one.word: one.probability or 0.0 for one in presences}
        missing = tuple(one.word for one in presences if one.is_missing)
        draw = DrawnSeed(seed, found, missing)
        if not draws or draw.rank < min(one.rank for one in draws):
            best = RetriedImage(filled, image, seed)
        draws.append(draw)
        if not missing:
            break
    assert best is not None
    return RetriedImage(best.request, best.image, best.seed, draws)


def list_seeds_to_try(seed: int, retry: Retry, stride: int) -> list[int]:
    """Return a seed and those of its retries, `stride` apart so that images do not share them."""
    return [one for n in range(retry.num + 1) if (one := seed + n * stride) <= MAX_SEED]
