"""Parser of InvokeAI's `invokeai_metadata` (3 and later), `sd-metadata` (2) and `Dream` (1)."""

import re
from collections.abc import Mapping

from t2i.cli.metadata.parsed_metadata import (
    ImageMetadata,
    Json,
    MetadataSettings,
    MetadataValueParser,
    parse_json_object,
)
from t2i.errors import DataError

TOOL_NAME = "InvokeAI"
USED_KEYS = {
    *("app_version", "positive_prompt", "negative_prompt", "width", "height", "seed", "cfg_scale"),
    *("steps", "scheduler", "model"),
}
USED_KEYS_VERSION_2 = {"prompt", "steps", "cfg_scale", "height", "width", "seed", "sampler"}
"""Keys whose values have a place in ImageMetadata, of version 3 on and of version 2."""
# The prompt in quotes, then options of one letter: "a cat" -s 50 -S 7 -W 512 -H 512 -C 7.5 -A k_lms
DREAM_PATTERN = re.compile(r'\s*"(.*)"((?:\s+-{1,2}\w.*)?)', re.DOTALL)
LONG_OPTIONS = (
    *("cf", "embiggen", "embiggen_strength", "embiggen_tiles", "fit", "ft", "save_orig", "tm"),
)
"""Options of several letters after one dash; any other letter is followed by its value."""
OPTION_PATTERN = re.compile(
    rf"-(-\w+|(?:{'|'.join(LONG_OPTIONS)})(?![^\s=])|[A-Za-z])=?(.*)", re.DOTALL
)
BRACKETED_PATTERN = re.compile(r"\[([^\[\]]*)\]")


def find_invokeai_metadata(texts: Mapping[str, str]) -> ImageMetadata | None:
    """Return InvokeAI's generation metadata among an image's texts, or None.

    Of several formats the newest is read.
    """
    if "invokeai_metadata" in texts:
        return _parse_version_3(texts["invokeai_metadata"])
    if "sd-metadata" in texts:
        return _parse_version_2(texts["sd-metadata"])
    if "Dream" in texts:
        return _parse_version_1(texts["Dream"])
    return None


def _parse_version_3(text: str) -> ImageMetadata:
    values = parse_json_object("invokeai_metadata", text)
    parser = MetadataValueParser()
    model = values.get("model")
    if not isinstance(model, dict):
        model = {"name": model}
    width, height = parser.parse_width_and_height(values.get("width"), values.get("height"))
    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(values.get("steps")),
        sampler=parser.parse_sampler(values.get("scheduler")),
        guidance_scale=parser.parse_float("cfg_scale", values.get("cfg_scale")),
        seed=parser.parse_seed(values.get("seed")),
        width=width,
        height=height,
        model=parser.parse_string("model", model.get("name") or model.get("model_name")),
        model_hash=parser.parse_string("model hash", model.get("hash")),
    )
    prompt = parser.parse_string_or_empty("positive_prompt", values.get("positive_prompt"))
    negative_prompt = parser.parse_string_or_empty("negative_prompt", values.get("negative_prompt"))
    version = parser.parse_string("app_version", values.get("app_version"))
    parser.record_unused_keys(values, USED_KEYS)
    tool = f"{TOOL_NAME} {version}" if version else TOOL_NAME
    return parser.build_metadata(tool, prompt, negative_prompt, settings, text)


def _parse_version_2(text: str) -> ImageMetadata:
    values = parse_json_object("sd-metadata", text)
    image = values.get("image")
    if not isinstance(image, dict):
        raise DataError("sd-metadata: no object 'image' within it")
    parser = MetadataValueParser()
    prompt, negative_prompt = _split_bracketed_negative(
        _join_prompt_parts(image.get("prompt"), parser)
    )
    width, height = parser.parse_width_and_height(image.get("width"), image.get("height"))
    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(image.get("steps")),
        sampler=parser.parse_sampler(image.get("sampler")),
        guidance_scale=parser.parse_float("cfg_scale", image.get("cfg_scale")),
        seed=parser.parse_seed(image.get("seed")),
        width=width,
        height=height,
        model=parser.parse_string(
            "model_weights", values.get("model_weights") or values.get("model")
        ),
        model_hash=parser.parse_string("model_hash", values.get("model_hash")),
    )
    version = parser.parse_string("app_version", values.get("app_version"))
    parser.record_unused_keys(image, USED_KEYS_VERSION_2)
    tool = f"{TOOL_NAME} {version}" if version else TOOL_NAME
    return parser.build_metadata(tool, prompt, negative_prompt, settings, text)


def _join_prompt_parts(value: Json, parser: MetadataValueParser) -> str:
    """Return the prompt of version 2: a string, or a list of parts with weights."""
    if not isinstance(value, list):
        return parser.parse_string_or_empty("prompt", value)
    parts = [
        part for part in value if isinstance(part, dict) and isinstance(part.get("prompt"), str)
    ]
    if len(parts) != len(value) or any(part.get("weight", 1) != 1 for part in parts):
        parser.record_not_understood("prompt", value, "parts of weight 1")
    return " ".join(str(part["prompt"]) for part in parts)


def _parse_version_1(text: str) -> ImageMetadata:
    match = DREAM_PATTERN.fullmatch(text)
    if match is None:
        raise DataError("Dream: expected a prompt in quotes and options after it")
    parser = MetadataValueParser()
    options = _parse_options(match[2])
    prompt, negative_prompt = _split_bracketed_negative(match[1])
    width, height = parser.parse_width_and_height(options.get("W"), options.get("H"))
    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(options.get("s")),
        sampler=parser.parse_sampler(options.get("A")),
        guidance_scale=parser.parse_float("-C", options.get("C")),
        seed=parser.parse_seed(options.get("S")),
        width=width,
        height=height,
    )
    others = {f"-{name}": value or "given" for name, value in options.items()}
    parser.record_unused_keys(others, {"-s", "-S", "-W", "-H", "-C", "-A"})
    return parser.build_metadata(TOOL_NAME, prompt, negative_prompt, settings, text)


def _parse_options(text: str) -> dict[str, str]:
    """Parse "-s 50 -A k_lms -f0.75 -c top 64" into name -> value; the first of one name counts."""
    options: dict[str, str] = {}
    values: list[str] = []
    name = ""
    for word in [*text.split(), "-x"]:
        option = OPTION_PATTERN.fullmatch(word)
        if option is None:
            values.append(word)
            continue
        if name:
            options.setdefault(name, " ".join(filter(None, values)))
        name, values = option[1], [option[2]]
    return options


def _split_bracketed_negative(prompt: str) -> tuple[str, str]:
    """Return prompt and negative prompt; before version 3 words in [brackets] were negative."""
    negative = ", ".join(words.strip() for words in BRACKETED_PATTERN.findall(prompt))
    return (BRACKETED_PATTERN.sub("", prompt).strip(), negative) if negative else (prompt, "")
