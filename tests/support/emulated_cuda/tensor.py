"""Tensors of the emulated device, and their copies to and from it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from emulated_cuda.device import EmulatedCuda

DEVICE = torch.device("cuda", 0)


class Current:
    """The emulated device that is there now, if any."""

    device: EmulatedCuda | None = None


def current() -> EmulatedCuda:
    assert Current.device is not None, "a tensor of an emulated device outlived it"
    return Current.device


class CudaTensor(torch.Tensor):
    """A tensor of the device; `inner`, a tensor of the CPU, holds its numbers."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CudaTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            requires_grad=False,
        )
        self.inner = inner.detach()
        if Current.device is not None:
            Current.device.memory.hold(self)
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return current().dispatch(func, args, kwargs or {})

    release: weakref.finalize | None = None  # set while its storage is counted

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: CudaTensor) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            torch._C.TensorBase.data.__set__(self, value)
        self.inner = value.inner
        current().memory.hold(self)

    def get_device(self) -> int:
        return 0

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def record_stream(self, stream: object) -> None:
        pass

    def tolist(self) -> Any:
        current().count_wait("tolist")
        return self.inner.tolist()

    def numpy(self, **_: object) -> None:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first"
        )

    def __array__(self, *_: object, **__: object) -> None:
        self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaTensor:
        if id(self) not in memo:
            copied = CudaTensor(self.inner.clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self) -> str:
        return f"CudaTensor({self.inner}, device='cuda:0')"


class Upload(torch.autograd.Function):
    """Copy a tensor to the device; the gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, dtype: torch.dtype, non_blocking: bool) -> CudaTensor:
        ctx.dtype = tensor.dtype
        current().count_upload(tensor, non_blocking)
        return CudaTensor(tensor.detach().to(dtype).clone(memory_format=torch.preserve_format))

    @staticmethod
    def backward(ctx: Any, gradient: CudaTensor) -> tuple[torch.Tensor, None, None]:
        return gradient.inner.to(ctx.dtype), None, None


class Download(torch.autograd.Function):
    """Copy a tensor to the host; the gradient goes to the device."""

    @staticmethod
    def forward(ctx: Any, tensor: CudaTensor, dtype: torch.dtype, non_blocking: bool) -> torch.Tensor:
        ctx.dtype = tensor.dtype
        current().count_download(non_blocking)
        return tensor.inner.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[CudaTensor, None, None]:
        return CudaTensor(gradient.to(ctx.dtype)), None, None
