"""Running of jobs on a worker's models: one function for each kind of job.

They call what the command line calls, so that a request gives the same picture and metadata.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.attention.attend import attend
from t2i.attention.probes.step_heat_maps import StepHeatMaps
from t2i.attention.session.session import Session
from t2i.cli.generation.call_arguments import build_sampling_and_control_arguments
from t2i.cli.generation.edited_images import (
    build_prompt_to_prompt_pipeline,
    choose_edits_and_add_to_request,
    generate_edited_images,
)
from t2i.cli.generation.image_generation import (
    convert_pipeline,
    find_pipeline_class,
    generate_image_and_fill_request,
    upscale_if_requested,
)
from t2i.cli.generation.inverted_photo import (
    copy_request_with_inversion,
    invert_photo,
    replace_auto_inversion_method,
)
from t2i.cli.generation.recorded_photo import REQUEST_NOTE_KEY
from t2i.cli.inspected_words import list_content_words
from t2i.cli.metadata.writing import build_t2i_metadata
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from t2i.library_messages import quieting_libraries
from t2i.server.jobs.job import JobKind, JobResult
from t2i.server.jobs.worker_job import Report, WorkerJobInputs
from t2i.server.worker.edit_alignments import build_word_alignment_data
from t2i.server.worker.job_run import JobRun, collecting_warnings
from t2i.server.worker.model_cache import ModelCache
from t2i.server.worker.previews import PreviewBudget
from t2i.server.worker.recorded_steps import (
    compute_recorded_clean_latents,
    compute_step_rmse_to_source,
    read_word_maps_of_source,
)
from t2i.server.worker.source_cache import RecordedSourceCache
from t2i.server.worker.step_reporter import StepReporter
from t2i.server.worker.word_maps import PromptHeatMaps, map_words_to_token_positions

SOURCE_FOLDER_NAME = "source"
"""Folder of a recorded source below that of its job."""


def run_job(
    job: WorkerJobInputs,
    models: ModelCache,
    sources: RecordedSourceCache,
    report: Report,
    preview_share: float,
) -> JobResult:
    """Run a job, write its files into its folder, and return its result.

    Raises T2IError for what its request has caused, JobCancelledError where `report` does.
    """
    started = time.perf_counter()
    with collecting_warnings() as messages, quieting_libraries():
        model = models.get_or_load(job.built.request.model)
        source = None
        if job.source_id is not None:
            assert job.source_folder is not None
            source = sources.get_or_load(job.source_id, job.source_folder)
        reporter = StepReporter(report, PreviewBudget(preview_share))
        run = JobRun(job, model, reporter, source)
        reporter.keep_steps = run.wants_step_heat_maps
        request = RUN_FUNCTION_BY_KIND[job.kind](run)
        run.save_step_image_sheet()
    run.data |= {
        "request": asdict(run.copy_request_with_upload_names(request)),
        "warnings": messages,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return JobResult(tuple(run.files), run.data)


def run_generate(run: JobRun) -> Request:
    """Generate and save an image for each seed of a server job; return the request as it was drawn,
    with all defaults.
    """
    request = run.apply_request_to_model()
    drawer = convert_pipeline(run.model.pipe, find_pipeline_class(request))
    phases = 1 if request.upscale is None else 2
    runs = len(run.job.seeds) * phases
    for number, seed in enumerate(run.job.seeds):
        request, image = _draw(run, drawer, request, seed, number * phases, runs)
        if request.upscale is not None:
            image = _upscale(run, request, seed, image, number * phases + 1, runs)
        run.save_image(f"seed-{seed}.png", image, request, seed)
    return request


def _draw(
    run: JobRun, drawer: Any, request: Request, seed: int, number: int, runs: int
) -> tuple[Request, Image.Image]:
    """Draw one image, with the heat maps of its words where they are asked for."""
    with ExitStack() as stack:
        probed: list[PromptHeatMaps] = []
        attention = stack.enter_context(attend(drawer)) if run.wants_heat_maps else None
        if attention is not None:
            probed = _probe_words(run, drawer, request, attention)
        stack.enter_context(run.reporter.reporting_steps(drawer, run.model, number, runs))
        probed = _take_steps(run, drawer, probed, stack)
        drawn = generate_image_and_fill_request(
            drawer, request, seed, show_progress=False, attention=attention
        )
    if probed:
        run.save_heat_maps(probed)
    return drawn


def _take_steps(
    run: JobRun, pipe: Any, probed: Sequence[PromptHeatMaps], stack: ExitStack
) -> list[PromptHeatMaps]:
    """Return the words with the maps of each step, which fill in the block, if asked for."""
    if not run.wants_step_heat_maps:
        return list(probed)
    step_maps = [StepHeatMaps(one.maps) for one in probed]
    for one in step_maps:
        stack.enter_context(one.collecting(pipe))
    return [replace(words, steps=one.steps) for words, one in zip(probed, step_maps, strict=True)]


def _probe_words(
    run: JobRun, drawer: Any, request: Request, attention: Session
) -> list[PromptHeatMaps]:
    """Probe the words of the prompt, and those of a negative prompt that does not change."""
    tokens = _choose_words(run, drawer, request)
    probed = [PromptHeatMaps(attention.probe(*tokens), tokens)]
    assert request.num_inference_steps is not None
    negative = request.parse_prompt_in_grammar(request.negative_prompt)
    is_still = isinstance(negative, str) or len(negative.list_change_steps(1000)) == 1
    if run.job.kind == "inspect" or not request.negative_prompt.strip() or not is_still:
        return probed
    words = map_words_to_token_positions(drawer, negative, request.num_inference_steps)
    if words:
        maps = attention.probe(*words, negative_prompt=get_cond_text_at_step(negative))
        probed.append(PromptHeatMaps(maps, words, negative=True))
    return probed


def _choose_words(run: JobRun, pipe: Any, request: Request) -> dict[str, tuple[int, ...]]:
    """Return the words whose heat maps are asked for, with the positions of their tokens."""
    assert request.num_inference_steps is not None
    prompt = request.parse_prompt_in_grammar(request.prompt)
    every = map_words_to_token_positions(pipe, prompt, request.num_inference_steps)
    if run.job.kind != "inspect":
        if not every:
            raise ArgumentError("The prompt has no word to look up: leave words_maps out.")
        return every
    words = run.job.built.words or tuple(list_content_words(prompt))
    return {word: every.get(word.lower(), ()) for word in words}


def _upscale(
    run: JobRun, request: Request, seed: int, image: Image.Image, number: int, runs: int
) -> Image.Image:
    from pipelines.image_to_image import ImageToImagePipeline

    drawer = convert_pipeline(run.model.pipe, ImageToImagePipeline)
    with run.reporter.reporting_steps(drawer, run.model, number, runs):
        return upscale_if_requested(drawer, request, seed, image, show_progress=False)


def run_edit(run: JobRun) -> Request:
    """Generate a source and its edits, and save them; return the request as it was drawn."""
    request, source, built = run.apply_request_to_model(), run.source, run.job.built
    (seed,) = run.job.seeds
    assert built.edit is not None
    run.reporter.keep_steps = True
    editor = build_prompt_to_prompt_pipeline(run.model.pipe)
    options = built.edit.to_word_edit_options()
    inverts = source is None and request.inversion is not None
    if inverts:
        pairs = [(built.prompts[0], target) for target in built.prompts[1:]]
        request = replace_auto_inversion_method(run.model.pipe, request, pairs, options.weights)
        with run.reporter.reporting_steps(editor, run.model, 0, 2):
            source = invert_photo(editor, request, seed, show_progress=False)
        run.reporter.latents.clear()
        run.reporter.clean_latents.clear()
    request, chosen = choose_edits_and_add_to_request(
        editor, request, built.prompts, options, source
    )
    assert request.edited is not None
    run.data["alignments"] = build_word_alignment_data(
        editor,
        [request.parse_prompt_in_grammar(prompt) for prompt in built.prompts],
        request.edited.parse_edits(),
    )
    with ExitStack() as stack:
        probed = _probe_edit(run, editor, request, source, stack)
        stack.enter_context(
            run.reporter.reporting_steps(editor, run.model, int(inverts), 1 + int(inverts))
        )
        generated = generate_edited_images(
            editor, request, seed, show_progress=False, source=source
        )
    for number in range(len(built.prompts)):
        name = "source.png" if number == 0 else f"target-{number}.png"
        run.save_image(
            name, generated.build_image_to_save(number), generated.get_request(number), seed
        )
    for picture, words in enumerate(probed):
        run.save_heat_maps([words], picture)
    run.data["chosen"] = [asdict(choice) for choice in chosen]
    run.data["distances"] = compute_step_rmse_to_source(run.reporter.latents, source)
    if not run.wants_step_heat_maps:
        run.reporter.clean_latents.clear()
    return generated.request


def _probe_edit(
    run: JobRun, editor: Any, request: Request, source: RecordedSource | None, stack: ExitStack
) -> list[PromptHeatMaps]:
    """Probe the words of a source and its targets; return their maps, which fill in the block."""
    if not run.wants_heat_maps:
        return []
    assert request.num_inference_steps is not None
    prompts = [request.parse_prompt_in_grammar(prompt) for prompt in run.job.built.prompts]
    words = [map_words_to_token_positions(editor, p, request.num_inference_steps) for p in prompts]
    recorded: list[PromptHeatMaps] = []
    if source is not None:
        recorded.append(
            read_word_maps_of_source(editor, source, words.pop(0), steps=run.wants_step_heat_maps)
        )
    attention = stack.enter_context(attend(editor))
    probed = [
        PromptHeatMaps(attention.probe(*own, prompt=number), own)
        for number, own in enumerate(words)
    ]
    return [*recorded, *_take_steps(run, editor, probed, stack)]


def run_invert(run: JobRun) -> Request:
    """Invert a photo to a recorded source; return the request with what is known of it."""
    request = run.apply_request_to_model()
    (seed,) = run.job.seeds
    editor = build_prompt_to_prompt_pipeline(run.model.pipe)
    record = build_t2i_metadata(run.copy_request_with_upload_names(request), seed, run.model.digest)
    with run.reporter.reporting_steps(editor, run.model):
        source = invert_photo(
            editor,
            request,
            seed,
            show_progress=False,
            folder=run.job.folder / SOURCE_FOLDER_NAME,
            notes={REQUEST_NOTE_KEY: record},
        )
    request = copy_request_with_inversion(request, source)
    assert source.photo is not None
    assert source.error is not None
    run.save_image("reconstruction.png", source.image, request, seed)
    run.save_image_without_metadata("photo.png", source.photo.image)
    run.data["inversion"] = {
        "method": source.facts["inversion"],
        "replay": source.error.replay,
        "autoencoder": source.error.autoencoder,
        "fitting": source.photo.fitting.description,
        "bytes": source.bytes,
    }
    return request


def run_remember(run: JobRun) -> Request:
    """Draw an image and record its run as a source; return the request as it was drawn."""
    request = run.apply_request_to_model()
    (seed,) = run.job.seeds
    editor = build_prompt_to_prompt_pipeline(run.model.pipe)
    editor.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    prompt = request.parse_prompt_in_grammar(request.prompt)
    with run.reporter.reporting_steps(editor, run.model):
        source = editor.remember(
            prompt,
            folder=run.job.folder / SOURCE_FOLDER_NAME,
            width=request.width,
            height=request.height,
            **build_sampling_and_control_arguments(editor, request, seed),
        )
    image = source.image
    request = replace(request, width=image.width, height=image.height)
    run.save_image(f"seed-{seed}.png", image, request, seed)
    run.data["bytes"] = source.bytes
    if run.wants_heat_maps:
        tokens = _choose_words(run, editor, request)
        run.save_heat_maps(
            [read_word_maps_of_source(editor, source, tokens, steps=run.wants_step_heat_maps)]
        )
    return request


def run_inspect(run: JobRun) -> Request:
    """Read the heat maps of words of a drawn image or of a photo; return its request."""
    request = run.apply_request_to_model()
    if request.inversion is None:
        (seed,) = run.job.seeds
        drawer = convert_pipeline(run.model.pipe, find_pipeline_class(request))
        request, image = _draw(run, drawer, request, seed, 0, 1)
        run.save_image(f"seed-{seed}.png", image, request, seed)
        return request
    (seed,) = run.job.seeds
    editor = build_prompt_to_prompt_pipeline(run.model.pipe)
    tokens = _choose_words(run, editor, request)
    source = run.source
    if source is None:
        with run.reporter.reporting_steps(editor, run.model):
            source = invert_photo(editor, request, seed, show_progress=False)
    assert source.photo is not None
    request = copy_request_with_inversion(request, source)
    run.save_image_without_metadata("photo.png", source.photo.image)
    run.save_heat_maps(
        [read_word_maps_of_source(editor, source, tokens, steps=run.wants_step_heat_maps)]
    )
    if run.wants_step_heat_maps:
        run.reporter.clean_latents = compute_recorded_clean_latents(editor, source)
    return request


RUN_FUNCTION_BY_KIND: dict[JobKind, Callable[[JobRun], Request]] = {
    "generate": run_generate,
    "edit": run_edit,
    "invert": run_invert,
    "remember": run_remember,
    "inspect": run_inspect,
}
