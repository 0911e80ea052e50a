"""Scikit-learn estimators over text columns, run by XLM-RoBERTa-XL."""

from skxlmr.backbone import release_models
from skxlmr.classifier import XLMRXLClassifier
from skxlmr.embedder import XLMRXLEmbedder
from skxlmr.training import Full, Head, LoRA

__all__ = ["Full", "Head", "LoRA", "XLMRXLClassifier", "XLMRXLEmbedder", "release_models"]
