"""Names of several files that one command writes beside one another. None is ever replaced."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from t2i.cli.naming import Names
from t2i.errors import OutputError


class Siblings(Names):
    """Files that share a beginning.

    In a folder that is `<words of the prompt>-<mark>-<seed>`, numbered when any of its files is in
    use; `out` may name the first file instead, and the others get its name with their own ends.

    ends : "" for the first, then such as "-source.png", or ".safetensors"
    """

    def __init__(self, out: Path, prompt: str, mark: str, ends: Sequence[str]) -> None:
        super().__init__(out, prompt, 1)
        self.slug = f"{self.slug}-{mark}"
        self.ends = ends
        for path in self.explicit:
            if used := [one for one in self.beside(path) if one.exists()]:
                raise OutputError(
                    f"{used[0]} exists and is not replaced: remove it, or choose another --out."
                )

    def beside(self, path: Path) -> list[Path]:
        """The first file and the others."""
        return [path, *(path.with_name(f"{path.stem}{end}") for end in self.ends)]

    def paths(self, seed: int) -> list[Path]:
        if self.explicit:
            return self.beside(self.explicit[0])
        tails = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        families = (self.beside(self.folder / f"{self.slug}-{seed}{tail}.png") for tail in tails)
        return next(family for family in families if not any(path.exists() for path in family))
