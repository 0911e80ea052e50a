"""The compiled kernels of kernels.c, called by ctypes.

They are a shared library of plain C functions, which fits every release of torch and Python. Tensors are passed by
their addresses: whoever calls makes sure of their dtypes, sizes and strides.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

VERSION = 4  # that of kernels.h
VARIANTS = {1: "avx2", 2: "avx512", 3: "avx512bf16"}
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
MOST_WEIGHTS = 3


class Rows(ctypes.Structure):
    """`Rows` of kernels.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("x", "norm_weight", "norm_bias", "columns", "values", "scales", "high")),
        ("middles", c_void_p),
        ("normalised", c_void_p),
        *((name, c_int64) for name in ("n_rows", "width", "n_columns")),
        ("eps", c_double),
        *((name, c_int64) for name in ("dtype", "norm_dtype")),
    ]


class Weight(ctypes.Structure):
    """`Weight` of kernels.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "packed", "absmax", "outlier_weight")),
        *((name, c_void_p) for name in ("weight_sums", "bias", "y")),
        ("bias_dtype", c_int64),
    ]


class Product(ctypes.Structure):
    """`Product` of kernels.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("values", "scales", "high", "middles", "totals", "residual")),
        *((name, c_int64) for name in ("n_rows", "width", "n_outputs", "n_columns", "dtype", "gelu", "n_weights")),
        ("weights", Weight * MOST_WEIGHTS),
    ]


class Attention(ctypes.Structure):
    """`Attention` of kernels.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("q", "k", "v", "y", "bounds")),
        *((name, c_int64) for name in ("q_stride", "k_stride", "v_stride", "n_rows", "n_texts", "n_heads")),
        *((name, c_int64) for name in ("head_size", "longest", "dtype", "causal")),
        ("scale", c_double),
    ]


class Norm(ctypes.Structure):
    """`Norm` of kernels.h."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("eps", c_double), ("dtype", c_int64)]


class Rounding(ctypes.Structure):
    """`Rounding` of kernels.h."""

    _fields_ = [("columns", c_void_p), ("n_columns", c_int64), ("with_middles", c_int64)]


class Layer(ctypes.Structure):
    """`Layer` of kernels.h."""

    _fields_ = [
        ("qkv", Weight * MOST_WEIGHTS),
        *((name, Weight) for name in ("output", "up", "down")),
        *((f"of_{name}", Rounding) for name in ("qkv", "output", "up", "down")),
        *((name, Norm) for name in ("attention_norm", "ffn_norm")),
        ("n_heads", c_int64),
    ]


class Encoder(ctypes.Structure):
    """`Encoder` of kernels.h."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        *((name, c_void_p) for name in ("x", "y", "scratch", "bounds")),
        *((name, c_int64) for name in ("n_layers", "n_rows", "n_texts", "longest")),
        *((name, c_int64) for name in ("width", "inner_width", "head_size", "pre_layer_norm", "dtype", "causal")),
        ("quantised", c_int64),
        ("scale", c_double),
    ]


class Library:
    """The kernels for one instruction set, "avx2", "avx512" or "avx512bf16"; by default the best that the CPU has.

    Raises OSError, AttributeError or KeyError if the file is not a library for this machine, lacks kernels, or was
    compiled from another version of them, and if the CPU lacks the instructions.
    """

    def __init__(self, path: Path, variant: str | None = None) -> None:
        library = ctypes.CDLL(str(path))
        if library.skxlmr_version() != VERSION:
            raise KeyError("another version")
        best = library.skxlmr_best_variant()
        self.variant = variant or VARIANTS[best]
        if self.variant not in [VARIANTS[i] for i in range(1, best + 1)]:
            raise KeyError(self.variant)
        # GOMP_parallel of the OpenMP that torch has loaded: with its threads, there are never more than torch may use.
        if hasattr(ctypes.CDLL(None), "GOMP_parallel"):
            library.skxlmr_set_parallel(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, c_void_p))
        self._rows = self._function(library, "rows", POINTER(Rows))
        self._products = self._function(library, "products", POINTER(Product))
        self._chain = self._function(library, "chain", POINTER(Product), POINTER(Rows))
        self._attention = self._function(library, "attention", POINTER(Attention))
        self._encoder = self._function(library, "encoder", POINTER(Encoder))
        self._encoder_scratch = self._function(library, "encoder_scratch", POINTER(Encoder), result=c_int64)
        sizes = c_int64, c_int64  # K and k; both are preceded by N
        self._packed_size = self._function(library, "packed_size", *sizes, result=c_int64)
        self._pack = self._function(library, "pack", POINTER(Weight), *sizes, last=(c_int64, c_void_p))

    def _function(
        self,
        library: ctypes.CDLL,
        name: str,
        *types: type,
        last: tuple[type, ...] = (c_int64,),
        result: type = ctypes.c_int,
    ) -> Callable[..., int]:
        function = library[f"skxlmr_{name}_{self.variant}"]
        function.argtypes, function.restype = [*types, *last], result
        return function

    @property
    def float_dtypes(self) -> tuple[torch.dtype, ...]:
        """Dtypes of weights in floating point with which `encoder` multiplies no slower than torch."""
        if self.variant == "avx2":
            return ()
        return tuple(DTYPES) if self.variant == "avx512bf16" and not has_amx() else (torch.float32,)

    def rows(self, rows: Rows) -> None:
        """Normalise and quantise rows."""
        _check(self._rows(byref(rows), torch.get_num_threads()))

    def products(self, product: Product) -> None:
        """Multiply."""
        _check(self._products(byref(product), torch.get_num_threads()))

    def chain(self, product: Product, rows: Rows) -> None:
        """Multiply, and quantise the products."""
        _check(self._chain(byref(product), byref(rows), torch.get_num_threads()))

    def attention(self, attention: Attention) -> None:
        """Compute attention."""
        _check(self._attention(byref(attention), torch.get_num_threads()))

    def packed_size(self, n_outputs: int, width: int, n_columns: int) -> int:
        """Return the number of bytes of a packed weight (N, K) with k outlier columns."""
        return self._packed_size(n_outputs, width, n_columns)

    def pack(self, weight: Weight, n_outputs: int, width: int, n_columns: int, to: int) -> None:
        """Pack a weight (N, K) with k outlier columns to an address, which is a multiple of 64."""
        self._pack(byref(weight), n_outputs, width, n_columns, to)

    def encoder_scratch(self, encoder: Encoder) -> int:
        """Return the number of bytes that an encoder needs with the threads of torch."""
        return self._encoder_scratch(byref(encoder), torch.get_num_threads())

    def encoder(self, encoder: Encoder) -> None:
        """Run layers."""
        _check(self._encoder(byref(encoder), torch.get_num_threads()))


@functools.cache
def has_amx() -> bool:
    """Whether this CPU has the matrix instructions for bfloat16 that torch uses; those of the kernels are slower."""
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("amx_bf16"))


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("There is not enough memory for the buffers of a layer; use a smaller batch.")


def address(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor's memory."""
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def library() -> Library | None:
    """Return the kernels for this CPU; None if they were not compiled, or if it lacks their instructions."""
    path = compiled()
    try:
        return None if path is None else Library(path)
    except (OSError, AttributeError, KeyError):
        return None


def compiled() -> Path | None:
    """Return the file of the kernels; None if they were not compiled when skxlmr was installed."""
    names = [f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES]
    paths = [Path(__file__).with_name(name) for name in names]
    return next((path for path in paths if path.is_file()), None)
