"""Weight files: told apart by their first bytes, checked before anything is allocated, read without a memory map.

A file that is truncated under a memory map kills the process; here a short read is an ordinary error.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from skxlmr.checkpoints import torch_files as pickled
from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import parse_json

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
MAX_RANK = 16
MAX_LEGACY_BYTES = 8 * 2**30

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPES = frozenset(SAFETENSORS_DTYPES.values())


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read.

    Parameters
    ----------
    shape : tuple of int
    dtype : torch.dtype
        As stored.
    file : Path
        Where it is stored.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Span:
    """Where in its file a tensor lies: `nbytes` from `offset`, row-major unless it has a `stride` (in elements)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int
    stride: tuple[int, ...] | None = None


class WeightFile(Protocol):
    """An open file of named tensors."""

    tensors: dict[str, TensorInfo]
    offsets: list[int]  # where tensors begin, in bytes, as far as known

    def read(self, key: str) -> torch.Tensor:
        """Return one tensor, on the CPU, in memory of its own."""

    def close(self) -> None:
        """Release the file."""


class SpanFile:
    """A file whose header says where each tensor lies: safetensors, and the zip form of torch.save."""

    def __init__(self, path: Path, file: BinaryIO, spans: dict[str, Span]) -> None:
        in_file_order = sorted(spans.items(), key=lambda item: item[1].offset)
        self.tensors = {key: TensorInfo(span.shape, span.dtype, path) for key, span in in_file_order}
        self.offsets = [span.offset for _, span in in_file_order]
        self._path, self._file, self._spans = path, file, spans
        self._lock = threading.Lock()  # seek and read belong together

    def read(self, key: str) -> torch.Tensor:
        span = self._spans[key]
        buffer = torch.empty(span.nbytes, dtype=torch.uint8)
        with self._lock:
            self._file.seek(span.offset)
            got = self._file.readinto(memoryview(buffer.numpy()))
        if got != span.nbytes:
            raise CheckpointError(f"{self._path} is truncated: it ends inside tensor {key!r}")
        if span.dtype is torch.bool:
            buffer = buffer.ne(0)  # any other byte than 0 and 1 is no bool
        flat = buffer.view(span.dtype)
        if span.stride is None:
            return flat.view(span.shape)
        return flat.as_strided(span.shape, span.stride).contiguous()

    def close(self) -> None:
        self._file.close()


class LegacyFile:
    """The form of torch.save before torch 1.6, which can only be loaded whole: at the first read, until closed."""

    def __init__(self, path: Path, file: BinaryIO, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = {key: TensorInfo(tuple(t.shape), t.dtype, path) for key, t in tensors.items()}
        self.offsets: list[int] = []
        self._path, self._file = path, file
        self._loaded: dict[str, torch.Tensor] | None = None
        self._lock = threading.Lock()

    def read(self, key: str) -> torch.Tensor:
        with self._lock:
            if self._loaded is None:
                self._loaded = pickled.load_legacy(self._file, self._path)
        return self._loaded[key].detach().clone(memory_format=torch.contiguous_format)

    def close(self) -> None:
        self._loaded = None
        self._file.close()


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor an infinity; needs no memory of the tensor's size.

    Examples
    --------
    >>> import torch
    >>> all_finite(torch.tensor([1.0, 2.0])), all_finite(torch.tensor([1.0, float("nan")]))
    (True, False)
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # NaN comes through both
    return bool(low.isfinite() and high.isfinite())


def open_weights(path: Path) -> WeightFile:
    """Open a weight file, reading no more than its header.

    Parameters
    ----------
    path : Path
        A safetensors file, or one written by torch.save; its first bytes tell which.

    Returns
    -------
    WeightFile

    Raises
    ------
    CheckpointError
        If the file is damaged or of another kind.
    UnsafeCheckpointError
        If it is a pickle that holds more than tensors, or only claims to be safetensors.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - stays open with what is returned
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _open_by_magic(path, file)
    except BaseException:
        file.close()
        raise


def _open_by_magic(path: Path, file: BinaryIO) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    head = file.read(64)
    file.seek(0)
    # A header of 128 bytes, say, also begins with 0x80: the brace after the length tells it from a pickle.
    pickle = head.startswith(pickled.ZIP_MAGIC) or (head.startswith(b"\x80") and head[8:9] != b"{")
    if pickle and path.suffix == ".safetensors":
        raise UnsafeCheckpointError(f"{path} is named as safetensors but is a pickle")
    if head.startswith(pickled.ZIP_MAGIC):
        return SpanFile(path, file, _zip_spans(file, path, size))
    if head.startswith(pickled.LEGACY_MAGIC):
        if size > MAX_LEGACY_BYTES:
            raise CheckpointError(
                f"{path} is {size:,} bytes in the form of torch.save before 1.6, which must be loaded whole. "
                f"Convert it to safetensors."
            )
        return LegacyFile(path, file, _checked(pickled.legacy_header(file, path, size), path))
    if head[8:9] == b"{":
        return SpanFile(path, file, safetensors_spans(file, path, size))
    raise _unknown_format(path, head)


def safetensors_spans(file: BinaryIO, path: Path, size: int) -> dict[str, Span]:
    """Read and check the header of a safetensors file of `size` bytes.

    Raises
    ------
    CheckpointError
        If the header is no strict JSON, an entry is malformed, or the tensors do not fill the file exactly.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} declares a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    if 8 + length > size:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes, and its header alone would have {length:,}")
    header = parse_json(file.read(length), f"the header of {path}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")
    spans = {key: _safetensors_span(path, key, entry, start=8 + length) for key, entry in header.items()}
    _check_fills(path, spans, start=8 + length, size=size)
    return spans


