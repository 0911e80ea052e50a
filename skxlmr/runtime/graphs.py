"""Small batches on a GPU by CUDA graphs: one launch for the whole encoder.

A single text keeps a GPU busy for less time than Python takes to launch the kernels of each layer. A graph holds these
launches, and its replay is one of them. It runs on fixed storages and sizes, so a batch is copied into static buffers
of one of a few numbers of tokens, and the rest is filled with texts of padding, which no other text sees. A graph is
captured when a batch of its size comes for the second time.

The tests capture and replay on an emulated device. It shows that no wait of the host is in a graph, and that a replay
reads nothing of an earlier batch. It cannot show whether the libraries of a GPU let all of their kernels be captured:
where one does not, a warning says so, and the model runs without graphs.

Notation: B texts, T packed tokens, B' and T' with padding, H hidden size.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skxlmr.hardware.footprint import MAX_GRAPHS, MOST_GRAPH_TOKENS
from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.attention import Adapter, runs_packed
from skxlmr.model.int8 import Int8Linear
from skxlmr.model.packing import Packing
from skxlmr.system.current_device import on_device
from skxlmr.system.forks import after_fork
from skxlmr.system.out_of_memory import as_out_of_memory
from skxlmr.system.warn import warn

SMALLEST = 16  # tokens
USES = 2  # of a size; captured at the last of them

_max_graphs = MAX_GRAPHS
_graphs: WeakKeyDictionary[nn.Module, Graphs] = WeakKeyDictionary()
_lock = threading.Lock()
_capturing = threading.Lock()  # torch allows one capture at a time in a process


_of_parent: list[object] = []


@after_fork
def _forget() -> None:
    """CUDA cannot be used in a forked child, so neither can its graphs, nor can they be destroyed."""
    global _graphs, _lock, _capturing
    _of_parent.extend(_graphs.values())
    _graphs, _lock, _capturing = WeakKeyDictionary(), threading.Lock(), threading.Lock()


def set_cuda_graphs(max_graphs: int = MAX_GRAPHS) -> None:
    """Set how many CUDA graphs there may be for each base model.

    On a GPU with FlashAttention (Ampere or newer) and 16-bit activations, small batches, of a single text to about 500
    tokens, run as one CUDA graph, so that the time does not depend on how fast Python launches kernels. A graph serves
    all batches of similar size, and is captured when its size comes for the second time. The graphs of a model share
    their memory, which is that of one batch. Beyond the bound the least recently used is forgotten. If the memory of
    the GPU runs out, all are freed, and the models run without until this function is called. Training steps,
    copies of base weights (tuning="full"), dynamic outliers (`Int8(outliers="dynamic")`) and `XLMRXLGenerator.generate`
    run without graphs.

    Parameters
    ----------
    max_graphs : int, default=32
        0 disables CUDA graphs.

    Raises
    ------
    ValueError
        If `max_graphs` is negative.

    Examples
    --------
    >>> import skxlmr
    >>> skxlmr.set_cuda_graphs(0)
    >>> skxlmr.set_cuda_graphs()
    """
    global _max_graphs
    if max_graphs < 0:
        raise ValueError(f"max_graphs must be at least 0, got {max_graphs}.")
    _max_graphs = max_graphs
    with _lock:
        _graphs.clear()


def free() -> bool:
    """Free all graphs, whose memory is needed for something else, and capture no others; return whether there were any.

    It is for the models that have been run, and until the next `set_cuda_graphs`.
    """
    with _lock:
        found = [each.give_up() for each in list(_graphs.values())]  # all of them give up
    return any(found)


def encode(
    model: XLMRobertaXLModel,
    x: Tensor,
    position_ids: Tensor,
    packing: Packing,
    *,
    adapter: Adapter | None = None,
    layers: Sequence[int] = (-1,),
    start: int = 0,
    recompute: bool = False,
) -> list[Tensor]:
    """Run `model.encode` with these arguments, by a CUDA graph if the batch is small and nothing is trained.

    The result is that of the batch with padding: on a GPU, whose kernels for products depend on the number of tokens,
    it may differ in rounding from that of the batch without.
    """
    size = _size(packing.batch_size, len(x))
    if size is None or not _takes_graph(model, x, adapter):
        return model.encode(x, position_ids, packing, adapter=adapter, layers=layers, start=start, recompute=recompute)
    with _lock:
        graphs = _graphs.get(model)
        if graphs is None:
            graphs = _graphs[model] = Graphs(model)
    call = Call(x, position_ids, packing, adapter, tuple(layers), start)
    with on_device(x.device):
        return graphs.run(model, call, size)


def _size(n_texts: int, n_tokens: int) -> tuple[int, int] | None:
    """Return B' and T' of the graph for a batch, which has one text of padding at least; None for larger batches.

    B' is one more than a power of two; T' has four sizes per doubling, from 64 on.

    Examples
    --------
    >>> _size(1, 5), _size(3, 130), _size(1, 512)
    ((2, 16), (5, 160), None)
    """
    padded = (1 << (n_texts - 1).bit_length()) + 1
    least = n_tokens + padded - n_texts
    step = max(SMALLEST, 1 << max((least - 1).bit_length() - 3, 0))
    total = -(-least // step) * step
    return (padded, total) if total <= MOST_GRAPH_TOKENS else None


def _takes_graph(model: XLMRobertaXLModel, x: Tensor, adapter: Adapter | None) -> bool:
    return (
        _max_graphs > 0
        and x.is_cuda
        and not torch.is_grad_enabled()
        and not model.training
        and not torch.is_autocast_enabled("cuda")
        and (adapter is None or (isinstance(adapter, nn.Module) and not adapter.training))
        and runs_packed(x.device, model.dtype, model.config.head_size)
    )


class Call:
    """The arguments of `encode`."""

    def __init__(
        self,
        x: Tensor,
        position_ids: Tensor,
        packing: Packing,
        adapter: Adapter | None,
        layers: tuple[int, ...],
        start: int,
    ) -> None:
        self.x, self.position_ids, self.packing = x, position_ids, packing
        self.adapter, self.layers, self.start = adapter, layers, start

    def run(self, model: XLMRobertaXLModel) -> list[Tensor]:
        return model.encode(
            self.x, self.position_ids, self.packing, adapter=self.adapter, layers=self.layers, start=self.start
        )

    def key(self, size: tuple[int, int]) -> tuple:
        """What a graph is made for."""
        return (size, self.layers, self.start, self.packing.causal, id(self.adapter), self.x.dtype)


class Graphs:
    """The CUDA graphs of a base model, which share their memory, so that one of them runs at a time."""

    def __init__(self, model: XLMRobertaXLModel) -> None:
        self._lock = threading.Lock()
        self._graphs: OrderedDict[tuple, Graph] = OrderedDict()
        self._uses: Counter[tuple] = Counter()
        self._weights, self._modules = list(model.parameters()), list(model.modules())[1:]
        quantized = [module for module in self._modules if isinstance(module, Int8Linear)]
        self._is_possible = not any(each.settings.outliers == "dynamic" for each in quantized)
        with on_device(model.device):
            self._stream, self._done = torch.cuda.Stream(model.device), torch.cuda.Event()
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, model: XLMRobertaXLModel, call: Call, size: tuple[int, int]) -> list[Tensor]:
        """Return the hidden states (T, H) of a batch, by a graph of this size as soon as there is one."""
        has_hooks = any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)
        if has_hooks or not self._is_possible:
            return call.run(model)
        with self._lock:
            graph = self._find(model, call, call.key(size), size)
            if graph is not None:
                current = torch.cuda.current_stream(model.device)
                current.wait_event(self._done)  # another thread may use another stream
                hidden = graph.replay(call)
                self._done.record(current)
                return hidden
        return call.run(model)

    def give_up(self) -> bool:
        """Free the graphs, and capture no others; return whether there were any."""
        self._is_possible = False
        with self._lock:
            found = len(self._graphs) > 0
            self._graphs.clear()
        return found

    def _find(self, model: XLMRobertaXLModel, call: Call, key: tuple, size: tuple[int, int]) -> Graph | None:
        """Return the graph for a call, captured if it is time; None if the call runs without."""
        graph = self._graphs.get(key)
        if graph is not None and not graph.reads(self._weights, call.adapter):
            del self._graphs[key]
            graph = None
        if graph is not None:
            self._graphs.move_to_end(key)
            return graph
        if len(self._uses) > 100 * MAX_GRAPHS:
            self._uses.clear()
        self._uses[key] += 1
        if self._uses[key] < USES:
            return None
        for other in [other for other, graph in self._graphs.items() if graph.is_obsolete]:
            del self._graphs[other]
        while len(self._graphs) >= max(_max_graphs, 1):
            self._graphs.popitem(last=False)
        try:
            with as_out_of_memory():
                graph = Graph(model, call, size, self._stream, self._pool)
        except torch.OutOfMemoryError:
            self._is_possible = False
            self._graphs.clear()
            return None
        except RuntimeError as error:
            self._is_possible = False
            warn(
                f"No CUDA graph can be captured of this model, so that single texts take longer: {error} "
                f"`skxlmr.set_cuda_graphs(0)` disables graphs, and this warning."
            )
            return None
        graph.remember(self._weights, call.adapter)
        self._graphs[key] = graph
        return graph


def _addresses(weights: Sequence[Tensor], adapter: Adapter | None) -> list[int]:
    of_adapter = adapter.parameters() if isinstance(adapter, nn.Module) else ()
    return [weight.data_ptr() for weight in (*weights, *of_adapter)]


class Graph:
    """The encoder on static buffers: a batch of at most B' - 1 texts is copied there, and the graph replayed."""

    def __init__(
        self,
        model: XLMRobertaXLModel,
        call: Call,
        size: tuple[int, int],
        stream: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        n_texts, n_tokens = size
        device = call.x.device
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode could not be written to outside
            # What an earlier batch left among the padding is as good as any other tokens.
            self._x = call.x.new_zeros(n_tokens, *call.x.shape[1:])  # (T',) or (T', H)
            self._position_ids = torch.full((n_tokens,), model.config.first_position, device=device)
            self._bounds = torch.full((n_texts + 1,), n_tokens, dtype=torch.int32, device=device)
            lengths = torch.full((n_texts,), n_tokens)  # the kernel needs an upper bound
            packing = Packing(self._bounds, lengths, call.packing.causal)
            static = Call(self._x, self._position_ids, packing, call.adapter, call.layers, call.start)
            self._fill(call)
            current = torch.cuda.current_stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                static.run(model)  # libraries make their workspaces, and layers what they keep, outside of the capture
            current.wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with (
                _capturing,
                torch.cuda.stream(stream),
                torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                self._hidden = static.run(model)  # (T', H) each

    def remember(self, weights: Sequence[Tensor], adapter: Adapter | None) -> None:
        """Note which weights the graph reads, and where they lie."""
        self._adapter = weakref.ref(adapter) if isinstance(adapter, nn.Module) else None
        self._addresses = _addresses(weights, adapter)

    @property
    def is_obsolete(self) -> bool:
        """Whether the adapter that the graph reads is gone."""
        return self._adapter is not None and self._adapter() is None

    def reads(self, weights: Sequence[Tensor], adapter: Adapter | None) -> bool:
        """Whether the graph reads these weights; not if they were moved to another device and back."""
        own = None if self._adapter is None else self._adapter()
        return own is adapter and _addresses(weights, adapter) == self._addresses

    def replay(self, call: Call) -> list[Tensor]:
        """Run the encoder on a batch; returns new tensors, (T, H) each."""
        self._fill(call)
        self._graph.replay()
        return [hidden[: len(call.x)].clone() for hidden in self._hidden]

    def _fill(self, call: Call) -> None:
        """Copy a batch into the buffers; the texts after it are padding, all but the last one token long."""
        n_texts, n_tokens = call.packing.batch_size, len(call.x)
        self._x[:n_tokens].copy_(call.x)
        self._position_ids[:n_tokens].copy_(call.position_ids)
        self._bounds[: n_texts + 1].copy_(call.packing.cu_seqlens)
        n_short = len(self._bounds) - n_texts - 2
        if n_short:
            ends = torch.arange(n_tokens + 1, n_tokens + n_short + 1, device=self._bounds.device)
            self._bounds[n_texts + 1 : -1].copy_(ends)
