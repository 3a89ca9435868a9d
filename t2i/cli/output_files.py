"""Names of several files that one command writes beside one another. None is ever replaced."""

from collections.abc import Callable, Sequence
from pathlib import Path

from t2i.atomic_files import write_new_together
from t2i.cli.file_names import OutputNames


class SiblingNames(OutputNames):
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
            self.check_free(self.beside(path))

    def beside(self, path: Path) -> list[Path]:
        """The first file and the others."""
        return [path, *(path.with_name(f"{path.stem}{end}") for end in self.ends)]

    def save_all(self, seed: int, write: Callable[[Sequence[Path]], object]) -> Sequence[Path]:
        """Let `write` fill all files; where they are now. All or none get their names."""
        families = [self.beside(self.explicit[0])] if self.explicit else self.families(seed)
        return write_new_together(families, write)
