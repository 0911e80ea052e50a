"""A temporary folder with the new files of a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from skxlmr.system.atomic.disk import Chunks, Sink, flush_file, sync_directory, write_file, write_file_with

HASH_DIGITS = 32  # of SHA-256, in names


class NewFiles:
    """The files that are to replace those of a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []  # relative to the directory, with "/"

    def add(self, name: str, chunks: Chunks) -> dict[str, object]:
        """Write a file and return its size and SHA-256; `name` may have one folder in it."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        entry = write_file(path, chunks)
        self.names.append(name)
        return entry

    def add_with(self, name: str, write: Callable[[Sink], object]) -> dict[str, object]:
        """Write a file directly inside the directory with a function that takes it open; return size and SHA-256."""
        entry = write_file_with(self.folder / name, write)
        self.names.append(name)
        return entry

    def add_written(self, names: Sequence[str], write: Callable[[Path], object]) -> None:
        """Let a library write files directly inside the directory, by the path of the first of `names`.

        The others are written beside it, but for those that the library does not need.
        """
        write(self.folder / names[0])
        for name in names:
            if (self.folder / name).exists():
                flush_file(self.folder / name)
                self.names.append(name)

    def add_by_content(self, pattern: str, chunks: Chunks) -> dict[str, object]:
        """Write a file whose name is `pattern`, which contains "{}", with the SHA-256 of the content; return both."""
        entry = write_file(self.folder / pattern.format("new"), chunks)
        name = pattern.format(str(entry["sha256"])[:HASH_DIGITS])
        (self.folder / pattern.format("new")).rename(self.folder / name)
        self.names.append(name)
        return {"file": name, **entry}

    def sync(self) -> None:
        """Flush the folder, and those in it, to the disk."""
        for folder in {(self.folder / name).parent for name in self.names} | {self.folder}:
            sync_directory(folder)


@contextmanager
def created(directory: Path) -> Iterator[None]:
    """Create a directory if it is absent, and remove it after an error unless something is in it."""
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                directory.rmdir()
        raise
    if is_new:
        sync_directory(directory.parent)


def make_inside(directory: Path, name: str) -> Path:
    """Make a folder in a directory, which another writer that has failed may just have removed."""
    for _ in range(100):
        try:
            (directory / name).mkdir()
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
        else:
            break
    return directory / name
