"""`python -m t2i.evaluate.prompt_sets.convert`: images of published benchmarks for their judges.

`prompts KIND PATH FILE.jsonl` writes the prompts of a benchmark as a prompts file of
`t2i generate --prompts`; `folder KIND PATH BULK OUT` lays out the images that were generated of it
as the benchmark's judge reads them.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from t2i.atomic_files import write_atomically
from t2i.atomic_folders import atomic_folder
from t2i.errors import ArgumentError, DataError, OutputError, T2IError
from t2i.evaluate.prompt_sets.judge_folders import FOLDER_WRITERS, ImagePaths
from t2i.evaluate.prompt_sets.prompt_sets import (
    IMAGES_PER_PROMPT,
    MAX_IMAGES_PER_PROMPT,
    READERS,
    SetPrompt,
)
from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_text
from t2i.terminal import plural, print_note_to_stderr, print_result_line

INDEX_FILE = "index.jsonl"


def write_prompts_file(kind: str, path: Path, out: Path, num: int | None = None) -> int:
    """Write the prompts of a benchmark as JSON lines for `t2i generate --prompts`; return their
    number.

    kind : key of READERS
    num : images of each prompt; as many as in the benchmark's published figures for None

    Raises ArgumentError for more images of a prompt than the judge takes, OutputError for a file
    that exists.
    """
    if out.suffix != ".jsonl":
        raise ArgumentError(f"Got {out}: expected the name of a .jsonl file.")
    if out.exists():
        raise OutputError(f"{out} exists and is not replaced: remove it, or choose another name.")
    count = IMAGES_PER_PROMPT[kind] if num is None else num
    most = MAX_IMAGES_PER_PROMPT.get(kind)
    if count < 1 or (most is not None and count > most):
        expected = "at least 1" if most is None else f"1 to {most}, as the judge of {kind} takes"
        raise ArgumentError(f"Got --num {count}, expected {expected}.")
    prompts = READERS[kind](path)
    lines = [{"prompt": one.prompt, "num": count, "name": f"{one.key}.png"} for one in prompts]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(out, lambda part: part.write_text(text, "utf-8"))
    return len(prompts)


def lay_out_images(kind: str, path: Path, bulk: Path, out: Path) -> int:
    """Lay out the images of a bulk run as the judge of a benchmark reads them; return their number.

    bulk : folder that `t2i generate --prompts` wrote of the file of `write_prompts_file`

    Raises DataError for images of other prompts, and where some are missing.
    """
    if out.exists():
        raise OutputError(f"{out} exists and is not replaced: remove it, or choose another name.")
    prompts = READERS[kind](path)
    images = find_images(prompts, bulk)
    with atomic_folder(out) as new:
        FOLDER_WRITERS[kind](prompts, images, new)
    return sum(map(len, images))


def find_images(prompts: Sequence[SetPrompt], bulk: Path) -> ImagePaths:
    """Return the images of each prompt in the folder of a bulk run, by its index.

    Raises DataError for an index of other prompts, and for missing images.
    """
    index = bulk / INDEX_FILE
    text = read_text(index, RUN_FILE_KIND.copy_with_noun("index"))
    entries = [_parse_entry(index, line) for line in text.splitlines() if line.strip()]
    images: list[list[Path]] = [[] for _ in prompts]
    for entry in entries:
        number, request = entry.get("line"), entry.get("request")
        if not isinstance(number, int) or not 1 <= number <= len(prompts):
            raise DataError(
                f"{index}: line {number} is none of the {plural(len(prompts), 'prompt')} of the "
                "benchmark: it is of another prompts file."
            )
        drawn = request.get("prompt") if isinstance(request, dict) else None
        if drawn != prompts[number - 1].prompt:
            raise DataError(
                f"{index}: line {number} is of {drawn!r:.80}, in the benchmark it is "
                f"{prompts[number - 1].prompt!r:.80}: it is of another prompts file, or its "
                "prompts were read with a grammar. Draw with --grammar plain."
            )
        file = bulk / Path(str(entry.get("file", ""))).name
        if "error" in entry or not file.is_file():
            raise DataError(
                f"{index}: line {number} has no image. Run the command that generates them again: "
                "it continues."
            )
        images[number - 1].append(file)
    counts = {len(paths) for paths in images}
    if len(counts) != 1 or 0 in counts:
        lacking = min(range(len(images)), key=lambda number: len(images[number]))
        raise DataError(
            f"{bulk} has {plural(len(images[lacking]), 'image')} of prompt {lacking + 1}, and "
            f"{max(counts)} of another. Run the command that generates them again: it continues."
        )
    return images


def _parse_entry(path: Path, line: str) -> Mapping[str, object]:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}.") from error
    if not isinstance(entry, dict):
        raise DataError(f"{path}: expected an object in each line.")
    return entry


def main() -> None:
    """Convert the prompts or the images of a benchmark, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    prompts = actions.add_parser("prompts", help="write a prompts file for t2i generate")
    folder = actions.add_parser("folder", help="lay out generated images for the judge")
    for action in (prompts, folder):
        action.add_argument("kind", choices=[*READERS])
        action.add_argument("path", type=Path, help="file or folder of the benchmark's prompts")
    prompts.add_argument("out", type=Path, help="the prompts file, .jsonl")
    prompts.add_argument("--num", type=int, help="images of each prompt")
    folder.add_argument("bulk", type=Path, help="folder of t2i generate --prompts")
    folder.add_argument("out", type=Path, help="folder for the judge")
    given = parser.parse_args()
    try:
        if given.action == "prompts":
            count = write_prompts_file(given.kind, given.path, given.out, given.num)
            print_note_to_stderr(plural(count, "prompt"))
        else:
            count = lay_out_images(given.kind, given.path, given.bulk, given.out)
            print_note_to_stderr(plural(count, "image"))
        print_result_line(given.out)
    except T2IError as error:
        print_note_to_stderr(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
