"""Run of an evaluation: measure the units, then write the result and its page."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from t2i.accelerate_state import isolated_torch_rng
from t2i.atomic_files import write_atomically
from t2i.errors import DataError
from t2i.evaluate.report.chapter import Block, Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.report.comparison import build_comparison_chapter
from t2i.evaluate.report.earlier_result import EarlierResult
from t2i.evaluate.report.markdown import render_markdown
from t2i.evaluate.report.page import render_html_page
from t2i.evaluate.report.sample_values import format_sample_values
from t2i.evaluate.result_folder import (
    PICTURES_FOLDER,
    RECORDS_FILE,
    ResultFolder,
    find_strings_under_keys,
)
from t2i.evaluate.suite_part import Record, SuitePart
from t2i.randomness import derive_seed

RESULT_FILE, PAGE_FILE, TABLES_FILE = "evaluation.json", "index.html", "tables.md"
RESULT_VERSION = 1
"""Version of the format of evaluation.json."""
TEXT_KEYS = ("caption", "source", "target")
"""Keys of records that hold captions and prompts."""

ProgressCallback = Callable[[str, int], None]
"""Function called with a part's name and the count of its finished units."""


def measure_parts(
    parts: Sequence[SuitePart], store: ResultFolder, on_progress: ProgressCallback
) -> None:
    """Measure all unfinished units of the parts and append each record to the result folder."""
    for part in parts:
        units = part.list_unit_keys()
        finished = sum((part.name, unit) in store.finished_units for unit in units)
        on_progress(part.name, finished)
        for unit in units:
            if (part.name, unit) in store.finished_units:
                continue
            begun = time.perf_counter()
            # Whatever draws without a generator of its own draws the same in every run.
            with isolated_torch_rng():
                torch.manual_seed(derive_seed(0, part.name, unit))
                record = part.measure_unit(unit)
            store.append_record(part.name, unit, record, time.perf_counter() - begun)
            finished += 1
            on_progress(part.name, finished)


def select_finished_parts(parts: Sequence[SuitePart], store: ResultFolder) -> list[SuitePart]:
    """Return those parts of an evaluation whose units of work are all finished in the result
    folder.
    """
    return [
        p
        for p in parts
        if all((p.name, unit) in store.finished_units for unit in p.list_unit_keys())
    ]


def write_result_files(
    parts: Sequence[SuitePart],
    store: ResultFolder,
    facts: Mapping[str, Any],
    earlier: EarlierResult | None = None,
) -> dict[str, Any]:
    """Write the result files of a finished evaluation (evaluation.json, tables.md and index.html);
    return the content of evaluation.json.

    parts : all of whose units are finished
    facts : the head of the result: model, machine, date ...
    earlier : a result to compare with
    """
    chapters: list[Chapter] = []
    scenes: dict[str, str] = {}
    for part in parts:
        done = store.get_part_records(part.name)
        records = {unit: done[unit] for unit in part.list_unit_keys()}
        try:
            chapters_of_part = part.build_chapters(records)
        except ValidationError as error:
            raise DataError(
                f"{store.folder / RECORDS_FILE}: a record of {part.name} has an unexpected "
                f"format ({error.errors()[0]['msg']}). Remove the lines of that part, and the same "
                "command measures it again."
            ) from error
        chapters += chapters_of_part
        scenes |= dict.fromkeys(
            (chapter.name for chapter in chapters_of_part), digest_captions_and_prompts(records)
        )
    if earlier is not None:
        chapters.insert(0, build_comparison_chapter(chapters, scenes, earlier))
    seconds = {
        part.name: round(
            sum(store.finished_units[part.name, unit].seconds for unit in part.list_unit_keys()), 1
        )
        for part in parts
    }
    document = {
        "version": RESULT_VERSION,
        **facts,
        "seconds": seconds,
        "scenes": scenes,
        "chapters": {chapter.name: chapter_to_json(chapter) for chapter in chapters},
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _write_text(store.folder / RESULT_FILE, text)
    _write_text(store.folder / TABLES_FILE, render_markdown(chapters, document))
    _write_text(
        store.folder / PAGE_FILE,
        render_html_page(chapters, document, store.folder / PICTURES_FOLDER),
    )
    return document


def digest_captions_and_prompts(records: Mapping[str, Record]) -> str:
    """Return a digest of all captions and prompts in evaluation records, equal for equal scenes, by
    which results are found to be comparable.

    Each text counts once: models with other sampling defaults use the same ones in other units.
    """
    texts = dict.fromkeys(
        text for record in records.values() for text in find_strings_under_keys(record, TEXT_KEYS)
    )
    return hashlib.sha256(json.dumps([*texts], ensure_ascii=False).encode()).hexdigest()[:16]


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))


def chapter_to_json(chapter: Chapter) -> dict[str, Any]:
    """Convert a chapter of a report to JSON data, its blocks by name."""
    blocks = {block.name: block_to_json(block) for block in chapter.blocks}
    return {"title": chapter.title, "text": chapter.text, "blocks": blocks}


def block_to_json(block: Block) -> dict[str, Any]:
    """Convert a table, plot or gallery of a report to JSON data."""
    match block:
        case Table():
            rows = [
                {
                    "label": label,
                    "cells": dict(zip(block.heads, map(cell_to_json, cells), strict=True)),
                }
                for label, cells in block.rows
            ]
            return {
                "kind": "table",
                "title": block.title,
                "heads": [*block.heads],
                "units": dict(block.units),
                "better": dict(block.better),
                "rows": rows,
            }
        case Plot():
            lines = {
                name: [
                    {"at": at, **estimate_to_json_without_samples(figure)} for at, figure in points
                ]
                for name, points in block.lines.items()
            }
            labels = {"title": block.title, "across": block.x_label, "up": block.y_label}
            return {"kind": "plot", **labels, "lines": lines}
        case Gallery():
            pictures = [{"file": file, "label": label} for file, label in block.pictures]
            return {"kind": "gallery", "title": block.title, "pictures": pictures}


def cell_to_json(cell: Estimate | str | None) -> dict[str, Any] | str | None:
    """Convert a table cell to JSON data, with the samples that a paired comparison needs."""
    if not isinstance(cell, Estimate):
        return cell
    samples = format_sample_values(cell.samples)
    return estimate_to_json_without_samples(cell) | (
        {} if samples is None else {"samples": samples}
    )


def estimate_to_json_without_samples(figure: Estimate) -> dict[str, Any]:
    """Convert an estimate to JSON data, without its samples."""
    return {
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "count": figure.count,
    }