def _safetensors_span(path: Path, key: str, entry: object, *, start: int) -> Span:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {key!r} {reason}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("needs exactly dtype, shape and data_offsets in the header")
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise refuse(f"has dtype {entry['dtype']!r}; known are {', '.join(SAFETENSORS_DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        raise refuse(f"has shape {shape!r}, which is no list of at most {MAX_RANK} sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has data_offsets {offsets!r}, which are no beginning and end")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise refuse(f"has {end - begin:,} bytes, but {entry['dtype']} of shape {shape} does not")
    return Span(tuple(shape), dtype, start + begin, end - begin)


def _check_fills(path: Path, spans: dict[str, Span], *, start: int, size: int) -> None:
    """Check that tensors follow each other without gap or overlap, from the header to the end of the file."""
    position = start
    for key, span in sorted(spans.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if span.offset != position:
            fault = "overlaps the one before" if span.offset < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {key!r} {fault}")
        position += span.nbytes
    if position > size:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes, and its header declares {position:,}")
    if position < size:
        raise CheckpointError(f"{path} has {size - position:,} bytes after its last tensor")


def _zip_spans(file: BinaryIO, path: Path, size: int) -> dict[str, Span]:
    tensors, storage_ends = pickled.zip_header(file, path, size)
    spans = {}
    for key, tensor in _checked(tensors, path).items():
        storage_offset = tensor.untyped_storage()._checkpoint_offset
        offset = storage_offset + tensor.storage_offset() * tensor.itemsize
        row_major = tensor.is_contiguous()
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        reach = tensor.numel() if row_major else 1 + sum((n - 1) * stride for n, stride in steps)
        nbytes = reach * tensor.itemsize
        end = storage_ends.get(storage_offset, 0)
        # An expanded tensor, of more elements than were stored for it, could fill any memory.
        expanded = tensor.numel() * tensor.itemsize > end - storage_offset
        if nbytes and (offset + nbytes > end or expanded):
            raise CheckpointError(f"{path}: tensor {key!r} reaches beyond the bytes that are stored for it")
        spans[key] = Span(tuple(tensor.shape), tensor.dtype, offset, nbytes, None if row_major else tensor.stride())
    return spans


def _checked(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout is not torch.strided or tensor.is_neg():
            raise CheckpointError(
                f"{path}: tensor {key!r} is {tensor.dtype} in layout {tensor.layout}, which is not read"
            )
    return tensors


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**48 for n in values)


def _unknown_format(path: Path, head: bytes) -> CheckpointError:
    if not head:
        return CheckpointError(f"{path} is empty")
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError(
            f"{path} is a pointer of git-lfs, not the file itself. Run `git lfs pull` in its folder."
        )
    if head.startswith(b"\x80"):
        return UnsafeCheckpointError(f"{path} is a bare pickle, not written by torch.save; it is not opened")
    return CheckpointError(f"{path} is no weight file: neither safetensors nor written by torch.save")
