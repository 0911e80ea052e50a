"""A checkpoint with an adapter of peft: its tensors are merged one by one, when they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from skxlmr.checkpoints.decoders import DECODER, HEADS, WORDS, own_decoders
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.formats import TensorInfo, WeightFile, bytes_of, open_weights
from skxlmr.checkpoints.keymap import PART_OF_ENCODER
from skxlmr.checkpoints.peft_adapter import MERGE, LowRankTensors, PeftAdapter, TokenRows

BASE_PREFIX = re.compile(r"^(roberta|bert)\.")  # which the keys of a base model that is saved alone lack
POOLER = re.compile(r"(.*\.)?pooler\.dense")


def bare(name: str) -> str:
    """Return the name of a module or parameter without the prefix of the encoder."""
    return BASE_PREFIX.sub("", name)


@dataclass
class Change:
    """What an adapter does to one tensor of a checkpoint: another tensor in its place, and what is added to it."""

    whole: str | None = None
    term: LowRankTensors | None = None
    bias: tuple[str, float] | None = None  # of the low-rank term, and its scale
    rows: TokenRows | None = None


@dataclass
class Changes:
    """What an adapter does to the tensors of a checkpoint, by their names without the prefix of the encoder."""

    known: dict[str, TensorInfo]  # of the base model
    of_known: dict[str, Change] = field(default_factory=dict)
    new: dict[str, Change] = field(default_factory=dict)  # of tensors that the base model lacks
    decoder: str | None = None  # the name that the base's word embedding has as a decoder, which the adapter leaves

    def change(self, name: str) -> Change:
        """Return the change of a tensor, to be completed."""
        return (self.of_known if name in self.known else self.new).setdefault(name, Change())


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
        tensor = _with_rows(tensor, change.rows, self._adapter_file)
        if change.term is not None:
            a, b = (self._adapter_file.read(name).to(dtype) for name in (change.term.a, change.term.b))
            if change.term.of_embedding:
                a, b = b.t(), a.t()
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

    def __init__(self, adapter_file: WeightFile, changes: dict[str, Change]) -> None:
        self._file, self._changes = adapter_file, changes
        self._names = {key: change.whole for key, change in changes.items() if change.whole is not None}
        self.tensors = {key: adapter_file.tensors[name] for key, name in self._names.items()}

    def read(self, key: str) -> Tensor:
        return _with_rows(self._file.read(self._names[key]), self._changes[key].rows, self._file)

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        return bytes_of(self.read(key), start, stop)

    def close(self) -> None:
        self._file.close()


def _with_rows(tensor: Tensor, rows: TokenRows | None, file: WeightFile) -> Tensor:
    """Replace rows of a tensor, in place."""
    if rows is None:
        return tensor
    return tensor.index_copy_(0, torch.tensor(rows.numbers), file.read(rows.tensor).to(tensor.dtype))


def adapt(files: Sequence[WeightFile], adapter: PeftAdapter) -> list[WeightFile]:
    """Return the files of a base model with an adapter, which read its tensors merged.

    Raises CheckpointError if the adapter has a tensor that does not fit the base model, or if that is in 8 bits.
    """
    holders = {key: file for file in files for key in file.tensors}
    own = own_decoders(holders)
    used = [key for key in holders if key in own or not DECODER.fullmatch(key)]  # not the second names of others
    keys = {bare(key): key for key in used}
    changes = _changes(adapter, {bare(key): holders[key].tensors[key] for key in used})
    # A base model that is saved alone gets the prefix that the adapter has.
    names = [*keys.values(), *adapter.terms, *adapter.rows]
    prefix = next((found[0] for found in map(BASE_PREFIX.match, names) if found), "")
    by_key = {_key(name, prefix): change for name, change in changes.of_known.items()}
    opened, adapted = open_weights(adapter.weights), []
    for file in files:
        own_keys = {_key(bare(key), prefix): key for key in used if holders[key] is file}
        if changes.decoder is not None and keys[WORDS] in file.tensors:
            own_keys[changes.decoder] = keys[WORDS]
        adapted.append(AdaptedFile(file, opened, by_key, own_keys))
    return [*adapted, NewTensors(opened, {_key(name, prefix): change for name, change in changes.new.items()})]


def _key(name: str, prefix: str) -> str:
    """Return the key of a parameter in a model with a head, from its name without the prefix of the encoder."""
    return prefix + name if name.startswith(("encoder.", "embeddings.", "pooler.")) else name


def _changes(adapter: PeftAdapter, known: dict[str, TensorInfo]) -> Changes:
    """Return the changes of the base's tensors, and the tensors that it lacks."""
    changes = Changes(known)
    replaced = {bare(name): tensor for name, tensor in adapter.replaced.items()}
    lacks_pooler = "pooler.dense.weight" not in known and "pooler.dense.weight" not in replaced
    for name, tensor in replaced.items():
        if not (lacks_pooler and POOLER.fullmatch(name.rpartition(".")[0])):
            _replace(changes, adapter, name, tensor)
    for module, rows in adapter.rows.items():
        _add_rows(changes, adapter, bare(module), rows)
    for module, term in adapter.terms.items():
        if not (lacks_pooler and POOLER.fullmatch(bare(module))):  # random in peft, too: no result depends on it
            _add_term(changes, adapter, bare(module), term)
    words = changes.of_known.get(WORDS)
    if words is not None and (words.term or words.whole) and not any(map(DECODER.fullmatch, {*changes.new, *known})):
        head = next((head for head in HEADS if any(name.startswith(head) for name in known)), None)
        changes.decoder = None if head is None else f"{head}decoder.weight"
    return changes


