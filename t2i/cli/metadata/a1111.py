"""Parser of A1111's `parameters`: prompt, "Negative prompt: ...", and a last line of settings."""

import json
import re
from collections.abc import Mapping

from t2i.cli.metadata.parsed_metadata import ImageMetadata, MetadataSettings, MetadataValueParser
from t2i.errors import DataError

TOOL_NAME = "A1111"
NEGATIVE_PREFIX = "Negative prompt:"
SETTINGS_PREFIX = "Steps:"
MAX_NAME_LENGTH = 80
MAX_SETTINGS = 500
SIZE_PATTERN = re.compile(r"(\d{1,9})\s*x\s*(\d{1,9})")
USED_KEYS = {
    *("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash"),
    "Version",
}
"""Keys of A1111 whose values have a place in ImageMetadata."""


def find_a1111_metadata(texts: Mapping[str, str]) -> ImageMetadata | None:
    """Return the generation metadata among an image's texts in A1111's format, or None.

    texts : key -> text, as in EmbeddedTexts
    Raises DataError for a text of another format.
    """
    if "fooocus_scheme" in texts or "parameters" not in texts:
        return None
    return parse_a1111(texts["parameters"])


def parse_a1111(text: str, tool: str | None = None) -> ImageMetadata:
    """Parse A1111's text `parameters` into metadata. Raises DataError for another format.

    Nothing is stripped, so that a prompt of t2i comes back exactly, but line ends are unified: an
    editor or a website may have written them as Windows does.
    """
    parser = MetadataValueParser()
    prompt, negative_prompt, line, after = _split_parameters(re.sub(r"\r\n?", "\n", text))
    if not line and not negative_prompt:
        raise DataError(
            f"parameters: no line that begins with {SETTINGS_PREFIX!r} or {NEGATIVE_PREFIX!r}"
        )
    values = _parse_settings(line, parser)
    for extra in after:
        if extra.strip():
            parser.record_not_understood("after the settings", extra)

    size = SIZE_PATTERN.fullmatch(values.get("Size", ""))
    if size is None and values.get("Size"):
        parser.record_not_understood("Size", values["Size"], "width x height")
    width, height = parser.parse_width_and_height(*size.groups()) if size else (None, None)
    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(values.get("Steps")),
        sampler=parser.parse_sampler(values.get("Sampler"), values.get("Schedule type")),
        guidance_scale=parser.parse_float("CFG scale", values.get("CFG scale")),
        seed=parser.parse_seed(values.get("Seed")),
        width=width,
        height=height,
        model=values.get("Model") or None,
        model_hash=values.get("Model hash") or None,
    )
    parser.record_unused_keys(values, USED_KEYS)
    return parser.build_metadata(
        tool or _tool_name(values), prompt, negative_prompt, settings, text
    )


def _tool_name(values: Mapping[str, str]) -> str:
    """Return the tool and its version; t2i writes this format too, and says so in `Version`."""
    version = values.get("Version", "")
    return version if version.startswith("t2i ") else f"{TOOL_NAME} {version}".strip()


def _split_parameters(text: str) -> tuple[str, str, str, list[str]]:
    """Return prompt, negative prompt, the line of settings, and the lines after it.

    Earlier lines may look like settings, for people paste them into prompts: the last one counts.
    The first line "Negative prompt:" begins the negative prompt; the format has no escape for it.
    """
    lines = text.split("\n")
    starts = [index for index, line in enumerate(lines) if line.startswith(SETTINGS_PREFIX)]
    last = starts[-1] if starts else len(lines)
    above = lines[:last]
    split = next(
        (i for i, line in enumerate(above) if line.startswith(NEGATIVE_PREFIX)), len(above)
    )
    negative_prompt = "\n".join(above[split:]).removeprefix(NEGATIVE_PREFIX).removeprefix(" ")
    line = lines[last] if starts else ""
    return "\n".join(above[:split]), negative_prompt, line, lines[last + 1 :]


def _parse_settings(line: str, parser: MetadataValueParser) -> dict[str, str]:
    """Parse "Steps: 20, Model: "a, b", ..." into name -> value; a value may be quoted, or JSON."""
    values: dict[str, str] = {}
    place = 0
    for _ in range(MAX_SETTINGS):
        if place >= len(line):
            break
        colon = line.find(":", place, place + MAX_NAME_LENGTH)
        end = _find_comma(line, place)
        if colon < 0 or end < colon:
            if line[place:end].strip():
                parser.record_not_understood("setting", line[place:end].strip())
        else:
            name = line[place:colon].strip()
            value, end = _parse_value(line, colon + 1)
            if name in values:
                parser.record_not_understood(name, value)
            else:
                values[name] = value
        place = end + 1
    if line[place:].strip():
        parser.record_not_understood(f"after {MAX_SETTINGS} settings", line[place:].strip())
    return values


def _parse_value(line: str, start: int) -> tuple[str, int]:
    """Return the value that begins at `start`, and the position of the comma after it."""
    while line[start : start + 1] == " ":
        start += 1
    if line[start : start + 1] in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            pass
        else:
            if not line[end : _find_comma(line, end)].strip():
                text = value if isinstance(value, str) else line[start:end]
                return text, _find_comma(line, end)
    end = _find_comma(line, start)
    return line[start:end].strip(), end


def _find_comma(line: str, start: int) -> int:
    end = line.find(",", start)
    return len(line) if end < 0 else end
