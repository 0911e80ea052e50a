"""The emulated device: what torch finds instead of CUDA while it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._pytree import tree_leaves, tree_map

from emulated_cuda.counts import Counts, place
from emulated_cuda.gpus import GPUS, Gpu
from emulated_cuda.kernels import KERNELS
from emulated_cuda.memory import Memory, Pinned
from emulated_cuda.streams import Event, Stream
from emulated_cuda.tensor import DEVICE, CudaTensor, Current, Download, Upload
from skxlmr.system import triton

# Operators that wait: the host must know a number or a shape that the device computes.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "unique_dim_consecutive", "_unique2",
    "unique_dim", "equal", "is_nonzero", "bincount", "argwhere",
}  # fmt: skip
RETURN_NUMBERS = {"_local_scalar_dense", "is_nonzero", "equal"}
FLOATING_ONLY = {"mm", "addmm", "bmm", "baddbmm", "linear", "addmv", "mv", "dot"}
INDEXING = {"index", "index_put_", "index_put", "_unsafe_index", "_index_put_impl_"}  # take indices of the CPU as well
RANDOM = {"rand", "randn", "randint", "randperm", "multinomial"}
COPYING = {"tensor", "as_tensor", "asarray"}  # make a tensor of the host's data
# Operators that add by atomic operations, and where their index is among the arguments.
ATOMIC = {"index_add": 2, "index_add_": 2, "scatter_add": 2, "scatter_add_": 2}


class EmulatedCuda(TorchFunctionMode):
    """A device that is there in a `with` statement, for the thread that entered it.

    Parameters
    ----------
    gpu : Gpu
        What it emulates.
    memory : int or None
        Bytes of its memory; None are those of the GPU.
    cudnn_attends : bool
        Whether torch prefers cuDNN's attention for packed tokens, as from 2.14 on.
    """

    def __init__(self, gpu: Gpu = GPUS["H100"], memory: int | None = None, cudnn_attends: bool = True) -> None:
        super().__init__()
        self.gpu, self.capability, self.cudnn_attends = gpu, gpu.capability, cudnn_attends
        self.memory, self.pinned = Memory(gpu.memory if memory is None else memory), Pinned()
        self.generator = torch.Generator().manual_seed(0)
        self._counts: list[Counts] = []
        self._in_layer = 0
        self._stack = contextlib.ExitStack()

    # -- counting

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count what happens in a `with` statement; blocks may be nested."""
        from skxlmr.model.layers import Layer

        counts = Counts()

        def begin(module: nn.Module, *_: object) -> None:
            if isinstance(module, Layer):
                counts.operators_of_layers.append(type(counts.operators)())
                self._in_layer += 1

        def end(module: nn.Module, *_: object) -> None:
            self._in_layer -= isinstance(module, Layer)

        self._counts.append(counts)
        hooks = [
            nn.modules.module.register_module_forward_pre_hook(begin),
            nn.modules.module.register_module_forward_hook(end, always_call=True),
        ]
        try:
            yield counts
        finally:
            self._counts = [each for each in self._counts if each is not counts]
            for hook in hooks:
                hook.remove()

    def count_wait(self, reason: str) -> None:
        for counts in self._counts:
            counts.waits[reason, place()] += 1

    def count_upload(self, tensor: Tensor, non_blocking: bool) -> None:
        is_pinned = tensor in self.pinned
        for counts in self._counts:
            counts.uploads["pinned" if is_pinned else "pageable", place()] += 1
            counts.upload_bytes += tensor.nbytes
        if not (is_pinned and non_blocking):
            self.count_wait("upload")

    def count_download(self, non_blocking: bool) -> None:
        for counts in self._counts:
            counts.downloads[place()] += 1
        if not non_blocking:
            self.count_wait("download")

    def count_kernel(self, name: str) -> None:
        for counts in self._counts:
            counts.kernels[name] += 1

    def _count_operator(self, name: str, args: tuple, kwargs: dict[str, Any]) -> None:
        for counts in self._counts:
            counts.operators[name] += 1
            if self._in_layer and counts.operators_of_layers:
                counts.operators_of_layers[-1][name] += 1
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.count_wait(name)
        if name in INDEXING and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.count_wait(name)
        if name in ATOMIC:
            index = args[ATOMIC[name]].inner
            if len(index.unique() if index.ndim == 1 else index.unique(dim=0)) < len(index):
                for counts in self._counts:
                    counts.unordered[name, place()] += 1

    # -- functions of Python: where tensors are made and moved

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._move(func, args, kwargs)
        if func is Tensor.__deepcopy__ and isinstance(args[0], CudaTensor):
            return CudaTensor.__deepcopy__(*args)
        if func is Tensor.pin_memory:
            return args[0] if args[0] in self.pinned else self.pinned.add(args[0].clone())
        if func is Tensor.is_pinned:
            return not isinstance(args[0], CudaTensor) and args[0] in self.pinned
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.count_kernel("sdpa")
            if not torch.is_grad_enabled() and isinstance(args[0], CudaTensor):  # one kernel, which keeps no scores
                inner = [x.inner if isinstance(x, CudaTensor) else x for x in args]
                return CudaTensor(func(*inner, **kwargs))
        if kwargs.pop("pin_memory", False):
            return self.pinned.add(func(*args, **kwargs))
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        source = args[0] if args and isinstance(args[0], CudaTensor) else None
        if device.type == "cuda":
            return self._make_here(func, args, kwargs, source)
        return func(*args, **kwargs) if source is None else func(source.inner, *args[1:], **kwargs)

    def _make_here(self, func: Callable, args: tuple, kwargs: dict[str, Any], source: CudaTensor | None) -> Tensor:
        name = getattr(func, "__name__", "")
        if source is not None and name in COPYING:
            return source.to(kwargs.get("dtype") or source.dtype)
        if source is not None:  # new_zeros, empty_like, ...
            return func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
        with self._drawing(name in RANDOM):
            made = func(*args, **(kwargs | {"device": "cpu"}))
        if name in COPYING:
            self.count_upload(made, non_blocking=False)
            made = made.detach().clone().requires_grad_(made.requires_grad)
        return CudaTensor(made).requires_grad_(made.requires_grad)

    def _move(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        tensor, rest, copy = args[0], args[1:], kwargs.pop("copy", False)
        if func is not Tensor.to:
            device, dtype = DEVICE if func is Tensor.cuda else torch.device("cpu"), None
            non_blocking = kwargs.get("non_blocking", False)
        else:
            if rest and isinstance(rest[0], Tensor):
                rest = (rest[0].device, rest[0].dtype, *rest[1:])
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
        is_here = isinstance(tensor, CudaTensor)
        if device is not None and device.type not in ("cpu", "cuda"):
            return func(tensor.inner if is_here else tensor, *rest, **kwargs)
        if device is not None and (device.type == "cuda") != is_here:
            return (Download if is_here else Upload).apply(tensor, dtype or tensor.dtype, non_blocking)
        if dtype is None and not copy:
            return tensor
        return Tensor.to(tensor, dtype=dtype or tensor.dtype, copy=copy)

    @contextlib.contextmanager
    def _drawing(self, wanted: bool) -> Iterator[None]:
        """Draw from the generator of the device."""
        if not wanted:
            yield
            return
        before = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)

    # -- operators

    def dispatch(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run an operator that has a tensor of the device among its arguments."""
        name = func._schema.name.split("::")[1]
        self._check_devices(name, func, args, kwargs)
        self._count_operator(name, args, kwargs)
        kwargs = dict(kwargs)
        if kwargs.get("device") is not None and (name == "_to_copy" or torch.device(kwargs["device"]).type != "cpu"):
            del kwargs["device"]
        ours = [x for x in tree_leaves((args, kwargs)) if isinstance(x, CudaTensor)]
        same = {id(x.inner): x for x in ours}  # an operator that works in place returns its argument
        plain_args, plain_kwargs = tree_map(lambda x: x.inner if isinstance(x, CudaTensor) else x, (args, kwargs))
        kernel = KERNELS.get(func._schema.name)
        is_random = torch.Tag.nondeterministic_seeded in func.tags and plain_kwargs.get("generator") is None
        with self._drawing(is_random):
            result = func(*plain_args, **plain_kwargs) if kernel is None else kernel(self, *plain_args, **plain_kwargs)
        if name in RETURN_NUMBERS:
            return result
        # In inference mode a view of an ordinary tensor is an ordinary tensor.
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        with torch.inference_mode(False) if is_view and not ours[0].is_inference() else contextlib.nullcontext():
            return tree_map(
                lambda x: same[id(x)] if id(x) in same else CudaTensor(x) if type(x) is Tensor else x, result
            )

    def _check_devices(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Raise where tensors of the host meet those of the device; count the copies that torch makes itself."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        of_host = [x for x in tensors if not isinstance(x, CudaTensor) and x.ndim]  # single numbers may be anywhere
        if of_host and name == "copy_":
            non_blocking = bool(args[2]) if len(args) > 2 else kwargs.get("non_blocking", False)
            if isinstance(args[0], CudaTensor):
                self.count_upload(args[1], non_blocking)
            else:
                self.count_download(non_blocking and args[0] in self.pinned)
        elif of_host and name in INDEXING and isinstance(args[0], CudaTensor):
            for index in of_host:
                self.count_upload(index, non_blocking=False)
        elif of_host and not name.startswith("_foreach") and "lift" not in name and name != "detach":
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {func} at {place()}: "
                f"{[(tuple(x.shape), x.dtype, x.device.type) for x in tensors]}"
            )
        if name in FLOATING_ONLY and not any(x.is_floating_point() for x in tensors):
            raise RuntimeError(f'"{name}_cuda" not implemented for {tensors[0].dtype} at {place()}')

    # -- coming and going

    def __enter__(self) -> EmulatedCuda:
        import bitsandbytes  # noqa: F401  before CUDA seems to be there, or it would load its CUDA library

        assert Current.device is None, "an emulated device is there already"
        for name, value in self._of_torch_cuda().items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, value))
        self._patch(torch, "Generator", _Generator)
        self._patch(_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, CudaTensor])
        run_backward, autocast = torch.autograd._engine_run_backward, torch.autocast

        def run_backward_here(*args: Any, **kwargs: Any) -> Any:  # what is recomputed in it is to find the device, too
            torch.overrides._push_mode(self)
            try:
                return run_backward(*args, **kwargs)
            finally:
                torch.overrides._pop_mode()

        self._patch(torch.autograd, "_engine_run_backward", run_backward_here)
        self._patch(torch, "autocast", lambda kind, **k: autocast("cpu" if kind == "cuda" else kind, **k))
        self._patch(triton, "missing", lambda: None)  # torch for CUDA requires it
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        Current.device = self
        self._stack.callback(setattr, Current, "device", None)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def _patch(self, *args: Any) -> None:
        self._stack.enter_context(mock.patch.object(*args))

    def _of_torch_cuda(self) -> dict[str, Any]:
        """Return what takes the place of the functions of torch.cuda."""
        memory, generator = self.memory, self.generator
        properties = mock.Mock(
            total_memory=memory.total,
            major=self.capability[0],
            minor=self.capability[1],
            multi_processor_count=100,
        )
        stream = Stream(self)
        return {
            "Event": lambda **_: Event(self),
            "Stream": lambda *_, **__: Stream(self),
            "current_device": lambda: 0,
            "current_stream": lambda *_: stream,
            "device": lambda *_: contextlib.nullcontext(),
            "device_count": lambda: 1,
            "empty_cache": lambda: None,
            "get_device_capability": lambda *_: self.capability,
            "get_device_name": lambda *_: self.gpu.name,
            "get_device_properties": lambda *_: properties,
            "get_rng_state": lambda *_: generator.get_state(),
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: including_emulation or self.capability[0] >= 8,
            "is_initialized": lambda: True,
            "max_memory_allocated": lambda *_: memory.peak,
            "mem_get_info": lambda *_: (memory.total - memory.allocated, memory.total),
            "memory_allocated": lambda *_: memory.allocated,
            "memory_reserved": lambda *_: memory.allocated,
            "reset_peak_memory_stats": lambda *_: memory.reset_peak(),
            "set_rng_state": lambda state, *_: generator.set_state(state),
            "stream": lambda *_: contextlib.nullcontext(),
            "synchronize": lambda *_: self.count_wait("synchronize"),
            "_lazy_init": lambda: None,
        }


class _Generator(torch._C.Generator):
    def __new__(cls, device: str = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")
