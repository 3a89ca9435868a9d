"""Requests of the command line, built from those of jobs: the same checks, the same words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from t2i.cli.request.control_files import ControlFilesAndSettings
from t2i.cli.request.edit_options import (
    EditOptions,
    RegionBoxOption,
    parse_blend_words,
    parse_step_window,
)
from t2i.cli.request.file_checks import check_file_combinations, check_request_files
from t2i.cli.request.input_files import EmbeddingFile, InputFile, InputFileWithScale
from t2i.cli.request.options import check_no_composed_prompts
from t2i.cli.request.photo_inversion import PhotoInversion
from t2i.cli.request.presets import fill_from_model_presets
from t2i.cli.request.prompt_loras import check_no_lora_tags, set_prompt_and_extract_loras
from t2i.cli.request.request import (
    Request,
    RequestOverrides,
    check_pixel_count,
    choose_seeds,
)
from t2i.cli.request.upscaling import parse_upscale
from t2i.denoiser.sampler_names import is_sampler_or_scheduler_name, sampler_name_from_class
from t2i.errors import ArgumentError
from t2i.pictures import read_picture_size
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job_request import (
    ControlChoice,
    EditRequest,
    GenerateRequest,
    InspectRequest,
    InvertRequest,
    JobRequest,
    RememberRequest,
    SamplingRequest,
    StepWindow,
)
from t2i.terminal import plural

COST_OF_CONTROL = 0.5
"""Share of a denoiser pass that a control costs at each of its steps, at most: a ControlNet makes
.35 of the operations of SD1's UNet and .45 of SDXL's, a T2I-Adapter .07, once a run.
"""
COST_OF_IMAGE_PROMPT = 0.05
"""Share of a denoiser pass that an image prompt costs: below .01 in each, and its encoder once."""
FindUpload: TypeAlias = Callable[[str], Path]
"""Identifier of an upload -> its file."""


@dataclass(frozen=True, slots=True)
class ResolvedJobRequest:
    """Command-line request that a server job's request was resolved to, with the prompts, edit
    options and words of the job.

    request : of the source, for edits
    prompts : of an edit, the source's first; of others the request's alone
    edit : options of an edit, else None
    words : whose heat maps are asked for; empty for every word
    """

    request: Request
    prompts: tuple[str, ...]
    edit: EditOptions | None = None
    words: tuple[str, ...] = ()


def resolve_job_request(
    body: JobRequest,
    catalogue: Catalogue,
    find_upload: FindUpload,
    source: Request | None = None,
) -> ResolvedJobRequest:
    """Check a server job's request and resolve it to the command-line request that it stands for,
    with the files that its names mean.

    find_upload : gives the files of the uploads that it names
    source : request of the recorded source that it names

    Raises T2IError as the command line does.
    """
    if isinstance(body, EditRequest):
        return _build_edit(body, catalogue, find_upload, source)
    if isinstance(body, InspectRequest) and source is not None:
        _check_only_source(body, "prompt", body.prompt)
        return ResolvedJobRequest(source, (source.prompt,), words=tuple(body.words))
    overrides = _build_overrides(body, catalogue, find_upload)
    overrides = _add_pictures(body, overrides, find_upload)
    overrides = _fill_from_preset(body, overrides, catalogue)
    prompt = body.prompt
    if prompt is None:
        raise ArgumentError("Missing prompt: give it, or the source to look into.")
    request = _set_prompt(overrides, prompt, catalogue)
    if isinstance(body, GenerateRequest):
        check_file_combinations(request)
    if not isinstance(body, GenerateRequest) or wants_heat_maps(body):
        check_no_composed_prompts(request, [request.prompt])
    check_request_files(request)
    words = tuple(body.words) if isinstance(body, InspectRequest) else ()
    return ResolvedJobRequest(request, (request.prompt,), words=words)


def choose_job_seeds(body: JobRequest, built: ResolvedJobRequest) -> tuple[int, ...]:
    """Return the seeds of a job's images, drawn at random where none is given."""
    num = body.num if isinstance(body, GenerateRequest) else 1
    if num > 1 and wants_heat_maps(body):
        raise ArgumentError(f"Got num {num} with words_maps: heat maps are of one picture.")
    return tuple(choose_seeds(body.seed, num))


def wants_heat_maps(body: JobRequest) -> bool:
    """Return True if a job's request asks for heat maps."""
    if isinstance(body, InspectRequest):
        return True
    return not isinstance(body, InvertRequest) and (body.words_maps or body.map_steps)


