"""Prompt sets of published benchmarks, read from the files that their authors publish.

GenEval (Ghosh et al. 2023), GenEval 2 (Kamath et al. 2025), T2I-CompBench++ (Huang et al. 2025) and
DPG-Bench (Hu et al. 2024). Nothing of them is part of t2i.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i.errors import DataError
from t2i.safe_reading import PROMPTS_FILE_KIND, parse_json, read_text

MAX_PROMPT_BYTES = 255 - len("_000000.png")
"""Bytes of a prompt that is a part of a file name."""
PROMPT_SET_KIND = PROMPTS_FILE_KIND.copy_with_noun("prompt set")


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """Prompt of a prompt set.

    key : name of the prompt in its set
    line : its line of the file, as it stands there; "" for a set without such lines
    """

    key: str
    prompt: str
    line: str = ""


def read_jsonl_prompts(path: Path) -> list[SetPrompt]:
    """Read the prompts of a JSON lines file, as GenEval's evaluation_metadata.jsonl.

    Raises DataError for a line that is no object with a "prompt".
    """
    prompts = []
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}.") from error
        prompt = record.get("prompt") if isinstance(record, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(
                f'{path}:{number}: expected an object with a "prompt", as '
                '{"prompt": "a photo of a bench", ...}.'
            )
        prompts.append(SetPrompt(f"{number - 1:05}", prompt, line))
    return _check_not_empty(path, prompts)


def read_distinct_jsonl_prompts(path: Path) -> list[SetPrompt]:
    """Read the prompts of a JSON lines file whose judge finds images by their prompts, as GenEval
    2's geneval2_data.jsonl.

    Raises DataError for a prompt that occurs twice.
    """
    prompts = read_jsonl_prompts(path)
    line_by_prompt: dict[str, int] = {}
    for number, one in enumerate(prompts, start=1):
        first = line_by_prompt.setdefault(one.prompt, number)
        if first != number:
            raise DataError(
                f"{path}:{number}: the prompt {one.prompt!r:.80} is that of line {first}, and "
                "GenEval 2's judge finds the image of a prompt by its words. Remove one of them."
            )
    return prompts


def read_text_prompts(path: Path) -> list[SetPrompt]:
    """Read the prompts of a text file, one a line, as T2I-CompBench++'s color_val.txt.

    Raises DataError for a prompt that cannot be part of a file name, as its judges expect, also
    where it is too long for one.
    """
    prompts = []
    for number, line in enumerate(_read_lines(path), start=1):
        prompt = line.strip()
        if "/" in prompt or "\0" in prompt:
            raise DataError(
                f"{path}:{number}: {prompt!r:.80} cannot be part of a file name, and the judges of "
                "T2I-CompBench++ find the prompt of an image in its name."
            )
        if len(prompt.encode()) > MAX_PROMPT_BYTES:
            raise DataError(
                f"{path}:{number}: {prompt!r:.80}... is too long for a file name, in which the "
                "judges of T2I-CompBench++ look for the prompt of an image."
            )
        prompts.append(SetPrompt(f"{number - 1:05}", prompt))
    return _check_not_empty(path, prompts)


def read_folder_of_prompts(path: Path) -> list[SetPrompt]:
    """Read the prompts of a folder with a text file for each, as DPG-Bench's prompts/, in the order
    of their names.

    Raises DataError for a folder without any, and for an empty file.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else []
    prompts = []
    for file in files:
        prompt = " ".join(read_text(file, PROMPT_SET_KIND).split())
        if not prompt:
            raise DataError(f"{file} is empty: expected the prompt of an image.")
        prompts.append(SetPrompt(file.stem, prompt))
    if not prompts:
        raise DataError(f"{path} is no folder of .txt files, each with a prompt.")
    return prompts


READERS: dict[str, Callable[[Path], Sequence[SetPrompt]]] = {
    "geneval": read_jsonl_prompts,
    "geneval2": read_distinct_jsonl_prompts,
    "t2i-compbench": read_text_prompts,
    "dpg-bench": read_folder_of_prompts,
}
"""Name of a benchmark -> reader of its prompts from a path."""
IMAGES_PER_PROMPT = {"geneval": 4, "geneval2": 1, "t2i-compbench": 10, "dpg-bench": 4}
"""Name of a benchmark -> number of images of each prompt in its published figures."""
MAX_IMAGES_PER_PROMPT = {"geneval2": 1, "dpg-bench": 4}
"""Name of a benchmark -> largest number of images of each prompt that its judge takes."""


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file that are not blank; blank ones are refused but at its end."""
    lines = read_text(path, PROMPT_SET_KIND).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{path}:{number}: the line is blank. Remove it.")
    return [line.removesuffix("\r") for line in lines]


def _check_not_empty(path: Path, prompts: list[SetPrompt]) -> list[SetPrompt]:
    if not prompts:
        raise DataError(f"{path} holds no prompt.")
    return prompts