def _replace(changes: Changes, adapter: PeftAdapter, name: str, tensor: str) -> None:
    """Put a tensor of the adapter in the place of one of the base model."""
    info, known = adapter.tensors[tensor], changes.known.get(name)
    if PART_OF_ENCODER.fullmatch(name):
        if known is None:
            raise _mismatch(adapter, tensor, "is of no parameter of the base model")
        is_resized = name == WORDS and info.shape[1:] == known.shape[1:]
        if info.shape != known.shape and not is_resized:
            raise _mismatch(adapter, tensor, f"has shape {info.shape}, the base model's {known.shape}")
    changes.change(name).whole = tensor


def _shape(changes: Changes, adapter: PeftAdapter, name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor, that of the adapter if this replaces it; None if there is none."""
    if name not in changes.known and name not in changes.new:
        return None
    whole = changes.change(name).whole
    return tuple(changes.known[name].shape if whole is None else adapter.tensors[whole].shape)


def _add_rows(changes: Changes, adapter: PeftAdapter, module: str, rows: TokenRows) -> None:
    """Replace rows of an embedding; those of a decoder that is tied to it are the same."""
    name = f"{module}.weight"
    if DECODER.fullmatch(name) and name not in changes.known and name not in changes.new:
        return
    shape = _shape(changes, adapter, name)
    of_rows = adapter.tensors[rows.tensor].shape
    if shape is None or len(shape) != 2:
        raise _mismatch(adapter, rows.tensor, "is of no embedding of the base model")
    if of_rows[1] != shape[1] or not all(0 <= number < shape[0] for number in rows.numbers):
        raise _mismatch(adapter, rows.tensor, f"is for rows of a matrix that is not {shape}")
    changes.change(name).rows = rows


def _add_term(changes: Changes, adapter: PeftAdapter, module: str, term: LowRankTensors) -> None:
    """Add a low-rank term to a matrix of the base model."""
    name = f"{module}.weight"
    rows, columns = adapter.tensors[term.b].shape[0], adapter.tensors[term.a].shape[1]
    expected = (columns, rows) if term.of_embedding else (rows, columns)
    shape = _shape(changes, adapter, name)
    is_embedding = name.endswith("_embeddings.weight")
    if shape is None or name not in changes.known or DECODER.fullmatch(name) or is_embedding != term.of_embedding:
        raise _mismatch(adapter, term.a, "is of no linear layer of the base model")
    if shape != expected:
        raise _mismatch(adapter, term.a, f"is for a matrix {expected}, the base model's is {shape}")
    changes.change(name).term = term
    if term.bias is not None:
        if f"{module}.bias" not in changes.known:
            raise _mismatch(adapter, term.bias, "is of no bias of the base model")
        changes.change(f"{module}.bias").bias = (term.bias, term.scale)


def _mismatch(adapter: PeftAdapter, tensor: str, reason: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(
        f"{adapter.weights}: the tensor {tensor!r} {reason}, "
        f"{adapter.config.base_model_name_or_path!r:.200}. If that is the right base, merge both: {MERGE.lower()}."
    )
