"""Headers of files written by torch.save. Nothing is unpickled except by `torch.load(weights_only=True)`, and that
only after the pickle has been seen to name nothing but tensors."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c as a pickle of protocol 2
LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage keys; the storages' bytes follow

MAX_PICKLE_BYTES = 4 * 2**20  # the pickle of XXL's 700 tensors has about 0.1 MB
MAX_ZIP_MEMBERS = 100_000

STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [f"torch {storage}Storage" for storage in STORAGES]
)
# What a dict of tensors is written with; the instructions that build other objects are not among them.
# fmt: off
INSTRUCTIONS = frozenset([
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT",
])
# fmt: on


def zip_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, torch.Tensor], dict[int, int]]:
    """Read the header of a file in the zip form of torch.save.

    Parameters
    ----------
    file : binary file, at its beginning
    path : Path
        For messages.
    size : int
        Of the file, in bytes.

    Returns
    -------
    tensors : dict of str to Tensor
        On the meta device.
    storage_ends : dict of int to int
        Beginning to end of each stored member, as offsets in the file, in bytes.

    Raises
    ------
    CheckpointError
        If the archive is damaged, or its members are compressed, overlap or are not where they are declared.
    UnsafeCheckpointError
        If the pickle names anything but tensors, or a member's name leaves the archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:  # leaves the file open
            prefix = check_members(archive.infolist(), path, size)
            storage_ends = locate_members(file, archive, path)
            pickle = archive.read(f"{prefix}/data.pkl")
            byte_order = f"{prefix}/byteorder"
            if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine, which is not read")
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive makes zipfile raise a dozen kinds of errors
        raise CheckpointError(f"{path} is damaged: {error}") from error
    scan_pickle(io.BytesIO(pickle), path)
    file.seek(0)
    return _torch_load(file, path, map_location="meta"), storage_ends


def legacy_header(file: BinaryIO, path: Path, size: int) -> dict[str, torch.Tensor]:
    """Read the header of a file in the form of torch.save before 1.6: its tensors, on the meta device.

    Raises
    ------
    CheckpointError
        If the file is damaged or declares tensors larger than itself.
    UnsafeCheckpointError
        If its pickles name anything but tensors.
    """
    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    for _ in range(LEGACY_PICKLES):
        scan_pickle(pickles, path)
    file.seek(0)
    with torch.serialization.skip_data():
        tensors = _torch_load(file, path, map_location="meta")
    for key, tensor in tensors.items():
        stored = tensor.untyped_storage().nbytes()
        if max(stored, tensor.numel() * tensor.itemsize) > size:
            raise CheckpointError(f"{path} is truncated: tensor {key!r} would be larger than the file")
    return tensors


def load_legacy(file: BinaryIO, path: Path) -> dict[str, torch.Tensor]:
    """Load a whole file whose header `legacy_header` has accepted."""
    file.seek(0)
    return _torch_load(file, path, map_location="cpu")


def scan_pickle(stream: BinaryIO, path: Path) -> None:
    """Step over one pickle, running none of it, and refuse it if it names anything but tensors.

    Examples
    --------
    >>> import pickle
    >>> scan_pickle(io.BytesIO(pickle.dumps({"bias": 1}, protocol=2)), "pytorch_model.bin")
    >>> scan_pickle(io.BytesIO(pickle.dumps(print, protocol=2)), "pytorch_model.bin")
    Traceback (most recent call last):
    skxlmr.checkpoints.errors.UnsafeCheckpointError: pytorch_model.bin asks to import '__builtin__.print'...
    """
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name not in INSTRUCTIONS or (instruction.name == "PROTO" and argument != 2):
                raise UnsafeCheckpointError(
                    f"{path} contains the pickle instruction {instruction.name}, which no dict of tensors needs"
                )
            if instruction.name == "GLOBAL" and argument not in GLOBALS:
                raise UnsafeCheckpointError(
                    f"{path} asks to import {argument.replace(' ', '.')!r}; a checkpoint may hold nothing but tensors. "
                    f"Save its state dict alone, or as safetensors."
                )
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # pickletools raises whatever the damage happens to provoke
        raise CheckpointError(f"{path} is damaged: its pickle cannot be parsed ({error})") from error


def _torch_load(file: BinaryIO, path: Path, *, map_location: str) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises whatever the damage happens to provoke
        raise CheckpointError(f"{path} is damaged: torch.load(weights_only=True) cannot read it") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__} where a dict of tensors belongs")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            nested = " Save the dict of tensors inside it alone." if isinstance(value, dict) else ""
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} under {key!r} where a tensor belongs.{nested}"
            )
    return dict(loaded)


def check_members(members: list[zipfile.ZipInfo], path: Path, size: int) -> str:
    """Check what the archive's directory declares; returns the folder that all members are in."""
    if len(members) > MAX_ZIP_MEMBERS:
        raise CheckpointError(f"{path} has {len(members):,} members; at most {MAX_ZIP_MEMBERS:,} are read")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path} holds two members of the same name")
    prefix = names[0].partition("/")[0]
    for member in members:
        folder, *rest = member.filename.split("/")
        if folder != prefix or not rest or {"", ".", ".."} & {folder, *rest} or "\\" in member.orig_filename:
            raise UnsafeCheckpointError(f"{path} holds a member with the name {member.orig_filename!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise CheckpointError(f"{path}: member {member.filename!r} is compressed, which torch.save never does")
        if member.flag_bits & 1:
            raise CheckpointError(f"{path}: member {member.filename!r} is encrypted")
        if rest[0] != "data" and member.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path}: member {member.filename!r} has {member.file_size:,} bytes, more than {MAX_PICKLE_BYTES:,}"
            )
    if sum(member.file_size for member in members) > size:
        raise CheckpointError(f"{path} is damaged: its members together would be larger than the file")
    if f"{prefix}/constants.pkl" in names:
        raise UnsafeCheckpointError(f"{path} is a TorchScript program, not a dict of tensors")
    return prefix


def locate_members(file: BinaryIO, archive: zipfile.ZipFile, path: Path) -> dict[int, int]:
    """Find where each member's bytes really lie, trusting the local headers only as far as they agree."""
    spans = {}
    by_position = sorted(archive.infolist(), key=lambda member: member.header_offset)
    ends = [member.header_offset for member in by_position[1:]] + [archive.start_dir]
    file.seek(-22, io.SEEK_END)  # the end record, if nothing follows it
    if by_position[0].header_offset != 0 or archive.comment or file.read(4) != b"PK\x05\x06":
        raise CheckpointError(f"{path} is damaged: the archive does not fill the file")
    for member, limit in zip(by_position, ends, strict=True):
        file.seek(member.header_offset)
        signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
        name = file.read(name_length)
        begin = member.header_offset + 30 + name_length + extra_length
        if signature != ZIP_MAGIC or name != member.orig_filename.encode() or begin + member.file_size > limit:
            raise CheckpointError(f"{path} is damaged: member {member.filename!r} is not where it is declared")
        spans[begin] = begin + member.file_size
    return spans
