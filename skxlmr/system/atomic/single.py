"""Replacing a single file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skxlmr.system.atomic.disk import Chunks, check_space, sync_directory, write_file
from skxlmr.system.atomic.leftovers import in_use, remove_left_over, temporary_name


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file, or replace it as a whole; its directory must exist.

    Raises OSError if the disk is full or the directory not writable; an existing file is then unchanged.
    """
    write_chunks(path, [data], len(data))


def write_chunks(path: str | os.PathLike, chunks: Chunks, size: int) -> None:
    """Write a file of `size` bytes from its parts, one after another, as `write_bytes`."""
    path = Path(path)
    check_space(path.parent, size)
    with replacing(path) as temporary:
        write_file(temporary, chunks)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an unused path to write a file to, and to flush it, which replaces `path` at the end of the `with` block.

    After an error in the block, or of the disk, an existing file is unchanged and the temporary one removed. What
    dead writers of the same file have left is removed.
    """
    path = Path(path)
    remove_left_over(path.parent, path.name)
    temporary = path.with_name(temporary_name(path.name))
    with in_use(temporary):
        yield temporary
        os.replace(temporary, path)
    sync_directory(path.parent)
