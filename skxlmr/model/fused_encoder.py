"""The layers of an encoder in one call, for inference on x86 CPUs: with 8-bit weights, or in floating point.

Without it each step is a call of an operator, which for a short text takes longer than the step itself. Here the
addresses of all weights are collected once; a call then runs all steps of all layers, in threads that wait for each
other between steps only.

Weights of 8 bits are packed once, in the order in which they are multiplied; the results are those of
`skxlmr.model.fused_layer`, bit for bit. Weights in floating point are read where they are, which may be a mapped file.
The results of a step are rounded to the dtype of the weights once, after bias, gelu or residual, and not after each of
these, so that they are a little closer to the exact ones than those of torch's operators.

Notation: T packed tokens, H hidden size, N output features, K input features.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from ctypes import POINTER, addressof, cast, sizeof
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from skxlmr.model.avx import library, operators
from skxlmr.model.avx.library import DTYPES, address
from skxlmr.model.fused_layer import can_fuse
from skxlmr.model.int8 import Int8Linear
from skxlmr.model.int8_engines.fused import Avx
from skxlmr.model.packing import Packing
from skxlmr.model.watched import Watched

if TYPE_CHECKING:
    from skxlmr.model.layers import Layer

MOST_PACKED = 2**27  # bytes of the packed weights of a model, which are in memory beside those that are saved
MOST_BFLOAT16 = 2**26  # bytes of the weights of a layer in bfloat16; torch multiplies texts with larger ones no slower
MOST_KEPT = 2**25  # bytes of the buffer that a thread keeps from one call to the next

PACKED = "packed"  # key of what an 8-bit layer keeps
LINEARS = ("query", "key", "value", "output", "up", "down")
Linear = Int8Linear | nn.Linear


class Buffer(threading.local):
    """Memory of a thread for the intermediate results of one call after the other."""

    def __init__(self) -> None:
        self.kept = torch.empty(0, dtype=torch.uint8, device="cpu")

    def take(self, size: int) -> Tensor:
        """Return so many bytes, aligned to 64, valid until the next call."""
        if size <= len(self.kept):
            return self.kept
        with torch.inference_mode(False):
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size <= MOST_KEPT:
            self.kept = buffer
        return buffer


_buffer = Buffer()


class FusedEncoder:
    """Layers that are ready for `run`, which holds until one of their parts changes; `is_current` tells.

    Weights that are written to in place are recognised by torch's count of changes, which `weight.data` goes around.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        kernels = library.library()
        assert kernels is not None
        self._kernels = kernels
        self._watched = Watched()
        self._modules = list(layers)
        self._layers = (library.Layer * len(layers))()
        for i, layer in enumerate(layers):
            self._fill(self._layers[i], layer)
        attention, ffn = layers[0].attention, layers[0].ffn
        self._head_size = attention.head_size
        self._width, self._inner_width = ffn.down.out_features, ffn.up.out_features
        self._pre_layer_norm = layers[0].pre_layer_norm
        weight = layers[0].attention.query.weight
        self._dtype = weight.dtype if weight.is_floating_point() else None  # None: 8 bits, for inputs in any of DTYPES
        self._watched.finish()

    @staticmethod
    def can_run(layers: Sequence[Layer]) -> bool:
        """Whether layers may be run.

        They are in 8 bits, multiplied by the engine for x86 CPUs and not too large to be packed, or in a dtype in which
        the kernels multiply on this CPU.
        """
        if not layers or library.library() is None or _has_any_global_hook():
            return False
        first = layers[0].attention.query
        if not isinstance(first, Int8Linear):
            return all(_is_float(layer, first.weight.dtype) for layer in layers)
        if not _is_fusible(layers[0]):
            return False
        size = sum(_packed_size(linear) for linear in _linears(layers[0]).values())
        return size * len(layers) <= MOST_PACKED and all(map(_is_fusible, layers))

    def is_current(self, layers: Sequence[Layer]) -> bool:
        """Whether these are the layers, and nothing in them has changed since this object was made."""
        return (
            len(layers) == len(self._modules)
            and all(map(operator.is_, layers, self._modules))
            and self._kernels is library.library()
            and self._watched.is_unchanged()
            and not _has_any_global_hook()
        )

    def takes(self, x: Tensor) -> bool:
        """Whether `run` takes hidden states (T, H)."""
        if x.device.type != "cpu" or x.ndim != 2 or x.shape[1] != self._width:
            return False
        if self._dtype is None:
            return x.dtype in DTYPES
        return x.dtype == self._dtype and not torch.is_autocast_enabled("cpu")  # which chooses another dtype

    def run(self, x: Tensor, packing: Packing, start: int, stop: int) -> Tensor:
        """Run the layers `start` to `stop`, (T, H) -> (T, H)."""
        x, bounds = x.contiguous(), packing.cu_seqlens.contiguous()
        y = torch.empty_like(x)
        encoder = library.Encoder(
            cast(addressof(self._layers) + start * sizeof(library.Layer), POINTER(library.Layer)),
            address(x),
            address(y),
            bounds=address(bounds),
            n_layers=stop - start,
            n_rows=x.shape[0],
            n_texts=packing.batch_size,
            longest=packing.max_length,
            width=self._width,
            inner_width=self._inner_width,
            head_size=self._head_size,
            pre_layer_norm=self._pre_layer_norm,
            dtype=DTYPES[x.dtype],
            causal=packing.causal,
            quantised=self._dtype is None,
            scale=self._head_size**-0.5,
        )
        buffer = _buffer.take(self._kernels.encoder_scratch(encoder))
        encoder.scratch = address(buffer)
        self._kernels.encoder(encoder)
        return y

    def _fill(self, to: library.Layer, layer: Layer) -> None:
        """Write the addresses of the parts of a layer to a structure, and watch these parts."""
        linears, watched = _linears(layer), self._watched
        watched.module(layer, "attention", "attention_norm", "ffn", "ffn_norm")
        watched.module(layer.attention, "query", "key", "value", "output")
        watched.module(layer.ffn, "up", "down")
        watched.attributes(layer, training=False)
        watched.attributes(layer.ffn, activation=F.gelu)
        for name in LINEARS[:3]:
            to.qkv[LINEARS.index(name)] = self._weight(linears[name])
        to.output, to.up, to.down = (self._weight(linears[name]) for name in LINEARS[3:])
        if isinstance(linears["query"], Int8Linear):
            to.of_qkv = _rounding(linears["query"])
            to.of_output, to.of_up, to.of_down = (_rounding(linears[name]) for name in LINEARS[3:])
        to.attention_norm, to.ffn_norm = map(self._norm, (layer.attention_norm, layer.ffn_norm))
        to.n_heads = linears["query"].out_features // layer.attention.head_size

    def _weight(self, linear: Linear) -> library.Weight:
        """Return the addresses of a weight and its bias, and watch them."""
        self._watched.module(linear)
        if isinstance(linear, Int8Linear):
            weight = self._int8_weight(linear)
        else:
            self._watched.tensors(linear._parameters, "weight", "bias")
            weight = library.Weight(weight=address(linear.weight))
        bias = linear.bias
        weight.bias, weight.bias_dtype = address(bias), 0 if bias is None else DTYPES[bias.dtype]
        return weight

    def _int8_weight(self, linear: Int8Linear) -> library.Weight:
        """Return the addresses of a weight of 8 bits, which is packed, and watch it."""
        watched, packed = self._watched, self._packed(linear)
        watched.attributes(linear, settings=linear.settings, observer=None)
        settings = linear.settings
        watched.entries(settings.__dict__, {"engine": settings.engine, "outliers": settings.outliers})
        watched.entries(linear._derived, {PACKED: packed})  # dropped with the outliers and the sums of the weight
        watched.tensors(linear._parameters, "weight", "SCB", "bias")
        watched.packed += [linear.weight, linear.outlier_weight]
        sums = linear.weight_sums if linear.asymmetric else None
        return library.Weight(packed=address(packed.tensor), absmax=address(linear.SCB), weight_sums=address(sums))

    def _packed(self, linear: Int8Linear) -> PackedWeight:
        """Return the packed weight of a layer, which other encoders with the same layers may have made."""
        sources = linear.weight, linear.outlier_weight
        known = linear.derived(PACKED, lambda: PackedWeight(sources, self._kernels))
        if not known.is_of(sources, self._kernels):
            del linear._derived[PACKED]
            known = linear.derived(PACKED, lambda: PackedWeight(sources, self._kernels))
        return known

    def _norm(self, norm: nn.LayerNorm) -> library.Norm:
        self._watched.module(norm)
        self._watched.tensors(norm._parameters, "weight", "bias")
        return library.Norm(address(norm.weight), address(norm.bias), norm.eps, DTYPES[norm.weight.dtype])


