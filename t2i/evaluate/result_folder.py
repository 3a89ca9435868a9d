"""Output folder of an evaluation: its identity, finished units and pictures.

`begun.json` says what is evaluated with what; `records.jsonl` gets a line for each finished
unit. The folder must be locked while it is used (t2i.run_folder).
"""

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t2i.atomic_files import build_write_error, write_atomically
from t2i.errors import ArgumentError, OutputError
from t2i.evaluate.suite_part import Record
from t2i.pictures import save_picture
from t2i.run_folder import LOCK_FILE
from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_bounded
from train.config.config_changes import flatten_config

IDENTITY_FILE, RECORDS_FILE, PICTURES_FOLDER = "begun.json", "records.jsonl", "pictures"
RECORDS_VERSION = 2
"""Version of the format of both files; it grows when a unit of the old one would be misread."""
CHANGEABLE_KEYS = ("libraries",)
"""Keys of the identity that may differ when an evaluation is continued, with a warning."""
MODEL_NAME_KEY = "model.name"
"""Key of the identity that is not compared: a model is its weights, however its path is written."""


@dataclass(frozen=True, slots=True)
class FinishedUnit:
    """Record of a finished unit of an evaluation, and the seconds it took."""

    record: Record
    seconds: float


class ResultFolder:
    """Output folder of an evaluation, in which it is started or continued."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        noun: str = "evaluation",
        option: str = "--out",
    ) -> None:
        """Raise ArgumentError if the folder holds another evaluation, naming the differences.

        identity : JSON data that all units of the folder have in common
        noun, option : what the folder holds, and the option that names it, in messages
        """
        self.folder, self.noun, self.option = folder, noun, option
        self.identity = {"version": RECORDS_VERSION, **identity}
        self.finished_units: dict[tuple[str, str], FinishedUnit] = {}
        """Finished units by the names of part and unit."""
        before = self._read_begun()
        if before is None:
            self._check_free()
        else:
            self._read_records()
        if before is not None and self.finished_units:
            self._check_same(before)
        else:
            text = json.dumps(self.identity, indent=1, ensure_ascii=False) + "\n"
            write_atomically(folder / IDENTITY_FILE, lambda part: part.write_text(text, "utf-8"))
        self.library_changes = (
            list_mapping_differences(before or {}, self.identity, only=CHANGEABLE_KEYS)
            if self.finished_units
            else []
        )

    def append_record(self, part: str, unit: str, record: Record, seconds: float) -> None:
        """Append the record of a finished unit to records.jsonl and flush it to the disk."""
        entry = {
            "part": part,
            "unit": unit,
            "seconds": round(seconds, 4),
            "time": round(time.time(), 3),
            "record": record,
        }
        path = self.folder / RECORDS_FILE
        data = (json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise build_write_error(path, error) from error
        self.finished_units[part, unit] = FinishedUnit(record, seconds)

    def get_part_records(self, part: str) -> dict[str, Record]:
        """Return the records of a part's finished units, by unit key."""
        return {
            unit: done.record
            for (owner, unit), done in self.finished_units.items()
            if owner == part
        }

    def save_picture(self, name: str, picture: Image.Image) -> str:
        """Save a picture in the result folder; return its file name, for a Gallery."""
        file = re.sub(r"[^\w.=,+-]+", "-", name) + ".png"
        save_picture(picture, self.folder / PICTURES_FOLDER / file)
        return file

    def _read_begun(self) -> dict[str, Any] | None:
        path = self.folder / IDENTITY_FILE
        if not path.exists():
            return None
        try:
            before = parse_json(read_bounded(path, RUN_FILE_KIND.max_bytes), lenient=True)
        except OSError as error:
            raise self._cannot_go_on(f"cannot be read ({error.strerror or error})") from error
        except ValueError as error:  # no JSON, or no UTF-8
            raise self._cannot_go_on("is no JSON") from error
        if not isinstance(before, dict) or "version" not in before:
            raise self._cannot_go_on("has no version of its format")
        if before["version"] != RECORDS_VERSION:
            raise self._cannot_go_on(
                f"has format {shorten_value(before['version'])}, expected {RECORDS_VERSION}: "
                "another t2i wrote it"
            )
        return before

    def _cannot_go_on(self, reason: str) -> OutputError:
        return OutputError(
            f"Cannot continue in {self.folder}: {IDENTITY_FILE} {reason}. Choose another folder "
            f"with {self.option}."
        )

    def _check_free(self) -> None:
        """Raise OutputError for a folder that holds anything that is not an evaluation's."""
        others = sorted({path.name for path in self.folder.glob("*")} - {LOCK_FILE})
        if others:
            raise OutputError(
                f"{self.folder} holds {others[0]}, but no {self.noun}: choose "
                f"another {self.option}, or an empty folder."
            )

    def _check_same(self, before: Mapping[str, Any]) -> None:
        different = list_mapping_differences(
            before, self.identity, but=(*CHANGEABLE_KEYS, MODEL_NAME_KEY)
        )
        if different:
            raise ArgumentError(
                f"{self.folder} holds another {self.noun}: {'; '.join(different)}. Repeat the "
                f"original arguments to continue, or choose another folder with {self.option}."
            )

    def _read_records(self) -> None:
        """Take up the finished units, and cut off a line that a kill or a full disk cut short."""
        path = self.folder / RECORDS_FILE
        if not path.exists():
            return
        try:
            data = read_bounded(path, RUN_FILE_KIND.max_bytes)
            whole = data.rpartition(b"\n")[0]
            if len(whole) + 1 < len(data) or (data and not data.endswith(b"\n")):
                os.truncate(path, len(whole) + 1 if whole else 0)
        except OSError as error:
            raise build_write_error(path, error) from error
        for entry in parse_record_lines(whole):
            # Of a unit whose pictures are gone nothing could be shown: it is done again.
            if all(
                self._has_picture(file)
                for file in find_strings_under_keys(entry["record"], ("file",))
            ):
                self.finished_units[entry["part"], entry["unit"]] = FinishedUnit(
                    entry["record"], entry["seconds"]
                )

    def _has_picture(self, file: str) -> bool:
        path = self.folder / PICTURES_FOLDER / file
        return path.is_file() and path.stat().st_size > 0


def parse_record_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Parse the lines of an evaluation's records.jsonl, each the measurement of one unit; skip
    incomplete lines and entries of another kind.
    """
    for line in data.split(b"\n"):
        try:
            entry = parse_json(line, lenient=True)
            keys = entry.keys() >= {"part", "unit", "seconds", "record"}
        except (ValueError, AttributeError):
            continue
        if keys:
            yield entry


def find_strings_under_keys(record: object, names: Collection[str]) -> Iterator[str]:
    """Yield the strings that a JSON record holds under these keys, at any depth."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            if key in names and isinstance(value, str):
                yield value
            else:
                yield from find_strings_under_keys(value, names)
    elif isinstance(record, list):
        for value in record:
            yield from find_strings_under_keys(value, names)


def list_mapping_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    only: tuple[str, ...] = (),
    but: tuple[str, ...] = (),
) -> list[str]:
    """List the values in which two nested mappings differ, as "config.seed 1 -> 2"."""
    flat_before, flat_now = flatten_config(before), flatten_config(now)
    names = sorted({*flat_before, *flat_now})
    return [
        f"{name} {shorten_value(flat_before.get(name))} -> {shorten_value(flat_now.get(name))}"
        for name in names
        if flat_before.get(name) != flat_now.get(name)
        and (not only or name.startswith(only))
        and not (but and name.startswith(but))
    ]


def shorten_value(value: object) -> str:
    """Format a value as text of at most 40 characters."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
