"""Scikit-learn estimators over text columns, run by XLM-RoBERTa-XL."""

from importlib.metadata import version as _version

from skxlmr.system.forks import torch_threads as _torch_threads  # before anything that imports torch

# isort: split
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
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import release_models
from skxlmr.runtime.feature_cache import set_feature_cache
from skxlmr.runtime.graphs import set_cuda_graphs
from skxlmr.training.processes import Processes
from skxlmr.tuning import Bias, Full, Head, LoRA

__all__ = [
    "XLMRXLQA",
    "Bias",
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

__version__ = _version("skxlmr")

_torch_threads.note_imports()
