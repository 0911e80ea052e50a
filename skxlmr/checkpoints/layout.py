"""The files of a checkpoint directory: their names, the index of shards, and the manifest with their checksums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import checked_file, file_identity, read_json, read_json_as, sha256_of_file
from skxlmr.system import atomic
from skxlmr.system.schema import shown

CONFIG = "config.json"
TOKENIZER = "sentencepiece.bpe.model"
TOKENIZER_JSON = "tokenizer.json"  # of newer transformers: the normaliser, added tokens, pieces without a TOKENIZER
OUTLIERS = "outliers.json"  # columns that an 8-bit model keeps in 16 bits
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)  # in order of preference

# Written by `write_checkpoint` after all other files; checkpoints of other libraries have none.
MANIFEST = "skxlmr.json"
MANIFEST_VERSION = 1

SMALL_FILE = 64 * 2**20  # bytes; smaller files are hashed completely whenever they are used
MAX_SHARDS = 512  # all are open at the same time


@dataclass
class ShardIndex:
    """The content of an index file."""

    weight_map: dict[str, Any]  # from tensor names to the names of their shards, which `check_base_name` checks


def check_base_name(name: object, where: Path) -> str:
    """Return `name` if it can only refer to a file directly inside a folder.

    Raises UnsafeCheckpointError if it is a path, hidden, empty, or not a string.
    """
    # ":" begins a drive or a stream on Windows; a leading "." covers ".", ".." and hidden files.
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if isinstance(name, str) and plain and 0 < len(name) <= 255 and not name.startswith("."):
        return name
    raise UnsafeCheckpointError(
        f"{where} names the file {shown(name)}; only plain names inside its own folder are read"
    )


def read_index(path: Path) -> dict[str, str]:
    """Read the `weight_map` of an index file, from tensor names to the base names of their shards.

    Raises CheckpointError if it is not a valid index, and UnsafeCheckpointError if it names a file outside its folder.
    """
    weight_map = read_json_as(ShardIndex, path).weight_map
    if not weight_map:
        raise CheckpointError(f"{path} lists no tensors in its weight_map")
    shards = {check_base_name(name, path) for name in weight_map.values()}
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{path} names {len(shards)} shards; at most {MAX_SHARDS} are read")
    return weight_map


def shard_names(weights: Path) -> list[str]:
    """Return the names of the shards if a file of weights is an index, or else none; raises as `read_index`."""
    return sorted(set(read_index(weights).values())) if weights.name.endswith(".index.json") else []


def saved_at(directory: Path) -> tuple[int, ...] | None:
    """Return what identifies the last save into a directory, the file of its manifest; None if there is no manifest.

    What a killed process had begun to put in place is completed first. Raises CheckpointError if that is impossible.
    """
    try:
        atomic.recover(directory)
    except OSError as error:
        raise CheckpointError(
            f"{directory} is an incomplete checkpoint: saving it was interrupted, and cannot be completed: {error}."
        ) from error
    return file_identity(directory / MANIFEST)


def check_manifest(directory: Path, root: Path) -> set[str] | None:
    """Compare the files of a directory with its manifest and return their names; None if there is no manifest.

    Sizes are compared for all files, checksums for those of up to 64 MiB; `verify_checkpoint` compares all checksums.
    Raises CheckpointError if a save was interrupted, or a file has changed since.
    """
    if not (directory / MANIFEST).exists():
        return None
    files = read_manifest(directory, root)
    for name, (size, sha256) in files.items():
        path = checked_file(directory / name, root)
        if path.stat().st_size != size or (size <= SMALL_FILE and cached_sha256(path) != sha256):
            raise _changed(path)
    return set(files)


def verify_checkpoint(directory: str | Path) -> None:
    """Compare the checksum of every file of a saved checkpoint with the manifest.

    Raises CheckpointError if the directory has no manifest, its last save was interrupted, or a file has changed.
    """
    directory = Path(directory)
    for name, (size, sha256) in read_manifest(directory, directory).items():
        path = checked_file(directory / name, directory)
        if path.stat().st_size != size or sha256_of_file(path) != sha256:
            raise _changed(path)


def read_manifest(directory: Path, root: Path) -> dict[str, tuple[int, str]]:
    """Read the manifest: size in bytes and SHA-256 of each file, by name."""
    path = checked_file(directory / MANIFEST, root)
    manifest = read_json(path)
    if manifest.get("format_version") != MANIFEST_VERSION:
        raise CheckpointError(
            f"{path} has format_version {shown(manifest.get('format_version'))}; this version of skxlmr reads "
            f"{MANIFEST_VERSION}. Upgrade skxlmr."
        )
    if manifest.get("complete") is not True:
        raise CheckpointError(f"{directory} is an incomplete checkpoint: saving it was interrupted. Save it again.")
    files = {}
    listed = manifest.get("files")
    for name, entry in listed.items() if isinstance(listed, dict) else [(path.name, None)]:
        match entry:
            case {"bytes": int(size), "sha256": str(sha256)}:
                files[check_base_name(name, path)] = size, sha256
            case _:
                raise CheckpointError(f"{path} is damaged: its list of files cannot be read")
    return files


def cached_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, unless its size and modification time are those of an earlier call."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return sha256_of_file(path)


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.parent} is an incomplete checkpoint: {path.name} is not the file that was saved. Save it again, or "
        f"delete {MANIFEST} if you changed the file on purpose."
    )
