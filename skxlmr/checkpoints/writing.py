"""Writing checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.formats import DTYPES, all_finite
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS
from skxlmr.system import atomic

MAX_SHARD_BYTES = 5_000_000_000
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(I?)B", re.IGNORECASE)
ZIP_OVERHEAD = 1024  # bytes that torch.save writes beside each tensor, at most
NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def shard_bytes(size: int | str) -> int:
    """Return the bytes of a size such as "5GB", "200MB" or "1GiB"; raise ValueError if it is not one.

    >>> shard_bytes("5GB"), shard_bytes("1.5KiB"), shard_bytes(100)
    (5000000000, 1536, 100)
    """
    found = SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is not None:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper()) if unit else 0))
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"max_shard_size must be a number of bytes or a size such as '5GB', got {size!r}.")
    return size


def write_checkpoint(
    directory: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, object],
    *,
    extra_files: Mapping[str, bytes] = NO_FILES,
    unlisted_files: Mapping[str, bytes] = NO_FILES,
    obsolete: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    variant: str | None = None,
    pickle: bool = False,
) -> None:
    """Write a checkpoint in the Hugging Face layout; an older one is replaced as a whole when the new one is complete.

    Its files, and the manifest "skxlmr.json" that lists them, are replaced by `atomic.replacing_whole`, which says what
    other programs may see meanwhile. Weight files of an older checkpoint, and files with the names in `obsolete`, are
    removed; other existing files are kept, among them the weights of another variant.

    Keys of `tensors` that share memory are written once each; `extra_files` are given by base name, and
    `unlisted_files`, which the manifest does not list since they may change later, may have one folder in their names.
    The names of weight files contain the `variant`; with `pickle` they are files of torch.save.
    Raises ValueError if a tensor cannot be written (on the meta device, sparse, NaN or infinite), the config is not
    JSON, or a file name is not a plain base name; OSError if the disk is full or not writable, and then an older
    checkpoint is unchanged.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> write_checkpoint(directory, {"dense.weight": torch.ones(2, 3)}, {"hidden_size": 3})
    >>> sorted(path.name for path in directory.iterdir())
    ['config.json', 'model.safetensors', 'skxlmr.json']
    """
    directory = Path(directory).expanduser()
    like = _check_tensors(tensors)
    shards, index = _split(like, max_shard_bytes, variant, pickle)
    small_files = {layout.CONFIG: _json(config)} | index
    for name, data in extra_files.items():
        layout.check_base_name(name, directory)
        if name in small_files or name == layout.MANIFEST or is_replaced(name, variant):
            raise ValueError(f"extra file {name!r} would replace a file of the checkpoint itself")
        small_files[name] = data
    size = sum(map(len, (*small_files.values(), *unlisted_files.values())))
    size += sum(tensor.nbytes + (ZIP_OVERHEAD if pickle else 0) for tensor in like.values())
    earlier = _earlier(directory)
    own = {layout.TOKENIZER_JSON, ADDED_TOKENS} if layout.TOKENIZER in extra_files else set()  # of an older tokenizer
    own |= set(obsolete)

    def is_obsolete(name: str) -> bool:
        # A file of torch.save by another program is kept beside safetensors, which every program prefers.
        foreign = not pickle and layout.is_weights(name, variant, pickle=True) and name not in earlier
        return name in own or (is_replaced(name, variant) and not foreign)

    with atomic.replacing_whole(directory, size=size, is_obsolete=is_obsolete) as new:
        files = {name: _add(new, name, keys, tensors, like, pickle) for name, keys in shards.items()}
        files |= {name: new.add(name, [data]) for name, data in small_files.items()}
        for name, data in unlisted_files.items():
            new.add(name, [data])
        kept = {name: entry for name, entry in earlier.items() if name not in new.names and not is_obsolete(name)}
        manifest = {"format_version": layout.MANIFEST_VERSION, "complete": True, "files": {**kept, **files}}
        new.add(layout.MANIFEST, [_json(manifest)])


def is_replaced(name: str, variant: str | None) -> bool:
    """Whether a file has weights of a variant, which those of a new checkpoint replace."""
    return any(layout.is_weights(name, variant, pickle=pickle) for pickle in (False, True))


def _earlier(directory: Path) -> dict[str, dict[str, object]]:
    """Return what an existing manifest says about the files of weights; nothing if it is damaged."""
    try:
        if layout.saved_at(directory) is None:
            return {}
        listed = layout.read_manifest(directory, directory)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        return {}
    endings = (".safetensors", ".bin", ".json")
    begin = tuple(name.partition(".")[0] for name in layout.WEIGHTS)
    return {
        name: {"bytes": size, "sha256": sha256}
        for name, (size, sha256) in listed.items()
        if name.startswith(begin) and name.endswith(endings) and (directory / name).is_file()
    }


def _add(
    new: atomic.NewFiles,
    name: str,
    keys: list[str],
    tensors: Mapping[str, torch.Tensor],
    like: Mapping[str, torch.Tensor],
    pickle: bool,
) -> dict[str, object]:
    """Write some of the tensors to a file, and return its entry in the manifest."""
    if not pickle:
        return new.add(name, SafetensorsContent(tensors, {"format": "pt"}, like={key: like[key] for key in keys}))
    plain = {key: tensors[key].detach().cpu().contiguous() for key in keys}
    for key, tensor in plain.items():
        if tensor.untyped_storage().nbytes() != tensor.nbytes:  # torch.save writes the whole storage of a view
            plain[key] = tensor.clone()
    return new.add_with(name, lambda sink: torch.save(plain, cast(IO[bytes], sink)))


def _check_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors without memory of the same shapes and dtypes."""
    like = {}
    for key, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
            raise ValueError(
                f"tensor {key!r} cannot be written: it is {tensor.dtype}, {tensor.layout}, on device {tensor.device}"
            )
        if not all_finite(tensor):
            raise ValueError(f"tensor {key!r} contains NaN or infinity; such a checkpoint could not be read again")
        like[key] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return like


def _split(
    tensors: Mapping[str, torch.Tensor], max_shard_bytes: int, variant: str | None, pickle: bool
) -> tuple[dict[str, list[str]], dict[str, bytes]]:
    """Divide the keys, in their order, into files of at most `max_shard_bytes`; return them, and the index if any."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += tensor.nbytes
    single, index = layout.weights_names(variant)[2 if pickle else 0 :][:2]
    if len(shards) == 1:
        return {single: shards[0]}, {}
    begin, end = layout.shard_pattern(single)
    named = {f"{begin}{number:05}-of-{len(shards):05}{end}": keys for number, keys in enumerate(shards, start=1)}
    weight_map = {key: name for name, keys in named.items() for key in keys}
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return named, {index: _json(content)}


def _json(value: Mapping[str, object]) -> bytes:
    try:
        return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error
