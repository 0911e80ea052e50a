"""The base class of the tunings."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, RealNotInt, validate_parameter_constraints
from torch import nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.system.parameters import DeclaredParameters, suggesting_values

# Valid values of `layers`, by which the topmost layers are chosen: their number, or their share.
LAYERS = [Interval(Integral, 1, None, closed="left"), Interval(RealNotInt, 0, 1, closed="right"), None]


class Tuning(DeclaredParameters, BaseEstimator):
    """Base class of the tunings."""

    trains_base = False
    layers: Any = None
    _parameter_constraints: dict = {}

    def check(self) -> None:
        """Raise a ValueError if a parameter is not valid for any model."""
        parameters = self.get_params(deep=False)
        with suggesting_values(self._parameter_constraints, parameters):
            validate_parameter_constraints(self._parameter_constraints, parameters, type(self).__name__)

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList | None:
        """Make the adapter of a frozen base: one `LayerAdapter` per layer, or None."""
        return None

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict | None:
        """Copy the parts of the base that are trained, in float32, by their names in it; None if there are none."""
        return None

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return the learning rate of estimators with `learning_rate="auto"`."""
        raise NotImplementedError

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Count the layers of the base below the first one that is trained or adapted.

        Raises
        ------
        ValueError
            If a parameter is not valid, or the model has fewer than `layers` layers.
        """
        self.check()
        name = type(self).__name__
        depth = config.num_hidden_layers
        if isinstance(self.layers, Integral):
            if int(self.layers) > depth:
                raise ValueError(f"{name} layers={self.layers}, but this model has {depth} layers.")
            return depth - int(self.layers)
        return 0 if self.layers is None else depth - math.ceil(self.layers * depth)
