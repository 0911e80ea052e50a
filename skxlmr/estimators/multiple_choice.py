"""Multiple choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import FeatureMemory, Vocabulary
from skxlmr.runtime.plan import Windows
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.choice_columns import ChoiceColumn
from skxlmr.tasks.choices import Choosing
from skxlmr.tasks.right_choices import right_choices


@declare_parameters
class XLMRXLMultipleChoice(Vocabulary, FeatureMemory, XLMRXLLearner[Choosing]):
    """Choose the right one of several texts, by fine-tuning XLM-RoBERTa-XL.

    X has prompts and choices: a column of lists of choices, all others being the prompt; or one column per choice,
    after one of prompts (see `prompt_columns`). Rows may differ in their number of choices: lists in their length, and
    of several columns the last ones may be missing (None or NaN). Choices may have labels, as dicts of lists
    ({"text": [...], "label": ["A", ...]}).

    y has the right choice of each row, all in one form: the index from 0 (int), the text or the label of the choice, or
    the index as a text ("0" or, for the first one, "A"). Each choice is read together with its prompt, in overlapping
    windows if they are long, and the highest score wins.

    Parameters
    ----------
    prompt_columns : list of str, list of int or None
        The columns of X that are the prompt, by name or position, joined by spaces in this order; all others are
        choices. None means all columns beside one of lists. Of columns of texts it means those beside numbered ones
        (choice1, choice2, ... or A, B, ...), if there is only one or their names are such as premise, question,
        article, context or sent2; or else the first column, and such names right after it. What is not clear by this
        is an error.

    Attributes
    ----------
    target_form_ : {"index", "choice", "label", "digit", "letter"}
        What y contained, and `predict` returns.
    prompt_columns_ : list of int
        Positions of the columns of X that are the prompt.
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

    prompt_columns: list[str] | list[int] | None = parameter(default=None, valid=[list, tuple, None], order=20)

    def _new_task(self) -> Choosing:
        return Choosing(Windows(self.max_length, self.stride), self.prompt_columns)

    def _check_column(self, X: Any) -> ChoiceColumn:
        return (self._task() if hasattr(self, "prompt_columns_") else self._new_task()).read(X)

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
            In the form of y: indices of choices, their texts, labels, digits or letters.
        """
        column = self._check_fitted_column(X)
        chosen = self._run(column, self._task().per_row).argmax(axis=1)
        return right_choices(chosen, column, self.target_form_)

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the share of rows whose right choice is predicted.

        Parameters
        ----------
        X : prompts and choices
        y : the right choices as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)
