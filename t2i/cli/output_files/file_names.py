"""File names of the images that a command writes. No image is ever replaced."""

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from t2i.atomic_files import (
    NameTakenError,
    build_write_error,
    check_name_lengths,
    write_files_under_first_free_names,
)
from t2i.errors import ArgumentError
from t2i.pictures import FORMAT_BY_SUFFIX
from t2i.terminal import format_short_json

UNSUPPORTED_FORMATS = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".ppm", ".tif", ".tiff")
"""Suffixes of image formats that are not written."""
MAX_SLUG_LENGTH = 48
"""Maximum letters that a prompt gives a file name: at up to four bytes each they leave room for the
seed within a file system's 255 bytes."""


MAX_NAME_BYTES = 200
"""Maximum bytes of the "name" of a prompts file's line; a file system takes 255, and a number and a
temporary suffix are added."""


class OutputFileNames:
    """Output file names of the images of one command, in a folder or as one named file; also saves
    the images and their contact sheet under these names.

    A folder: `<words of the prompt>-<seed>.png` in it, with `-2`, `-3` ... after a name in use.
    A file: that name, or `name-1.png`, `name-2.png` ... for several; refused when one is in use,
    because a script that names its file should not find the image elsewhere.

    grid : whether a sheet of them goes beside them: `<words of the prompt>-<first seed>-grid.png`,
        numbered in the same way, or `name-grid.png`
    """

    def __init__(self, out: Path, prompt: str, num: int, *, grid: bool = False) -> None:
        check_name_lengths([out])
        suffix = out.suffix.lower()
        if suffix in UNSUPPORTED_FORMATS and not out.is_dir():
            raise ArgumentError(
                f"Got --out {out}: pictures are written as {', '.join(FORMAT_BY_SUFFIX)}, "
                f"not {suffix}."
            )
        self.given_paths: list[Path] = []
        self.grid_path: Path | None = None
        self.folder = out
        self.slug = slugify(prompt)
        if suffix in FORMAT_BY_SUFFIX and not out.is_dir():
            self.folder = out.parent
            numbers = [""] if num == 1 else [f"-{i}" for i in range(1, num + 1)]
            self.given_paths = [out.with_name(f"{out.stem}{n}{out.suffix}") for n in numbers]
            self.grid_path = out.with_name(f"{out.stem}-grid{out.suffix}")
            self.check_paths_unused([*self.given_paths, *([self.grid_path] if grid else [])])

    def check_paths_unused(self, paths: Sequence[Path]) -> None:
        """Raise NameTakenError if one of the files that a command will write exists already."""
        check_name_lengths(paths)
        for path in paths:
            if os.path.lexists(path):
                raise NameTakenError(path)

    def make_folder(self) -> None:
        """Create the output folder, before images are generated. Raises OutputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise build_write_error(self.folder, error) from error

    def save_image(self, index: int, seed: int, write: Callable[[Path], object]) -> Path:
        """Write an image to a new file through `write` and return its path.

        index : of the image among those of the command, from 0
        write : called with a temporary path, to which it saves the image

        Raises NameTakenError where the name that was given is in use.
        """
        candidates = (
            [[self.given_paths[index]]]
            if self.given_paths
            else self.iter_candidate_path_groups(seed)
        )
        return write_files_under_first_free_names(candidates, lambda paths: write(paths[0]))[0]

    def save_grid(self, seed: int, write: Callable[[Path], object]) -> Path:
        """Save the contact sheet of a command's images to a new file through `write` and return its
        path. `seed` is that of the first image.
        """
        candidates = (
            [[self.grid_path]] if self.grid_path else self.iter_candidate_path_groups(seed, "-grid")
        )
        return write_files_under_first_free_names(candidates, lambda paths: write(paths[0]))[0]

    def iter_candidate_path_groups(self, seed: int, mark: str = "") -> Iterator[list[Path]]:
        """Yield lists of candidate output paths for the image of a seed: first the plain name, then
        with -2, -3, ... added; each list holds the paths of all files saved together.
        """
        for tail in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
            yield self.list_paths_saved_together(
                self.folder / f"{self.slug}-{seed}{mark}{tail}.png"
            )

    def list_paths_saved_together(self, path: Path) -> list[Path]:
        """Return the paths of all output files that are saved together with the image at `path`;
        for a single image `path` alone.
        """
        return [path]


def slugify(prompt: str) -> str:
    """Convert a prompt to a part of a file name; letters of any script stay."""
    plain = unicodedata.normalize("NFKC", prompt).lower()
    words = re.sub(r"[\W_]+", "-", plain)[:MAX_SLUG_LENGTH]
    return words.strip("-") or "picture"


def validate_name_and_add_suffix(name: str) -> str:
    """Check the file name that a line of a prompts file gives its image, and return it with .png
    added where it has no image suffix. Raises ArgumentError.
    """
    validate_plain_file_name(name)
    suffix = Path(name).suffix.lower()
    if suffix in UNSUPPORTED_FORMATS:
        raise ArgumentError(
            f'Got "name": {format_short_json(name)}. Pictures are written as '
            f"{', '.join(FORMAT_BY_SUFFIX)}."
        )
    return name if suffix in FORMAT_BY_SUFFIX else validate_plain_file_name(f"{name}.png")


def validate_plain_file_name(name: str, key: str = "name") -> str:
    """Return a file or folder name unchanged, or raise ArgumentError for one with a folder in it, a
    leading dot, a control character or too many bytes.

    key : of the prompts file's line, for messages
    """
    if name.startswith((".", "~")) or any(c in "/\\" or ord(c) < 32 for c in name) or not name:
        raise ArgumentError(
            f'Got "{key}": {format_short_json(name)}. Expected a plain file name: no folder, no '
            "leading dot."
        )
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise ArgumentError(
            f'Got "{key}": {format_short_json(name)}. At most {MAX_NAME_BYTES} bytes fit. '
            "Shorten it."
        )
    return name