class PackedWeight:
    """A packed weight, and the tensors that it was made of: the weight (N, K), and its outlier columns."""

    def __init__(self, sources: tuple[Tensor, Tensor], kernels: library.Library) -> None:
        self._sources, self._kernels, self._state = sources, kernels, _state(sources)
        self.tensor = operators.pack(*(source.detach() for source in sources))

    def is_of(self, sources: tuple[Tensor, Tensor], kernels: library.Library) -> bool:
        """Whether it was made of these tensors, as they are now, for these kernels."""
        same = all(map(operator.is_, sources, self._sources))
        return same and self._kernels is kernels and _state(sources) == self._state


def _state(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


def _linears(layer: Layer) -> dict[str, Any]:
    """Return the linear layers of a layer by name, all with 8-bit weights or none."""
    of = (*(layer.attention for _ in range(4)), layer.ffn, layer.ffn)
    return {name: getattr(part, name) for name, part in zip(LINEARS, of, strict=True)}


def _rounding(linear: Int8Linear) -> library.Rounding:
    return library.Rounding(address(linear.outliers), linear.outliers.shape[0], linear.asymmetric)


def _packed_size(linear: Int8Linear) -> int:
    return operators.packed_size(linear.out_features, linear.in_features, linear.outliers.shape[0])


def _is_float(layer: Layer, dtype: torch.dtype) -> bool:
    """Whether a layer in floating point may be one of those of a `FusedEncoder`."""
    kernels, attention, ffn = library.library(), layer.attention, layer.ffn
    if kernels is None or dtype not in kernels.float_dtypes or ffn.activation is not F.gelu or layer.training:
        return False
    linears, norms = _linears(layer), (layer.attention_norm, layer.ffn_norm)
    parts = (layer, attention, ffn, *linears.values(), *norms)
    return (
        all(type(linear) is nn.Linear for linear in linears.values())
        and all(type(norm) is nn.LayerNorm and norm.weight is not None for norm in norms)
        and len({linears[name].out_features for name in LINEARS[:3]}) == 1
        and (dtype != torch.bfloat16 or sum(linear.weight.nbytes for linear in linears.values()) <= MOST_BFLOAT16)
        and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        and all(_is_in_place(linear.weight, dtype) for linear in linears.values())
        and all(part.bias is None or _is_in_place(part.bias, *DTYPES) for part in (*linears.values(), *norms))
        and all(_is_in_place(norm.weight, *DTYPES) for norm in norms)
    )


def _is_in_place(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the kernels read a parameter where it is."""
    return type(x) is nn.Parameter and x.dtype in dtypes and x.device.type == "cpu" and x.is_contiguous()


def _is_fusible(layer: Layer) -> bool:
    """Whether a layer with 8-bit weights may be one of those of a `FusedEncoder`."""
    if not can_fuse(layer, {}) or not isinstance(layer.attention.query.engine, Avx):
        return False
    if layer.ffn.activation is not F.gelu or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    linears, norms = _linears(layer), (layer.attention_norm, layer.ffn_norm)
    of_qkv = [linears[name] for name in LINEARS[:3]]
    return (
        len({(len(linear.outliers), linear.asymmetric, linear.out_features) for linear in of_qkv}) == 1
        and all(_is_readable(linear.weight, torch.int8) for linear in linears.values())
        and all(norm.weight is not None for norm in norms)
        and all(part is None or _is_readable(part) for norm in norms for part in (norm.weight, norm.bias))
        and all(linear.bias is None or _is_readable(linear.bias) for linear in linears.values())
    )


def _is_readable(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the kernels read a tensor where it is, and torch counts the changes to it."""
    return x.dtype in (dtypes or DTYPES) and x.is_contiguous() and not x.is_inference()
