"""Names of several files that one command writes beside one another. None is ever replaced."""

from collections.abc import Callable, Sequence
from pathlib import Path

from t2i.atomic_files import write_files_under_first_free_names
from t2i.cli.output_files.file_names import OutputFileNames


class MultiFileOutputNames(OutputFileNames):
    """Output file names of several files that a command writes together, as one group.

    In a folder that is `<words of the prompt>-<mark>-<seed>`, numbered when any of its files is in
    use; `out` may name the first file instead, and the others get its name with their own endings.

    mark : what the files are, such as "edit"
    endings : of the names of all files but the first, such as "-source.png" or ".safetensors"
    """

    def __init__(self, out: Path, prompt: str, mark: str, endings: Sequence[str]) -> None:
        super().__init__(out, prompt, 1)
        self.slug = f"{self.slug}-{mark}"
        self.endings = endings
        for path in self.given_paths:
            self.check_paths_unused(self.list_paths_saved_together(path))

    def list_paths_saved_together(self, path: Path) -> list[Path]:
        """Return the paths of all output files that are saved together with the image at `path`:
        itself, then the files beside it.
        """
        return [path, *(path.with_name(f"{path.stem}{end}") for end in self.endings)]

    def save_files_all_or_none(
        self, seed: int, write: Callable[[Sequence[Path]], object]
    ) -> Sequence[Path]:
        """Write a group of new files and return their paths; either all or none appear.

        write : called with a temporary path for each file, to which it writes them
        """
        candidates = (
            [self.list_paths_saved_together(self.given_paths[0])]
            if self.given_paths
            else self.iter_candidate_path_groups(seed)
        )
        return write_files_under_first_free_names(candidates, write)
