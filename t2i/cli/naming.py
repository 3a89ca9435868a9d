"""File names for pictures. No picture is ever replaced."""

import itertools
import re
import unicodedata
from pathlib import Path

from t2i.errors import ArgumentError, OutputError
from t2i.files import cannot_write
from t2i.pictures import FORMATS

NOT_WRITTEN = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".ppm", ".tif", ".tiff")
SLUG_LETTERS = 48
"""At up to four bytes a letter this leaves room for the seed within a file system's 255 bytes."""


class Names:
    """Where each picture of one command goes.

    A folder: `<words of the prompt>-<seed>.png` in it, with `-2`, `-3` ... after a name in use.
    A file: that name, or `name-1.png`, `name-2.png` ... for several; refused when one is in use,
    because a script that names its file should not find the picture elsewhere.
    """

    def __init__(self, out: Path, prompt: str, num: int) -> None:
        suffix = out.suffix.lower()
        if suffix in NOT_WRITTEN and not out.is_dir():
            raise ArgumentError(
                f"Got --out {out}: pictures are written as {', '.join(FORMATS)}, not {suffix}."
            )
        self.explicit: list[Path] = []
        self.folder = out
        self.slug = slug(prompt)
        if suffix in FORMATS and not out.is_dir():
            self.folder = out.parent
            numbers = [""] if num == 1 else [f"-{i}" for i in range(1, num + 1)]
            self.explicit = [out.with_name(f"{out.stem}{n}{out.suffix}") for n in numbers]
            for path in self.explicit:
                if path.exists():
                    raise OutputError(
                        f"{path} exists and is not replaced: remove it, or choose another --out."
                    )

    def make_folder(self) -> None:
        """Fail before the sampling rather than after it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def path(self, index: int, seed: int) -> Path:
        if self.explicit:
            return self.explicit[index]
        tails = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        candidates = (self.folder / f"{self.slug}-{seed}{tail}.png" for tail in tails)
        return next(path for path in candidates if not path.exists())


def slug(prompt: str) -> str:
    """The prompt's words as part of a file name; letters of any script stay."""
    plain = unicodedata.normalize("NFKC", prompt).lower()
    words = re.sub(r"[\W_]+", "-", plain)[:SLUG_LETTERS]
    return words.strip("-") or "picture"
