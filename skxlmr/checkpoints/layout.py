"""The files of a checkpoint directory: their names, the index of shards, and the manifest with their checksums."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import checked_file, file_identity, read_json, read_json_as, sha256_of_file
from skxlmr.system import atomic
from skxlmr.system.schema import shown

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"  # defaults of text generation
TOKENIZER = "sentencepiece.bpe.model"
TOKENIZER_JSON = "tokenizer.json"  # of newer transformers: the normaliser, added tokens, pieces without a TOKENIZER
OUTLIERS = "outliers.json"  # columns that an 8-bit model keeps in 16 bits
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)  # in order of preference
VARIANT = re.compile(r"[A-Za-z0-9_]{1,40}")  # such as "fp16"
ESTIMATOR = "estimator.json"  # of a directory with a fitted estimator
# The ends of files of weights that are not read, and the programs that they are of.
OTHER_FORMATS = {
    ".gguf": "llama.cpp",
    ".h5": "TensorFlow",
    ".ckpt": "TensorFlow or Lightning",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".pth": "torch, without a config",
}
MARKERS = (*WEIGHTS, ESTIMATOR, "adapter_config.json")  # files of a directory with a model
MAX_NAMED = 3  # files or folders in a message

# Written by `write_checkpoint` after all other files; checkpoints of other libraries have none.
MANIFEST = "skxlmr.json"
MANIFEST_VERSION = 1

SMALL_FILE = 64 * 2**20  # bytes; smaller files are hashed completely whenever they are used
MAX_SHARDS = 512  # all are open at the same time


@dataclass
class ShardIndex:
    """The content of an index file."""

    weight_map: dict[str, Any]  # from tensor names to the names of their shards, which `check_base_name` checks


def weights_names(variant: str | None = None) -> tuple[str, ...]:
    """Return the names that the weights of a checkpoint may have, in order of preference.

    A variant comes before the last part of the names, as in transformers. Raises ValueError if it is not a plain word.

    >>> weights_names("fp16")[:2]
    ('model.fp16.safetensors', 'model.safetensors.index.fp16.json')
    """
    if variant is None:
        return WEIGHTS
    if not isinstance(variant, str) or not VARIANT.fullmatch(variant):
        raise ValueError(f"variant must be up to 40 letters, digits and underscores, such as 'fp16', got {variant!r}.")
    return tuple(f"{stem}.{variant}.{end}" for stem, _, end in (name.rpartition(".") for name in WEIGHTS))


def shard_pattern(name: str) -> tuple[str, str]:
    """Return what the names of shards begin and end with, for the name of a single file of weights.

    >>> shard_pattern("model.fp16.safetensors")
    ('model.fp16-', '.safetensors')
    """
    stem, _, end = name.rpartition(".")
    return f"{stem}-", f".{end}"


def is_weights(name: str, variant: str | None, *, pickle: bool) -> bool:
    """Whether a file name is that of weights, of one variant and of one format, that are written here."""
    safetensors_name, safetensors_index, pickle_name, pickle_index = weights_names(variant)
    single, index = (pickle_name, pickle_index) if pickle else (safetensors_name, safetensors_index)
    begin, end = shard_pattern(single)
    shard = re.escape(begin) + "[0-9]{5}-of-[0-9]{5}" + re.escape(end)
    return name in (single, index) or re.fullmatch(shard, name) is not None


def variant_of(name: str) -> str | None:
    """Return the variant in the name of a file of weights, or of the index of shards; "" without one, None if neither.

    >>> variant_of("model.fp16.safetensors"), variant_of("pytorch_model.bin"), variant_of("weights.bin")
    ('fp16', '', None)
    """
    for known in WEIGHTS:
        stem, _, end = known.rpartition(".")
        variant = name.removeprefix(f"{stem}.").removesuffix(f".{end}")
        if name == known or (name == f"{stem}.{variant}.{end}" and VARIANT.fullmatch(variant)):
            return "" if name == known else variant
    return None


def other_variants(names: Iterable[str], looked_for: Iterable[str]) -> str:
    """Return a hint at the variants of which a folder with these files has weights, empty if there are none."""
    looked_for = set(looked_for)
    found = {variant for name in names if name not in looked_for and (variant := variant_of(name)) is not None}
    if not found:
        return ""
    hints = [f"variant={variant!r}" if variant else "no variant" for variant in sorted(found)]
    how = ""
    if last := max(found):
        how = (
            f": skxlmr.load and from_pretrained of a model take this parameter; for an estimator, give the file itself "
            f"as its model, such as .../model.{last}.safetensors"
        )
    return f". There are weights for {' and '.join(hints)}{how}"


def other_formats(names: Iterable[str]) -> str:
    """Return a hint at files of weights that are not read, empty if there are none.

    >>> other_formats(["config.json", "tf_model.h5"])
    '. tf_model.h5, of TensorFlow, is not read: take the model in safetensors, which transformers can convert'
    """
    found = [(name, OTHER_FORMATS[end]) for name in sorted(names) if (end := Path(name).suffix) in OTHER_FORMATS]
    if not found:
        return ""
    name, program = found[0]
    return f". {name}, of {program}, is not read: take the model in safetensors, which transformers can convert"


def folders_of_models(names: Iterable[str]) -> str:
    """Return a hint at folders in which there is a model, of the paths of the files in and below a folder.

    >>> folders_of_models(["checkpoint-500/model.safetensors", "1_Pooling/config.json", "README.md"])
    ". There is a model in its folder 'checkpoint-500': give that"
    """
    paths = [Path(name) for name in names]
    found = sorted({path.parent.as_posix() for path in paths if len(path.parts) == 2 and path.name in MARKERS})
    if not found:
        return ""
    named = ", ".join(map(repr, found[:MAX_NAMED])) + (", ..." if len(found) > MAX_NAMED else "")
    if len(found) == 1:
        return f". There is a model in its folder {named}: give that"
    return f". There are models in its folders {named}: give one of them"


def weights_alone(names: Iterable[str]) -> str:
    """Return a hint at how weights without a config are loaded, empty if a folder has none.

    >>> weights_alone(["model.safetensors", "training_args.bin"])[:32]
    '. Weights alone, as transformers'
    """
    if all(variant_of(name) is None for name in names):
        return ""
    return (
        ". Weights alone, as transformers' Trainer saves those of the models of skxlmr, are loaded by "
        "from_pretrained(..., config=model.config) of their class; save_pretrained writes what all others load"
    )


def hint_at(names: Iterable[str]) -> str:
    """Return a hint at what a folder with files of these paths holds in place of a checkpoint, empty if nothing."""
    names = list(names)
    return folders_of_models(names) or weights_alone(names) or other_formats(names)


def below(directory: Path) -> list[str]:
    """Return the relative paths of the files in a directory and in its folders, of a limited number of these."""
    found = []
    for entry in sorted(directory.iterdir())[:MAX_SHARDS]:
        found.append(entry.name)
        if entry.is_dir():
            found += [f"{entry.name}/{name}" for name in MARKERS if (entry / name).exists()]
    return found


def checked_subfolder(subfolder: str) -> str:
    """Return a relative path with "/" between its parts; raise ValueError if it leads out of the model's folder."""
    if not isinstance(subfolder, str):
        raise TypeError(f"subfolder must be a str, got {subfolder!r:.60}. Leave it for the model's own folder.")
    parts = subfolder.replace("\\", "/").split("/")
    if subfolder.startswith("/") or ".." in parts or ":" in subfolder:
        raise ValueError(f"subfolder={subfolder!r} must be a path inside the folder of the model.")
    return "/".join(part for part in parts if part not in ("", "."))


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
    return sorted(set(read_index(weights).values())) if weights.suffix == ".json" else []


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
