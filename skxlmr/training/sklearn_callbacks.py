"""The callbacks of scikit-learn, which has them since 1.9; before that there is the `callbacks` parameter alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skxlmr.training.callbacks import Callback

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.callback import CallbackContext

    from skxlmr.training.loop import Trainer

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:
        """Stands where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Leave a method as it is."""
        return method


def callback_context(estimator: BaseEstimator, max_epochs: int) -> CallbackContext | None:
    """The context of a fit, to be made in its beginning; None where scikit-learn has none."""
    if not hasattr(estimator, "_init_callback_context"):
        return None
    return estimator._init_callback_context(max_subtasks=max_epochs)


class EpochContexts(Callback):
    """Tell scikit-learn's callbacks of each epoch, a subtask of the fit; the True of one of them ends the training.

    Parameters
    ----------
    estimator : BaseEstimator
    context : CallbackContext
        Of the fit.
    data : dict
        X, y and metadata, for callbacks that ask for them.
    fitted_attributes : callable
        Returns what makes the estimator fitted as things stand.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        context: CallbackContext,
        data: dict[str, Any],
        fitted_attributes: Callable[[], dict[str, Any]],
    ) -> None:
        self.estimator = estimator
        self.context = context
        self.data = data
        self.fitted_attributes = fitted_attributes

    def on_epoch_begin(self, trainer: Trainer) -> None:
        self._epoch = self.context.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, trainer: Trainer) -> bool:
        return self._epoch.call_on_fit_task_end(
            estimator=self.estimator,
            **self.data,
            reconstruction_attributes=self.fitted_attributes,
        )
