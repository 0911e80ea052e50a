"""Cache of quantised weights: safetensors files that are mapped into memory, so that processes share one copy.

A file contains its own checksum: SHA-256 over the SHA-256 of each block of 16 MiB, with zeros in place of the checksum.
If two processes write the same file at the same time, one complete file remains. A damaged file is removed and written
again.

A file is opened once; what was opened is checked and then mapped, so it may be removed at any moment. Only a program
that shortens the file in place, or a disk that loses part of it, while it is mapped, can end the process (SIGBUS on
Linux): no check can prevent that. This package does not write to a file that has its final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from io import BufferedReader
from pathlib import Path

import torch

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import open_regular
from skxlmr.checkpoints.formats import safetensors_header, safetensors_ranges
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.system import atomic
from skxlmr.system.warn import warn

FORMAT_VERSION = 1  # increase when the layout, the quantisation or the sentences that find outliers change
BLOCK_BYTES = 16 * 2**20
PART_BYTES = 2**19  # of a block, read at once
MAX_HASH_THREADS = 4
PAGE = 4096  # the first tensor begins at a page
NO_CHECKSUM = "0" * 64
LOCK_SECONDS = 30 * 60
DECODED_NAME = re.compile(r"(?P<model>[^.].*)-[0-9a-f]{16}-\d+")


@dataclass(frozen=True)
class CachedFile:
    """A file of quantised weights, or the directory of a decoded checkpoint."""

    model: str  # the name that the user gave when the file was written
    kind: str  # "int8", "float8", "nf4" or "words"; "decoded" for the directory of a Python package's checkpoint
    nbytes: int
    modified: datetime
    path: Path


def cache_directory() -> Path:
    """Return the folder of quantised weights: "quantized" in $SKXLMR_CACHE, or else in the user's cache directory.

    Raises FileNotFoundError if SKXLMR_CACHE is not set and the user has no home directory.
    """
    return (_chosen_directory() or _home_directory()) / "quantized"


def _chosen_directory() -> Path | None:
    chosen = os.environ.get("SKXLMR_CACHE")
    return Path(chosen) if chosen else None


def _home_directory() -> Path:
    from platformdirs import user_cache_path

    try:
        path = user_cache_path("skxlmr")
    except RuntimeError:  # of newer versions; older ones return "~/.cache/skxlmr"
        path = Path("~")
    if not path.is_absolute():
        raise FileNotFoundError(
            "there is no cache: the user has no home directory (HOME is not set, and the user id is unknown). "
            "Set the environment variable SKXLMR_CACHE to a folder"
        )
    return path


def hint_at_folder(error: OSError) -> str:
    """Return a sentence for warnings of a cache that cannot be used; empty if the error says the same."""
    if "SKXLMR_CACHE" in str(error):
        return ""
    return " The environment variable SKXLMR_CACHE chooses another folder for the cache."


def decoded_directory(model: str, version: str) -> Path:
    """Return the directory for the decoded checkpoint of a Python package."""
    return _decoded() / f"{model}-{version}"  # matches DECODED_NAME


def _decoded() -> Path:
    return cache_directory().parent / "decoded"


def cached_path(fingerprint: str, kind: str) -> Path:
    """Return the file for the quantised weights of a checkpoint."""
    return cache_directory() / f"{fingerprint[:32]}-{kind}-{FORMAT_VERSION}.safetensors"


def find_cached(fingerprint: str, kind: str) -> dict[str, torch.Tensor] | None:
    """Map the cached weights of the checkpoint with this fingerprint into memory; return None if they are not cached.

    The tensors are views of one private map of the file; writing to them does not change the file. Warns if the file
    cannot be read, or is damaged; a damaged file is removed.
    """
    try:
        path = cached_path(fingerprint, kind)
        return _map_checked(path, fingerprint)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CheckpointError as error:
        warn(f"Cached quantised weights are damaged and made again: {error}.")
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError as error:
        warn(f"Cached quantised weights cannot be read: {error}.{hint_at_folder(error)}")
    return None


def write_cached(fingerprint: str, kind: str, tensors: Mapping[str, torch.Tensor], *, model: str) -> Path:
    """Write tensors from any device, one after another, and return the file; `model` is its name for `list_cached`.

    Raises OSError if the disk is full or the folder not writable. No incomplete file is left.
    """
    path = cached_path(fingerprint, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"model": model, "kind": kind, "fingerprint": fingerprint, "skxlmr": str(version("skxlmr"))}
    metadata = {**about, "format_version": str(FORMAT_VERSION), "sha256": NO_CHECKSUM}
    content = SafetensorsContent(tensors, metadata, alignment=PAGE)
    atomic.check_space(path.parent, content.nbytes)
    with atomic.replacing(path) as temporary:
        atomic.write_file(temporary, content)
        with open(temporary, "rb") as written:
            checksum = _checksum(written, content.header)
        atomic.overwrite(temporary, content.header.index(NO_CHECKSUM.encode()), checksum.encode())
    return path


@contextlib.contextmanager
def building(fingerprint: str, kind: str) -> Iterator[None]:
    """Make other processes wait while this one computes a file; without locks they compute it, too."""
    from filelock import FileLock

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # filelock's Timeout is an OSError
            path = cached_path(fingerprint, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(f"{path}.lock", timeout=LOCK_SECONDS))
        yield


def list_cached() -> list[CachedFile]:
    """List the content of the cache, oldest first, without files of other programs."""
    found = []
    for path in cache_directory().glob("*.safetensors"):
        with contextlib.suppress(OSError, CheckpointError):
            with open_regular(path) as opened:
                status = os.fstat(opened.fileno())
                about = _read_header(opened, path, status.st_size)[1]
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
    """Remove the cached weights of one model, or all files of the cache, and return what was removed.

    Processes that have mapped a file keep it until they end.
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


