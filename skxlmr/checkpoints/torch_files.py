"""Headers of files that torch.save has written.

Nothing is unpickled except by `torch.load(weights_only=True)`, and only after a scan of the pickle for other objects
than tensors.
"""

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
LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages; the storages follow

MAX_PICKLE_BYTES = 4 * 2**20  # that of XXL, with 700 tensors, has about 0.1 MB
MAX_ZIP_MEMBERS = 100_000

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
GLOBALS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [name.replace(".", " ") for name in STORAGE_DTYPES]
)
# The instructions in the pickle of a dict of tensors; those that build other objects are missing on purpose.
# fmt: off
INSTRUCTIONS = frozenset([
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT",
])
# fmt: on


def zip_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, torch.Tensor], dict[int, int]]:
    """Read the header of a file of `size` bytes in the zip format of torch.save.

    Returns its tensors on the meta device, and for each storage its first byte in the file and the byte after its last.
    Raises CheckpointError and UnsafeCheckpointError as `read_archive` and `scan_pickle`.
    """
    pickle, storages = read_archive(file, path, size)
    scan_pickle(io.BytesIO(pickle), path)
    file.seek(0)
    return _torch_load(file, path, map_location="meta"), dict(storages.values())


def read_archive(file: BinaryIO, path: Path, size: int) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Check a zip archive of torch.save; return its pickle, not yet checked, and where the storages are.

    The latter are given by their key in the pickle, as the first byte in the file and the byte after the last. Raises
    CheckpointError if the archive is damaged, or its members are compressed, overlap or are not where they are
    declared, and UnsafeCheckpointError if the name of a member leads out of the archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:  # leaves the file open
            folder = _check_members(archive.infolist(), path, size)
            members = _locate_members(file, archive, path)
            pickle = archive.read(f"{folder}/data.pkl")
            if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds of errors for damaged archives
        raise CheckpointError(f"{path} is damaged: {error}") from error
    data = f"{folder}/data/"
    return pickle, {name.removeprefix(data): where for name, where in members.items() if name.startswith(data)}


def legacy_header(file: BinaryIO, path: Path, size: int) -> dict[str, torch.Tensor]:
    """Read the header of a file of torch.save before torch 1.6: its tensors, on the meta device.

    Raises CheckpointError if the file is damaged or declares tensors larger than itself, and UnsafeCheckpointError as
    `scan_pickle`.
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
    """Load a whole file whose header `legacy_header` has checked."""
    file.seek(0)
    return _torch_load(file, path, map_location="cpu")


def scan_pickle(stream: BinaryIO, path: Path) -> None:
    """Check that a pickle contains nothing but tensors, without executing it; leaves the stream after it.

    Raises CheckpointError if it is damaged, and UnsafeCheckpointError if it names or builds anything else.
    """
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name not in INSTRUCTIONS or (instruction.name == "PROTO" and argument != 2):
                raise UnsafeCheckpointError(
                    f"{path} contains the pickle instruction {instruction.name}, which a dict of tensors does not need"
                )
            if instruction.name == "GLOBAL" and argument not in GLOBALS:
                raise UnsafeCheckpointError(
                    f"{path} asks to import {str(argument).replace(' ', '.')!r}; a checkpoint must contain only "
                    f"tensors. Save the state dict alone, or as safetensors."
                )
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # pickletools raises all kinds of errors for damaged pickles
        raise CheckpointError(f"{path} is damaged: its pickle cannot be parsed ({error})") from error


def _torch_load(file: BinaryIO, path: Path, *, map_location: str) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises all kinds of errors for damaged files
        raise CheckpointError(f"{path} is damaged: torch.load(weights_only=True) cannot read it") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} contains a {type(loaded).__name__}; expected a dict of tensors")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            nested = " Save this inner dict alone." if isinstance(value, dict) else ""
            raise CheckpointError(f"{path} contains a {type(value).__name__} under {key!r}; expected a tensor.{nested}")
    return dict(loaded)


def _check_members(members: list[zipfile.ZipInfo], path: Path, size: int) -> str:
    """Check the directory of the archive; return the folder that all members are in."""
    if len(members) > MAX_ZIP_MEMBERS:
        raise CheckpointError(f"{path} has {len(members):,} members; at most {MAX_ZIP_MEMBERS:,} are allowed")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path} contains two members of the same name")
    prefix = names[0].partition("/")[0]
    for member in members:
        folder, *rest = member.filename.split("/")
        if folder != prefix or not rest or {"", ".", ".."} & {folder, *rest} or "\\" in member.orig_filename:
            raise UnsafeCheckpointError(f"{path} contains a member with the name {member.orig_filename!r}")
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


def _locate_members(file: BinaryIO, archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[int, int]]:
    """Find the bytes of each member, checking its local header against the directory of the archive."""
    members = {}
    by_position = sorted(archive.infolist(), key=lambda member: member.header_offset)
    ends = [member.header_offset for member in by_position[1:]] + [archive.start_dir]
    file.seek(-22, io.SEEK_END)  # the end record, unless something follows it
    if by_position[0].header_offset != 0 or archive.comment or file.read(4) != b"PK\x05\x06":
        raise CheckpointError(f"{path} is damaged: the archive does not fill the file")
    for member, limit in zip(by_position, ends, strict=True):
        file.seek(member.header_offset)
        signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
        name = file.read(name_length)
        begin = member.header_offset + 30 + name_length + extra_length
        if signature != ZIP_MAGIC or name != member.orig_filename.encode() or begin + member.file_size > limit:
            raise CheckpointError(f"{path} is damaged: member {member.filename!r} is not where it is declared")
        members[member.filename] = begin, begin + member.file_size
    return members
