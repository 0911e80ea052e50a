"""Trained weights and histories as plain arrays, which pickles hold, and files of skops, that know no tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.estimators import SavedWeights


def plain_weights(finetuned: Finetuned) -> dict[str, Any]:
    """Return trained weights as arrays on the CPU, by name, with all that is needed to build the modules again."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in finetuned.state_dict().items()}
    return {"tuning": finetuned.tuning, "config": finetuned.config.to_dict(), "weights": weights}


def read_weights(state: dict[str, Any], where: str) -> SavedWeights:
    """Read what `plain_weights` returned; `where` names the state in error messages."""
    tensors = {name: torch.from_numpy(_writable(array)) for name, array in state["weights"].items()}
    return SavedWeights(state["tuning"], XLMRobertaXLConfig.from_dict(state["config"]), where, tensors)


def plain_frame(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns of a frame as arrays, by name; its index is not kept."""
    return {str(name): frame[name].to_numpy() for name in frame}


def read_frame(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Read what `plain_frame` returned."""
    return pd.DataFrame(columns)


def _writable(array: np.ndarray) -> np.ndarray:
    """Return an array, or a copy if it is a read-only map of a file, such as joblib makes for parallel workers."""
    return array if array.flags.writeable else array.copy()
