"""Past one machine: predictions, grids and their cost on clusters."""

from skxlmr.scale.calculator import RunEstimate, estimate_run
from skxlmr.scale.grids import GridWorkers, grid_backend

__all__ = ["GridWorkers", "RunEstimate", "estimate_run", "grid_backend"]
