"""The recorded state of a bulk run's folder, and the jobs that are still to be done in it."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from t2i.atomic_files import write_atomically
from t2i.cli.bulk.index import INDEX_FILE, INDEX_PART_PATTERN, merge_index_parts
from t2i.cli.bulk.jobs import Job, build_jobs
from t2i.cli.bulk.prompt_line import PromptLine
from t2i.cli.inspected_words import Retry
from t2i.cli.metadata.writing import RECORDED_LIBRARIES, read_library_versions
from t2i.cli.request.digests import compute_model_digest, compute_recording_digest
from t2i.cli.request.edit_options import format_region
from t2i.cli.request.file_checks import (
    FILE_FIELD_NAMES,
    REQUEST_FILE_FIELDS,
    FileDigests,
    iter_request_files,
)
from t2i.cli.request.request import Request, choose_seed, read_model_defaults
from t2i.errors import ArgumentError, DataError, OutputError
from t2i.run_folder import LOCK_FILE
from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_bounded

STATE_FILE = "bulk.json"
STATE_VERSION = 1
"""Version of the format of bulk.json."""
LEFTOVER_NAME_PATTERN = re.compile(r"\.+(?:again-)?(.+?)(?:\.\d+(?:-\d+)?\.part)?")
"""Temporary file or folder left by a killed run; the group is the name of its image."""
OPTION_NAMES = {
    "negative_prompt": "--negative",
    "model": "--model",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "sampler": "--sampler",
    "width": "--size (width)",
    "height": "--size (height)",
    "grammar": "--grammar",
    "guidance_method": "--method",
    "strength": "--strength",
    "upscale": "--upscale",
    "controls": "--control",
    "cache": "--cache",
    "image_prompts": "--ip-adapter ADAPTER:PICTURE",
    "regions": "--region",
    "references": "--reference",
    "preset": "--preset",
    **{name: REQUEST_FILE_FIELDS[name].option for name in FILE_FIELD_NAMES},
}
"""Field of a Request -> option of `t2i generate`, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRunArguments:
    """Arguments of a bulk run, that is of one `t2i generate --prompts` command.

    prompts, out : prompts file; folder of the images
    options : request of every line, for the fields that a line leaves open; it has no prompt
    seed : of the first image; drawn and recorded if it is None
    num : images of each line
    write_metadata : whether to write into an image how it was made
    retry : of the lines that draw an image, and neither edit nor read one
    """

    prompts: Path
    out: Path
    options: Request
    seed: int | None = None
    num: int = 1
    write_metadata: bool = True
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class PendingJobs:
    """Jobs of a bulk run whose images are still missing, those of all its processes together.

    jobs : in the order of the prompts file
    num_images : of the whole file, missing or not
    model_digest : SHA-256 in hex, see compute_model_digest
    """

    jobs: list[Job]
    num_images: int
    model_digest: str


