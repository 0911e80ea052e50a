"""Training of the weights of the base."""

from __future__ import annotations

import copy

from torch import nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tuning.base import LAYERS, Tuning


@declare_parameters
class Full(Tuning):
    """Train the weights of the base, as a float32 copy that belongs to the estimator and is part of its pickle.

    Parameters
    ----------
    layers : int, float or None
        Train only this many of the topmost layers, or this share of all layers, and the final LayerNorm; None trains
        all weights, including the embeddings.

    Examples
    --------
    >>> from skxlmr import Full, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Full())
    XLMRXLClassifier(tuning=Full())
    """

    layers: int | float | None = parameter(default=None, valid=LAYERS, kw_only=False)

    trains_base = True

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 2e-5: RoBERTa (arXiv:1907.11692), appendix C, has 1e-5 to 3e-5 on GLUE."""
        return 2e-5

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict:
        """Copy the topmost layers and the final LayerNorm, or everything, in float32."""
        parts: dict[str, nn.Module] = {"layers": base.layers[self.num_frozen_layers(base.config) :], "norm": base.norm}
        if self.layers is None:
            parts["embeddings"] = base.embeddings
        return nn.ModuleDict({name: copy.deepcopy(part).float().requires_grad_() for name, part in parts.items()})
