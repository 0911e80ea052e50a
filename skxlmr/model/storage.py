"""How the matrices of a base model's layers are stored: as integers, in 8-bit floating point, or in 4 bits."""

from __future__ import annotations

from torch import Tensor, nn

from skxlmr.model.float8 import Float8, Float8Linear
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.quantized_input import QuantizedInput

EightBit = Int8 | Float8
Storage = EightBit | str  # "nf4" is 4 bits


def quantization_settings(load_in_8bit: bool | EightBit, load_in_4bit: bool) -> Storage | None:
    """Return the settings of 8-bit weights, "nf4" for 4-bit weights, or None; raise ValueError if they are invalid."""
    if load_in_8bit and load_in_4bit:
        raise ValueError("load_in_8bit and load_in_4bit exclude each other; switch one of them off.")
    if load_in_4bit:
        return "nf4"
    settings = Int8() if load_in_8bit is True else load_in_8bit or None
    if settings is not None:
        settings.check()
    return settings


def kind_of(settings: Storage | None) -> str | None:
    """Return the name of a storage, in estimates of memory and among cached files: "int8", "float8" or "nf4"."""
    if isinstance(settings, EightBit):
        return "float8" if isinstance(settings, Float8) else "int8"
    return settings


def prepare(layer: nn.Module, x: Tensor) -> QuantizedInput | None:
    """Quantise an input (T, K) for a layer with 8-bit weights; None for any other layer."""
    return layer.prepare(x) if isinstance(layer, Int8Linear | Float8Linear) else None