class BulkFolder:
    """Output folder of a bulk run: its jobs, and the arguments recorded when it was begun."""

    def __init__(self, bulk: BulkRunArguments, lines: Sequence[PromptLine], model: Path) -> None:
        """Compare the run with the folder. Raises T2IError before anything is written."""
        self.out = bulk.out
        self.recorded_state = read_bulk_state(self.out)
        options = bulk.options.with_defaults(read_model_defaults(model))
        seed = choose_seed(bulk.seed)
        if bulk.seed is None and self.recorded_state is not None:
            seed = self.recorded_state["seed"]
        self.state: dict[str, Any] = {
            "version": STATE_VERSION,
            "prompts": bulk.prompts.name,
            "lines": digest_prompt_lines(lines),
            "seed": seed,
            "num": bulk.num,
            "metadata": bulk.write_metadata,
            "retry": None if bulk.retry is None else bulk.retry.option_value,
            "options": _options_record(options),
            "model_digest": compute_model_digest(model),
            "libraries": read_library_versions(RECORDED_LIBRARIES),
        }
        jobs = build_jobs(bulk.prompts, lines, options, bulk.num, seed, bulk.retry)
        _check_names_not_reserved(bulk.prompts, jobs)
        digests = FileDigests()
        self.jobs = [
            replace(job, request=digests.copy_request_with_digests(job.request)) for job in jobs
        ]
        self.state["files"] = {
            file.path: file.sha256
            for job in self.jobs
            for _, file in iter_request_files(job.request)
        }
        folders = {job.recording.folder for job in self.jobs if job.recording is not None}
        self.state["files"] |= {one: compute_recording_digest(Path(one)) for one in sorted(folders)}
        if self.recorded_state is not None:
            _check_same_run(self.out, self.recorded_state, self.state)
        if self.recorded_state is None:
            _check_names_free(self.out, self.jobs)

    def record_run_and_list_pending_jobs(self) -> PendingJobs:
        """Record a new run in bulk.json and return the jobs whose images are missing.

        The folder must be locked; the parts of its index are merged. Raises OutputError if another
        run has worked there since the folder was read.
        """
        if read_bulk_state(self.out) != self.recorded_state:
            raise OutputError(f"Another run has just worked in {self.out}: start this one again.")
        if self.recorded_state is None:
            text = json.dumps(self.state, indent=1, ensure_ascii=False) + "\n"
            write_atomically(self.out / STATE_FILE, lambda part: part.write_text(text, "utf-8"))
        known = merge_index_parts(self.out)
        there = {entry.name for entry in os.scandir(self.out)}
        _remove_leftovers(
            self.out, there, {name for job in self.jobs for name in job.file_and_folder_names}
        )
        done = {index for index, entry in known.items() if "file" in entry}
        todo = [
            job
            for job in self.jobs
            if job.index not in done or not there.issuperset(job.file_and_folder_names)
        ]
        return PendingJobs(todo, len(self.jobs), self.state["model_digest"])

    def list_changed_libraries(self) -> list[str]:
        """Return a line for each library whose version changed since the bulk run was begun."""
        before = self.state if self.recorded_state is None else self.recorded_state
        return list_state_differences(before.get("libraries") or {}, self.state["libraries"])


def _options_record(options: Request) -> dict[str, object]:
    """Return each option as JSON holds it; files as they are typed."""
    values = {name: value for name, value in asdict(options).items() if name in OPTION_NAMES}
    if options.upscale is not None:
        values["upscale"] = options.upscale.option_value
    values["controls"] = [control.option_value for control in options.controls] or None
    values["image_prompts"] = [one.option_value for one in options.image_prompts] or None
    values["references"] = [one.option_value for one in options.references] or None
    values["cache"] = list(options.cache) or None
    values["preset"] = None if options.preset is None else options.preset.name
    values["regions"] = [format_region(region) for region in options.regions] or None
    for name in FILE_FIELD_NAMES:
        value = getattr(options, name)
        if isinstance(value, tuple):
            values[name] = [file.option_value for file in value] or None
        elif value is not None:
            values[name] = value.option_value
    return values


def digest_prompt_lines(lines: Iterable[PromptLine]) -> str:
    """Return the SHA-256 of the lines of a prompts file, as bulk.json records it."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(_stable_repr(line).encode())
    return sha.hexdigest()


HASHED_NAMES = {
    "PromptLine": "Line",
    "RequestOverrides": "Wishes",
    "InputFile": "File",
    "InputFileWithScale": "Scaled",
    "EmbeddingFile": "Embedding",
    "overrides": "wishes",
    "PromptLineEdit": "LineEdit",
    "photo_keys": "needs_photo",
    "InspectOrInvertTask": "PromptLineTask",
    "PromptLineRecordedPhoto": "PromptLineRecording",
    "ControlFilesAndSettings": "ControlFiles",
    "PrecedingEdit": "EarlierEdit",
}
"""Class or field -> its name in the text that `digest_prompt_lines` hashes.

