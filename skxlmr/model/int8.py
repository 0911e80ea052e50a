"""Linear layers with frozen 8-bit weights.

Each output channel has an int8 row and a float32 scale, in the layout of bitsandbytes (`CB` and `SCB`; Dettmers et al.,
"LLM.int8()", arXiv:2208.07339). `skxlmr.model.int8_engines` multiplies them.

Notation: T tokens, K input features, N output features, k outlier columns, m candidates for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.model.blocks import blocks
from skxlmr.model.frozen_product import FrozenProduct
from skxlmr.model.int8_engines.choice import ENGINES, choose_engine
from skxlmr.model.int8_engines.int_mm import IntMM, weight_sums
from skxlmr.model.int8_engines.outliers import outlier_weight
from skxlmr.model.quantized_input import Derived, Engine, QuantizedInput
from skxlmr.model.settings import Settings

OUTLIERS = ("fixed", "dynamic", "none")
# At most one column in this many is an outlier, because columns in 16 bits cost time.
COLUMNS_PER_OUTLIER = 64


@dataclass
class Int8(Settings):
    """Settings of 8-bit weights, for `load_in_8bit`.

    Parameters
    ----------
    outliers : {"fixed", "dynamic", "none"}, default="fixed"
        Which columns of a layer's input keep 16 bits. "fixed" columns are determined once, on sentences in many
        languages, so that the result for a text never depends on other texts in the batch. "dynamic" is the rule of
        bitsandbytes: all columns that exceed `threshold` anywhere in the batch.
    threshold : float, default=6.0
        Magnitude above which a column is an outlier: relative to the root mean square of the layer's input if
        outliers are fixed, absolute if they are dynamic. After a LayerNorm without gain both are the same. The default
        is that of LLM.int8(), section 3.2.
    engine : {"auto", "int_mm", "avx", "triton", "bitsandbytes", "dequantize"}, default="auto"
        How to multiply. "int_mm" and "bitsandbytes" multiply integers with the kernels of torch and of bitsandbytes,
        "avx" and "triton" with those of skxlmr, for x86 CPUs and for GPUs. "dequantize" converts weights to floating
        point for each product. "auto" is

        - on GPUs of compute capability 8.0 or higher (A100, RTX 30 and later) "triton", whose kernels take in the
          steps around a product, so that a layer runs less than a tenth of the operators of the other engines. It needs
          the package triton, which torch for CUDA installs on Linux, and a C compiler and the headers of Python, which
          triton needs; where one of them is missing, "auto" is "bitsandbytes";
        - on those of 7.5 (T4, RTX 20) "bitsandbytes", because Triton compiles no integer products for them;
        - on x86 CPUs with AVX2 or AVX-512 "avx", whose kernels take in the steps around a product, too, if they were
          compiled when skxlmr was installed, for which there must be a C compiler;
        - on other CPUs with instructions for integer products "int_mm";
        - elsewhere "dequantize", because integers are not multiplied faster there, or not at all.

    Examples
    --------
    >>> from skxlmr import Int8, XLMRXLEmbedder
    >>> embedder = XLMRXLEmbedder(model="nano", load_in_8bit=Int8(outliers="none"))
    >>> embedder.get_params()["load_in_8bit__threshold"]
    6.0
    >>> embedder.fit_transform(["good morning"]).shape
    (1, 192)
    """

    outliers: str = "fixed"
    threshold: float = 6.0
    engine: str = "auto"

    def check(self) -> None:
        """Raise ValueError if a setting is invalid."""
        if self.outliers not in OUTLIERS:
            raise ValueError(f"Int8 outliers must be one of {OUTLIERS}, got {self.outliers!r}.")
        if self.engine not in ("auto", *ENGINES):
            raise ValueError(f"Int8 engine must be one of {('auto', *ENGINES)}, got {self.engine!r}.")
        if not self.threshold > 0:
            raise ValueError(f"Int8 threshold must be positive, got {self.threshold!r}.")

    def engine_on(self, device: torch.device) -> Engine:
        """Return the engine for a device; for errors see `choose_engine`."""
        return choose_engine(self.engine, device)


def quantize_weight(weight: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round each row of a weight (N, K) to int8, in `out` if it is given, with 127 for its largest magnitude.

    Return `CB` and `SCB` of bitsandbytes, (N, K) and (N,) float32: the weight is about ``CB * SCB[:, None] / 127``.
    """
    values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device) if out is None else out
    absmax = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    for rows in blocks(*weight.shape, device=weight.device):  # never a float32 copy of the whole weight
        block = weight[rows].float()
        absmax[rows] = block.abs().amax(1)
        factors = 127.0 / absmax[rows].clamp(min=torch.finfo(torch.float32).tiny)
        values[rows] = torch.mul(block, factors[:, None]).round_()
    return values, absmax


