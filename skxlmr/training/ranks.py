"""The processes that train one model together: what they exchange in a step."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from skxlmr.hardware.footprint import BUCKET_BYTES
from skxlmr.system.out_of_memory import as_out_of_memory

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # by the type of the device that trains
# The others wait while rank 0 validates, which may take long; whether a process is alive, its launcher knows.
TIMEOUT = timedelta(days=7)

# Modules of which some functions have the default group as the default of a parameter. If they are first imported while
# there is a group, by torch.utils.checkpoint for example, they keep it until the interpreter ends, together with its
# threads, and one of these can abort the process then.
HOLD_THE_GROUP = ("torch.distributed.nn", "torch.distributed.fsdp")


class Ranks:
    """The processes that train together, of which this is number `rank`; all call the same methods in the same order.

    This one trains alone, so there is nothing to exchange.

    Attributes
    ----------
    rank : int
    size : int
    size_here : int
        Number of processes on this machine, which share its memory.
    interrupted : bool
        Set by a handler of a signal, or by a callback: all processes end training in the next step.
    device : torch.device
        What this process trains on, one of several.
    """

    rank = 0
    size = 1
    size_here = 1
    interrupted = False
    device = torch.device("cpu")
    is_sharded = False  # whether each process has a shard of the large parameters, see `ShardedRanks`

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which validates, writes files, and calls the user's callbacks."""
        return self.rank == 0

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in one of the processes."""
        return list(flags)

    def sum(self, number: float) -> float:
        """Return the sum of a number over the processes."""
        return number

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes; in place."""
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of the processes; a parameter without one in all of them stays without."""

    def trained(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return what the optimizer sees of the trained parameters of a module."""
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def whole_alike(self, parameter: nn.Parameter) -> bool:
        """Whether all processes have the whole of a parameter."""
        return True

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of the gradients after `sum_gradients`."""
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def whole(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """Return a tensor that belongs to a parameter: nothing is sharded."""
        return tensor

    def part(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """Return a tensor that belongs to a parameter: nothing is sharded."""
        return tensor

    def like(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, Tensor]:
        """Return parameters with the shapes of whole ones."""
        return parameters

    def padding(self, n_tokens: Sequence[int]) -> int:
        """Return how many micro-batches without weight this process has to run beside those of `share`."""
        return 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        return value

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors, which have the same shapes in all processes, with those of rank 0."""

    def together(self) -> AbstractContextManager[None]:
        """Raise OutOfMemoryTogetherError in all processes after the block if it is raised in one of them."""
        return nullcontext()

    def n_tokens(self, total: int, batch_tokens: int) -> int:
        """Return the tokens per micro-batch, at most `batch_tokens`, such that each process has equally many batches.

        `total` are the tokens of a step.
        """
        if self.size == 1:
            return batch_tokens
        n_rounds = -(-total // (batch_tokens * self.size))
        return min(batch_tokens, -(-total // (n_rounds * self.size)))

    def share(self, n_tokens: Sequence[int]) -> list[int]:
        """Return which micro-batches this process runs, by their numbers of tokens; each is run by one process.

        Examples
        --------
        >>> Ranks().share([5, 3, 2])
        [0, 1, 2]
        """
        return self._share_of(self.rank, n_tokens)

    def _share_of(self, rank: int, n_tokens: Sequence[int]) -> list[int]:
        loads, of_rank = np.zeros(self.size, np.int64), []
        for i in np.argsort(-np.asarray(n_tokens), kind="stable").tolist():
            least = int(loads.argmin())
            loads[least] += n_tokens[i]
            if least == rank:
                of_rank.append(i)
        return sorted(of_rank)


ALONE = Ranks()


class OutOfMemoryTogetherError(torch.OutOfMemoryError):
    """Memory ran out in one of several processes; all of them raise this."""


class GroupRanks(Ranks):
    """The processes of the default group of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.size_here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))  # set by torchrun
        self.device = device

    def any(self, flags: Sequence[bool]) -> list[bool]:
        tensor = torch.tensor(list(flags), dtype=torch.uint8)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.bool().tolist()

    def sum(self, number: float) -> float:
        tensor = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.item()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        has_gradient = self.any([p.grad is not None for p in parameters])
        with self.together():  # all that needs memory, before some wait for others
            gradients = []
            for parameter, has in zip(parameters, has_gradient, strict=True):
                if has and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                if parameter.grad is not None:
                    gradients.append(parameter.grad)
            buckets = list(_buckets(gradients))
            n_bytes = max((_nbytes(bucket) for bucket in buckets), default=0)
            buffer = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        for bucket in buckets:
            flat = buffer[: _nbytes(bucket)].view(bucket[0].dtype)
            parts = flat.split([gradient.numel() for gradient in bucket])
            parts = [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(parts, bucket)
            dist.all_reduce(flat)
            torch._foreach_copy_(bucket, parts)

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            received = tensor.detach().contiguous()
            dist.broadcast(received, src=0)
            if received.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(received)

    @contextmanager
    def together(self) -> Iterator[None]:
        fails = False
        try:
            with as_out_of_memory():
                yield
        except torch.OutOfMemoryError:
            fails = True
        # Outside of the handler, whose traceback holds the tensors of the block.
        if self.any([fails])[0]:
            raise OutOfMemoryTogetherError("The memory of one of the processes does not suffice.")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours of the same dtype that together have about `BUCKET_BYTES`, or one that is larger."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        is_full = _nbytes(bucket) + tensor.nbytes > BUCKET_BYTES
        if bucket and (is_full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _nbytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


_joined: GroupRanks | None = None


def joined() -> Ranks | None:
    """Return the processes that this one has joined, while it takes part in a fit; None otherwise."""
    return _joined


@contextmanager
def joining(device: torch.device) -> Iterator[GroupRanks]:
    """Train together with the other processes of the default group, in a `with` statement; make it if there is none.

    The environment says which processes belong to the group, as torchrun sets it.
    """
    global _joined
    if not dist.is_initialized():
        _make_group(device)
        atexit.register(leave_group)
    _joined = GroupRanks(device)
    try:
        yield _joined
    finally:
        _joined = None


def join_by_file(file: str, device: torch.device) -> None:
    """Make the default group of processes that meet at a file, which nobody else knows."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _make_group(device, store=dist.FileStore(file, size), rank=rank, world_size=size)


def _make_group(device: torch.device, **options: Any) -> None:
    for module in HOLD_THE_GROUP:
        import_module(module)
    dist.init_process_group(BACKENDS[device.type], timeout=TIMEOUT, **options)


def leave_group() -> None:
    """Leave the default group, if there is one, and end its threads.

    They release tensors after an exchange, for which they need the interpreter: if it ended first, they would abort.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # the group's destructor joins its threads; modules that were sharded hold it in cycles
