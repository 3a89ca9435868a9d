"""Parsing of one line of a prompts file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from t2i.cli.bulk.prompt_line_schema import (
    EDIT_KEYS,
    INSPECTION_KEYS,
    PHOTO_KEYS,
    PROMPT_LINE_KEYS,
    RECORDING_TASK_KEYS,
    PromptLineSchema,
    parse_size_or_width_and_height,
)
from t2i.cli.inspected_words import (
    READING_TASKS,
    InspectOrInvertTask,
    Retry,
    parse_retry,
    split_words,
)
from t2i.cli.output_files.file_names import validate_name_and_add_suffix, validate_plain_file_name
from t2i.cli.request.control_files import parse_controls
from t2i.cli.request.edit_options import (
    EditOptions,
    PromptLineEdit,
    PromptLineRecordedPhoto,
    parse_region,
)
from t2i.cli.request.image_prompt_files import parse_ip_adapters
from t2i.cli.request.input_files import (
    parse_caches,
    parse_embeddings,
    parse_file_with_scale,
    parse_if_given,
    parse_input_file,
    parse_loras,
    split_values,
)
from t2i.cli.request.photo_inversion import (
    AUTO_METHOD,
    PhotoInversion,
    convert_recording_budget_to_bytes,
)
from t2i.cli.request.prompt_edits import MAX_PROMPTS
from t2i.cli.request.reference_files import parse_references
from t2i.cli.request.request import (
    Request,
    RequestOverrides,
    check_text_length_and_encoding,
)
from t2i.cli.request.upscaling import parse_upscale
from t2i.denoiser.sampler_names import sampler_name_from_class
from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import format_short_json, plural


class InvalidPromptLineError(Exception):
    """Error with the reason why a line of a prompts file cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLine:
    """Parsed line of a prompts file; None for fields it leaves to the command's options.

    number : of the line in the file, from 1; of its first one where a csv record has several
    name : of its image, with the suffix of a format; of the folder of a recording
    edit : makes its prompt the target of an edit
    reading : makes it look into its image, or record its photo, instead of drawing an image
    budget_bytes : most bytes of the recording of its photo; None for the default
    recording : that it edits or looks into, instead of a photo
    record : name of the folder in which its target is recorded
    retry : draws its image again while a thing that its prompt names is missing
    preset : its own, in place of the command's
    """

    number: int
    prompt: str
    seed: int | None = None
    num: int | None = None
    name: str | None = None
    overrides: RequestOverrides = RequestOverrides()
    edit: PromptLineEdit | None = None
    reading: InspectOrInvertTask | None = None
    budget_bytes: int | None = None
    recording: PromptLineRecordedPhoto | None = None
    record: str | None = None
    retry: Retry | None = None
    preset: str | None = None

    def to_request(self, options: Request) -> Request:
        """Return the line's request, with `options` for what the line leaves open.

        Raises ArgumentError for values that make no request.
        """
        request = replace(self.overrides.apply_to(options), prompt=self.prompt)
        if self.recording is not None:
            return replace(
                request,
                upscale=None,
                image=None,
                mask=None,
                inversion=None,
                references=(),
                cache=(),
            )
        if self.reading is not None:
            self.reading.check_image_given_and_no_upscale(request.image, request.upscale)
        task = self.edit or self.reading
        if task is None or request.image is not None:
            return request
        if task.photo_keys:
            keys = " and ".join(f'"{key}"' for key in task.photo_keys)
            raise ArgumentError(f'Got {keys} without "image": it is about a photo. Give both.')
        return replace(request, inversion=None)


def parse_prompt_line(
    number: int, record: Mapping[str, object] | InvalidPromptLineError, *, strict: bool
) -> PromptLine:
    """Validate the keys of one record of a prompts file and return it as a PromptLine.

    Raises InvalidPromptLineError if it cannot be used.

    strict : whether the text "7" is no number, as in JSON
    """
    if isinstance(record, InvalidPromptLineError):
        raise record
    try:
        keys = PromptLineSchema.model_validate(dict(record), strict=strict)
    except ValidationError as error:
        raise InvalidPromptLineError(_describe_invalid_key(record, error)) from None
    try:
        return _build_line(number, keys)
    except ArgumentError as error:
        raise InvalidPromptLineError(str(error)) from None


