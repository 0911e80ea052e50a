"""Regression on texts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions

from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import OF_REFERENCE, FeatureMemory, Init, MissingTexts, SentenceVectors, Vocabulary
from skxlmr.runtime.plan import Truncation, Windows
from skxlmr.saving.checkpoints_with_heads import TrainedModel
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.regression import ACTIVATIONS, REGRESSION_LOSSES, Regression


@declare_parameters
class XLMRXLRegressor(
    RegressorMixin,
    SentenceVectors,
    MissingTexts,
    Truncation,
    Vocabulary,
    FeatureMemory,
    Init,
    XLMRXLLearner[Regression],
):
    """Predict numbers from texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The targets are standardised before training and mapped back afterwards, so that their unit does not matter. For
    several outputs y is a table, or a column of vectors of numbers.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "huber"}
        Loss of the difference to a target, in standard deviations of the targets; "huber" is linear beyond one of them.

    Attributes
    ----------
    target_mean_ : ndarray of shape (n_outputs,)
    target_scale_ : ndarray of shape (n_outputs,)
        Mean and standard deviation of the training targets, weighted by `sample_weight`.
    n_outputs_ : int
        Number of columns of y.
    pooling_ : str
    prompt_ : str
    pairs_ : {"joint", "separate"} or None
        The values that "auto" stood for; `pairs_` is None if there was one text per row.
    $history

    See Also
    --------
    XLMRXLClassifier : Labels instead of numbers.

    Examples
    --------
    >>> from skxlmr import XLMRXLRegressor
    >>> texts = ["one star", "two stars", "four stars", "five stars"] * 4
    >>> reg = XLMRXLRegressor("nano", learning_rate=5e-3, random_state=0).fit(texts, [1, 2, 4, 5] * 4)
    >>> bool(reg.predict(["five stars"])[0] > reg.predict(["one star"])[0])
    True
    """

    loss: str = parameter(default="squared_error", valid=[StrOptions(set(REGRESSION_LOSSES))], order=30)

    _pretrained_parameters: ClassVar[dict[str, Any]] = OF_REFERENCE

    def _new_task(self) -> Regression:
        windows = Windows(self.max_length, self.stride, self.truncation)
        return Regression(
            windows, self.loss, pooling=self.pooling, prompt=self.prompt, pairs=self.pairs, missing=self.missing
        )

    def _restore_pretrained(self, trained: TrainedModel) -> None:
        """As other estimators; the activation is that which sentence-transformers applies."""
        activation = trained.activation or "Identity"
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"its activation {activation!r:.60} is not one of {', '.join(ACTIVATIONS)}. Set activation_fn in its "
                f"files to torch.nn.Identity to have the outputs of its head."
            )
        super()._restore_pretrained(trained)
        self._activation = activation

    def predict(self, X: Any) -> np.ndarray:
        """Predict the numbers.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_outputs), float64
            As many dimensions as the y of `fit` had.
        """
        values = self._outputs(X) * self.target_scale_ + self.target_mean_
        return values[:, 0] if self._one_dimensional else values

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination, R2, averaged over the outputs.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : array-like of shape (n_samples,), or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # on the few words of generic checks
        tags.target_tags.multi_output = True
        return tags
