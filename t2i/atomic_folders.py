"""Atomic writing of folders, and recovery after a kill."""

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

from t2i.atomic_files import (
    NameTakenError,
    build_temporary_path,
    build_write_error,
    flush_to_disk,
    move_file_to_unused_name,
)
from t2i.errors import OutputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the context ends it replaces `final` as a whole.

    Raises OutputError when the disk refuses; then the previous folder stays.
    """
    temporary = build_temporary_path(final)
    lock = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        restore_folder_from_backup(final)
        remove_abandoned_folders(final)
        lock = make_folder_and_get_lock(temporary)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            flush_to_disk(path)
        replace_folder(temporary, final)
        flush_to_disk(final.parent)
    except SafetensorError as error:  # how safetensors says that a file cannot be written
        raise OutputError(
            f"Cannot write {final}: {error}. Free some space or choose another folder."
        ) from error
    except OSError as error:
        raise build_write_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def atomic_new_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; when the context ends it becomes `final`.

    Raises NameTakenError where anything but an empty folder has that name; checking and placing are
    one atomic operation.
    """
    temporary = build_temporary_path(final)
    lock = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = make_folder_and_get_lock(temporary)
        new = temporary / final.name
        yield new
        if new.is_dir():
            os.rename(new, final)
        else:
            move_file_to_unused_name(new, final)
        flush_to_disk(final.parent)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and final.exists():
            raise NameTakenError(final) from None
        raise build_write_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replace_folder(new: Path, final: Path) -> None:
    """Rename the folder `new` to `final`; an existing folder `final` is removed only after that."""
    if not final.exists():
        new.rename(final)
        return
    if try_swap_folders_atomically(new, final):
        return  # the old one is now under the temporary name
    aside = build_backup_path(final)
    shutil.rmtree(aside, ignore_errors=True)
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def try_swap_folders_atomically(one: Path, other: Path) -> bool:
    """Swap two folders' names in one atomic operation; return False if the system cannot."""
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


def restore_folder_from_backup(final: Path) -> None:
    """Restore a folder that a process, killed while it replaced the folder, left under its backup
    name.
    """
    if not final.name:  # "." or "/"
        return
    aside = build_backup_path(final)
    if os.path.isdir(aside) and not os.path.lexists(final):
        with contextlib.suppress(OSError):  # another was quicker
            aside.rename(final)


def restore_all_folders_from_backup(folder: Path) -> None:
    """Restore every folder inside `folder` that a process, killed while it replaced the folder,
    left under its backup name.
    """
    for aside in folder.glob(".*.old"):
        restore_folder_from_backup(aside.with_name(aside.name[1:].removesuffix(".old")))


def build_backup_path(final: Path) -> Path:
    """Return the path of a folder's backup while it is being replaced."""
    return final.with_name(f".{final.name}.old")


def make_folder_and_get_lock(temporary: Path) -> int | None:
    """Create a temporary folder and hold a lock on it, so that other processes do not take it for
    abandoned; return the lock's file descriptor, None on file systems without locks.
    """
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


def remove_abandoned_folders(final: Path) -> None:
    """Remove temporary folders for `final` that killed processes left behind."""
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
