"""LoRA tags of a prompt, such as <lora:ink:0.8>: removed from it, and looked up in a folder."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os.path import expanduser
from pathlib import Path

from t2i.cli.request.input_files import InputFileWithScale
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError

DEFAULT_LORA_FOLDER = Path("loras")
"""Default folder of LoRAs."""
LORA_TAG_PATTERN = re.compile(r"([ \t]*)<(?:lora|lyco):([^<>]*)>([ \t]*)", re.IGNORECASE)
"""Tag of a LoRA, in both spellings of A1111."""
NETWORK_TAG_PATTERN = re.compile(r"([ \t]*)<\s*([a-z][\w-]*)\s*:[^<>]*>([ \t]*)", re.IGNORECASE)
"""Tag of any network, which A1111 or an extension of it removes from the prompt."""
UNCLOSED_TAG_PATTERN = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:[^<>]*", re.IGNORECASE)
LORA_SUFFIX = ".safetensors"
MAX_SUGGESTIONS = 3
"""Maximum number of names suggested for an unknown one."""
LoraFinder = Callable[[str, str], Path]
"""(name, tag that gave it) -> file of a LoRA. Raises ArgumentError for an unknown name."""


def set_prompt_and_extract_loras(request: Request, prompt: str, find: LoraFinder) -> Request:
    """Set a request's prompt, turning its LoRA tags into LoRAs of the request.

    With the grammar "plain" every letter stands for itself. Raises ArgumentError for a malformed
    tag, or a name that is not known.
    """
    if request.grammar == "plain":
        return replace(request, prompt=prompt)
    if match := LORA_TAG_PATTERN.search(request.negative_prompt):
        raise ArgumentError(
            f"Got {match[0].strip():.80} in the negative prompt: a LoRA acts on the whole "
            "picture. Put it into the prompt, with a negative strength if it is to take something "
            "away."
        )
    for reference in request.references:
        _check_no_tags_in_reference(reference.prompt)
    text, found = _extract_loras(prompt, find)
    _check_network_tags("the prompt", text)
    _check_network_tags("the negative prompt", request.negative_prompt)
    return replace(request, prompt=text, loras=(*request.loras, *found))


def _check_no_tags_in_reference(prompt: str) -> None:
    """Raise ArgumentError for the prompt of a reference picture with a tag of a network."""
    if match := LORA_TAG_PATTERN.search(prompt):
        raise ArgumentError(
            f"Got {match[0].strip():.80} in the prompt of --reference: the picture is read under "
            "the LoRAs of the image. Put it into the prompt of the image, or take --lora."
        )
    _check_network_tags("the prompt of --reference", prompt)


def _check_network_tags(name: str, text: str) -> None:
    """Raise ArgumentError for a tag of another network than a LoRA, or one without its end."""
    if match := NETWORK_TAG_PATTERN.search(text):
        tag, kind = match[0].strip(), match[2].lower()
        why = {
            "hypernet": "hypernetworks are not read. Take it out of the prompt; a LoRA of the same "
            "subject is named <lora:NAME:0.8>",
            "lora": "expected <lora:NAME:0.8>, without blanks before the name",
        }
        why["lyco"] = why["lora"]
        other = "of such networks LoRAs alone are read, as <lora:NAME:0.8>"
        raise ArgumentError(
            f"Got {tag:.80} in {name}: {why.get(kind, other)}. With --grammar plain every letter "
            "is literal."
        )
    if slip := UNCLOSED_TAG_PATTERN.search(text):
        raise ArgumentError(
            f"Got {slip[0]:.80} in {name}, which nothing ends: expected <lora:NAME:0.8>. With "
            "--grammar plain every letter is literal."
        )


def check_no_lora_tags(name: str, prompts: Sequence[str], request: Request) -> None:
    """Raise ArgumentError if one of the prompts has a LoRA tag, where none is allowed."""
    for prompt in prompts:
        if request.grammar != "plain" and (match := LORA_TAG_PATTERN.search(prompt)):
            raise ArgumentError(
                f"Got {match[0].strip()} in {name}: what is drawn together shares its LoRAs. Name "
                "them in the first prompt, or with --lora."
            )
        if request.grammar != "plain":
            _check_network_tags(name, prompt)


def remove_network_tags(prompt: str) -> str:
    """Return the prompt without the tags of LoRAs and other networks."""
    return NETWORK_TAG_PATTERN.sub(_replacement_space, prompt).strip()


def _extract_loras(prompt: str, find: LoraFinder) -> tuple[str, tuple[InputFileWithScale, ...]]:
    matches = list(LORA_TAG_PATTERN.finditer(prompt))
    if not matches:
        return prompt, ()
    return LORA_TAG_PATTERN.sub(_replacement_space, prompt).strip(), tuple(
        _parse_lora_tag(match, find) for match in matches
    )


def _replacement_space(match: re.Match[str]) -> str:
    """Return one space in place of a tag that had one on either side."""
    return " " if match[1] or match[match.re.groups] else ""


def _parse_lora_tag(match: re.Match[str], find: LoraFinder) -> InputFileWithScale:
    """Return the LoRA of a match of LORA_TAG_PATTERN."""
    tag = match[0].strip()
    name, colon, tail = (part.strip() for part in match[2].partition(":"))
    try:
        scale = float(tail) if colon else 1.0
    except ValueError:
        name = ""
    if not name:
        raise ArgumentError(
            f"Got {tag:.80}: expected <lora:NAME>, or <lora:NAME:0.8> with one strength. "
            "With --grammar plain every letter is literal."
        )
    return InputFileWithScale(path=str(find(name.removesuffix(LORA_SUFFIX), tag)), scale=scale)


def build_lora_finder(folder: Path) -> LoraFinder:
    """Return the finder of the LoRAs in a folder and the folders below it: "styles/ink"."""
    return partial(_find_lora, folder)


def _find_lora(folder: Path, name: str, tag: str) -> Path:
    steps = name.split("/")
    if "\\" in name or "\0" in name or any(step in ("", ".", "..") for step in steps):
        raise ArgumentError(f"Got {tag:.80}: expected the name of a file in {folder}.")
    place = Path(expanduser(folder))
    path = place.joinpath(*steps[:-1], steps[-1] + LORA_SUFFIX)
    try:
        if path.is_file():
            return path
        known = [
            str(found.relative_to(place).with_suffix(""))
            for found in place.rglob(f"*{LORA_SUFFIX}")
        ]
        there = place.is_dir()
    except OSError as error:
        raise ArgumentError(f"Cannot look for {tag:.80} in {folder}: {error}.") from error
    if not there:
        raise ArgumentError(
            f"No folder {folder} to look for {tag:.80} in: say where with --lora-dir."
        )
    close = difflib.get_close_matches(name, sorted(known), n=MAX_SUGGESTIONS, cutoff=0.4)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"It holds {len(known):,} LoRAs."
    raise ArgumentError(
        f"No LoRA {name!r:.80} in {folder}. {hint} Another folder is given with --lora-dir."
    )
