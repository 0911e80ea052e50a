"""What modules of sentence-transformers do with the vectors of texts, after the pooling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skxlmr.checkpoints.sentence_modules import Layer

LAYER_NORM_EPS = 1e-5  # of torch's LayerNorm, which the module does not change


def apply_layers(layers: Sequence[Layer], vectors: np.ndarray) -> np.ndarray:
    """Run vectors (n, d) through the layers of a model; (n, width) float32.

    Examples
    --------
    >>> dense = {"kind": "Dense", "activation": "ReLU", "weight": np.eye(2, dtype="f"), "bias": None, "residual": False}
    >>> apply_layers([dense], np.array([[1, -1]], dtype="f")).tolist()
    [[1.0, 0.0]]
    """
    x = torch.from_numpy(vectors)
    for layer in layers:
        if layer["kind"] == "Normalize":
            x = F.normalize(x, dim=-1)
        elif layer["kind"] == "LayerNorm":
            weight = torch.from_numpy(layer["weight"])
            x = F.layer_norm(x, weight.shape, weight, torch.from_numpy(layer["bias"]), LAYER_NORM_EPS)
        else:
            bias = None if layer["bias"] is None else torch.from_numpy(layer["bias"])
            out = getattr(nn, layer["activation"])()(F.linear(x, torch.from_numpy(layer["weight"]), bias))
            if isinstance(layer["residual"], np.ndarray):
                out = out + F.linear(x, torch.from_numpy(layer["residual"]))
            x = out + x if layer["residual"] is True else out
    return x.numpy()


def width_after(layers: Sequence[Layer], width: int) -> int:
    """Return the number of dimensions that the layers make of `width`."""
    for layer in layers:
        width = len(layer["weight"]) if "weight" in layer else width
    return width
