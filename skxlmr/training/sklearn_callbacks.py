"""Support of scikit-learn's callbacks, since scikit-learn 1.9; older versions have the `callbacks` parameter only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from skxlmr.training.callbacks import Callback

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from skxlmr.training.loop import Trainer

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """An empty mixin, for scikit-learn versions without callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Return the method as it is."""
        return method


# Attributes of an estimator if callbacks of scikit-learn are set on it, or on a meta-estimator around it.
OBSERVED = {"_skl_callbacks", "_parent_callback_ctx"}


class EpochContexts(Callback):
    """Report each epoch to scikit-learn's callbacks, as a subtask of the fit; if one returns True, training ends."""

    # Set by the estimator: from the module trained so far to the fitted attributes of an estimator that holds it.
    fitted_attributes: Callable[[nn.Module], dict[str, Any]]

    def __init__(self, estimator: BaseEstimator, X: Any, y: Any, sample_weight: Any) -> None:
        self.estimator = estimator
        self.data = {"X": X, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
        self.context = estimator._init_callback_context(
            max_subtasks=None if estimator.max_epochs == "auto" else estimator.max_epochs
        )
        self.context.call_on_fit_task_begin(estimator=estimator, **self.data)

    def end(self) -> None:
        """End the context of the fit."""
        self.context.call_on_fit_task_end(estimator=self.estimator, **self.data, reconstruction_attributes={})

    def on_epoch_begin(self, trainer: Trainer) -> None:
        self._epoch = self.context.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, trainer: Trainer) -> bool:
        def attributes() -> dict[str, Any]:
            return self.fitted_attributes(copy.deepcopy(trainer.module).eval().requires_grad_(False))

        return self._epoch.call_on_fit_task_end(
            estimator=self.estimator, **self.data, reconstruction_attributes=attributes
        )
