"""Atomic writing of files: a file appears whole or not at all."""

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from t2i.errors import OutputError

MAX_NAME_BYTES = 255
"""Bytes, where the file system does not say."""
NO_HARD_LINK_ERRNOS = {
    errno.EPERM,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EACCES,
    errno.EMLINK,
}
"""How a file system says that a file has one name only."""
_numbers = itertools.count()


class NameTakenError(OutputError):
    """OutputError for a name that is in use; the existing file is not replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists and is not replaced: remove it, or choose another name.")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` fills a temporary file, which then replaces `path`.

    Raises OutputError, leaving neither the temporary nor a changed final file, when the disk
    refuses.
    """
    temporary = build_temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise build_write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically under a name that is not in use; NameTakenError otherwise.

    Checking and placing are one atomic operation: of two writers at once one is refused.
    """
    write_files_under_first_free_names([[path]], lambda paths: write(paths[0]))


def write_files_under_first_free_names(
    name_groups: Iterable[Sequence[Path]], write: Callable[[Sequence[Path]], object]
) -> Sequence[Path]:
    """Write several files atomically under the first free group of names, and return that group.

    name_groups : groups of equally many paths, in one folder; `write` is given temporary files
        with the names of the first group

    Raises NameTakenError if no group is free, OutputError if the disk refuses; then nothing is
    left.
    """
    name_groups = iter(name_groups)
    first_names = next(name_groups)
    folder = build_temporary_path(first_names[0])
    try:
        first_names[0].parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        files = [folder / path.name for path in first_names]
        write(files)
        for file in files:
            flush_to_disk(file)
        for names in itertools.chain([first_names], name_groups):
            if move_files_to_unused_names(files, names):
                flush_to_disk(names[0].parent)
                return names
        raise NameTakenError(
            next((path for path in first_names if os.path.lexists(path)), first_names[0])
        )
    except OSError as error:
        raise build_write_error(first_names[0], error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_files_to_unused_names(files: Sequence[Path], names: Sequence[Path]) -> bool:
    """Place files under new names, by hard link or move, all of them or, if a name is in use, none;
    return True on success.
    """
    placed: list[Path] = []
    try:
        for file, path in zip(files, names, strict=True):
            move_file_to_unused_name(file, path)
            placed.append(path)
    except OSError as error:
        for file, path in zip(files, placed, strict=False):
            path.unlink() if file.exists() else os.replace(path, file)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def move_file_to_unused_name(file: Path, path: Path) -> None:
    """Place a file under a new name in one step without replacing anything: by a hard link (the old
    name stays) or, where there are none, by moving it; FileExistsError if the name is in use.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_HARD_LINK_ERRNOS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        try:
            os.replace(file, path)
        except OSError:
            path.unlink()
            raise


def check_name_lengths(paths: Iterable[Path]) -> None:
    """Raise OutputError for a file name that is too long for its file system."""
    for path in paths:
        folder = next((parent for parent in path.parents if os.path.isdir(parent)), Path())
        try:
            longest = os.pathconf(folder, "PC_NAME_MAX")
        except (OSError, ValueError, AttributeError):
            longest = MAX_NAME_BYTES
        if any(len(os.fsencode(part)) > longest for part in path.parts if part != path.anchor):
            raise build_write_error(
                path, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            )


def build_temporary_path(path: Path) -> Path:
    """Return a hidden temporary path in the same folder, unique to this call."""
    path = path if path.name else path.absolute()
    name = path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}-{next(_numbers)}.part")


def flush_to_disk(path: Path) -> None:
    """Flush a file's data, or a directory's entries, to disk with fsync."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def build_write_error(path: Path, error: OSError) -> OutputError:
    """Return an OutputError, with advice, for an OSError that was raised when writing a file at
    this path.
    """
    remedy = {
        errno.ENOSPC: "The disk is full: free some space or choose another folder.",
        errno.EDQUOT: "The disk quota is used up: free some space or choose another folder.",
        errno.EACCES: "Permission denied: choose a folder you may write to.",
        errno.EROFS: "The file system is read-only: choose another folder.",
        errno.EEXIST: "A part of this path is a file, not a folder: choose another path.",
        errno.ENOTDIR: "A part of this path is a file, not a folder: choose another path.",
        errno.ENAMETOOLONG: "A name has at most 255 bytes: choose a shorter one.",
    }.get(error.errno or 0, "Nothing was written under the final name.")
    name = str(path) if len(str(path)) <= MAX_NAME_BYTES else f"{str(path)[:MAX_NAME_BYTES]}..."
    return OutputError(f"Cannot write {name}: {error.strerror or error}. {remedy}")
