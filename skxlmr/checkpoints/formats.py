"""Weight files: recognised by their first bytes, checked before anything is allocated, read without a memory map.

Truncating a file that is mapped into memory kills the process; a read that ends too early is an ordinary error.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import torch

from skxlmr.checkpoints import torch_files
from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import is_lfs_pointer, lfs_message, open_file, parse_json
from skxlmr.system.schema import shown

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
MAX_TENSORS = 20_000  # in all files of a checkpoint; XXL has about 800, and 2,000 with 8-bit weights
MAX_NAME_LENGTH = 500  # of a tensor, in characters
VALUES_PER_TENSOR = 10 + 16  # in the header: three entries with their lists, and at most MAX_RANK sizes
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
    """What the header of a weight file says about a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class ByteRange:
    """Where in its file a tensor lies: `nbytes` from `offset`, row-major unless it has a `stride` (in elements)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int
    stride: tuple[int, ...] | None = None


class WeightFile(Protocol):
    """An open file of named tensors."""

    tensors: dict[str, TensorInfo]
    offsets: list[int]  # where the tensors begin, in bytes; empty if unknown

    def read(self, key: str) -> torch.Tensor:
        """Return one tensor, on the CPU, in memory of its own."""

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        """Return some of the bytes of a tensor, counted in row-major order."""

    def close(self) -> None:
        """Release the file."""


class TensorFile:
    """A file whose header says where each tensor lies: safetensors, and the zip format of torch.save."""

    def __init__(self, path: Path, file: BufferedReader, ranges: dict[str, ByteRange]) -> None:
        in_file_order = sorted(ranges.items(), key=lambda item: item[1].offset)
        self.tensors = {key: TensorInfo(where.shape, where.dtype, path) for key, where in in_file_order}
        self.offsets = [where.offset for _, where in in_file_order]
        self._path, self._file, self._ranges = path, file, ranges
        self._lock = threading.Lock()  # no other thread may seek before the read

    def read(self, key: str) -> torch.Tensor:
        where = self._ranges[key]
        buffer = torch.empty(where.nbytes, dtype=torch.uint8)
        with self._lock:
            self._file.seek(where.offset)
            n_read = self._file.readinto(buffer.numpy().data)
        if n_read != where.nbytes:
            raise CheckpointError(f"{self._path} is truncated: it ends inside tensor {key!r}")
        if where.dtype is torch.bool:
            buffer = buffer.ne(0)  # a byte other than 0 and 1 is not a valid bool
        flat = buffer.view(where.dtype)
        if where.stride is None:
            return flat.view(where.shape)
        return flat.as_strided(where.shape, where.stride).contiguous()

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        where = self._ranges[key]
        if where.stride not in (None, _row_major(where.shape)):
            return bytes_of(self.read(key), start, stop)
        with self._lock:
            self._file.seek(where.offset + start)
            data = self._file.read(stop - start)
        if len(data) != stop - start:
            raise CheckpointError(f"{self._path} is truncated: it ends inside tensor {key!r}")
        return data

    def close(self) -> None:
        self._file.close()


class LegacyFile:
    """A file of torch.save before torch 1.6. It can only be loaded as a whole, which the first read does."""

    def __init__(self, path: Path, file: BufferedReader, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = {key: TensorInfo(tuple(t.shape), t.dtype, path) for key, t in tensors.items()}
        self.offsets: list[int] = []
        self._path, self._file = path, file
        self._loaded: dict[str, torch.Tensor] | None = None
        self._lock = threading.Lock()

    def read(self, key: str) -> torch.Tensor:
        with self._lock:
            if self._loaded is None:
                self._loaded = torch_files.load_legacy(self._file, self._path)
        return self._loaded[key].detach().clone(memory_format=torch.contiguous_format)

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        return bytes_of(self.read(key), start, stop)

    def close(self) -> None:
        self._loaded = None
        self._file.close()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def bytes_of(tensor: torch.Tensor, start: int, stop: int) -> bytes:
    return tensor.flatten().view(torch.uint8)[start:stop].numpy().tobytes()


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor contains neither NaN nor an infinity; allocates no tensor of the same size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # both are NaN if any element is
    return bool(low.isfinite() and high.isfinite())


def open_weights(path: Path) -> WeightFile:
    """Open a safetensors file or one of torch.save, as its first bytes decide, and read its header.

    Raises CheckpointError if the file is damaged or of another format, and UnsafeCheckpointError if it is a pickle of
    more than tensors, or a pickle with the extension of safetensors.
    """
    file = open_file(path)
    try:
        return _open_by_magic(path, file)
    except BaseException:
        file.close()
        raise


def _open_by_magic(path: Path, file: BufferedReader) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    head = file.read(64)
    file.seek(0)
    # A pickle begins with 0x80, and so does a safetensors file with a header of 128 bytes, which has a brace next.
    is_pickle = head.startswith(torch_files.ZIP_MAGIC) or (head.startswith(b"\x80") and head[8:9] != b"{")
    if is_pickle and path.suffix == ".safetensors":
        raise UnsafeCheckpointError(f"{path} is named as safetensors but is a pickle")
    if head.startswith(torch_files.ZIP_MAGIC):
        return TensorFile(path, file, _zip_ranges(file, path, size))
    if head.startswith(torch_files.LEGACY_MAGIC):
        if size > MAX_LEGACY_BYTES:
            raise CheckpointError(
                f"{path} has {size:,} bytes in the format of torch.save before torch 1.6, which must be loaded as a "
                f"whole. Convert it to safetensors."
            )
        return LegacyFile(path, file, _checked(torch_files.legacy_header(file, path, size), path))
    if head[8:9] == b"{":
        return TensorFile(path, file, safetensors_ranges(file, path, size))
    raise _unknown_format(path, head)


def safetensors_ranges(file: BufferedReader, path: Path, size: int) -> dict[str, ByteRange]:
    """Read and check the header of a safetensors file of `size` bytes.

    Raises CheckpointError if the header is not strict JSON, an entry is malformed, or the tensors do not fill the file
    exactly.
    """
    raw, entries, _ = safetensors_header(file, path, size)
    ranges = {key: _safetensors_range(path, key, entry, start=len(raw)) for key, entry in entries.items()}
    _check_fills(path, ranges, start=len(raw), size=size)
    return ranges


def safetensors_header(file: BufferedReader, path: Path, size: int) -> tuple[bytes, dict[str, object], dict[str, str]]:
    """Read the header of a safetensors file: its bytes, the unchecked entries of the tensors, and the metadata."""
    length = file.read(8)
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} declares a header of {n_bytes:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed"
        )
    if 8 + n_bytes > size:
        raise CheckpointError(f"{path} is truncated: it has {size:,} bytes, and declares a header of {n_bytes:,}")
    text = file.read(n_bytes)
    entries = parse_json(text, f"the header of {path}", MAX_TENSORS * VALUES_PER_TENSOR)
    metadata = entries.pop("__metadata__", {})
    check_names(path, entries)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")
    return length + text, entries, metadata


def check_names(path: Path, names: Collection[str]) -> None:
    """Raise CheckpointError if there are too many names of tensors, or if one is too long."""
    if len(names) > MAX_TENSORS:
        raise CheckpointError(f"{path} has {len(names):,} tensors; at most {MAX_TENSORS:,} are read")
    long = next((name for name in names if len(name) > MAX_NAME_LENGTH), None)
    if long is not None:
        raise CheckpointError(
            f"{path} has a tensor whose name has {len(long):,} characters, {long[:40]!r}...; at most "
            f"{MAX_NAME_LENGTH} are allowed"
        )


def _safetensors_range(path: Path, key: str, entry: object, *, start: int) -> ByteRange:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {key!r} {reason}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("needs exactly dtype, shape and data_offsets in the header")
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise refuse(f"has dtype {shown(entry['dtype'])}; supported are {', '.join(SAFETENSORS_DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not are_sizes(shape) or len(shape) > MAX_RANK:
        raise refuse(f"has shape {shown(shape)}, which is not a list of at most {MAX_RANK} sizes")
    if not isinstance(offsets, list) or not are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has data_offsets {shown(offsets)}, which are not a begin and an end")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise refuse(f"has {end - begin:,} bytes, which is not the size of {entry['dtype']} of shape {shape}")
    return ByteRange(tuple(shape), dtype, start + begin, end - begin)


def _check_fills(path: Path, ranges: dict[str, ByteRange], *, start: int, size: int) -> None:
    """Check that the tensors fill the file from the header to the end, without gaps or overlaps."""
    position = start
    for key, where in sorted(ranges.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if where.offset != position:
            fault = "overlaps the tensor before it" if where.offset < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {key!r} {fault}")
        position += where.nbytes
    if position > size:
        raise CheckpointError(f"{path} is truncated: it has {size:,} bytes, and its header declares {position:,}")
    if position < size:
        raise CheckpointError(f"{path} has {size - position:,} bytes after its last tensor")


def _zip_ranges(file: BufferedReader, path: Path, size: int) -> dict[str, ByteRange]:
    tensors, storage_ends = torch_files.zip_header(file, path, size)
    ranges = {}
    for key, tensor in _checked(tensors, path).items():
        begin = tensor.untyped_storage()._checkpoint_offset
        assert begin is not None  # torch.load fills it in on the meta device
        storage = begin, storage_ends.get(begin, begin)
        shape, stride = tuple(tensor.shape), tensor.stride()
        ranges[key] = strided_range(path, key, tensor.dtype, shape, stride, storage, int(tensor.storage_offset()))
    return ranges


def strided_range(
    path: Path,
    key: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    storage: tuple[int, int],
    storage_offset: int,
) -> ByteRange:
    """Locate a tensor of torch.save in a `storage`, given by its first byte in the file and the byte after its last.

    Raises CheckpointError if the tensor, which begins at the element `storage_offset`, reaches beyond the storage.
    """
    begin, end = storage
    n_elements = math.prod(shape)
    reach = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if n_elements else 0
    offset, nbytes = begin + storage_offset * dtype.itemsize, reach * dtype.itemsize
    # An expanded tensor has more elements than are stored for it, and could fill any amount of memory.
    if nbytes and (offset + nbytes > end or n_elements * dtype.itemsize > end - begin):
        raise CheckpointError(f"{path}: tensor {key!r} reaches beyond the bytes that are stored for it")
    return ByteRange(shape, dtype, offset, nbytes, stride)


def _checked(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    check_names(path, tensors)
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout is not torch.strided or tensor.is_neg():
            raise CheckpointError(
                f"{path}: tensor {key!r} is {tensor.dtype} in layout {tensor.layout}, which is not supported"
            )
    return tensors


def are_sizes(values: Iterable[object]) -> bool:
    """Whether all values are integers from 0 to below 2**48, so that products of a few of them stay small."""
    return all(type(n) is int and 0 <= n < 2**48 for n in values)


def _unknown_format(path: Path, head: bytes) -> CheckpointError:
    if not head:
        return CheckpointError(f"{path} is empty")
    if is_lfs_pointer(head):
        return CheckpointError(lfs_message(path))
    if head.startswith(b"\x80"):
        return UnsafeCheckpointError(f"{path} is a bare pickle, not a file of torch.save; it is not opened")
    return CheckpointError(f"{path} is not a weight file: neither safetensors nor written by torch.save")
