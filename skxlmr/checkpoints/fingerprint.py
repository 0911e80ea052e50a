"""Fingerprints of checkpoints: fast to compute, and dependent on the content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from skxlmr.checkpoints.formats import open_weights
from skxlmr.checkpoints.layout import SMALL_FILE, cached_sha256

SAMPLE_BYTES = 8192  # at least one whole bias or layer norm of XXL in 16 bits
EVEN_SAMPLES = 256
MAX_TENSOR_SAMPLES = 4096


def fingerprint_of(small_files: Iterable[Path], weights: Iterable[Path]) -> str:
    """Compute a SHA-256 over the names, sizes and content of files, in hexadecimal.

    Of weight files above 64 MiB only samples are read: the beginning of every tensor, so that no bias or layer norm is
    missed, and 256 places evenly spread over the file. Raises CheckpointError if such a file has no readable header.
    """
    digest = hashlib.sha256()
    parts = [(path, cached_sha256(path)) for path in small_files]
    parts += [(path, _weights_digest(path)) for path in weights]
    for path, content in parts:
        digest.update(f"{path.name}\0{path.stat().st_size}\0{content}\0".encode())
    return digest.hexdigest()


def _weights_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size <= SMALL_FILE:
        return cached_sha256(path)
    return _sampled_sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _sampled_sha256(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    with closing(open_weights(path)) as weights:
        tensor_offsets = weights.offsets[:MAX_TENSOR_SAMPLES]
    last = size - SAMPLE_BYTES
    even_offsets = [last * number // (EVEN_SAMPLES - 1) for number in range(EVEN_SAMPLES)]
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for offset in sorted({*tensor_offsets, *even_offsets}):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
