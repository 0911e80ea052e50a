"""Training of biases alone."""

from __future__ import annotations

from torch import nn

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tuning.adapters import AddedBias, LayerAdapter, layer_widths
from skxlmr.tuning.base import LAYERS, Tuning


@declare_parameters
class Bias(Tuning):
    """Train only biases: one is added to each linear layer of the encoder (BitFit).

    The biases of LayerNorms need no addition, since their output goes into linear layers only.

    Parameters
    ----------
    layers : int, float or None
        Train only the biases of this many topmost layers, or of this share of all layers; None trains all.

    References
    ----------
    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    arXiv:2106.10199.

    Examples
    --------
    >>> from skxlmr import Bias, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Bias())
    XLMRXLClassifier(tuning=Bias())
    """

    layers: int | float | None = parameter(default=None, valid=LAYERS, kw_only=False)

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 1e-3, as in the examples of the paper's code."""
        return 1e-3

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of layers that are not adapted are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        first = self.num_frozen_layers(config)
        widths = [layer_widths(config, i) for i in range(config.num_hidden_layers)]
        return nn.ModuleList(
            LayerAdapter({name: AddedBias(width) for name, (_, width) in of_layer.items()} if i >= first else {})
            for i, of_layer in enumerate(widths)
        )
