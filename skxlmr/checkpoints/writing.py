"""Writing checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.formats import DTYPES, all_finite
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS
from skxlmr.system import atomic

MAX_SHARD_BYTES = 5_000_000_000
OWN_WEIGHTS = re.compile(r"model\.safetensors(\.index\.json)?|model-[0-9]{5}-of-[0-9]{5}\.safetensors")
NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def write_checkpoint(
    directory: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, object],
    *,
    extra_files: Mapping[str, bytes] = NO_FILES,
    unlisted_files: Mapping[str, bytes] = NO_FILES,
    obsolete: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint in the Hugging Face layout; an older one is replaced as a whole when the new one is complete.

    Its files, and the manifest "skxlmr.json" that lists them, are replaced by `atomic.replacing_whole`, which says what
    other programs may see meanwhile. Weight files of an older checkpoint, and files with the names in `obsolete`, are
    removed; other existing files are kept.

    Keys of `tensors` that share memory are written once each; `extra_files` are given by base name, and
    `unlisted_files`, which the manifest does not list since they may change later, may have one folder in their names.
    Raises ValueError if a tensor cannot be written (on the meta device, sparse, NaN or infinite), the config is not
    JSON, or a file name is not a plain base name; OSError if the disk is full or not writable, and then an older
    checkpoint is unchanged.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> write_checkpoint(directory, {"dense.weight": torch.ones(2, 3)}, {"hidden_size": 3})
    >>> sorted(path.name for path in directory.iterdir())
    ['config.json', 'model.safetensors', 'skxlmr.json']
    """
    like = _check_tensors(tensors)
    small_files = {layout.CONFIG: _json(config)}
    for name, data in extra_files.items():
        layout.check_base_name(name, Path(directory))
        if name in small_files or name == layout.MANIFEST or OWN_WEIGHTS.fullmatch(name):
            raise ValueError(f"extra file {name!r} would replace a file of the checkpoint itself")
        small_files[name] = data
    shards = _split(like, max_shard_bytes)
    if len(shards) > 1:
        weight_map = {key: name for name, keys in shards.items() for key in keys}
        total_size = sum(tensor.nbytes for tensor in like.values())
        small_files[layout.SAFETENSORS_INDEX] = _json(
            {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        )
    weights = {
        name: SafetensorsContent(tensors, {"format": "pt"}, like={key: like[key] for key in keys})
        for name, keys in shards.items()
    }
    size = sum(map(len, (*small_files.values(), *unlisted_files.values())))
    size += sum(content.nbytes for content in weights.values())
    own = {layout.TOKENIZER_JSON, ADDED_TOKENS} if layout.TOKENIZER in extra_files else set()  # of an older tokenizer
    own |= set(obsolete)
    with atomic.replacing_whole(
        Path(directory).expanduser(), size=size, is_obsolete=lambda name: OWN_WEIGHTS.fullmatch(name) or name in own
    ) as new:
        files = {name: new.add(name, content) for name, content in weights.items()}
        files |= {name: new.add(name, [data]) for name, data in small_files.items()}
        for name, data in unlisted_files.items():
            new.add(name, [data])
        manifest = {"format_version": layout.MANIFEST_VERSION, "complete": True, "files": files}
        new.add(layout.MANIFEST, [_json(manifest)])


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


def _split(tensors: Mapping[str, torch.Tensor], max_shard_bytes: int) -> dict[str, list[str]]:
    """Divide the keys, in their order, into files of at most `max_shard_bytes`."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += tensor.nbytes
    if len(shards) == 1:
        return {layout.SAFETENSORS: shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": keys for number, keys in enumerate(shards, start=1)}


def _json(value: Mapping[str, object]) -> bytes:
    try:
        return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error
