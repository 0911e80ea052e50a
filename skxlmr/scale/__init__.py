"""Past one machine: predictions in parts, grids, and their cost on clusters."""

from skxlmr.scale.calculator import RunEstimate, estimate_run
from skxlmr.scale.dataset import predict_dataset
from skxlmr.scale.grids import GridWorkers, grid_backend
from skxlmr.scale.manifest import Manifest
from skxlmr.scale.predictor import Predictor

__all__ = [
    "GridWorkers",
    "Manifest",
    "Predictor",
    "RunEstimate",
    "estimate_run",
    "grid_backend",
    "predict_dataset",
]
