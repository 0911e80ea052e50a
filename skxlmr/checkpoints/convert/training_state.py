"""Files with the state of a training run, written by torch.save: tensors among objects of any kind.

They are read as data: the description of each tensor in the pickle tells where its bytes are, other objects remain
descriptions, and no code that the file names is ever imported.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from skxlmr.checkpoints import torch_files
from skxlmr.checkpoints.convert.pickle_reader import External, Named, Unbuilt, read_pickle
from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import open_file
from skxlmr.checkpoints.formats import MAX_RANK, ByteRange, TensorFile, are_sizes, strided_range


@dataclass(frozen=True)
class TrainingState:
    """An open file of a training run; see `open_training_state`."""

    file: TensorFile  # the tensors of the model, by the keys of the training run; the caller closes it
    ranges: dict[str, ByteRange]  # where they lie in the file
    content: dict  # the whole content of the file, as `read_pickle` describes it


def open_training_state(path: Path) -> TrainingState:
    """Open a file of torch.save whose "model" is a dict of tensors, and read its header.

    Raises CheckpointError if the file cannot be read, is damaged, or has no tensors under "model", and
    UnsafeCheckpointError if an object under "model" is not a tensor but a call of other code.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> torch.save({"model": {"bias": torch.ones(2)}, "sum": sum}, path)
    >>> state = open_training_state(path)
    >>> state.file.read("bias"), state.content["sum"].name
    (tensor([1., 1.]), '__builtin__.sum')
    >>> state.file.close()
    """
    file = open_file(path)
    try:
        content, storages = _read_header(file, path)
        if not isinstance(content, dict):
            raise _no_weights(path)
        model = _state_dict(content, path)
        ranges = {key: _byte_range(path, key, value, storages) for key, value in model.items()}
        return TrainingState(TensorFile(path, file, ranges), ranges, content)
    except BaseException:
        file.close()
        raise


# Storages by their key in the pickle: the first byte in the file, and the byte after the last.
Storages = dict[str, tuple[int, int]]


def _read_header(file: BinaryIO, path: Path) -> tuple[object, Storages]:
    size = os.fstat(file.fileno()).st_size
    head = file.read(len(torch_files.LEGACY_MAGIC))
    file.seek(0)
    if head.startswith(torch_files.ZIP_MAGIC):
        pickle, storages = torch_files.read_archive(file, path, size)
        content, _ = read_pickle(io.BytesIO(pickle), path)
        return content, storages
    if head == torch_files.LEGACY_MAGIC:
        return _read_legacy_header(file, path, size)
    raise CheckpointError(f"{path} was not written by torch.save")


def _read_legacy_header(file: BinaryIO, path: Path, size: int) -> tuple[object, Storages]:
    """Read the format before torch 1.6: of its five pickles the fourth is the object, the fifth lists the storages."""
    pickles = io.BytesIO(file.read(torch_files.MAX_PICKLE_BYTES))
    *_, (content, externals), (keys, _) = [read_pickle(pickles, path) for _ in range(torch_files.LEGACY_PICKLES)]
    itemsizes = {key: dtype.itemsize for key, dtype in map(_storage, externals) if dtype is not None}
    storages: Storages = {}
    position = pickles.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in itemsizes:
            raise CheckpointError(f"{path} is damaged: it lists a storage that is not used, or of unknown type")
        file.seek(position)
        n_elements = int.from_bytes(file.read(8), "little")
        begin = position + 8
        end = begin + n_elements * itemsizes[key]
        if end > size:
            raise CheckpointError(f"{path} is truncated: it has {size:,} bytes, and storage {key!r} ends at {end:,}")
        storages[key] = begin, end
        position = end
    return content, storages


def _storage(external: object) -> tuple[str | None, torch.dtype | None]:
    """Return key and dtype of the storage that a pickle refers to; None and None for anything else."""
    match external:
        case External(reference=("storage", Named(name=name), str(key), *_)) if name in torch_files.STORAGE_DTYPES:
            return key, torch_files.STORAGE_DTYPES[name]
    return None, None


def _state_dict(content: dict, path: Path) -> dict[str, object]:
    model = content.get("model")
    if isinstance(model, Unbuilt):
        if model.name != "collections.OrderedDict" or model.arguments != ():
            raise _unsafe(path, "model", model)
        model = model.items
    if not isinstance(model, dict) or not model:
        raise _no_weights(path)
    for key in model:
        if not isinstance(key, str):
            raise CheckpointError(f'{path} is not the state of a training run: not all keys under "model" are strings')
    return model


def _no_weights(path: Path) -> CheckpointError:
    return CheckpointError(
        f'{path} is not the state of a training run: there are no weights under "model". A checkpoint in the Hugging '
        f"Face format needs no conversion."
    )


def _unsafe(path: Path, key: str, value: Unbuilt) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path} contains a call of {value.name or 'unnamed code'!r} under {key!r}; expected tensors. Nothing was run. "
        f"Do not trust this file."
    )


def _byte_range(path: Path, key: str, value: object, storages: Storages) -> ByteRange:
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
            raise CheckpointError(f"{path} contains a {type(value).__name__} under {key!r}; expected a tensor")
    storage, dtype = _storage(external)
    valid = isinstance(offset, int) and len(shape) == len(stride) <= MAX_RANK and are_sizes((offset, *shape, *stride))
    if not isinstance(offset, int) or not valid or storage is None or storage not in storages or dtype is None:
        raise CheckpointError(f"{path} is damaged: tensor {key!r} is not described as torch.save does it")
    return strided_range(path, key, dtype, shape, stride, storages[storage], offset)
