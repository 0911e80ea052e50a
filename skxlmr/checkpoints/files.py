"""Safe reading of single files: strict JSON with a size limit, links that stay inside a directory, checksums."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.system import nested_json, schema
from skxlmr.system.schema import shown

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_VALUES = 1_000_000  # of one file; a config has about a hundred, the index of XXL about a thousand

T = TypeVar("T")


def checked_as(expected: type[T], content: Any, where: str | os.PathLike) -> T:
    """Compare content with its declaration, as `schema.parse`; raises CheckpointError, which says where it is."""
    try:
        return schema.parse(expected, content)
    except schema.SchemaError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error


def parse_json(data: bytes, where: str | os.PathLike, max_values: int = MAX_JSON_VALUES) -> dict:
    """Parse a JSON object strictly; `where` names the data in the error message.

    Raises CheckpointError if the data is not UTF-8, not JSON or not an object, is nested deeper than 100 levels, has
    more than `max_values`, repeats a key, or contains NaN or an infinity.
    """
    try:
        value = nested_json.loads(
            data.decode("utf-8"),
            max_values=max_values,
            object_pairs_hook=_object_with_distinct_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} contains a JSON {type(value).__name__}; expected an object {{...}}")
    return value


def read_json(
    path: str | os.PathLike, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_JSON_VALUES
) -> dict[str, Any]:
    """Read a file of at most `max_bytes` that contains one JSON object, as strictly as `parse_json`."""
    return parse_json(read_limited(path, max_bytes), path, max_values)


def read_json_as(expected: type[T], path: str | os.PathLike) -> T:
    """Read a JSON object whose entries are the fields of the dataclass `expected`; see `skxlmr.system.schema`."""
    return checked_as(expected, read_json(path), path)


def read_limited(path: str | os.PathLike, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Read a file; raises CheckpointError if it cannot be read or is larger than `max_bytes`."""
    try:
        with open_file(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:  # of the read itself: a directory, a broken disk
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if is_lfs_pointer(data):
        raise CheckpointError(lfs_message(path))
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} is larger than the {max_bytes:,} bytes that such a file may have")
    return data


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file, or its beginning, is what Git has in the place of a large one."""
    return data.startswith(b"version https://git-lfs")


def lfs_message(path: object) -> str:
    """Return the message about such a file."""
    return f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder."


def open_file(path: str | os.PathLike) -> BufferedReader:
    """Open a file for reading; raises CheckpointError if it is missing, not readable or not a regular file."""
    try:
        return open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """Open a regular file for reading; raises OSError like `open`, and CheckpointError if it is something else.

    What was opened is checked, not what the path leads to at another time. A pipe or a device in the place of a file
    is not waited for.
    """
    without_waiting = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # Windows has neither
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | without_waiting)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} cannot be read: it is not a regular file")
    return open(descriptor, "rb")


def checked_file(path: Path, root: Path) -> Path:
    """Return `path` if it is a regular file, or a link to one below `root`.

    Raises UnsafeCheckpointError if its links lead out of `root`, and CheckpointError if it is missing or not a regular
    file.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not real.is_relative_to(os.path.realpath(root)):
        raise UnsafeCheckpointError(
            f"{path} is a link to {real}, outside {root}. Copy the file into the folder if you trust it."
        )
    if not real.is_file():
        raise CheckpointError(f"{path} is not a regular file")
    return path


def file_identity(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ after a file was replaced, even by one of the same content; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sha256_of_file(path: Path) -> str:
    """Compute the SHA-256 of a whole file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _object_with_distinct_keys(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {shown(key)} appears twice")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.60} is too large for a float")
    return value
