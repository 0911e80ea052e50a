"""Files in which a training run has kept its state with torch.save: tensors among objects of any kind.

They are read as data: the tensors are found by how the pickle describes them, the rest stays a description, and no code
that the file names is ever imported.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from skxlmr.checkpoints import torch_files as pickled
from skxlmr.checkpoints.convert.pickle_reader import External, Named, Unbuilt, read_pickle
from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.formats import MAX_RANK, Span, SpanFile

STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class TrainingState:
    """An open file of a training run; made by `open_training_state`.

    Parameters
    ----------
    file : SpanFile
        The tensors of the model, by the run's own keys; to be closed.
    spans : dict of str to Span
        Where they lie.
    content : dict
        All that the file holds, as `read_pickle` describes it.
    """

    file: SpanFile
    spans: dict[str, Span]
    content: dict


def open_training_state(path: Path) -> TrainingState:
    """Open a file whose "model" is a dict of tensors, reading no more than its header.

    Parameters
    ----------
    path : Path
        In either form of `torch.save`.

    Returns
    -------
    TrainingState

    Raises
    ------
    CheckpointError
        If the file cannot be read, is damaged, or holds no tensors under "model".
    UnsafeCheckpointError
        If something under "model" is no tensor but a call of other code.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> torch.save({"model": {"bias": torch.ones(2)}, "sum": sum}, path)
    >>> state = open_training_state(path)
    >>> state.file.read("bias"), state.content["sum"].name
    (tensor([1., 1.]), '__builtin__.sum')
    >>> state.file.close()
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - stays open with what is returned
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content, storages = _read_header(file, path)
        model = _state_dict(content, path)
        spans = {key: _span(path, key, value, storages) for key, value in model.items()}
        return TrainingState(SpanFile(path, file, spans), spans, content)
    except BaseException:
        file.close()
        raise


# Storages by their key in the pickle: the first byte and the byte behind the last, as offsets in the file.
Storages = dict[str, tuple[int, int]]


def _read_header(file: BinaryIO, path: Path) -> tuple[object, Storages]:
    size = os.fstat(file.fileno()).st_size
    head = file.read(len(pickled.LEGACY_MAGIC))
    file.seek(0)
    if head.startswith(pickled.ZIP_MAGIC):
        return _read_zip_header(file, path, size)
    if head == pickled.LEGACY_MAGIC:
        return _read_legacy_header(file, path, size)
    raise CheckpointError(f"{path} was not written by torch.save")


def _read_zip_header(file: BinaryIO, path: Path, size: int) -> tuple[object, Storages]:
    try:
        with zipfile.ZipFile(file) as archive:  # leaves the file open
            folder = pickled.check_members(archive.infolist(), path, size)
            by_position = sorted(archive.infolist(), key=lambda member: member.header_offset)
            located = pickled.locate_members(file, archive, path).items()
            members = {member.filename: span for member, span in zip(by_position, located, strict=True)}
            if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine, which is not read")
            content, _ = read_pickle(io.BytesIO(archive.read(f"{folder}/data.pkl")), path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive makes zipfile raise a dozen kinds of errors
        raise CheckpointError(f"{path} is damaged: {error}") from error
    data = f"{folder}/data/"
    return content, {name.removeprefix(data): span for name, span in members.items() if name.startswith(data)}


def _read_legacy_header(file: BinaryIO, path: Path, size: int) -> tuple[object, Storages]:
    """Read the form before torch 1.6: five pickles, the fourth is the object, the fifth the order of the storages."""
    pickles = io.BytesIO(file.read(pickled.MAX_PICKLE_BYTES))
    *_, (content, externals), (keys, _) = [read_pickle(pickles, path) for _ in range(pickled.LEGACY_PICKLES)]
    itemsizes = {key: dtype.itemsize for key, dtype in map(_storage, externals) if dtype is not None}
    storages: Storages = {}
    begin = pickles.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in itemsizes:
            raise CheckpointError(f"{path} is damaged: it lists a storage that it does not use, or of unknown type")
        file.seek(begin)
        begin += 8  # of the number of elements, which stands before them
        end = begin + int.from_bytes(file.read(8), "little") * itemsizes[key]
        if end > size:
            raise CheckpointError(f"{path} is truncated: {size:,} bytes, and storage {key!r} would end at {end:,}")
        storages[key] = begin, end
        begin = end
    return content, storages


def _storage(external: object) -> tuple[str | None, torch.dtype | None]:
    """Key and dtype of the storage that a pickle refers to; None of what is no storage of numbers."""
    match external:
        case External(reference=("storage", Named(name=name), str(key), *_)) if name in STORAGE_DTYPES:
            return key, STORAGE_DTYPES[name]
    return None, None


def _state_dict(content: object, path: Path) -> dict[str, object]:
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, Unbuilt):
        if model.name != "collections.OrderedDict" or model.arguments != ():
            raise _unsafe(path, "model", model)
        model = model.items
    if not isinstance(model, dict) or not model:
        raise CheckpointError(
            f'{path} is not what a training run saves: it holds no weights under "model". A checkpoint in the '
            f"Hugging Face format needs no conversion."
        )
    for key in model:
        if not isinstance(key, str):
            raise CheckpointError(f'{path} is not what a training run saves: not all keys under "model" are names')
    return model


def _unsafe(path: Path, key: str, value: Unbuilt) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path} holds a call of {value.name or 'unnamed code'!r} under {key!r} where tensors belong; nothing was run. "
        f"Do not trust this file."
    )


def _span(path: Path, key: str, value: object, storages: Storages) -> Span:
    """Where the tensor lies that a pickle describes."""
    match value:
        case Unbuilt(name="torch._utils._rebuild_parameter", arguments=(Unbuilt() as data, *_)):
            value = data
    match value:
        case Unbuilt(
            name="torch._utils._rebuild_tensor_v2",
            arguments=(External() as external, offset, tuple() as shape, tuple() as stride, *_),
        ):
            pass
        case Unbuilt():
            raise _unsafe(path, key, value)
        case _:
            raise CheckpointError(f"{path} holds a {type(value).__name__} under {key!r} where a tensor belongs")
    storage, dtype = _storage(external)
    counts = (offset, *shape, *stride)
    plain = len(shape) == len(stride) <= MAX_RANK and all(type(n) is int and 0 <= n < 2**48 for n in counts)
    if dtype is None or storage not in storages or not plain:
        raise CheckpointError(f"{path} is damaged: tensor {key!r} is not described as torch.save does it")
    begin, end = storages[storage]
    numel = math.prod(shape)
    reach = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if numel else 0
    first, nbytes = begin + offset * dtype.itemsize, reach * dtype.itemsize
    # An expanded tensor, of more elements than were stored for it, could fill any memory.
    if nbytes and (first + nbytes > end or numel * dtype.itemsize > end - begin):
        raise CheckpointError(f"{path}: tensor {key!r} reaches beyond the bytes that are stored for it")
    return Span(shape, dtype, first, nbytes, stride)
