"""Moving complete new files to their places, such that an interrupted move is continued later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from skxlmr.system.atomic.disk import sync_directory, write_file
from skxlmr.system.atomic.lock import locked
from skxlmr.system.atomic.staging import NewFiles

PENDING = ".skxlmr-pending"  # a folder inside the directory, with complete new files
OBSOLETE = ".obsolete"  # in it: the names of files to remove, one per line
MAX_OBSOLETE_BYTES = 2**20
ATTEMPTS = 100


def is_pending(directory: Path) -> bool:
    """Whether the files of a directory are being moved to their places, or a writer was killed while it did that."""
    return os.path.lexists(directory / PENDING)


def recover(directory: Path) -> None:
    """Complete what a killed writer had begun to put in place; wait for a writer that is alive.

    Raises OSError if the directory cannot be written.
    """
    if is_pending(directory):
        with locked(directory):
            finish(directory)


def put(new: NewFiles, directory: Path, is_obsolete: Callable[[str], object]) -> None:
    """Replace the files of a directory by new ones, which lie in a folder in it; the caller holds its lock."""
    obsolete = [entry.name for entry in list(os.scandir(directory)) if entry.is_file() and is_obsolete(entry.name)]
    text = "\n".join(name for name in obsolete if name not in new.names)
    if text:
        write_file(new.folder / OBSOLETE, [text.encode()])
        sync_directory(new.folder)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            os.rename(new.folder, directory / PENDING)
            break
        except OSError:
            if attempt == ATTEMPTS or not is_pending(directory):
                raise
            finish(directory)  # of another writer, where there are no locks
    sync_directory(directory)
    finish(directory)


def finish(directory: Path) -> None:
    """Move the pending files of a directory to their places; the caller holds its lock.

    Raises OSError if a folder among them is a link, which could lead anywhere.
    """
    folder = directory / PENDING
    if not os.path.isdir(folder):
        return
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a link", os.fspath(folder))
    subfolders = [entry.name for entry in list(os.scandir(folder)) if entry.is_dir(follow_symlinks=False)]
    for subfolder in ("", *subfolders):
        target = directory / subfolder
        if subfolder:
            target.mkdir(exist_ok=True)
            if target.is_symlink():
                raise OSError(errno.ELOOP, "is a link", os.fspath(target))
        for entry in list(os.scandir(folder / subfolder)):
            if entry.name != OBSOLETE and not entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # another process has moved it, where there are no locks
                    os.replace(entry.path, target / entry.name)
        sync_directory(target)
    for name in _obsolete_names(folder):
        with suppress(FileNotFoundError):
            os.unlink(directory / name)
    with suppress(FileNotFoundError):
        os.unlink(folder / OBSOLETE)
    for path in (*(folder / name for name in subfolders), folder):
        with suppress(FileNotFoundError):
            os.rmdir(path)
    sync_directory(directory)


def _obsolete_names(folder: Path) -> list[str]:
    try:
        with open(folder / OBSOLETE, "rb") as file:
            names = file.read(MAX_OBSOLETE_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [name for name in names if name == os.path.basename(name) and name not in ("", ".", "..")]
