"""Folders of images as the judges of published benchmarks read them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from t2i.errors import ArgumentError, DataError
from t2i.evaluate.prompt_sets.prompt_sets import MAX_IMAGES_PER_PROMPT, SetPrompt
from t2i.pictures import open_picture
from t2i.terminal import plural

DPG_COLUMNS, DPG_MAX_IMAGES = 2, MAX_IMAGES_PER_PROMPT["dpg-bench"]
"""Columns and largest number of images of one picture that DPG-Bench's judge takes apart."""
ImagePaths = Sequence[Sequence[Path]]
"""For each prompt of a set, in its order, the PNG files of its images."""


def write_geneval_folder(prompts: Sequence[SetPrompt], images: ImagePaths, out: Path) -> None:
    """Write GenEval's layout: in 00000/ metadata.jsonl, the prompt's line, and samples/0000.png."""
    for number, (prompt, paths) in enumerate(zip(prompts, images, strict=True)):
        samples = out / f"{number:05}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(prompt.line + "\n", "utf-8")
        for index, path in enumerate(paths):
            shutil.copyfile(path, samples / f"{index:04}.png")


def write_geneval2_folder(prompts: Sequence[SetPrompt], images: ImagePaths, out: Path) -> None:
    """Write GenEval 2's layout: images, and image_paths.json, prompt -> path of its image in the
    folder.

    Raises ArgumentError for several images of a prompt.
    """
    paths_by_prompt: dict[str, str] = {}
    (out / "images").mkdir()
    for prompt, paths in zip(prompts, images, strict=True):
        if len(paths) != 1:
            raise ArgumentError(
                f"Got {plural(len(paths), 'image')} of {prompt.prompt!r:.80}: GenEval 2 judges one "
                "of each prompt. Draw with --num 1."
            )
        name = f"images/{prompt.key}.png"
        shutil.copyfile(paths[0], out / name)
        paths_by_prompt[prompt.prompt] = name
    text = json.dumps(paths_by_prompt, indent=1, ensure_ascii=False) + "\n"
    (out / "image_paths.json").write_text(text, "utf-8")


def write_t2i_compbench_folder(prompts: Sequence[SetPrompt], images: ImagePaths, out: Path) -> None:
    """Write T2I-CompBench++'s layout: samples/<prompt>_000000.png, numbered over all prompts."""
    samples = out / "samples"
    samples.mkdir()
    number = 0
    for prompt, paths in zip(prompts, images, strict=True):
        for path in paths:
            shutil.copyfile(path, samples / f"{prompt.prompt}_{number:06}.png")
            number += 1


def write_dpg_bench_folder(prompts: Sequence[SetPrompt], images: ImagePaths, out: Path) -> None:
    """Write DPG-Bench's layout: <name of the prompt's file>.png, its images side by side, two in a
    row.

    Raises ArgumentError for more than DPG_MAX_IMAGES of a prompt, DataError for images of several
    sizes.
    """
    for prompt, paths in zip(prompts, images, strict=True):
        if len(paths) > DPG_MAX_IMAGES:
            raise ArgumentError(
                f"Got {plural(len(paths), 'image')} of the prompt {prompt.key}: DPG-Bench judges "
                f"up to {DPG_MAX_IMAGES}. Draw with --num {DPG_MAX_IMAGES}."
            )
        tiles = [open_picture(path).convert("RGB") for path in paths]
        width, height = tiles[0].size
        if any(tile.size != (width, height) for tile in tiles):
            raise DataError(f"The images of the prompt {prompt.key} have several sizes.")
        columns = min(DPG_COLUMNS, len(tiles))
        rows = -(-len(tiles) // columns)
        sheet = Image.new("RGB", (columns * width, rows * height))
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            sheet.paste(tile, (column * width, row * height))
        sheet.save(out / f"{prompt.key}.png")


FOLDER_WRITERS: dict[str, Callable[[Sequence[SetPrompt], ImagePaths, Path], None]] = {
    "geneval": write_geneval_folder,
    "geneval2": write_geneval2_folder,
    "t2i-compbench": write_t2i_compbench_folder,
    "dpg-bench": write_dpg_bench_folder,
}
"""Name of a benchmark -> writer of the folder that its judge reads."""
