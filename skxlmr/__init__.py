"""Scikit-learn estimators over text columns, run by XLM-RoBERTa-XL."""

from skxlmr.backbone import release_models
from skxlmr.classifier import XLMRXLClassifier
from skxlmr.embedder import XLMRXLEmbedder
from skxlmr.features import set_feature_cache
from skxlmr.generator import XLMRXLGenerator
from skxlmr.masked_lm import XLMRXLMaskedLM
from skxlmr.memory import memory_estimate
from skxlmr.multiple_choice import XLMRXLMultipleChoice
from skxlmr.persistence import load
from skxlmr.qa import XLMRXLQA
from skxlmr.regressor import XLMRXLRegressor
from skxlmr.tagger import XLMRXLTagger
from skxlmr.training import Bias, Full, Head, LoRA
from skxlmr.weights.quantization import Int8

__all__ = [
    "XLMRXLQA",
    "Bias",
    "Full",
    "Head",
    "Int8",
    "LoRA",
    "XLMRXLClassifier",
    "XLMRXLEmbedder",
    "XLMRXLGenerator",
    "XLMRXLMaskedLM",
    "XLMRXLMultipleChoice",
    "XLMRXLRegressor",
    "XLMRXLTagger",
    "load",
    "memory_estimate",
    "release_models",
    "set_feature_cache",
]
