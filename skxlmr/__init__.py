"""Scikit-learn estimators over text columns, run by XLM-RoBERTa-XL."""

from typing import TYPE_CHECKING

from skxlmr.system.imports import lazy_attributes as _lazy_attributes

if TYPE_CHECKING:
    from skxlmr.estimators.classifier import XLMRXLClassifier
    from skxlmr.estimators.embedder import XLMRXLEmbedder
    from skxlmr.estimators.generator import XLMRXLGenerator
    from skxlmr.estimators.loading import load
    from skxlmr.estimators.masked_lm import XLMRXLMaskedLM
    from skxlmr.estimators.multiple_choice import XLMRXLMultipleChoice
    from skxlmr.estimators.qa import XLMRXLQA
    from skxlmr.estimators.regressor import XLMRXLRegressor
    from skxlmr.estimators.skops_types import skops_types
    from skxlmr.estimators.tagger import XLMRXLTagger
    from skxlmr.hardware.estimate import memory_estimate
    from skxlmr.hardware.versions import show_versions
    from skxlmr.model.float8 import Float8
    from skxlmr.model.int8 import Int8
    from skxlmr.runtime.backbone import release_models
    from skxlmr.runtime.feature_cache import set_feature_cache
    from skxlmr.runtime.graphs import set_cuda_graphs
    from skxlmr.training.processes import Processes
    from skxlmr.tuning import Bias, Full, Head, LoRA

    __version__: str

__all__ = [
    "XLMRXLQA",
    "Bias",
    "Float8",
    "Full",
    "Head",
    "Int8",
    "LoRA",
    "Processes",
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
    "set_cuda_graphs",
    "set_feature_cache",
    "show_versions",
    "skops_types",
]

# With an estimator, torch, scikit-learn and pandas are imported, which takes more than a second.
__getattr__, __dir__ = _lazy_attributes(
    __name__,
    {
        "XLMRXLQA": "estimators.qa",
        "Bias": "tuning",
        "Float8": "model.float8",
        "Full": "tuning",
        "Head": "tuning",
        "Int8": "model.int8",
        "LoRA": "tuning",
        "Processes": "training.processes",
        "XLMRXLClassifier": "estimators.classifier",
        "XLMRXLEmbedder": "estimators.embedder",
        "XLMRXLGenerator": "estimators.generator",
        "XLMRXLMaskedLM": "estimators.masked_lm",
        "XLMRXLMultipleChoice": "estimators.multiple_choice",
        "XLMRXLRegressor": "estimators.regressor",
        "XLMRXLTagger": "estimators.tagger",
        "load": "estimators.loading",
        "memory_estimate": "hardware.estimate",
        "release_models": "runtime.backbone",
        "set_cuda_graphs": "runtime.graphs",
        "set_feature_cache": "runtime.feature_cache",
        "show_versions": "hardware.versions",
        "skops_types": "estimators.skops_types",
    },
)