def _describe_invalid_key(record: Mapping[str, object], error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"Unknown key {format_short_json(key)}. {suggest_choice(key[:80], PROMPT_LINE_KEYS)}"
    return f'Got "{key}": {format_short_json(record[key])}. {first["msg"]}.'


def _build_line(number: int, keys: PromptLineSchema) -> PromptLine:
    recording = _parse_recording(keys)
    prompt = _check_prompt(keys)
    words = ",".join(split_values(keys.words or []))
    for name, text in (("negative", keys.negative), ("sampler", keys.sampler), ("words", words)):
        check_text_length_and_encoding(f'"{name}"', text or "")
    width, height = parse_size_or_width_and_height(keys.size, keys.width, keys.height)
    ip_adapter, image_prompts = parse_ip_adapters(split_values(keys.ip_adapter or []))
    return PromptLine(
        number=number,
        prompt=prompt,
        seed=keys.seed,
        num=keys.num,
        name=_parse_name(keys),
        overrides=RequestOverrides(
            negative_prompt=keys.negative,
            num_inference_steps=keys.steps,
            guidance_scale=keys.guidance,
            sampler=None if keys.sampler is None else sampler_name_from_class(keys.sampler),
            width=width,
            height=height,
            loras=parse_if_given(keys.lora, lambda x: parse_loras(split_values(x))),
            embeddings=parse_if_given(keys.embedding, lambda x: parse_embeddings(split_values(x))),
            regions=None
            if keys.region is None or keys.source is not None or recording is not None
            else tuple(map(parse_region, split_values(keys.region))),
            controls=parse_if_given(keys.control, lambda x: parse_controls(split_values(x))),
            references=parse_if_given(keys.reference, lambda x: parse_references([x])),
            cache=parse_if_given(keys.cache, lambda x: parse_caches(split_values(x))),
            ip_adapter=ip_adapter,
            image_prompts=image_prompts,
            image_prompt=parse_if_given(keys.image_prompt, parse_file_with_scale),
            image=parse_if_given(keys.image, parse_input_file),
            mask=parse_if_given(keys.mask, parse_input_file),
            strength=keys.strength,
            upscale=None if keys.upscale is None else parse_upscale(str(keys.upscale)),
            inversion=None
            if keys.source is None and keys.task not in READING_TASKS
            else PhotoInversion(
                method=keys.invert or AUTO_METHOD,
                fit=keys.fit or "crop",
                full_size=bool(keys.full_size),
            ),
        ),
        edit=_parse_edit(keys),
        reading=_parse_reading(keys),
        budget_bytes=convert_recording_budget_to_bytes(keys.budget),
        recording=recording,
        record=None if keys.record is None else validate_plain_file_name(keys.record, "record"),
        retry=_parse_retry(keys),
        preset=keys.preset,
    )


def _parse_retry(keys: PromptLineSchema) -> Retry | None:
    """Return the retries of a line's image. Raises ArgumentError for a line that edits or reads
    one.
    """
    if keys.retry is None:
        return None
    if keys.task in READING_TASKS or keys.source is not None or keys.source_folder is not None:
        raise ArgumentError(
            'Got "retry" for a line that edits or looks into a picture: only what is drawn of a '
            "prompt alone is drawn again. Leave it out."
        )
    return parse_retry(str(keys.retry), '"retry"')


def _check_prompt(keys: PromptLineSchema) -> str:
    """Return the prompt of a line; "" where a recording has its own. Raises ArgumentError."""
    if keys.prompt is None:
        if keys.task == "inspect" and keys.source_folder is not None:
            return ""
        raise ArgumentError('There is no "prompt". Write {"prompt": "a cat"}.')
    _check_description("prompt", keys.prompt, needs_words=keys.task != "invert")
    return keys.prompt


def _check_description(key: str, text: str, *, needs_words: bool) -> None:
    """Raise ArgumentError for a text that describes no picture; "" may describe a photo."""
    check_text_length_and_encoding(f'"{key}"', text)
    if (needs_words and not text.strip()) or "\0" in text:
        shown = format_short_json(text)
        raise ArgumentError(f'Got "{key}": {shown}. Write what the picture shows.')


def _parse_recording(keys: PromptLineSchema) -> PromptLineRecordedPhoto | None:
    """Return the recording that a line edits or looks into; None for a line without one.

    Raises ArgumentError for keys that a recording has already.
    """
    if keys.source_folder is None:
        return None
    parse_input_file(keys.source_folder)
    if (known := RECORDING_TASK_KEYS.get(keys.task or "edit")) is None:
        raise ArgumentError(
            f'Got "source_folder" for "task": "{keys.task}": a recorded photo is edited or '
            'looked into ("inspect"). Leave one of them out.'
        )
    given = [name for name in PROMPT_LINE_KEYS if getattr(keys, name) is not None]
    unread = () if keys.record is not None else ("budget",)
    others = [name for name in given if name not in known or name in unread]
    if others:
        raise ArgumentError(
            f'Got "{others[0]}" with "source_folder": a recording has its own. Leave it out, or '
            'record the photo anew with "task": "invert".'
        )
    return PromptLineRecordedPhoto(folder=keys.source_folder, full_size=bool(keys.full_size))


def _parse_name(keys: PromptLineSchema) -> str | None:
    if keys.name is None:
        return None
    check_text_length_and_encoding('"name"', keys.name)
    if keys.task == "invert":
        return validate_plain_file_name(keys.name)
    return validate_name_and_add_suffix(keys.name)


def _parse_reading(keys: PromptLineSchema) -> InspectOrInvertTask | None:
    """Return what a line with "task": "inspect" or "invert" asks for; None for other tasks."""
    given = [name for name in INSPECTION_KEYS if getattr(keys, name) is not None]
    if given and keys.task != "inspect":
        raise ArgumentError(
            f'Got "{given[0]}" without "task": "inspect", which makes heat maps. Give both.'
        )
    if keys.for_style is not None and keys.task != "invert":
        raise ArgumentError(
            'Got "for_style" without "task": "invert", which records a photo. Give both.'
        )
    if keys.task is None or keys.task not in READING_TASKS:
        has_source = keys.source is not None or keys.source_folder is not None
        if keys.task is not None and (keys.task == "edit") != has_source:
            wants = 'needs a "source"' if keys.task == "edit" else 'has no "source"'
            raise ArgumentError(
                f'Got "task": "{keys.task}", which {wants}: the prompt that describes the picture '
                "to edit."
            )
        return None
    task = InspectOrInvertTask(
        task="inspect" if keys.task == "inspect" else "invert",
        words=None if keys.words is None else tuple(split_words(split_values(keys.words))),
        segment=bool(keys.segment),
        animate=bool(keys.animate),
        for_style=bool(keys.for_style),
        photo_keys=tuple(name for name in PHOTO_KEYS if getattr(keys, name) is not None),
    )
    others = ("source", *EDIT_KEYS, "region", "mask", "strength", "upscale")
    task.check_reads_keys([name for name in others if getattr(keys, name) is not None])
    return task


def _parse_edit(keys: PromptLineSchema) -> PromptLineEdit | None:
    given = [name for name in EDIT_KEYS if getattr(keys, name) is not None]
    if keys.task in READING_TASKS:
        return None
    if keys.source is None and keys.source_folder is None:
        if given:
            raise ArgumentError(
                f'Got "{given[0]}" without "source": it is of an edit by words, from the "source" '
                'that describes the picture to the "prompt". Give both.'
            )
        return None
    sources = [keys.source] if isinstance(keys.source, str) else keys.source or []
    if keys.source is not None and not 1 <= len(sources) <= MAX_PROMPTS:
        raise ArgumentError(
            f'Got {plural(len(sources), "prompt")} in "source": expected one, or up to '
            f"{MAX_PROMPTS} for edits one upon the other."
        )
    for source in sources:
        _check_description("source", source, needs_words=False)
    photo_keys = tuple(name for name in given if name in PHOTO_KEYS)
    if len(sources) > 1:
        photo_keys += ("source",)
    return PromptLineEdit(
        source=sources[-1] if sources else None,
        earlier=tuple(sources[:-1]) or None,
        options=EditOptions.parse(
            split_values(keys.weight or []),
            keys.blend or "auto",
            parse_if_given(keys.cross_replace, str),
            parse_if_given(keys.self_replace, str),
            split_values(keys.align or []),
            split_values(keys.region or []),
            keys.style,
        ),
        photo_keys=photo_keys,
    )
