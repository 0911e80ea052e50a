"""NCCL on emulated devices: gloo exchanges the numbers of their tensors between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils._pytree import tree_leaves

from emulated_cuda.tensor import CudaTensor

if TYPE_CHECKING:
    from emulated_cuda.device import EmulatedCuda


def making_groups(init_process_group: Callable) -> Callable:
    """Return an `init_process_group` that takes gloo where NCCL is asked for, which is not in torch for CPUs."""

    def init(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        assert backend in ("gloo", "cpu:gloo,cuda:nccl"), f"{backend} is not emulated"
        init_process_group("gloo", *args, **kwargs)
        from torch.distributed.tensor import DTensor  # whose import takes a second

        DTensor.device = property(lambda self: self._local_tensor.device)  # it has that of the CPU tensor behind
        DTensor.is_cuda = property(lambda self: self._local_tensor.is_cuda)

    return init


def check_collective(gpu: EmulatedCuda, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise what NCCL would: it takes contiguous tensors of the device that this process has chosen."""
    for tensor in tree_leaves((args, kwargs)):
        if not isinstance(tensor, CudaTensor):
            continue
        if not tensor.inner.is_contiguous():
            raise ValueError(f"Tensors must be contiguous in {func}")
        if tensor.index != gpu.current:
            raise RuntimeError(f"NCCL got a tensor of cuda:{tensor.index}, but this process has cuda:{gpu.current}")
    gpu.count_kernel(func._schema.name.split("::")[1])
