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
    """Write a file, or replace it as a whole.

    Parameters
    ----------
    path : str or path
        Its directory must exist.
    data : bytes

    Raises
    ------
    OSError
        If the disk is full or the directory not writable; an existing file is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "history.csv"
    >>> write_bytes(path, b"epoch,loss")
    >>> path.read_bytes()
    b'epoch,loss'
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file under a temporary name; when the `with` block ends without an error, it replaces `path`.

    Parameters
    ----------
    path : str or path
        Its directory must exist.

    Yields
    ------
    Path
        An empty file in the same directory, to be overwritten.

    Raises
    ------
    OSError
        If the disk is full or the directory not writable; an existing file is then unchanged.
    """
    path = Path(path)
    temporary = _temporary(path)
    mode = _create(temporary)
    try:
        yield temporary
        _flush(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
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
    """Write several files that belong together, one of which says what the others are.

    When the `with` block ends without an error, all are flushed, and renamed into `directory`: `last` after the others.

    Parameters
    ----------
    directory : str or path
        Created if absent.
    last : str
        Name of the file that decides: readers open it first, and it tells whether and which other files count.
    until_then : bytes, default=None
        What `last` holds while the others are being replaced, to tell readers that they are incomplete. None leaves the
        existing `last` in place; the other files must then have new names.
    obsolete : callable, default=lambda path: False
        Whether a file of `directory` belongs to an earlier write. Such files are removed unless they were written
        again.

    Yields
    ------
    Path
        A folder to write the files to, `last` included.

    Raises
    ------
    OSError
        If the disk is full or the directory not writable; existing files are then unchanged.

    Examples
    --------
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
        if is_new and not any(directory.iterdir()):
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
        if until_then is None:  # the existing `last` still counts, and does not name these
            for name in others:
                remove(directory / name)
        raise
    _sync_directory(directory)
    if until_then is None:
        remove_obsolete()


@contextmanager
def replacing_directory(directory: Path, *, is_complete: Callable[[Path], bool]) -> Iterator[Path]:
    """Write a directory under a temporary name; when the `with` block ends without an error, it gets its own name.

    A damaged directory of that name is replaced; a complete one, which another process has just written, stays.

    Parameters
    ----------
    directory : Path
        Its parent must exist.
    is_complete : callable
        Whether a directory holds all that it should.

    Yields
    ------
    Path
        A path beside `directory` where nothing is yet.
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
    """Whether a file or folder is a temporary one, which only a process that was killed leaves.

    Parameters
    ----------
    path : Path
    name : str, default=None
        Final name of what was being written; None stands for any.

    Examples
    --------
    >>> is_left_over(Path(".config.json.0123456789abcdef.tmp"), "config.json")
    True
    """
    found = TEMPORARY_NAME.fullmatch(path.name)
    return found is not None and name in (None, found["name"])


def remove_left_over(directory: Path, name: str | None = None) -> None:
    """Remove temporary files and folders that killed processes have left; nobody may be writing there now.

    Parameters
    ----------
    directory : Path
        May be absent.
    name : str, default=None
        Final name of what was being written; None stands for any.
    """
    for path in list(directory.iterdir()) if directory.is_dir() else ():
        if is_left_over(path, name):
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
    """Create an empty file and return its mode, which is the one that the umask asks for."""
    path.touch(exist_ok=False)
    return stat.S_IMODE(path.stat().st_mode)


def _flush(path: Path, mode: int) -> None:
    """Bring a file to the disk; safetensors, for one, makes its files readable to their owner alone."""
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
