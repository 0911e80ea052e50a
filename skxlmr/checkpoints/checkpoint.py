"""Reading a checkpoint: open its headers, compare them with a model, then load one tensor after another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from skxlmr.checkpoints.adapted import adapt
from skxlmr.checkpoints.decoders import bias_names
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.formats import DTYPES, MAX_TENSORS, TensorInfo, WeightFile, all_finite, open_weights
from skxlmr.checkpoints.keymap import LoadPlan
from skxlmr.checkpoints.layout import read_index
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.system.malloc import return_freed_memory
from skxlmr.system.progress import progress_bar
from skxlmr.system.schema import shown

SHOW_PROGRESS_FROM = 10**9  # bytes
# The ends of the names of tensors by which packed weights are recognised, and the programs that write them.
PACKED = {
    ".qweight": "GPTQ or AWQ",
    ".weight.absmax": "bitsandbytes in 4 bits",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "an FP8 format",
    ".W_q": "HQQ",
}
SMALL, LARGE = 2**20, 2**24  # bytes


class Checkpoint:
    """An open checkpoint of any file format and number of shards; see `open_checkpoint`."""

    def __init__(self, name: str, weight_files: list[WeightFile]) -> None:
        self.name = name
        self._files = {key: file for file in weight_files for key in file.tensors}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {key: file.tensors[key] for key, file in self._files.items()}
        )
        self._weight_files = weight_files

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor to the CPU, with its own memory and the stored shape and dtype; KeyError if there is none.

        Raises CheckpointError if the tensor contains NaN or an infinity, or the file ends too early.
        """
        tensor = self._files[key].read(key)
        if not all_finite(tensor):
            raise CheckpointError(f"{self.tensors[key].file}: tensor {key!r} contains NaN or infinity")
        return tensor

    def close(self) -> None:
        """Close the files."""
        for file in self._weight_files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(files: CheckpointFiles) -> Checkpoint:
    """Open a checkpoint, reading and checking the headers of its files; close it, or use it in a `with` statement.

    If it is a base model with an adapter, its tensors are read with the adapter merged. Raises CheckpointError if a
    file is damaged, or the shards do not contain exactly the tensors that the index lists, and UnsafeCheckpointError
    if a pickle contains anything but tensors.
    """
    with ExitStack() as opened:
        weight_files = []
        for path in files.weights:
            weight_files.append(open_weights(path))
            opened.callback(weight_files[-1].close)
        _check_distinct(weight_files)
        _check_packed(weight_files)
        if files.index is not None:
            _check_index(files.index, weight_files)
        if files.adapter is not None:
            weight_files = adapt(weight_files, files.adapter)
        opened.pop_all()
    return Checkpoint(files.name, weight_files)


class WithDecoderBias(Checkpoint):
    """A checkpoint whose head of a language model has the bias of its decoder, which is another one in some."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.name, [])
        self._checkpoint = checkpoint
        self._names = bias_names(checkpoint.tensors)
        self.tensors = {**checkpoint.tensors, **{key: checkpoint.tensors[of] for key, of in self._names.items()}}

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor."""
        return self._checkpoint.read(self._names.get(key, key))


class _TensorsInMemory:
    """Tensors in memory, in place of a file of them."""

    offsets: list[int] = []

    def __init__(self, tensors: Mapping[str, torch.Tensor], name: str) -> None:
        self.tensors = {key: TensorInfo(tuple(t.shape), t.dtype, Path(name)) for key, t in tensors.items()}
        self._held = tensors

    def read(self, key: str) -> torch.Tensor:
        return self._held[key].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def read_bytes(self, key: str, start: int, stop: int) -> bytes:
        return self.read(key).flatten().view(torch.uint8)[start:stop].numpy().tobytes()

    def close(self) -> None:
        """Do nothing: nothing is open."""


def checkpoint_of(tensors: Mapping[str, torch.Tensor], name: str) -> Checkpoint:
    """Return tensors in memory as a checkpoint; what is read from it are copies.

    Raises TypeError if a value is not a tensor, and ValueError if it is sparse, on the meta device or of another dtype
    than files of weights have.
    """
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must map names to tensors, and has {type(tensor).__name__} for {shown(key)}.")
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
            raise ValueError(f"{name} has {key!r} as {tensor.dtype}, {tensor.layout}, on device {tensor.device}.")
    return Checkpoint(name, [_TensorsInMemory(tensors, name)])


