"""A checkpoint with an adapter of peft: its tensors are merged one by one, when they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.formats import TensorInfo, WeightFile, bytes_of, open_weights
from skxlmr.checkpoints.keymap import PART_OF_ENCODER
from skxlmr.checkpoints.peft_adapter import MERGE, LowRankTensors, PeftAdapter

BASE_PREFIX = re.compile(r"^(roberta|bert)\.")  # which the keys of a base model that is saved alone lack
POOLER = re.compile(r"(.*\.)?pooler\.dense")
TIED = re.compile(r"(lm_head|cls\.predictions)\.decoder")  # a second name of the word embedding
WORDS = "embeddings.word_embeddings.weight"


def bare(name: str) -> str:
    """Return the name of a module or parameter without the prefix of the encoder."""
    return BASE_PREFIX.sub("", name)


@dataclass
class Change:
    """What an adapter does to one tensor of a checkpoint: another tensor in its place, and what is added to it."""

    whole: str | None = None
    term: LowRankTensors | None = None
    bias: tuple[str, float] | None = None  # of the low-rank term, and its scale


class AdaptedFile:
    """A file of weights with the changes of an adapter, by key; in float32, or the dtype of the file if it is wider.

    `keys` are those in the file, by the keys that the tensors have here.
    """

    def __init__(
        self, file: WeightFile, adapter_file: WeightFile, changes: dict[str, Change], keys: dict[str, str]
    ) -> None:
        self._file, self._adapter_file, self._changes, self._keys = file, adapter_file, changes, keys
        self.tensors = {key: self._info(key, file.tensors[theirs]) for key, theirs in keys.items()}
        self.offsets = file.offsets

    def _info(self, key: str, info: TensorInfo) -> TensorInfo:
        if key not in self._changes:
            return info
        whole = self._changes[key].whole
        return replace(
            info,
            shape=info.shape if whole is None else self._adapter_file.tensors[whole].shape,
            dtype=info.dtype if not info.dtype.is_floating_point else torch.promote_types(info.dtype, torch.float32),
        )

    def read(self, key: str) -> Tensor:
        change, dtype = self._changes.get(key), self.tensors[key].dtype
        if change is None:
            return self._file.read(self._keys[key])
        if not dtype.is_floating_point:
            beside = change.term is not None and change.term.magnitude is None
            raise CheckpointError(
                f"{self.tensors[key].file} holds 8-bit weights, into which no adapter can be merged. "
                f"{'skxlmr.load runs the adapter beside them; or name' if beside else 'Name'} the model in floating "
                f"point as its base_model_name_or_path."
            )
        source, name = (self._file, self._keys[key]) if change.whole is None else (self._adapter_file, change.whole)
        tensor = source.read(name).to(dtype)
        if change.term is not None:
            a, b = (self._adapter_file.read(name).to(dtype) for name in (change.term.a, change.term.b))
            tensor.addmm_(b, a, alpha=change.term.scale)
            if change.term.magnitude is not None:
                tensor *= (self._adapter_file.read(change.term.magnitude).to(dtype) / tensor.norm(dim=1))[:, None]
        if change.bias is not None:
            name, scale = change.bias
            tensor.add_(self._adapter_file.read(name).to(dtype), alpha=scale)
        return tensor

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        if key not in self._changes:
            return self._file.read_bytes(self._keys[key], start, stop)
        return bytes_of(self.read(key), start, stop)

    def close(self) -> None:
        self._file.close()


class NewTensors:
    """Tensors of an adapter that its base model lacks, such as those of a head, by their keys in a checkpoint."""

    offsets: list[int] = []

    def __init__(self, adapter_file: WeightFile, names: dict[str, str]) -> None:
        self._file, self._names = adapter_file, names
        self.tensors = {key: adapter_file.tensors[name] for key, name in names.items()}

    def read(self, key: str) -> Tensor:
        return self._file.read(self._names[key])

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        return self._file.read_bytes(self._names[key], start, stop)

    def close(self) -> None:
        self._file.close()


def adapt(files: Sequence[WeightFile], adapter: PeftAdapter) -> list[WeightFile]:
    """Return the files of a base model with an adapter, which read its tensors merged.

    Raises CheckpointError if the adapter has a tensor that does not fit the base model, or if that is in 8 bits.
    """
    keys = {bare(key): key for file in files for key in file.tensors}
    known = {bare(key): info for file in files for key, info in file.tensors.items()}
    changes, new = _changes(adapter, known)
    names = [*keys.values(), *adapter.terms]  # a base model that is saved alone gets the prefix that the adapter has
    prefix = next((found[0] for found in map(BASE_PREFIX.match, names) if found), "")
    opened = open_weights(adapter.weights)
    try:
        _check_tied(adapter, opened, files, keys)
    except BaseException:
        opened.close()
        raise
    by_key = {_key(name, prefix): change for name, change in changes.items()}
    adapted = [
        AdaptedFile(file, opened, by_key, {_key(bare(key), prefix): key for key in file.tensors}) for file in files
    ]
    return [*adapted, NewTensors(opened, {_key(name, prefix): tensor for name, tensor in new.items()})]


def _key(name: str, prefix: str) -> str:
    """Return the key of a parameter in a model with a head, from its name without the prefix of the encoder."""
    return prefix + name if name.startswith(("encoder.", "embeddings.", "pooler.")) else name


def _check_tied(adapter: PeftAdapter, opened: WeightFile, files: Sequence[WeightFile], keys: dict[str, str]) -> None:
    """Raise CheckpointMismatchError if the decoder of a language model is not the word embedding of its base."""
    for name, tensor in adapter.replaced.items():
        module, _, parameter = name.rpartition(".")
        if not TIED.fullmatch(module):
            continue
        other = WORDS if parameter == "weight" else f"{module.removesuffix('.decoder')}.bias"
        own = next((theirs for ours, theirs in adapter.replaced.items() if bare(ours) == other), None)
        holder = next((file for file in files if keys.get(other) in file.tensors), None)
        if own is None and holder is None:
            continue
        tied_to = opened.read(own) if own is not None else holder.read(keys[other])  # type: ignore[union-attr]
        decoder = opened.read(tensor)
        if decoder.shape != tied_to.shape or not torch.equal(decoder, tied_to.to(decoder.dtype)):
            raise _mismatch(adapter, tensor, f"differs from {other}, which it is the same as in the base model")


def _changes(adapter: PeftAdapter, known: dict[str, TensorInfo]) -> tuple[dict[str, Change], dict[str, str]]:
    """Return the changes of the base's tensors, and the tensors that it lacks, both by their bare names."""
    changes: dict[str, Change] = {}
    new: dict[str, str] = {}
    replaced = {bare(name): tensor for name, tensor in adapter.replaced.items()}
    lacks_pooler = "pooler.dense.weight" not in known and "pooler.dense.weight" not in replaced
    for name, tensor in replaced.items():
        info = adapter.tensors[tensor]
        module = name.rpartition(".")[0]
        if TIED.fullmatch(module) or (lacks_pooler and POOLER.fullmatch(module)):
            continue
        if name in known:
            if PART_OF_ENCODER.fullmatch(name) and info.shape != known[name].shape:
                raise _mismatch(adapter, tensor, f"has shape {info.shape}, the base model's {known[name].shape}")
            changes[name] = Change(whole=tensor)
        elif PART_OF_ENCODER.fullmatch(name):
            raise _mismatch(adapter, tensor, "is of no parameter of the base model")
        else:
            new[name] = tensor
    for module, term in adapter.terms.items():
        module = bare(module)
        if lacks_pooler and POOLER.fullmatch(module):  # random in peft, too: no result depends on it
            continue
        shape = known[f"{module}.weight"].shape if f"{module}.weight" in known else None
        expected = (adapter.tensors[term.b].shape[0], adapter.tensors[term.a].shape[1])
        if shape is None or TIED.fullmatch(module) or module == WORDS.removesuffix(".weight"):
            raise _mismatch(adapter, term.a, "is of no linear layer of the base model")
        if shape != expected:
            raise _mismatch(adapter, term.a, f"is for a matrix {expected}, the base model's is {shape}")
        changes.setdefault(f"{module}.weight", Change()).term = term
        if term.bias is not None:
            if f"{module}.bias" not in known:
                raise _mismatch(adapter, term.bias, "is of no bias of the base model")
            changes.setdefault(f"{module}.bias", Change()).bias = (term.bias, term.scale)
    return changes, new


def _mismatch(adapter: PeftAdapter, tensor: str, reason: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(
        f"{adapter.weights}: the tensor {tensor!r} {reason}, "
        f"{adapter.config.base_model_name_or_path!r:.200}. If that is the right base, merge both: {MERGE.lower()}."
    )