Folders written under these names must still be continued: the text may not follow a renaming.
"""


FIELDS_HASHED_IF_SET = {
    *("inversion", "edit", "earlier", "alignment", "regions", "style", "controls", "image_prompts"),
    *("cache", "references", "preset", "in_model"),
    *("segment", "animate", "for_style", "reading", "budget_bytes", "recording", "record"),
    "retry",
}
"""Fields that folders written before do not have: they are hashed only where they are set."""


def _stable_repr(value: object) -> str:
    """Return `repr(value)`, with dataclasses and their fields under HASHED_NAMES, without
    FIELDS_HASHED_IF_SET that are None, False or empty.
    """
    if isinstance(value, tuple):
        items = ", ".join(map(_stable_repr, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if not is_dataclass(value):
        return repr(value)
    shown = (
        f"{HASHED_NAMES.get(field.name, field.name)}={_stable_repr(getattr(value, field.name))}"
        for field in fields(value)
        if field.name not in FIELDS_HASHED_IF_SET
        or getattr(value, field.name) not in (None, False, {}, ())
    )
    name = type(value).__name__
    return f"{HASHED_NAMES.get(name, name)}({', '.join(shown)})"


def read_bulk_state(out: Path) -> dict[str, Any] | None:
    """Read bulk.json, the recorded arguments of a bulk run; None if the folder has none.

    Raises OutputError for a file that cannot be read.
    """
    path = out / STATE_FILE
    if not path.is_file():
        return None
    try:
        state = parse_json(read_bounded(path, RUN_FILE_KIND.max_bytes))
        if state["version"] != STATE_VERSION:
            raise ValueError(f"its format is {state['version']}, expected {STATE_VERSION}")
        return dict(state, seed=int(state["seed"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"Cannot continue in {out}: {path.name}: {error}. Choose another folder with --out."
        ) from error


def _check_same_run(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ArgumentError, naming each difference, unless the folder has the same arguments."""
    changed = []
    if before.get("lines") != now["lines"]:
        changed.append(f"the prompts ({before.get('prompts')} -> {now['prompts']})")
    for name, option in (
        *(("seed", "--seed"), ("num", "--num"), ("metadata", "metadata")),
        ("retry", "--retry"),
    ):
        changed += list_state_differences({option: before.get(name)}, {option: now[name]})
    options = dict(before.get("options") or {})
    changed += list_state_differences(
        {option: options.get(name) for name, option in OPTION_NAMES.items()},
        {option: now["options"][name] for name, option in OPTION_NAMES.items()},
    )
    if before.get("model_digest") != now["model_digest"]:
        changed.append("the weights of the model")
    files = before.get("files") or {}
    changed += [
        f"what is in {path}"
        for path, sha256 in now["files"].items()
        if path in files and files[path] != sha256
    ]
    if changed:
        raise ArgumentError(
            f"{out} was begun with something else: {'; '.join(changed)}. Give what it was begun "
            "with, to continue it, or choose another folder with --out."
        )


def list_state_differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return a line "name before -> now" for each value in which the state recorded in bulk.json
    when a bulk run was begun differs from that of now.
    """
    return [
        f"{name} {before.get(name)} -> {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _check_names_not_reserved(prompts: Path, jobs: Iterable[Job]) -> None:
    """Raise DataError for a recording with the name of a file that the bulk run itself writes."""
    for job in jobs:
        for name in job.file_and_folder_names:
            own = (STATE_FILE, INDEX_FILE, LOCK_FILE)
            if name.lower() in own or INDEX_PART_PATTERN.fullmatch(name.lower()):
                raise DataError(
                    f"{prompts}:{job.line_number}: its recording would be {name!r}, which is a "
                    'file of the bulk run itself. Give another "name" or "record".'
                )


def _check_names_free(out: Path, jobs: Iterable[Job]) -> None:
    """Raise OutputError where a new folder holds a file of a name that will be written."""
    if not out.is_dir():
        return
    there = {entry.name for entry in os.scandir(out)}
    for name in (INDEX_FILE, *(name for job in jobs for name in job.file_and_folder_names)):
        if name in there:
            raise OutputError(
                f"{out / name} exists and is not replaced: remove it, or choose another --out."
            )


def _remove_leftovers(out: Path, there: Iterable[str], files: Collection[str]) -> None:
    """Remove temporary files of the images that a killed run left behind."""
    for name in there:
        found = LEFTOVER_NAME_PATTERN.fullmatch(name)
        if found and found[1] in files:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
