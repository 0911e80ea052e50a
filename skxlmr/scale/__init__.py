"""Prediction on more rows than one process should hold, and on several processes and machines."""

from skxlmr.scale.dataset import predict_dataset
from skxlmr.scale.manifest import Manifest
from skxlmr.scale.predictor import Predictor

__all__ = ["Manifest", "Predictor", "predict_dataset"]