def check_pixel_steps_limit(
    built: ResolvedJobRequest, num: int, catalogue: Catalogue, max_pixels_x_steps: int
) -> None:
    """Raise ArgumentError for a request whose pixels x steps x images, with what its controls and
    image prompts add to each denoiser pass, exceed what the server takes.

    An image that is changed is drawn at its own size where none is asked for.
    """
    request = built.request
    model = request.model if request.model in catalogue.models else catalogue.default_model
    if request.image is not None and request.inversion is None:
        width, height = read_picture_size(Path(request.image.path))
    else:
        width, height = catalogue.read_default_size(model)
    width, height = request.width or width, request.height or height
    check_pixel_count(width, height)
    steps = request.num_inference_steps or catalogue.read_default_steps(model)
    number = num * len(built.prompts) + len(request.references)  # each is read in a run of its own
    factor = 1.0 if request.upscale is None else 1 + request.upscale.factor**2
    cost, additions = _measure_pass_additions(request)
    asked = width * height * steps * number * factor * cost
    if asked > max_pixels_x_steps:
        raise ArgumentError(
            f"Got {width}x{height} pixels x {plural(steps, 'step')} x {number}{additions}: "
            f"{asked:,.0f}, this server takes up to {max_pixels_x_steps:,} in one request. Ask for "
            f"a smaller size, fewer steps, {'fewer controls, ' if additions else ''}or fewer "
            "pictures."
        )


def _measure_pass_additions(request: Request) -> tuple[float, str]:
    """Return the cost of a denoiser pass with a request's controls and image prompts, in passes
    without any, and the words for them; "" where there are none.
    """
    shares = [end - first for first, end in (control.steps for control in request.controls)]
    num_prompts = len(request.image_prompts) + (request.image_prompt is not None)
    cost = 1 + COST_OF_CONTROL * sum(shares) + COST_OF_IMAGE_PROMPT * num_prompts
    parts = [plural(len(shares), "control")] if shares else []
    parts += [plural(num_prompts, "image prompt")] if num_prompts else []
    if not parts:
        return 1.0, ""
    return cost, f" with {' and '.join(parts)}, which make a step cost {cost:.3g} times as much"


def _build_overrides(
    body: SamplingRequest, catalogue: Catalogue, find_upload: FindUpload
) -> RequestOverrides:
    sampler = None if body.sampler is None else sampler_name_from_class(body.sampler)
    if sampler is not None and (
        not is_sampler_or_scheduler_name(sampler) or sampler.endswith("Scheduler")
    ):
        from t2i.denoiser.schedulers import find_sampler  # imports torch, for the message alone

        find_sampler(sampler)
    return RequestOverrides(
        negative_prompt=body.negative_prompt,
        model=catalogue.resolve_model_name(body.model),
        num_inference_steps=body.steps,
        guidance_scale=body.guidance_scale,
        sampler=sampler,
        width=_check_side("width", body.width),
        height=_check_side("height", body.height),
        grammar=body.grammar,
        guidance_method=body.guidance_method,
        loras=tuple(
            InputFileWithScale(path=str(catalogue.find_lora(lora.name)), scale=lora.scale)
            for lora in body.loras
        )
        or None,
        embeddings=tuple(
            EmbeddingFile(path=str(catalogue.find_embedding(word.name)), token=word.token)
            for word in body.embeddings
        ),
        controls=tuple(
            read_control_choice(choice, catalogue, find_upload) for choice in body.controls
        )
        or None,
    )


def _fill_from_preset(
    body: SamplingRequest, overrides: RequestOverrides, catalogue: Catalogue
) -> RequestOverrides:
    """Return the overrides of a job with what its preset fills. Raises T2IError."""
    if body.preset is None:
        return overrides
    presets = catalogue.read_presets(catalogue.resolve_model_name(body.model))
    return fill_from_model_presets(overrides, presets, body.preset)


def read_control_choice(
    choice: ControlChoice, catalogue: Catalogue, find_upload: FindUpload
) -> ControlFilesAndSettings:
    """Return the files and settings of a control of a job. Raises ArgumentError as `--control`
    does, and for a network that the server does not list.
    """
    network = catalogue.find_control(choice.name)
    mask = None if choice.mask is None else InputFile(path=str(find_upload(choice.mask)))
    return ControlFilesAndSettings(
        model=InputFile(path=str(network)),
        picture=InputFile(path=str(find_upload(choice.image))),
        scale=choice.scale,
        steps=choice.steps,
        mode=choice.mode,
        mask=mask,
        blocks=tuple(choice.blocks) or None,
        type=None if choice.type is None else str(choice.type),
    )


