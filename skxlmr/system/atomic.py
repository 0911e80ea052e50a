"""Writing files so that a crash or a full disk leaves the old content or the new one, never a part of it.

New content is written under a temporary name in the same folder, given the mode that the umask asks for, flushed to the
disk, and renamed. All files that this package writes go through this module.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp")  # as `_temporary` makes them


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file, or replace it as a whole; its directory must exist.

    Raises OSError if the disk is full or the directory not writable; an existing file is then unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary file to write to, which replaces `path` at the end of the `with` block.

    After an error in the block, or of the disk, an existing file is unchanged and the temporary one removed.
    """
    path = Path(path)
    temporary = _temporary(path)
    mode = _create(temporary)
    try:
        yield temporary
        _flush(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            remove(temporary)
        raise
    _sync_directory(path.parent)


@contextmanager
def replacing_files(
    directory: str | os.PathLike,
    *,
    last: str,
    until_then: bytes | None = None,
    obsolete: Callable[[Path], object] = lambda path: False,
) -> Iterator[Path]:
    """Yield a temporary folder to write several files to, which replace those in `directory` at the end of the block.

    After an error in the block, or a full disk, existing files are unchanged and the temporary ones removed. The
    directory is created if absent.

    `last` is the file that readers open first, and that lists the others; it is renamed after all others. Meanwhile it
    contains `until_then`, which tells readers that the others are incomplete; with None the existing `last` stays
    valid, and the other files must have new names. Files in `directory` for which `obsolete` is true, of an earlier
    write, are removed unless they are written again.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> with replacing_files(directory, last="index.json") as staging:
    ...     _ = (staging / "part-1").write_bytes(b"...")
    ...     _ = (staging / "index.json").write_bytes(b'{"parts": ["part-1"]}')
    >>> sorted(path.name for path in directory.iterdir())
    ['index.json', 'part-1']
    """
    directory = Path(directory)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    staging = _temporary(directory / last)  # inside the directory: renaming must not cross file systems
    try:
        staging.mkdir()
        mode = _create(staging / last)
        yield staging
        for path in staging.iterdir():
            _flush(path, mode)
        _move_into(directory, staging, last, until_then, obsolete)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not empty, unless writing failed
                directory.rmdir()


def _move_into(
    directory: Path, staging: Path, last: str, until_then: bytes | None, obsolete: Callable[[Path], object]
) -> None:
    """Rename flushed files into a directory; see `replacing_files`."""
    others = [path.name for path in staging.iterdir() if path.name != last]

    def remove_obsolete() -> None:
        for path in list(directory.iterdir()):
            if obsolete(path) and path.name not in (*others, last, staging.name):
                remove(path)

    if until_then is not None:
        write_bytes(directory / last, until_then)
    try:
        for name in others:
            os.replace(staging / name, directory / name)
        if until_then is not None:
            remove_obsolete()
        _sync_directory(directory)
        os.replace(staging / last, directory / last)
    except BaseException:
        if until_then is None and (staging / last).exists():  # the existing `last` is valid and does not list these
            for name in others:
                with suppress(OSError):
                    remove(directory / name)
        raise
    _sync_directory(directory)
    if until_then is None:
        remove_obsolete()


@contextmanager
def replacing_directory(directory: Path, *, is_complete: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an unused path to create a directory at, which is renamed to `directory` at the end of the `with` block.

    An existing directory is replaced unless `is_complete`: then another process has written it meanwhile.
    """
    temporary = _temporary(directory)
    try:
        yield temporary
        if not is_complete(directory):
            shutil.rmtree(directory, ignore_errors=True)
        try:
            os.replace(temporary, directory)
        except OSError:
            if not is_complete(directory):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(directory.parent)


def is_left_over(path: Path, name: str | None = None) -> bool:
    """Whether a path is a temporary file or folder for `name` (None: for any), as a killed process leaves it."""
    found = TEMPORARY_NAME.fullmatch(path.name)
    return found is not None and name in (None, found["name"])


def remove_left_over(directory: Path) -> None:
    """Remove what killed processes have left in a directory; no other process may be writing to it."""
    for path in list(directory.iterdir()) if directory.is_dir() else ():
        if is_left_over(path):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, unless another process has removed it already."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _create(path: Path) -> int:
    """Create an empty file and return its mode, as the umask sets it."""
    path.touch(exist_ok=False)
    return stat.S_IMODE(path.stat().st_mode)


def _flush(path: Path, mode: int) -> None:
    """Set the mode of a file and flush it to the disk; safetensors makes its files readable to their owner alone."""
    path.chmod(mode)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Make renames inside a directory survive a power cut, where the system can."""
    if os.name == "nt":  # directories cannot be opened there
        return
    with suppress(OSError):  # some network file systems refuse; the renames are still atomic
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