@runtime_checkable
class QuantizedLayer(Protocol):
    """A layer that converts some of its parameters itself while they are being loaded."""

    quantized_parameters: tuple[str, ...]

    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Store a parameter, quantising it if necessary."""


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    plan: LoadPlan,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
    half: Collection[str] = (),
) -> None:
    """Load a checkpoint into a model on the meta device; the peak memory is that of the model and one tensor.

    Parameters in `plan.new` stay as they are; tied parameters stay tied. `dtype` None keeps the dtype of the file.
    Parameters in `half` are loaded in 16 bits: with the dtype of the file if it has 16 bits, or else as float16. Large
    checkpoints show a progress bar. Raises CheckpointError if a tensor contains NaN or an infinity, before or after its
    conversion to `dtype`.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    names_of: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names_of.setdefault(id(parameter), []).append(name)
    sizes = {theirs: checkpoint.tensors[theirs].nbytes for theirs, _ in plan.assignments}
    total = sum(sizes.values())
    # Small tensors first: allocated among the buffers of large ones they would keep these from being freed.
    ordered = sorted(plan.assignments, key=lambda assignment: sizes[assignment[0]] > SMALL)
    with progress_bar(total, "load", shown=total > SHOW_PROGRESS_FROM, lines=False) as bar:
        for theirs, ours in ordered:
            tensor = checkpoint.read(theirs)
            owner, _, attribute = ours.rpartition(".")
            holder = module.get_submodule(owner)
            if isinstance(holder, QuantizedLayer) and attribute in holder.quantized_parameters:
                holder.load(attribute, tensor.to(device))
            else:
                old, wanted = parameters[ours], _half_type(tensor) if ours in half else dtype
                new = nn.Parameter(_converted(tensor, theirs, wanted, device), requires_grad=old.requires_grad)
                for name in names_of[id(old)]:
                    owner, _, attribute = name.rpartition(".")
                    setattr(module.get_submodule(owner), attribute, new)
            bar.update(sizes[theirs])
            if sizes[theirs] > LARGE:
                return_freed_memory()


def _half_type(tensor: torch.Tensor) -> torch.dtype:
    """Choose the dtype of 16 bits: that of the tensor, float16, or bfloat16 if float16 would overflow."""
    if tensor.element_size() == 2:
        return tensor.dtype
    fits = max(-tensor.min(), tensor.max()) < torch.finfo(torch.float16).max
    return torch.float16 if fits else torch.bfloat16


def _converted(tensor: torch.Tensor, key: str, dtype: torch.dtype | None, device: torch.device | str) -> torch.Tensor:
    converted = tensor.to(device=device, dtype=dtype)
    new_max, old_max = (torch.finfo(t.dtype).max if t.is_floating_point() else 0 for t in (converted, tensor))
    if new_max < old_max and not all_finite(converted):
        raise CheckpointError(f"tensor {key!r} overflows in {dtype}: use torch.bfloat16 or torch.float32")
    return converted


def _check_distinct(weight_files: list[WeightFile]) -> None:
    seen: dict[str, TensorInfo] = {}
    for file in weight_files:
        for key, info in file.tensors.items():
            if key in seen:
                raise CheckpointError(f"tensor {key!r} is in two shards, {seen[key].file} and {info.file}")
            seen[key] = info
        if len(seen) > MAX_TENSORS:
            raise CheckpointError(f"the shards have more than {MAX_TENSORS:,} tensors, which is the limit")


def _check_packed(weight_files: list[WeightFile]) -> None:
    """Raise CheckpointError if tensors have names that programs for quantised models give to theirs."""
    for file in weight_files:
        for key, info in file.tensors.items():
            program = next((what for end, what in PACKED.items() if key.endswith(end)), None)
            if program is not None:
                raise CheckpointError(
                    f"{info.file}: the tensor {key!r} is of weights that {program} has packed, which are not read. Use "
                    f"the model that was quantised, with load_in_8bit=True or load_in_4bit=True."
                )


def _check_index(index: Path, weight_files: list[WeightFile]) -> None:
    listed = read_index(index)
    held = {key: info.file.name for file in weight_files for key, info in file.tensors.items()}
    for key, shard in listed.items():
        if held.get(key) != shard:
            raise CheckpointError(f"{index} lists tensor {key!r} in {shard}, which does not contain it")
    for key, shard in held.items():
        if key not in listed:
            raise CheckpointError(f"{index.with_name(shard)} contains tensor {key!r}, which {index} does not list")
