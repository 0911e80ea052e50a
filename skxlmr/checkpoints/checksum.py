"""Safetensors files that contain their own checksum: SHA-256 of the file with zeros in place of the checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.formats import safetensors_header
from skxlmr.system import atomic

KEY = "sha256"  # in the metadata
NO_CHECKSUM = {KEY: "0" * 64}  # the metadata of a file before `add_checksum`
BLOCK_BYTES = 2**20


def add_checksum(path: Path) -> None:
    """Fill in the checksum of a file that was written with the metadata `NO_CHECKSUM`."""
    header, checksum = _header(path)
    digest = _digest(path, header)
    atomic.overwrite(path, header.index(checksum.encode()), digest.encode())


def verify_checksum(path: Path) -> None:
    """Raise CheckpointError if a file has no checksum, or does not match it."""
    header, checksum = _header(path)
    if _digest(path, header.replace(checksum.encode(), NO_CHECKSUM[KEY].encode())) != checksum:
        raise CheckpointError(f"{path} does not match its checksum")


def _header(path: Path) -> tuple[bytes, str]:
    """Return the header of a file, and the checksum in it."""
    with open(path, "rb") as file:
        header, _, metadata = safetensors_header(file, path, path.stat().st_size)
    checksum = metadata.get(KEY, "")
    if len(checksum) != 64 or header.count(checksum.encode()) != 1:
        raise CheckpointError(f"{path} has no checksum")
    return header, checksum


def _digest(path: Path, header: bytes) -> str:
    """Compute the checksum of a file, with this header in place of its own."""
    digest = hashlib.sha256(header)
    with open(path, "rb") as file:
        file.seek(len(header))
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
