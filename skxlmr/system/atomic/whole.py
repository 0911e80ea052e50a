"""Replacing all files of a directory whose names are fixed, since other programs read them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skxlmr.system.atomic import pending
from skxlmr.system.atomic.disk import check_space, sync_directory
from skxlmr.system.atomic.exchange import can_exchange, exchange
from skxlmr.system.atomic.leftovers import in_use, is_left_over, remove_left_over, temporary_name
from skxlmr.system.atomic.lock import locked
from skxlmr.system.atomic.staging import NewFiles, created, make_inside

MAX_KEPT = 1000  # other files in a directory that is exchanged


@contextmanager
def replacing_whole(
    directory: str | os.PathLike, *, size: int, is_obsolete: Callable[[str], object] = lambda name: False
) -> Iterator[NewFiles]:
    """Yield the new files of a directory, which is created if absent; at the end of the block they replace the old.

    On Linux a new directory is made beside the old one, with hard links to the other files in it, and both are
    exchanged: all programs find either the old files or the new ones, at every moment, after a kill and with any number
    of writers. A program that opens one file before the exchange and one after it sees one of each; readers of this
    library notice that and start again.

    Where that is impossible (on other systems, on network disks, for a mount point, the current directory, or a
    directory with other folders in it) the new files are collected in a folder inside the directory, which is renamed
    when it is complete, and then moved from there one by one. Other programs may then see old and new files mixed:
    for the milliseconds of the moves, or if the process is killed in them until this library reads or writes the
    directory, which completes them; see `recover`.

    After an error the directory is as it was. Leftovers of dead writers are removed.

    Parameters
    ----------
    directory : str or path
        Other files and folders in it are kept.
    size : int
        Bytes that are needed on the disk.
    is_obsolete : callable
        Takes the name of a file of the directory, and says whether it belongs to the old files and is to be removed if
        there is no new one.

    Raises
    ------
    OSError
        If the disk is full or not writable.
    """
    directory = Path(os.path.realpath(directory))
    check_space(directory, size)
    with created(directory):
        remove_left_over(directory.parent, directory.name)
        name = temporary_name(directory.name)
        beside = directory.parent / name
        with in_use(beside, directory / name):
            if can_exchange(directory):
                beside.mkdir()
                new = NewFiles(beside)
            else:
                new = NewFiles(make_inside(directory, name))
            yield new
            new.sync()
            with locked(directory):
                pending.finish(directory)
                remove_left_over(directory)
                if new.folder != beside:
                    pending.put(new, directory, is_obsolete)
                elif not _put_by_exchange(new, directory, is_obsolete):
                    new.folder = Path(shutil.move(beside, directory / name))
                    pending.put(new, directory, is_obsolete)


def _put_by_exchange(new: NewFiles, directory: Path, is_obsolete: Callable[[str], object]) -> bool:
    """Exchange two directories; return False, with the new one as it was, if that is impossible."""
    linked: list[Path] = []
    try:
        kept = _kept(new, directory, is_obsolete)
        if kept is None or not _has_same_owner(new.folder, directory):
            return False
        for name in kept:
            os.link(directory / name, new.folder / name, follow_symlinks=False)
            linked.append(new.folder / name)
        os.chmod(new.folder, os.stat(directory).st_mode & 0o7777)
        sync_directory(new.folder)
        exchange(new.folder, directory)
    except (OSError, NotImplementedError):
        for path in linked:
            path.unlink()
        return False
    _move_late_files(new, directory, is_obsolete)
    sync_directory(directory.parent)
    return True


def _kept(new: NewFiles, directory: Path, is_obsolete: Callable[[str], object]) -> list[str] | None:
    """Return the files of a directory that are neither replaced nor obsolete; None if there are folders among them."""
    folders = {Path(name).parent.as_posix() for name in new.names} - {"."}
    kept = []
    for folder in ("", *folders):
        if not os.path.isdir(directory / folder):
            continue
        for entry in list(os.scandir(directory / folder)):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if name in new.names or name in folders or (not folder and is_obsolete(name)):
                continue
            if entry.is_dir(follow_symlinks=False):
                return None
            kept.append(name)
    return kept if len(kept) <= MAX_KEPT else None


def _has_same_owner(first: Path, second: Path) -> bool:
    """Whether two directories have the same owner, group, and extended attributes, such as lists of permissions."""
    one, other = os.stat(first), os.stat(second)
    attributes = [set(os.listxattr(path)) for path in (first, second)] if hasattr(os, "listxattr") else [set(), set()]
    return (one.st_uid, one.st_gid) == (other.st_uid, other.st_gid) and attributes[0] == attributes[1]


def _move_late_files(new: NewFiles, directory: Path, is_obsolete: Callable[[str], object]) -> None:
    """Move what other programs have put into the old directory just before the exchange to the new one."""
    folders = {Path(name).parent.as_posix() for name in new.names}
    for path in list(new.folder.iterdir()):
        present = os.path.lexists(directory / path.name) or path.name in folders
        if not (present or path.name in new.names or is_obsolete(path.name) or is_left_over(path)):
            with suppress(OSError):
                os.rename(path, directory / path.name)
