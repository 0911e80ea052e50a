"""Multiple choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from skxlmr.columns import as_objects
from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import FeatureMemory, Vocabulary
from skxlmr.runtime.plan import Windows
from skxlmr.system.parameters import declare_parameters
from skxlmr.tasks.choices import Choosing


@declare_parameters
class XLMRXLMultipleChoice(Vocabulary, FeatureMemory, XLMRXLLearner[Choosing]):
    """Choose the right one of several texts, by fine-tuning XLM-RoBERTa-XL.

    The first column of X has the prompts; after it comes one column of lists of choices, or one column per choice. Rows
    may differ in their number of choices: lists in their length, and of several columns the last ones may be missing
    (None or NaN). y has the index of the right choice of each row, from 0, or its text. Each choice is read together
    with its prompt, in overlapping windows if they are long, and the highest score wins.

    Parameters
    ----------
    $parameters

    Attributes
    ----------
    target_form_ : {"index", "choice"}
        What y contained, and `predict` returns.
    $history

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLMultipleChoice
    >>> X = pd.DataFrame({"prompt": ["It rained.", "The sun shone."], "choices": [["wet", "dry"], ["wet", "dry"]]})
    >>> chooser = XLMRXLMultipleChoice("nano", max_epochs=2, random_state=0).fit(X, ["wet", "dry"])
    >>> chooser.predict_proba(X).shape
    (2, 2)
    """

    def _new_task(self) -> Choosing:
        return Choosing(Windows(self.max_length, self.stride))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the score of each choice.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples, most choices), float32
            -inf where a row has fewer choices than other rows.
        """
        return self._outputs(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each choice to be the right one.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples, most choices), float32
            0 where a row has fewer choices than other rows.
        """
        return softmax(self.decision_function(X), axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of what `predict_proba` returns.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples, most choices), float32
            -inf where a row has fewer choices than other rows.
        """
        return log_softmax(self.decision_function(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the choice with the highest score.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples,)
            Indices of choices, or their texts if y contained texts.
        """
        column = self._check_fitted_column(X)
        chosen = self._run(column, self._task().per_row).argmax(axis=1)
        if self.target_form_ == "index":
            return chosen
        return as_objects([choices[i] for choices, i in zip(column.choices, chosen, strict=True)])

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the share of rows whose right choice is predicted.

        Parameters
        ----------
        X : prompts and choices
        y : indices or texts of the right choices
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)
