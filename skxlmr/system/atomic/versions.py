"""Replacing files that a manifest names: new ones have other names, so that both versions are there until the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skxlmr.system.atomic.disk import check_space, remove, sync_directory
from skxlmr.system.atomic.leftovers import has_living_writer, in_use, remove_left_over, temporary_name
from skxlmr.system.atomic.lock import locked
from skxlmr.system.atomic.staging import NewFiles, created, make_inside


@contextmanager
def replacing_version(
    directory: str | os.PathLike,
    *,
    manifest: str,
    size: int,
    unused: Callable[[Path], set[str]],
    descriptions: Collection[str] = (),
) -> Iterator[NewFiles]:
    """Yield the new files of a directory, which is created if absent; at the end of the block they replace the old.

    All files but the manifest and descriptions are added by content. They are renamed into the directory beside the
    old ones, and the manifest, which names them, last. Every reader that opens the manifest finds the old version or
    the new one, as long as it starts again if a file that the manifest names is gone. That holds for any number of
    writers, with or without locks, and if a writer is killed.

    Afterwards the files of older versions are removed. After an error the directory is as it was.

    Parameters
    ----------
    directory : str or path
    manifest : str
    size : int
        Bytes that are needed on the disk.
    unused : callable
        Takes the directory, and returns the names of the files in it that belong to versions other than the one that
        its manifest names.
    descriptions : collection of str
        Names of files that describe the version to people. An old one is removed before the manifest is replaced, and
        the new one put there afterwards: if a writer is killed there is none, and never that of another version.

    Raises
    ------
    OSError
        If the disk is full or not writable.
    """
    directory = Path(directory)
    check_space(directory, size)
    with created(directory):
        name = temporary_name(manifest)
        with in_use(directory / name):
            new = NewFiles(make_inside(directory, name))
            yield new
            with locked(directory) as is_locked:
                try:
                    _put(new, directory, manifest, descriptions)
                finally:
                    with suppress(OSError):
                        _clean(directory, name, is_locked, unused)


def _put(new: NewFiles, directory: Path, manifest: str, descriptions: Collection[str]) -> None:
    for name in new.names:
        if name != manifest and name not in descriptions:
            os.replace(new.folder / name, directory / name)
    for name in descriptions:
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    os.replace(new.folder / manifest, directory / manifest)
    sync_directory(directory)
    for name in descriptions:
        os.replace(new.folder / name, directory / name)
    sync_directory(directory)


def _clean(directory: Path, own: str, is_locked: bool, unused: Callable[[Path], set[str]]) -> None:
    remove_left_over(directory, only_ours=True)
    listed = {path.name for path in directory.iterdir()}
    # Without the lock another writer may have renamed its files, and not yet the manifest.
    if is_locked or not has_living_writer(directory, own):
        for name in unused(directory) & listed:
            with suppress(OSError):
                remove(directory / name)