def _check_side(name: str, pixels: int | None) -> int | None:
    if pixels is not None and pixels < 1:
        raise ArgumentError(f"Got {name} {pixels}: expected a number of pixels from 1 on.")
    return pixels


def _add_pictures(
    body: JobRequest, overrides: RequestOverrides, find_upload: FindUpload
) -> RequestOverrides:
    """Return the overrides with the uploaded pictures of a request, and their inversion."""

    def find(upload: str | None) -> InputFile | None:
        return None if upload is None else InputFile(path=str(find_upload(upload)))

    if isinstance(body, RememberRequest):
        return overrides
    if isinstance(body, GenerateRequest):
        upscale = None if body.upscale is None else parse_upscale(str(body.upscale))
        return replace(
            overrides,
            image=find(body.image),
            mask=find(body.mask),
            strength=body.strength,
            upscale=upscale,
            regions=_read_regions(body) or None,
            references=None if body.reference is None else (body.reference.resolve(find_upload),),
        )
    mask = None if isinstance(body, InspectRequest) else body.mask
    if body.image is None:
        if mask is not None:
            raise ArgumentError("Got mask without image: it is about a photo. Give both.")
        return overrides
    full_size = isinstance(body, EditRequest) and body.full_size
    inversion = PhotoInversion(method=body.method, fit=body.fit, full_size=full_size)
    return replace(overrides, image=find(body.image), mask=find(mask), inversion=inversion)


def _set_prompt(overrides: RequestOverrides, prompt: str, catalogue: Catalogue) -> Request:
    request = overrides.apply_to(Request(prompt="", grammar="a1111"))
    return set_prompt_and_extract_loras(
        request, prompt, lambda name, _tag: catalogue.find_lora(name)
    )


def _build_edit(
    body: EditRequest, catalogue: Catalogue, find_upload: FindUpload, source: Request | None
) -> ResolvedJobRequest:
    windows = {
        name: _parse_window(name, value)
        for name, value in (
            ("cross_replace", body.cross_replace),
            ("self_replace", body.self_replace),
        )
        if value is not None
    }
    edit = EditOptions(
        weights=body.weights,
        blend=parse_blend_words(body.blend),
        windows=windows,
        alignment=body.alignment,
        regions=_read_regions(body),
    )
    if source is not None:
        _check_only_source(body, "source_prompt", body.source_prompt)
        request = source
        if body.full_size and source.inversion is None:
            raise ArgumentError(
                "Got full_size for a drawn source: it has its full size. Leave it out."
            )
        if source.inversion is not None:
            inversion = replace(source.inversion, full_size=body.full_size)
            request = replace(source, inversion=inversion)
    elif body.source_prompt is None:
        raise ArgumentError(
            "Missing source_prompt: give what the source shows, or the source that was recorded."
        )
    else:
        overrides = _build_overrides(body, catalogue, find_upload)
        overrides = _add_pictures(body, overrides, find_upload)
        overrides = _fill_from_preset(body, overrides, catalogue)
        request = _set_prompt(overrides, body.source_prompt, catalogue)
        check_request_files(request)
    if body.full_size and request.inversion is None:
        raise ArgumentError("Got full_size without image: a drawn picture has its full size.")
    if not body.targets and not body.weights and not body.regions:
        raise ArgumentError(
            "Missing what to change: give targets, prompts with other words, weights of words, or "
            "regions."
        )
    targets = body.targets or [request.prompt]
    check_no_lora_tags("a target", targets, request)
    prompts = (request.prompt, *targets)
    check_no_composed_prompts(request, prompts)
    for prompt in targets:
        replace(request, prompt=prompt)  # checks its length, letters and grammar
    return ResolvedJobRequest(request, prompts, edit)


def _read_regions(body: GenerateRequest | EditRequest) -> tuple[RegionBoxOption, ...]:
    return tuple(RegionBoxOption(words=one.words, box=one.box) for one in body.regions)


def _parse_window(name: str, value: StepWindow) -> tuple[float, float]:
    first, end = (0.0, value) if isinstance(value, int | float) else value
    return parse_step_window(name, f"{first!r}:{end!r}")


def _check_only_source(body: SamplingRequest, prompt_name: str, prompt: str | None) -> None:
    """Raise ArgumentError for fields beside a recorded source, which has its own."""
    own = set(SamplingRequest.model_fields) | {"image", "mask", "method", "fit"}
    given: Mapping[str, object] = body.model_dump(include=own, exclude_defaults=True)
    found = sorted([*given, *([] if prompt is None else [prompt_name])])
    if found:
        raise ArgumentError(
            f"Got {' and '.join(found)} with source: a recording has its own. Leave it out, or "
            "record the source anew."
        )
