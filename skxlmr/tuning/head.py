"""Training of the head alone."""

from __future__ import annotations

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.system.parameters import declare_parameters
from skxlmr.tuning.base import Tuning


@declare_parameters
class Head(Tuning):
    """Train only the head: the base runs once per text, and the epochs run over its features.

    Examples
    --------
    >>> from skxlmr import Head, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Head())
    XLMRXLClassifier(tuning=Head())
    """

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 1e-3, the default of Adam (arXiv:1412.6980) and of scikit-learn's MLPClassifier."""
        return 1e-3

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Return the number of layers: all are frozen."""
        return config.num_hidden_layers
