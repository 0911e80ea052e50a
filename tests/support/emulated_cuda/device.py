"""The emulated device: what torch finds instead of CUDA while it is there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from bitsandbytes.nn import Int8Params
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._pytree import tree_leaves, tree_map

from emulated_cuda.collectives import check_collective, making_groups
from emulated_cuda.counts import Counts, place
from emulated_cuda.gpus import GPUS, Gpu
from emulated_cuda.graphs import Capture, CUDAGraph
from emulated_cuda.kernels import KERNELS
from emulated_cuda.memory import Memory, Pinned
from emulated_cuda.streams import Event, Stream
from emulated_cuda.tensor import CudaTensor, Current, Download, PeerCopy, Upload, current
from skxlmr.system import bitsandbytes as bitsandbytes_of_skxlmr
from skxlmr.system import triton

# Operators that wait: the host must know a number or a shape that the device computes.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "unique_dim_consecutive", "_unique2",
    "unique_dim", "equal", "is_nonzero", "bincount", "argwhere",
    "item", "allclose", "nonzero_numpy",  # in inference mode operators are not decomposed
}  # fmt: skip
RETURN_NUMBERS = {"_local_scalar_dense", "is_nonzero", "equal", "item", "allclose"}
FLOATING_ONLY = {"mm", "addmm", "bmm", "baddbmm", "linear", "addmv", "mv", "dot"}
INDEXING = {"index", "index_put_", "index_put", "_unsafe_index", "_index_put_impl_"}  # take indices of the CPU as well
RANDOM = {"rand", "randn", "randint", "randperm", "multinomial"}
COPYING = {"tensor", "as_tensor", "asarray"}  # make a tensor of the host's data
# Operators that add by atomic operations, and where their index is among the arguments.
ATOMIC = {"index_add": 2, "index_add_": 2, "scatter_add": 2, "scatter_add_": 2}
# Operators that raise if torch is to use deterministic algorithms, since there is none on CUDA: these, and `cumsum` and
# `cumprod` of floating-point numbers. Those that add by atomic operations have one for this case.
NOT_DETERMINISTIC = {"histc", "median", "put_", "_ctc_loss_backward", "nll_loss2d_forward", "nll_loss2d_backward"}


class EmulatedCuda(TorchFunctionMode):
    """Devices that are there in a `with` statement, for the thread that entered it and for those that start meanwhile.

    Parameters
    ----------
    gpu : Gpu
        What it emulates.
    memory : int or None
        Bytes of its memory; None are those of the GPU.
    cudnn_attends : bool
        Whether torch prefers cuDNN's attention for packed tokens, as from 2.14 on.
    n_devices : int
        How many of these GPUs there are.
    """

    def __init__(
        self, gpu: Gpu = GPUS["H100"], memory: int | None = None, cudnn_attends: bool = True, n_devices: int = 1
    ) -> None:
        super().__init__()
        self.gpu, self.capability, self.cudnn_attends = gpu, gpu.capability, cudnn_attends
        self.memories, self.pinned = [Memory(memory or gpu.memory) for _ in range(n_devices)], Pinned()
        self.generators = [torch.Generator().manual_seed(0) for _ in range(n_devices)]
        self.capture: Capture | None = None  # that is underway
        self._of_thread = threading.local()
        self._counts: list[Counts] = []
        self._in_layer = 0
        self._stack = contextlib.ExitStack()

    # -- several devices

    @property
    def memory(self) -> Memory:
        """The memory of the first device."""
        return self.memories[0]

    @property
    def generator(self) -> torch.Generator:
        """The random numbers of the first device."""
        return self.generators[0]

    @property
    def current(self) -> int:
        """The index of the device that is current in this thread."""
        return getattr(self._of_thread, "index", 0)

    def index_of(self, device: torch.device | str | int | None) -> int:
        """Return the index of a device; without one, it is the current device."""
        index = device if isinstance(device, int) or device is None else torch.device(device).index
        index = self.current if index is None else index
        if index >= len(self.memories):
            raise torch.AcceleratorError("CUDA error: invalid device ordinal", 101)
        return index

    def set_device(self, device: torch.device | str | int | None) -> None:
        self._of_thread.index = self.index_of(device)

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
        self._refuse_in_capture(reason)
        for counts in self._counts:
            counts.waits[reason, place()] += 1

    def count_upload(self, tensor: Tensor, non_blocking: bool) -> None:
        is_pinned = tensor in self.pinned
        self._refuse_in_capture("upload")
        for counts in self._counts:
            counts.uploads["pinned" if is_pinned else "pageable", place()] += 1
            counts.upload_bytes += tensor.nbytes
        if not (is_pinned and non_blocking):
            self.count_wait("upload")

    def count_download(self, non_blocking: bool) -> None:
        self._refuse_in_capture("download")
        for counts in self._counts:
            counts.downloads[place()] += 1
        if not non_blocking:
            self.count_wait("download")

    def count_kernel(self, name: str) -> None:
        for counts in self._counts:
            counts.kernels[name] += 1

    def _count_operator(self, name: str, args: tuple, kwargs: dict[str, Any], index: int) -> None:
        for counts in self._counts:
            counts.operators[name] += 1
            counts.operators_of_devices[index] += 1
            if self._in_layer and counts.operators_of_layers:
                counts.operators_of_layers[-1][name] += 1
        is_unordered = name in NOT_DETERMINISTIC or (name in ("cumsum", "cumprod") and args[0].is_floating_point())
        if is_unordered and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name} does not have a deterministic implementation, at {place()}")
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
                inner, named = tree_map(lambda x: x.inner if isinstance(x, CudaTensor) else x, (args, kwargs))
                attended = func(*inner, **named)
                self._record(partial(func, *inner, **named), attended)
                return CudaTensor(attended, args[0].index)
        if kwargs.pop("pin_memory", False):
            return self.pinned.add(func(*args, **kwargs))
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        source = args[0] if args and isinstance(args[0], CudaTensor) else None
        if device.type == "cuda":
            return self._make_here(func, args, kwargs, source, self.index_of(device))
        return func(*args, **kwargs) if source is None else func(source.inner, *args[1:], **kwargs)

    def _make_here(
        self, func: Callable, args: tuple, kwargs: dict[str, Any], source: CudaTensor | None, index: int
    ) -> Tensor:
        name = getattr(func, "__name__", "")
        if source is not None and name in COPYING:
            return source.to(torch.device("cuda", index), kwargs.get("dtype") or source.dtype)
        if source is not None and source.index == index:  # new_zeros, empty_like, ...
            return func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
        args = tuple(x.inner if isinstance(x, CudaTensor) else x for x in args)
        make = partial(func, *args, **(kwargs | {"device": "cpu"}))
        with self._drawing(name in RANDOM, index):
            made = make()
        if name in COPYING:
            self.count_upload(made, non_blocking=False)
            made = made.detach().clone().requires_grad_(made.requires_grad)
        elif not name.startswith("empty"):
            self._record(make, made)
        return CudaTensor(made, index).requires_grad_(made.requires_grad)

    def _move(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        tensor, rest, copy = args[0], args[1:], kwargs.pop("copy", False)
        if func is not Tensor.to:
            index = self.index_of(rest[0] if rest else kwargs.get("device"))
            device, dtype = torch.device("cuda", index) if func is Tensor.cuda else torch.device("cpu"), None
            non_blocking = kwargs.get("non_blocking", False)
        else:
            if rest and isinstance(rest[0], Tensor):
                rest = (rest[0].device, rest[0].dtype, *rest[1:])
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
        is_here = isinstance(tensor, CudaTensor)
        if device is not None and device.type not in ("cpu", "cuda"):
            return func(tensor.inner if is_here else tensor, *rest, **kwargs)
        if device is not None and device.type == "cuda":
            index = self.index_of(device)
            if not is_here:
                return Upload.apply(tensor, dtype or tensor.dtype, non_blocking, index)
            if tensor.index != index:
                return PeerCopy.apply(tensor, dtype or tensor.dtype, index)
        elif device is not None and is_here:
            return Download.apply(tensor, dtype or tensor.dtype, non_blocking)
        if dtype is None and not copy:
            return tensor
        return Tensor.to(tensor, dtype=dtype or tensor.dtype, copy=copy)

    @contextlib.contextmanager
    def _drawing(self, wanted: bool, index: int) -> Iterator[None]:
        """Draw from the generator of a device."""
        if not wanted:
            yield
            return
        self._refuse_in_capture("random numbers, which replays here would not draw anew")
        before = torch.get_rng_state()
        torch.set_rng_state(self.generators[index].get_state())
        try:
            yield
        finally:
            self.generators[index].set_state(torch.get_rng_state())
            torch.set_rng_state(before)

    @property
    def _capture_here(self) -> Capture | None:
        """The capture that is underway in this thread; another thread may end one meanwhile."""
        capture = self.capture
        return capture if capture is not None and capture.thread == threading.get_ident() else None

    def _record(self, call: Callable[[], Any], result: Any) -> None:
        if capture := self._capture_here:
            capture.graph.record(call, result)

    def _refuse_in_capture(self, what: str) -> None:
        """Raise what CUDA would for something that a capture cannot hold."""
        if self._capture_here:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what} at {place()}")

    # -- operators

    def dispatch(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run an operator that has a tensor of the device among its arguments."""
        name = func._schema.name.split("::")[1]
        index = self._check_devices(name, func, args, kwargs)
        self._count_operator(name, args, kwargs, index)
        if func.namespace == "c10d":
            check_collective(self, func, args, kwargs)
        kwargs = dict(kwargs)
        if kwargs.get("device") is not None and (name == "_to_copy" or torch.device(kwargs["device"]).type != "cpu"):
            del kwargs["device"]
        ours = [x for x in tree_leaves((args, kwargs)) if isinstance(x, CudaTensor)]
        same = {id(x.inner): x for x in ours}  # an operator that works in place returns its argument
        plain_args, plain_kwargs = tree_map(lambda x: x.inner if isinstance(x, CudaTensor) else x, (args, kwargs))
        kernel = KERNELS.get(func._schema.name)
        is_random = torch.Tag.nondeterministic_seeded in func.tags and plain_kwargs.get("generator") is None
        run = partial(func if kernel is None else partial(kernel, self), *plain_args, **plain_kwargs)
        with self._drawing(is_random, index):
            result = run()
        if name in RETURN_NUMBERS:
            return result
        # In inference mode a view of an ordinary tensor is an ordinary tensor.
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if "empty" not in name and self._capture_here and not _only_views(func, plain_args, result):
            self._record(run, result)
        with torch.inference_mode(False) if is_view and not ours[0].is_inference() else contextlib.nullcontext():
            return tree_map(
                lambda x: same[id(x)] if id(x) in same else CudaTensor(x, index) if type(x) is Tensor else x, result
            )

    def _check_devices(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> int:
        """Raise where tensors of two devices meet; count the copies that torch makes itself. Returns the device."""
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
        indices = [x.index for x in tensors if isinstance(x, CudaTensor)]
        if len(set(indices)) > 1 and name != "copy_" and not name.startswith("_foreach"):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:{indices[0]} and others in {func} at "
                f"{place()}: {[(tuple(x.shape), x.dtype, str(x.device)) for x in tensors]}"
            )
        if func.namespace not in ("aten", "torch_attn", "prims", "c10d") and indices[0] != self.current:
            # Triton launches on the current device. bitsandbytes changes it itself, which is not relied upon.
            raise RuntimeError(
                f"{func} is launched on the current device cuda:{self.current}, but its tensors are on "
                f"cuda:{indices[0]}, at {place()}"
            )
        return indices[0]

    # -- coming and going

    def __enter__(self) -> EmulatedCuda:
        import bitsandbytes  # before CUDA seems to be there, or it would load its CUDA library

        assert Current.device is None, "an emulated device is there already"
        for name, value in self._of_torch_cuda().items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, value))
        self._patch(torch, "Generator", _Generator)
        self._patch(_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, CudaTensor])
        run_backward = torch.autograd._engine_run_backward

        def run_backward_here(*args: Any, **kwargs: Any) -> Any:  # what is recomputed in it is to find the device, too
            torch.overrides._push_mode(self)
            try:
                return run_backward(*args, **kwargs)
            finally:
                torch.overrides._pop_mode()

        run_thread = threading.Thread.run

        def run_thread_here(thread: threading.Thread) -> None:  # modes belong to threads
            torch.overrides._push_mode(self)
            try:
                run_thread(thread)
            finally:
                torch.overrides._pop_mode()

        self._patch(threading.Thread, "run", run_thread_here)
        self._patch(torch.autograd, "_engine_run_backward", run_backward_here)
        self._patch(torch, "autocast", Autocast)
        self._patch(bitsandbytes.nn, "Int8Params", _int8_parameter)
        self._patch(dist, "init_process_group", making_groups(dist.init_process_group))
        self._patch(triton, "missing", lambda: None)  # torch for CUDA requires it
        self._patch(bitsandbytes_of_skxlmr, "has_cuda", lambda: True)
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
        memory = self.memory
        properties = mock.Mock(
            total_memory=memory.total,
            major=self.capability[0],
            minor=self.capability[1],
            multi_processor_count=100,
        )

        def memory_of(device: Any = None) -> Memory:
            return self.memories[self.index_of(device)]

        def generator_of(device: Any = None) -> torch.Generator:
            return self.generators[self.index_of(device)]

        return {
            "CUDAGraph": CUDAGraph,
            "Event": Event,
            "Stream": Stream,
            "current_device": lambda: self.current,
            "current_stream": Stream,
            "device": OnDevice,
            "device_count": lambda: len(self.memories),
            "set_device": self.set_device,
            "graph": Capture,
            "graph_pool_handle": lambda: (0, 1),
            "empty_cache": lambda: None,
            "get_device_capability": lambda *_: self.capability,
            "get_device_name": lambda *_: self.gpu.name,
            "get_device_properties": lambda *_: properties,
            "get_rng_state": lambda device=None: generator_of(device).get_state(),
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: including_emulation or self.capability[0] >= 8,
            "is_initialized": lambda: True,
            "max_memory_allocated": lambda device=None: memory_of(device).peak,
            "mem_get_info": lambda device=None: (
                memory_of(device).total - memory_of(device).allocated,
                memory_of(device).total,
            ),
            "memory_allocated": lambda device=None: memory_of(device).allocated,
            "memory_reserved": lambda device=None: memory_of(device).allocated,
            "reset_peak_memory_stats": lambda device=None: memory_of(device).reset_peak(),
            "set_rng_state": lambda state, device=None: generator_of(device).set_state(state),
            "stream": lambda *_: contextlib.nullcontext(),
            "synchronize": lambda *_: self.count_wait("synchronize"),
            "_lazy_init": lambda: None,
        }