def _read_header(file: BufferedReader, path: Path, size: int) -> tuple[bytes, dict[str, str]]:
    header, _, about = safetensors_header(file, path, size)
    if not {"model", "kind", "fingerprint", "format_version", "sha256"} <= about.keys():
        raise CheckpointError(f"{path} has no metadata of this cache")
    return header, about


def _map_checked(path: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header, about = _read_header(file, path, size)
        file.seek(0)
        ranges = safetensors_ranges(file, path, size)
        if about["fingerprint"] != fingerprint or about["format_version"] != str(FORMAT_VERSION):
            raise CheckpointError(f"{path} belongs to another checkpoint or format")
        checksum = about["sha256"].encode()
        if header.count(checksum) != 1 or len(checksum) != len(NO_CHECKSUM):
            raise CheckpointError(f"{path} has no checksum")
        if _checksum(file, header.replace(checksum, NO_CHECKSUM.encode())) != about["sha256"]:
            raise CheckpointError(f"{path} does not match its checksum")
        mapped = _map(file, path, size)
    return {
        name: mapped[where.offset : where.offset + where.nbytes].view(where.dtype).view(where.shape)
        for name, where in ranges.items()
    }


def _map(file: BufferedReader, path: Path, size: int) -> torch.Tensor:
    """Map an open file privately, as uint8; the map holds the file open by a descriptor of its own."""
    try:
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except ValueError as error:  # it has just become shorter
        raise CheckpointError(f"{path} is truncated: {error}") from error
    return torch.frombuffer(content, dtype=torch.uint8)


def _checksum(file: BufferedReader, header: bytes) -> str:
    """Compute the checksum of an open file, with this header in place of its own."""
    reading, buffers = threading.Lock(), threading.local()

    def digest(start: int) -> bytes:
        if not hasattr(buffers, "part"):  # it stays in the cache of the processor; mapped pages would count as memory
            buffers.part = memoryview(bytearray(PART_BYTES))
        sha256 = hashlib.sha256()
        for at in range(start, start + BLOCK_BYTES, PART_BYTES):
            with reading:
                file.seek(at)
                part = buffers.part[: file.readinto(buffers.part)]
            of_header = header[at : at + PART_BYTES]
            sha256.update(of_header)
            sha256.update(part[len(of_header) :])
            if len(part) < PART_BYTES:
                break
        return sha256.digest()

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_HASH_THREADS)) as pool:  # hashlib releases the GIL
        digests = pool.map(digest, range(0, os.fstat(file.fileno()).st_size, BLOCK_BYTES))
        return hashlib.sha256(b"".join(digests)).hexdigest()
