"""Quantised weights, kept on disk as safetensors and mapped into memory, so that processes share one physical copy.

A file holds its own checksum: SHA-256 over the SHA-256 of each block of 16 MiB, the checksum's own digits taken as
zeros. It is written under a temporary name and renamed, so two processes that write at once leave one good file; a file
that is not what its checksum says is removed and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import parse_json
from skxlmr.checkpoints.formats import SAFETENSORS_DTYPES, safetensors_spans
from skxlmr.system import atomic
from skxlmr.system.warn import warn

FORMAT_VERSION = 1  # goes up when the layout, the quantisation or the sentences for outliers change
BLOCK_BYTES = 16 * 2**20
MOST_READERS = 4
PAGE = 4096  # tensors begin after a whole number of pages
NO_CHECKSUM = "0" * 64
LOCK_SECONDS = 30 * 60
DECODED_NAME = re.compile(r"(?P<model>[^.].*)-[0-9a-f]{16}-\d+")
DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True)
class CachedFile:
    """One file of the cache, or a decoded checkpoint.

    Attributes
    ----------
    model : str
        As the user named it when the file was made.
    kind : str
        "int8", "nf4" or "words"; "decoded" of a checkpoint that came in a package.
    nbytes : int
    modified : datetime
    path : Path
        A directory where it was decoded.
    """

    model: str
    kind: str
    nbytes: int
    modified: datetime
    path: Path


def cache_directory() -> Path:
    """Folder of the quantised weights: "quantized" in $SKXLMR_CACHE, or in the user's cache directory."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("SKXLMR_CACHE") or user_cache_path("skxlmr")) / "quantized"


def decoded_directory(model: str, version: str) -> Path:
    """Where a checkpoint that came in a package is, once it has been decoded."""
    return _decoded() / f"{model}-{version}"  # as DECODED_NAME has it


def _decoded() -> Path:
    return cache_directory().parent / "decoded"


def cached_path(fingerprint: str, kind: str) -> Path:
    """Where the weights of a checkpoint are kept."""
    return cache_directory() / f"{fingerprint[:32]}-{kind}-{FORMAT_VERSION}.safetensors"


def find_cached(fingerprint: str, kind: str) -> dict[str, torch.Tensor] | None:
    """Return mapped tensors, or None if there are none.

    Parameters
    ----------
    fingerprint : str
        Of the checkpoint that they were made from.
    kind : str

    Returns
    -------
    dict of str to Tensor, or None
        Views of one private map of the file; writing to them does not change it.

    Warns
    -----
    UserWarning
        If the file is damaged, which is then removed, or cannot be read.
    """
    path = cached_path(fingerprint, kind)
    try:
        return _map_checked(path, fingerprint)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CheckpointError as error:
        warn(f"Quantised weights in the cache are damaged and made again: {error}.")
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError as error:
        warn(f"Quantised weights in the cache cannot be read: {error}.")
    return None


def write_cached(fingerprint: str, kind: str, tensors: Mapping[str, torch.Tensor], *, model: str) -> Path:
    """Write tensors, one after the other, and return the file.

    Parameters
    ----------
    fingerprint : str
    kind : str
    tensors : mapping of str to Tensor
        On any device.
    model : str
        Name of the model, for people.

    Raises
    ------
    OSError
        If the disk is full or the folder not writable. Nothing half-written is left.
    """
    path = cached_path(fingerprint, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Wide elements first: then every tensor begins at a multiple of its element size.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    about = {"model": model, "kind": kind, "fingerprint": fingerprint, "skxlmr": version("skxlmr")}
    header = _header(ordered, {**about, "format_version": str(FORMAT_VERSION), "sha256": NO_CHECKSUM})
    needed = len(header) + sum(tensor.nbytes for tensor in ordered.values())
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path.parent} has {free / 1e9:.1f} GB left on its disk and {needed / 1e9:.1f} GB are needed")
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for tensor in ordered.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        file.flush()
        checksum = _checksum(temporary, header)
        file.seek(header.index(NO_CHECKSUM.encode()))
        file.write(checksum.encode())
    return path


