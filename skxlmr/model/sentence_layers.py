"""The modules of sentence-transformers after the pooling: frozen layers on the vectors of texts.

Notation: B texts, D dimensions of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.checkpoints.sentence_modules import ACTIVATIONS, Layer
from skxlmr.system.schema import Rule, one_of, parse

MATRIX = Annotated[np.ndarray, Rule("a matrix of float32", lambda x: x.dtype == np.float32 and x.ndim == 2)]
VECTOR = Annotated[np.ndarray, Rule("a vector of float32", lambda x: x.dtype == np.float32 and x.ndim == 1)]
# The entries of a layer, by its kind. A residual is added as it is (True), or projected by a matrix.
ENTRIES: dict[str, dict[str, Any]] = {
    "Normalize": {},
    "Truncate": {"width": int},
    "LayerNorm": {"weight": VECTOR, "bias": VECTOR},
    "Dense": {"activation": one_of(*ACTIVATIONS), "weight": MATRIX, "bias": VECTOR | None, "residual": bool | MATRIX},
}


class SentenceLayers(nn.Module):
    """Frozen layers on vectors, (B, D) -> (B, width); without layers the vectors as they are.

    Their arrays are not in the state dict: they belong to the checkpoint, not to what was learned on it.

    Parameters
    ----------
    layers : sequence of Layer
        As `skxlmr.checkpoints.sentence_modules` reads them.
    in_features : int
        D.

    Attributes
    ----------
    width : int
        Number of dimensions of the results.

    Raises
    ------
    ValueError
        If a layer does not fit the vectors that it is given.

    Examples
    --------
    >>> dense = {"kind": "Dense", "activation": "ReLU", "weight": np.eye(2, dtype="f"), "bias": None, "residual": False}
    >>> SentenceLayers([dense], 2)(torch.tensor([[1.0, -1.0]]))
    tensor([[1., 0.]])
    """

    def __init__(self, layers: Sequence[Layer], in_features: int) -> None:
        super().__init__()
        self.layers = layers
        self.width = check_layers(layers, in_features)
        self._placed: tuple[torch.device, list[dict[str, Tensor]]] | None = None

    def _arrays(self, device: torch.device) -> list[dict[str, Tensor]]:
        """Return the arrays of each layer on a device.

        They are no buffers, which would stay without content where modules are made on the meta device.
        """
        placed = self._placed
        if placed is None or placed[0] != device:
            arrays = [{k: v for k, v in layer.items() if isinstance(v, np.ndarray)} for layer in self.layers]
            placed = device, [{k: torch.from_numpy(v).to(device) for k, v in of.items()} for of in arrays]
            self._placed = placed
        return placed[1]

    def forward(self, x: Tensor) -> Tensor:
        """Run vectors through the layers, (..., D) -> (..., width)."""
        for layer, arrays in zip(self.layers, self._arrays(x.device), strict=True):
            if layer["kind"] == "Normalize":
                x = F.normalize(x, dim=-1)
            elif layer["kind"] == "Truncate":
                x = x[..., : layer["width"]]
            elif layer["kind"] == "LayerNorm":
                x = F.layer_norm(x, arrays["weight"].shape, arrays["weight"], arrays["bias"])
            else:
                out = getattr(nn, layer["activation"])()(F.linear(x, arrays["weight"], arrays.get("bias")))
                if layer["residual"] is not False:
                    out = out + (F.linear(x, arrays["residual"]) if "residual" in arrays else x)
                x = out
        return x


def check_layers(layers: Sequence[Layer], width: int | None = None) -> int:
    """Return the number of dimensions that layers make of `width`; None means what the first of them takes.

    Raises ValueError if the entries of a layer are not those of its kind, or it does not fit the vectors.
    """
    for i, layer in enumerate(layers):
        kind = parse(one_of(*ENTRIES), parse(dict, layer, f"layer {i}").get("kind"), f"layer {i}.kind")
        for name, expected in ENTRIES[kind].items():
            parse(expected, layer.get(name), f"layer {i}.{name}")
        width = _width_after(layer, width, f"layer {i}, a {kind}")
    return 0 if width is None else width


def _width_after(layer: Layer, width: int | None, name: str) -> int | None:
    if layer["kind"] == "Truncate":
        return layer["width"] if width is None else min(layer["width"], width)
    if layer["kind"] == "Normalize":
        return width
    n_out, n_in = layer["weight"].shape if layer["kind"] == "Dense" else (len(layer["weight"]),) * 2
    if width not in (None, n_in):
        raise ValueError(f"{name}, takes vectors of {n_in} dimensions, but these have {width}")
    bias, residual = layer["bias"], layer.get("residual", False)
    whole = residual.shape == (n_out, n_in) if isinstance(residual, np.ndarray) else not residual or n_out == n_in
    if not whole or (bias is not None and len(bias) != n_out):
        raise ValueError(f"{name}, has arrays whose shapes do not fit together")
    return n_out