# What is a class in torch is one here, too: other libraries write `torch.cuda.CUDAGraph | None` and ask `isinstance`.


class OnDevice:
    """A `torch.cuda.device`: makes a device the current one."""

    def __init__(self, device: torch.device | str | int | None) -> None:
        self._gpu, self._device = current(), device

    def __enter__(self) -> None:
        self._before = self._gpu.current
        self._gpu.set_device(self._device)

    def __exit__(self, *error: object) -> None:
        self._gpu.set_device(self._before)


def _int8_parameter(data: Tensor, **settings: Any) -> nn.Parameter:
    """Make an `Int8Params` of bitsandbytes; on the device it is a parameter with the same attributes."""
    if not isinstance(data, CudaTensor):
        return Int8Params(data, **settings)
    parameter = nn.Parameter(data, requires_grad=settings.pop("requires_grad"))
    for name, value in settings.items():
        setattr(parameter, name, value)
    return parameter


class Autocast(torch.autocast):
    """A `torch.autocast` that computes on the CPU for CUDA as well."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _only_views(func: Any, args: Any, result: Any) -> bool:
    """Whether an operator that ran did no more than return views of its arguments, so a replay can leave it out."""
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
        return False
    before, after = (
        {x.untyped_storage()._cdata for x in tree_leaves(tensors) if isinstance(x, Tensor)}
        for tensors in (args, result)
    )
    return after <= before


class _Generator(torch._C.Generator):
    def __new__(cls, device: str = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")