@contextlib.contextmanager
def building(fingerprint: str, kind: str) -> Iterator[None]:
    """Let other processes wait while this one makes a file; where no lock can be had, they make it, too."""
    from filelock import FileLock

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # filelock's Timeout is an OSError
            path = cached_path(fingerprint, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(f"{path}.lock", timeout=LOCK_SECONDS))
        yield


def list_cached() -> list[CachedFile]:
    """What is in the cache, oldest first; files that are none of its own are left out."""
    found = []
    for path in cache_directory().glob("*.safetensors"):
        with contextlib.suppress(OSError, CheckpointError):
            status = path.stat()
            about = _read_header(path)[1]
            modified = datetime.fromtimestamp(status.st_mtime)
            found.append(CachedFile(about["model"], about["kind"], status.st_size, modified, path))
    for path in _decoded().glob("*"):
        name = DECODED_NAME.fullmatch(path.name)
        if name is None:
            continue
        with contextlib.suppress(OSError):
            nbytes = sum(file.stat().st_size for file in path.iterdir())
            modified = datetime.fromtimestamp(path.stat().st_mtime)
            found.append(CachedFile(name["model"], "decoded", nbytes, modified, path))
    return sorted(found, key=lambda file: file.modified)


def clear_cached(model: str | None = None) -> list[CachedFile]:
    """Remove the weights of one model, or of all together with what crashed writers left; returns what was removed.

    Processes that have a file mapped keep it until they end.
    """
    removed = [file for file in list_cached() if model in (None, file.model)]
    for file in removed:
        atomic.remove(file.path)
    if model is None:
        atomic.remove_left_over(_decoded())
        atomic.remove_left_over(cache_directory())
        for path in cache_directory().glob("*"):
            if path.suffix in (".lock", ".safetensors"):
                atomic.remove(path)
    return removed


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a safetensors file, padded so that the tensors start at a page."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name, tensor in tensors.items():
        offsets = [position, position + tensor.nbytes]
        entries[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> tuple[bytes, dict[str, str]]:
    """The header and its metadata."""
    with open(path, "rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        if size > path.stat().st_size:
            raise CheckpointError(f"{path} is truncated")
        header = length + file.read(size)
    about = parse_json(header[8:], path).get("__metadata__")
    keys = {"model", "kind", "fingerprint", "format_version", "sha256"}
    if not isinstance(about, dict) or not keys <= about.keys() or not all(isinstance(v, str) for v in about.values()):
        raise CheckpointError(f"{path} says nothing about itself")
    return header, about


def _map_checked(path: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    """Check a file whole, then map it."""
    header, about = _read_header(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        spans = safetensors_spans(file, path, size)
    if about["fingerprint"] != fingerprint or about["format_version"] != str(FORMAT_VERSION):
        raise CheckpointError(f"{path} is of another checkpoint or format")
    checksum = about["sha256"].encode()
    if header.count(checksum) != 1 or len(checksum) != len(NO_CHECKSUM):
        raise CheckpointError(f"{path} has no checksum")
    if _checksum(path, header.replace(checksum, NO_CHECKSUM.encode())) != about["sha256"]:
        raise CheckpointError(f"{path} does not hold what its checksum says")
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    return {
        name: torch.empty(0, dtype=span.dtype).set_(storage, span.offset // span.dtype.itemsize, span.shape)
        for name, span in spans.items()
    }


def _checksum(path: Path, header: bytes) -> str:
    """The checksum of a file with this header, whatever digits it has there now."""

    def digest(start: int) -> bytes:
        with open(path, "rb") as file:  # read, not mapped: mapped pages would count as memory of this process
            file.seek(start)
            block = file.read(BLOCK_BYTES)
        of_header = header[start : start + BLOCK_BYTES]
        sha256 = hashlib.sha256(of_header)
        sha256.update(memoryview(block)[len(of_header) :])
        return sha256.digest()

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_READERS)) as pool:  # hashlib lets other threads run
        digests = pool.map(digest, range(0, path.stat().st_size, BLOCK_BYTES))
        return hashlib.sha256(b"".join(digests)).hexdigest()
