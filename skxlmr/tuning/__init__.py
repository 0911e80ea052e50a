"""Tunings: which weights of a model are trained. They are estimators, so that a search can set their parameters."""

from skxlmr.tuning.adapters import (
    LINEAR_LAYERS,
    NORM_PATHS,
    OUTER_PATHS,
    PATHS,
    AddedBias,
    LayerAdapter,
    LowRank,
)
from skxlmr.tuning.base import Tuning
from skxlmr.tuning.bias import Bias
from skxlmr.tuning.full import Full
from skxlmr.tuning.head import Head
from skxlmr.tuning.lora import LoRA
from skxlmr.tuning.names import TUNINGS, as_tuning

__all__ = [
    "LINEAR_LAYERS",
    "NORM_PATHS",
    "OUTER_PATHS",
    "PATHS",
    "TUNINGS",
    "AddedBias",
    "Bias",
    "Full",
    "Head",
    "LayerAdapter",
    "LoRA",
    "LowRank",
    "Tuning",
    "as_tuning",
]
