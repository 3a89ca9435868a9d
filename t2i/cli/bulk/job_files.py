"""Saving of the files of a job, which may be there already after a kill."""

import filecmp
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from t2i.atomic_files import (
    NameTakenError,
    build_write_error,
    move_file_to_unused_name,
    write_files_under_first_free_names,
)
from t2i.cli.bulk.jobs import MAPS_SUFFIX
from t2i.errors import DataError


def save_or_find_conflict(
    paths: Sequence[Path], save: Callable[[Sequence[Path]], object]
) -> Path | None:
    """Save the files of a job of a bulk run, but none that exists already. Return the path of the
    first existing file whose content differs from the new one; None if there is none.

    They are there after a kill between files and index, too. Other files of their names are left
    alone.
    """
    try:
        write_files_under_first_free_names([paths], save)
    except NameTakenError:
        pass
    else:
        return None
    again = [path.with_name(f".again-{path.name}") for path in paths]
    try:
        save(again)
        for new, path in zip(again, paths, strict=True):
            if not os.path.lexists(path):
                move_file_to_unused_name(new, path)
            elif not _have_same_contents(new, path):
                return path
        return None
    except OSError as error:
        raise build_write_error(paths[0], error) from error
    finally:
        for path in again:
            path.unlink(missing_ok=True)


def _have_same_contents(one: Path, other: Path) -> bool:
    """Return True for two equal files; of heat maps the tensors are compared, as safetensors writes
    its header in any order.
    """
    if one.suffix != MAPS_SUFFIX:
        return filecmp.cmp(one, other, shallow=False)
    from t2i.attention.probes.heat_maps import load_map_tensors

    try:
        ours, theirs = load_map_tensors(one), load_map_tensors(other)
    except DataError:
        return False
    return ours.keys() == theirs.keys() and all(ours[word].equal(theirs[word]) for word in ours)
