"""Ids of rows: integers or strings, none missing, none twice."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from typing_extensions import Self

from skxlmr.system.schema import shown

if TYPE_CHECKING:
    import pyarrow as pa

BUCKETS = 64  # files that hashes are shared out among, so that one at a time is in memory
SHOWN = 5  # ids in a message


def as_ids(values: Any, where: str) -> pa.Array:
    """Return ids as an array of int64 or of strings.

    Raises
    ------
    ValueError
        If one is missing, or they are of another type; the message says where.
    """
    import pyarrow as pa

    try:
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)
        kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if array.null_count:
            row = array.is_null().to_pylist().index(True)
            raise ValueError(f"{where}: the id of row {row} from there on is missing. Every row needs one.")
        if pa.types.is_integer(kind):
            return array.cast(pa.int64())
        if any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
            return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:  # of several types, or too large
        raise ValueError(f"{where}: ids must be integers of 64 bits or strings, all of one type: {error}") from error
    raise ValueError(f"{where}: ids must be integers or strings, not {kind}.")


def digest_of(ids: pa.Array) -> str:
    """Return a SHA-256 of ids in their order."""
    import pyarrow as pa

    digest = hashlib.sha256(str(ids.type).encode())
    if pa.types.is_integer(ids.type):
        digest.update(ids.to_numpy(zero_copy_only=False).tobytes())
    else:
        encoded = [text.encode() for text in ids.to_pylist()]
        digest.update(np.array(list(map(len, encoded)), np.int64).tobytes())
        digest.update(b"".join(encoded))
    return digest.hexdigest()


class RepeatedIds:
    """Finds ids that are there twice, among any number of them, in bounded memory: by their hashes, in files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="skxlmr-ids-")
        self._paths = [Path(self._folder.name) / str(i) for i in range(BUCKETS)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._folder.cleanup()

    def add(self, ids: pa.Array) -> None:
        """Note ids."""
        hashes = _hashes(ids)
        bucket = hashes % np.uint64(BUCKETS)
        hashes = hashes[np.argsort(bucket, kind="stable")]
        bounds = np.cumsum(np.bincount(bucket.astype(np.int64), minlength=BUCKETS))[:-1]
        for path, some in zip(self._paths, np.split(hashes, bounds), strict=True):
            with open(path, "ab") as file:
                file.write(some.tobytes())

    def check(self, again: Callable[[], Iterable[pa.Array]]) -> None:
        """Raise a ValueError that names ids that were added twice; `again` returns all of them, once more."""
        suspects = np.array([], np.uint64)  # hashes that are there twice: of one id, or by chance of two
        for path in filter(Path.exists, self._paths):
            hashes, counts = np.unique(np.frombuffer(path.read_bytes(), np.uint64), return_counts=True)
            suspects = np.concatenate([suspects, hashes[counts > 1]])
        if not len(suspects):
            return
        found: Counter = Counter()
        for ids in again():
            found.update(ids.filter(_mask(np.isin(_hashes(ids), suspects[: 100 * SHOWN]))).to_pylist())
        twice = [identifier for identifier, count in found.items() if count > 1]
        if twice:
            shown_ids = ", ".join(shown(identifier) for identifier in twice[:SHOWN])
            raise ValueError(
                f"{len(suspects)} ids are there several times: {shown_ids}{', ...' * (len(suspects) > SHOWN)}. Every "
                f"row needs an id of its own, by which its prediction is found."
            )


def _mask(array: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(array)


def _hashes(ids: pa.Array) -> np.ndarray:
    """Return a hash of each id, (n,) uint64."""
    values: Any = ids.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(values, categorize=False)