class Int8Linear(nn.Module):
    """Linear layer with frozen 8-bit weights, (..., K) -> (..., N); gradients flow to its input.

    An `asymmetric` one is for inputs with ranges that are not symmetric about zero, as after GELU, where nearly half of
    the 255 steps of a symmetric range would not be used. The engines "int_mm" and "avx" round them within their range;
    the others treat the layer as a symmetric one.
    """

    quantized_parameters = ("weight", "SCB")
    outliers: Tensor
    outlier_weight: Tensor
    weight_sums: Tensor
    is_outlier: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        settings: Int8 | None = None,
        device: torch.device | str | None = None,
        asymmetric: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.settings, self.asymmetric = settings or Int8(), asymmetric
        # Parameters, not buffers, because sharding across devices does not split buffers.
        weight = torch.empty(out_features, in_features, dtype=torch.int8, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.SCB = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None
        # Input columns that keep 16 bits, (k,); not persistent, because the state dict is that of bitsandbytes.
        self.register_buffer("outliers", torch.empty(0, dtype=torch.int64, device="cpu"), persistent=False)
        self.register_buffer("outlier_weight", torch.empty(0, out_features, dtype=torch.int8), persistent=False)
        # Sums of the rows of the weight, (N,), if the layer is asymmetric; `to` does not round integers to 16 bits.
        self.register_buffer("weight_sums", torch.empty(0, dtype=torch.int32), persistent=False)
        is_outlier = torch.zeros(in_features, dtype=torch.bool, device="cpu")
        self.register_buffer("is_outlier", is_outlier, persistent=False)  # the same columns as a mask, (K,)
        # The columns with the largest magnitudes, and these relative to the root mean square of the input, (m,) each.
        self.candidates, self.peaks = torch.empty(0, dtype=torch.int64), torch.empty(0)
        self.observer: Callable[[Tensor], None] | None = None  # set during the outlier search
        self._derived: dict[object, Any] = {}  # what engines make of the weights

    def derived(self, key: object, make: Callable[[], Derived]) -> Derived:
        """Return what `make` computes from the weights and outliers; it is computed once, until these change."""
        if key not in self._derived:
            with torch.inference_mode(False), torch.no_grad():
                self._derived[key] = make()
        return self._derived[key]

    def allocate(self, device: torch.device | str) -> None:
        """Allocate the weight, which `load` fills: all at first, to avoid fragmented memory."""
        self.weight = nn.Parameter(torch.empty(self.weight.shape, dtype=torch.int8, device=device), requires_grad=False)

    def load(self, name: str, tensor: Tensor) -> None:
        """Set one of `quantized_parameters`; a floating-point weight (N, K) is quantised."""
        self._derived.clear()
        if name == "weight" and tensor.is_floating_point():
            values, absmax = quantize_weight(tensor, None if self.weight.is_meta else self.weight.data)
            self.weight = nn.Parameter(values, requires_grad=False)
            self.SCB = nn.Parameter(absmax, requires_grad=False)
        else:
            setattr(self, name, nn.Parameter(tensor.float() if name == "SCB" else tensor, requires_grad=False))

    def set_outliers(self, columns: Tensor) -> None:
        """Set the input columns that keep 16 bits, (k,) int64."""
        self._derived.clear()
        self.outliers = columns.to(self.weight.device)
        self.outlier_weight = outlier_weight(self.weight.detach(), self.outliers)
        is_outlier = torch.zeros(self.in_features, dtype=torch.bool, device=self.weight.device)
        self.is_outlier = is_outlier.index_fill_(0, self.outliers, True)
        if self.asymmetric:
            self.weight_sums = weight_sums(self.weight.detach())

    def set_candidates(self, columns: Tensor, peaks: Tensor) -> None:
        """Set the candidate columns, and select the outliers among them according to the settings."""
        self.candidates, self.peaks = columns.cpu(), peaks.float().cpu()
        chosen = self.candidates[self.peaks > self.settings.threshold]
        self.set_outliers(chosen if self.settings.outliers == "fixed" else chosen[:0])

    def find_outliers(self, x: Tensor) -> None:
        """Search outliers in an input (T, K): the columns with the largest magnitudes."""
        x = x.detach().float()
        peaks = x.abs().amax(0) / x.square().mean().sqrt()
        most = max(1, self.in_features // COLUMNS_PER_OUTLIER)
        columns = peaks.topk(min(most, self.in_features)).indices.sort().values
        self.set_candidates(columns, peaks[columns])

    @property
    def engine(self) -> Engine:
        """The engine for the device of the weights."""
        return self.settings.engine_on(self.weight.device)

    @property
    def scales(self) -> Tensor:
        """Value of one step of each row, (N,) float32."""
        return self.SCB / 127

    def unscaled(self, dtype: torch.dtype) -> Tensor:
        """Return the integers (N, K) in floating point."""
        return self.weight.to(dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) in floating point."""
        return (self.weight * self.scales[:, None]).to(dtype)

    def prepare(self, x: Tensor) -> QuantizedInput:
        """Quantise an input (T, K), for this layer and for others with the same input and therefore outliers."""
        if self.observer is not None:
            self.observer(x)
        with torch.no_grad():
            return self.engine.quantize(x, self)

    def forward(self, x: Tensor, quantized: QuantizedInput | None = None) -> Tensor:
        """Multiply, in the dtype of x; `quantized` is the result of `prepare(x)`, if it is there already."""
        flat = x.reshape(-1, self.in_features)  # (..., K) -> (T, K)
        if quantized is not None and self.observer is not None:
            self.observer(flat)
        if torch.is_grad_enabled() and x.requires_grad:
            y = FrozenProduct.apply(flat, self, quantized)
        else:
            y = self.engine.multiply(self.prepare(flat) if quantized is None else quantized, self)
        return y.view(*x.shape[:-1], self.out_features)  # (T, N) -> (..., N)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        """Convert as `to` does, but keep the scales in float32."""
        scales = self.SCB.detach()
        self._derived.clear()
        super()._apply(fn, recurse)
        if self.SCB.dtype != torch.float32:
            self.SCB = nn.Parameter(scales.to(self.SCB.device), requires_grad=False)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        self._derived.clear()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, outliers={len(self.outliers)}"


def can_chain(first: nn.Module, second: nn.Module, x: Tensor) -> bool:
    """Whether `chain` can run two layers: both multiply integers, and no gradients or outliers are wanted."""
    return (
        isinstance(first, Int8Linear)
        and isinstance(second, Int8Linear)
        and first.engine is second.engine is ENGINES["int_mm"]
        and second.settings.outliers != "dynamic"
        and second.observer is None
        and not (torch.is_grad_enabled() and x.requires_grad)
    )


def chain(first: nn.Module, activation: Callable[[Tensor], Tensor], second: nn.Module, x: Tensor) -> Tensor:
    """Return `second(activation(first(x)))`, (T, K) -> (T, K'), without storing the intermediate result as a whole."""
    assert isinstance(first, Int8Linear)
    assert isinstance(second, Int8Linear)
    engine = first.engine
    assert isinstance(engine, IntMM)
    return engine.multiply(engine.chain(first.prepare(x), first, activation, second), second)
