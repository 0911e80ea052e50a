"""Single operations on the disk: writing and flushing a file, flushing a folder, the space that is left, removal."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Chunks = Iterable[bytes | bytearray | memoryview]
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def write_file(path: Path, chunks: Chunks) -> dict[str, object]:
    """Create a file, flush it to the disk and return its size and SHA-256, as a manifest lists them.

    Its mode is the one that the umask asks for. Raises FileExistsError if there is such a file, and OSError, which
    names the file, if the disk is full or fails.
    """
    digest, size = hashlib.sha256(), 0
    with _opened(path, os.O_CREAT | os.O_EXCL) as descriptor:
        for chunk in chunks:
            data = memoryview(chunk).cast("B")
            digest.update(data)
            size += len(data)
            _write_all(descriptor, data)
    return {"bytes": size, "sha256": digest.hexdigest()}


class Sink:
    """What a writer of `write_file_with` writes to, from the beginning to the end of a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.digest, self.size = hashlib.sha256(), 0
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        content = memoryview(data).cast("B")
        self.digest.update(content)
        self.size += len(content)
        try:
            _write_all(self._descriptor, content)
        except BaseException as error:
            self.error = error
            raise
        return len(content)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def write_file_with(path: Path, write: Callable[[Sink], object]) -> dict[str, object]:
    """Create a file as `write_file`, with what a function writes; raises the errors of the disk, and interrupts."""
    with _opened(path, os.O_CREAT | os.O_EXCL) as descriptor:
        sink = Sink(descriptor)
        try:
            write(sink)
        except Exception as error:  # of a library, perhaps in place of another
            first = sink.error or _interrupt_before(error)
            if first is None:
                raise
            raise first from None
    return {"bytes": sink.size, "sha256": sink.digest.hexdigest()}


def flush_file(path: Path) -> None:
    """Flush a file that was written by its path to the disk."""
    with _opened(path):
        pass


def _interrupt_before(error: BaseException) -> BaseException | None:
    """Return the interrupt that was being handled when an error was raised, None if it was none."""
    before = error.__context__
    while isinstance(before, Exception):
        before = before.__context__
    return before


def overwrite(path: Path, position: int, data: bytes) -> None:
    """Overwrite some bytes of a file, which no other process uses yet, and flush it to the disk."""
    with _opened(path) as descriptor:
        os.lseek(descriptor, position, os.SEEK_SET)
        _write_all(descriptor, memoryview(data))


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a file for writing, and flush it to the disk at the end; errors name the file."""
    descriptor = os.open(path, flags | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield descriptor
        os.fsync(descriptor)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_directory(directory: Path) -> None:
    """Make renames inside a directory survive a power cut, where the system can."""
    if os.name == "nt":  # directories cannot be opened there
        return
    with suppress(OSError):  # some network file systems refuse; the renames are still atomic
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_space(directory: Path, needed: int) -> None:
    """Raise an OSError with the errno of a full disk, and both sizes, if so many bytes do not fit on the disk.

    The folder need not exist yet. What is to be replaced is not counted as free: it stays until the new is complete.
    """
    present = directory
    while not present.exists() and present != present.parent:
        present = present.parent
    try:
        usage = shutil.disk_usage(present)
    except OSError:  # the write itself will tell
        return
    if usage.total and needed > usage.free:
        raise OSError(
            errno.ENOSPC,
            f"{format_bytes(needed)} are needed, and the disk of the folder has {format_bytes(usage.free)} left",
            os.fspath(directory),
        )


def format_bytes(number: int) -> str:
    """Write a size with three digits and a unit.

    >>> format_bytes(13_946_000_000), format_bytes(1234), format_bytes(7)
    ('13.9 GB', '1.23 kB', '7 bytes')
    """
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"
    return f"{number} bytes"


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, unless another process has removed it already."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
