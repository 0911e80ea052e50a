"""The short names of the tunings, such as `tuning="lora"`."""

from __future__ import annotations

from skxlmr.tuning.base import Tuning
from skxlmr.tuning.bias import Bias
from skxlmr.tuning.full import Full
from skxlmr.tuning.head import Head
from skxlmr.tuning.lora import LoRA

TUNINGS: dict[str, type[Tuning]] = {"lora": LoRA, "bias": Bias, "head": Head, "full": Full}


def as_tuning(tuning: str | Tuning) -> Tuning:
    """Return the tuning object that a name stands for."""
    return TUNINGS[tuning]() if isinstance(tuning, str) else tuning
