"""Files and folders that appear whole or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from t2i.errors import OutputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it, then give it the final name.

    Raises OutputError, leaving neither the temporary nor a changed final file, when the disk
    refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Within the block fill the folder it gives; after it, that is `final`, in place of an old one.

    Raises OutputError, leaving what stood under the final name, when the disk refuses.
    """
    temporary = final.with_name(f".{final.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            flush_to_disk(path)
        take_place(temporary, final)
        flush_to_disk(final.parent)
    except SafetensorError as error:  # how safetensors says that a file cannot be written
        raise OutputError(
            f"Cannot write {final}: {error}. Free some space or choose another folder."
        ) from error
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def take_place(new: Path, final: Path) -> None:
    """Rename `new`; a folder that stood under the final name is gone only once that is done."""
    if not final.exists():
        new.rename(final)
        return
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """fsync a file, or a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> OutputError:
    remedy = {
        errno.ENOSPC: "The disk is full: free some space or choose another folder.",
        errno.EDQUOT: "The disk quota is used up: free some space or choose another folder.",
        errno.EACCES: "Permission denied: choose a folder you may write to.",
        errno.EROFS: "The file system is read-only: choose another folder.",
        errno.EEXIST: "A part of this path is a file, not a folder: choose another path.",
        errno.ENOTDIR: "A part of this path is a file, not a folder: choose another path.",
    }.get(error.errno or 0, "Nothing was written under the final name.")
    return OutputError(f"Cannot write {path}: {error.strerror or error}. {remedy}")
