"""Folders that appear whole or not at all, and what a kill left of one."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from safetensors import SafetensorError

from t2i.atomic_files import Taken, cannot_write, flush_to_disk, place, temporary_beside
from t2i.errors import OutputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Within the block fill the folder it gives; after it, that is `final`, in place of an old one.

    Raises OutputError, leaving what stood under the final name, when the disk refuses.
    """
    temporary = temporary_beside(final)
    lock = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        recover(final)
        remove_abandoned(final)
        lock = made_and_locked(temporary)
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
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def free_place(final: Path) -> Iterator[Path]:
    """Within the block write a file or folder under the path it gives; after it, that is `final`.

    Raises Taken where anything but an empty folder has that name: to look and to place are one act.
    """
    temporary = temporary_beside(final)
    lock = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = made_and_locked(temporary)
        new = temporary / final.name
        yield new
        if new.is_dir():
            os.rename(new, final)
        else:
            place(new, final)
        flush_to_disk(final.parent)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and final.exists():
            raise Taken(final) from None
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def take_place(new: Path, final: Path) -> None:
    """Rename `new`; a folder that stood under the final name is gone only once that is done."""
    if not final.exists():
        new.rename(final)
        return
    if exchange(new, final):
        return  # the old one is now under the temporary name
    aside = aside_of(final)
    shutil.rmtree(aside, ignore_errors=True)
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders swap their names in one act; False where the system cannot."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if swap(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(other))


def recover(final: Path) -> None:
    """Put back the folder that a kill left aside between two renames, where no exchange is."""
    if not final.name:  # "." or "/"
        return
    aside = aside_of(final)
    if os.path.isdir(aside) and not os.path.lexists(final):
        with contextlib.suppress(OSError):  # another was quicker
            aside.rename(final)


def recover_all(folder: Path) -> None:
    """As recover, for each folder within."""
    for aside in folder.glob(".*.old"):
        recover(aside.with_name(aside.name[1:].removesuffix(".old")))


def aside_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def made_and_locked(temporary: Path) -> int | None:
    """Make a folder that remove_abandoned leaves alone as long as this process lives."""
    while True:
        temporary.mkdir()
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # it was taken for abandoned between the two lines
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # likewise
            pass
        except OSError:  # a file system without locks: nobody can take it for abandoned
            os.close(descriptor)
            return None
        if os.path.isdir(temporary) and os.path.samestat(os.stat(temporary), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def remove_abandoned(final: Path) -> None:
    """Remove what was begun under this name by processes that are no more."""
    for path in final.parent.glob(f".{escape(final.name)}.*.part"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:  # somebody works in it, or nobody can know
            pass
        finally:
            os.close(descriptor)
