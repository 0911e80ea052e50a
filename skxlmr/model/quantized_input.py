"""Inputs of layers with 8-bit weights, as their engines multiply them.

Notation: T tokens, K input features, N output features, k outlier columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Derived = TypeVar("Derived")


@dataclass
class QuantizedInput:
    """What an engine multiplies: the input of a layer after its `quantize`."""

    dtype: torch.dtype  # of the product
    # (T, K): int8, in outlier columns the low byte; or e4m3; or the unchanged input if the engine does not quantise
    values: Tensor
    scales: Tensor | None = None  # (T, 1) float32, value of one step of each row
    columns: Tensor | None = None  # (k,) int64, the outlier columns
    # (T, k) int8, high bytes of the outliers, with triton followed by zeros; with bitsandbytes the outliers themselves
    high: Tensor | None = None
    fixed: bool = True  # whether the outlier columns are those that the layer stores
    middles: Tensor | None = None  # (T, 1) float32, subtracted from each row before it was rounded


class FrozenLayer(Protocol):
    """A linear layer whose weight (N, K) is stored as 8-bit numbers, to be multiplied by `scales`."""

    in_features: int
    out_features: int

    @property
    def bias(self) -> Tensor | None:
        """The bias, (N,)."""

    @property
    def scales(self) -> Tensor:
        """Value of one step of each row, (N,) float32."""

    @property
    def engine(self) -> Engine:
        """The engine for the device of the weights."""

    def prepare(self, x: Tensor) -> QuantizedInput:
        """Quantise an input (T, K)."""

    def unscaled(self, dtype: torch.dtype) -> Tensor:
        """Return the stored numbers (N, K) in floating point."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) in floating point."""


class OutlierSettings(Protocol):
    """Which columns of an input keep 16 bits: settings of `Int8`."""

    outliers: str
    threshold: float


class IntegerLayer(FrozenLayer, Protocol):
    """What engines use of an `Int8Linear`."""

    asymmetric: bool
    outliers: Tensor  # (k,) int64
    is_outlier: Tensor  # (K,) bool
    outlier_weight: Tensor  # (k, N) int8
    weight_sums: Tensor  # (N,) int32

    @property
    def settings(self) -> OutlierSettings:
        """Which columns keep 16 bits."""

    @property
    def weight(self) -> Tensor:
        """The integers, (N, K) int8."""

    @property
    def SCB(self) -> Tensor:  # noqa: N802 - as in bitsandbytes
        """Largest magnitude of each row, (N,) float32."""

    def derived(self, key: object, make: Callable[[], Derived]) -> Derived:
        """Return what `make` computes from the weights and outliers; it is computed once, until these change."""


class Engine(Protocol):
    """Multiplies inputs with 8-bit weights: those of an `Int8Linear`, or of a `Float8Linear`."""

    def quantize(self, x: Tensor, layer: Any) -> QuantizedInput:
        """Prepare an input (T, K)."""

    def multiply(self, inputs: QuantizedInput, layer: Any) -> Tensor:
        """Return (T, N), with the bias added."""
