"""Safetensors files that contain their own checksum: SHA-256 of the file with zeros in place of the checksum."""

from __future__ import annotations

import hashlib
import os
from io import BufferedReader
from pathlib import Path

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.formats import TensorFile, open_file, safetensors_header, safetensors_ranges
from skxlmr.system import atomic

KEY = "sha256"  # in the metadata
NO_CHECKSUM = {KEY: "0" * 64}  # the metadata of a file before `add_checksum`
BLOCK_BYTES = 2**20


def add_checksum(path: Path) -> None:
    """Fill in the checksum of a file that was written with the metadata `NO_CHECKSUM`."""
    with open(path, "rb") as file:
        header, checksum = _header(file, path)
        digest = _digest(file, header)
    atomic.overwrite(path, header.index(checksum.encode()), digest.encode())


def open_verified(path: Path) -> TensorFile:
    """Open a file for reading; raise CheckpointError if it has no checksum, or does not match it.

    What is read later is what was verified, even if another process replaces the file meanwhile: it is opened once.
    """
    file = open_file(path)
    try:
        header, checksum = _header(file, path)
        if _digest(file, header.replace(checksum.encode(), NO_CHECKSUM[KEY].encode())) != checksum:
            raise CheckpointError(f"{path} does not match its checksum")
        file.seek(0)
        return TensorFile(path, file, safetensors_ranges(file, path, _size(file)))
    except BaseException:
        file.close()
        raise


def _header(file: BufferedReader, path: Path) -> tuple[bytes, str]:
    """Return the header of an open file, and the checksum in it."""
    header, _, metadata = safetensors_header(file, path, _size(file))
    checksum = metadata.get(KEY, "")
    if len(checksum) != 64 or header.count(checksum.encode()) != 1:
        raise CheckpointError(f"{path} has no checksum")
    return header, checksum


def _digest(file: BufferedReader, header: bytes) -> str:
    """Compute the checksum of an open file, with this header in place of its own."""
    digest = hashlib.sha256(header)
    file.seek(len(header))
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _size(file: BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size
