"""Extractive question answering."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.columns import TextColumn, as_objects, check_sample_weight
from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import FeatureMemory, Vocabulary
from skxlmr.metrics import squad_scores
from skxlmr.runtime.plan import Windows
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.answers import check_answers
from skxlmr.tasks.questions import Answering, mean_f1
from skxlmr.tasks.spans import QuestionPlan


@declare_parameters
class XLMRXLQA(Vocabulary, FeatureMemory, XLMRXLLearner[Answering]):
    """Find the answers to questions in their contexts, by fine-tuning XLM-RoBERTa-XL.

    X has two columns, question and context: a frame's columns of these names, or the first and the second. y has one
    answer per row: a text that occurs in the context, (text, start), a dict as in SQuAD ({"text": [...],
    "answer_start": [...]}, or with "answers", "answer" or "is_impossible"), or a list of several; None, "" or an empty
    list means that there is no answer. If there are several, the first is learned, and all count in the score. Answers
    may differ from the context in white space and in the composition of characters; in scores they are compared as they
    stand there. Long contexts are read in overlapping windows; nothing is cut off.

    Parameters
    ----------
    max_answer_length : int
        Maximum number of pieces in a predicted answer.
    null_threshold : float or None
        "" is predicted where the score of "no answer" exceeds that of the best answer by more than this, in logits.
        None is 0 if `fit` has seen questions without an answer, and otherwise an answer is always predicted. A
        checkpoint that `skxlmr.load` returns does not tell what it has seen: give 0.0 to one that was trained on such
        questions, as of SQuAD 2, which is `handle_impossible_answer=True` in transformers.
    language : str or None
        How answers are compared in scores: None follows SQuAD, a code such as "zh" the rules of MLQA for that language;
        see `skxlmr.metrics.normalize_answer`. It holds for `score`, and so for early stopping and searches.
    align_to_words : bool
        Whether predicted answers begin where a word begins and end where one ends, and not within it ("ected bureau"),
        if there is such an answer of at most `max_answer_length`. In scripts without spaces between words each
        character is a word, and in Korean an answer may end before a particle. If more than one answer in y, and
        5% of them, begin or end within a word, `fit` warns.
    errors : {"raise", "drop"}
        What `fit` does if answers do not occur in their contexts, or not at their starts: an error lists the first of
        these rows, or they are left out with such a warning. `score` and `metrics` take all answers.

    Attributes
    ----------
    has_unanswerable_ : bool
        Whether `fit` has seen questions without an answer; if not, and without a `null_threshold`, an answer is always
        predicted, unless the context has no characters to predict.
    $history

    See Also
    --------
    skxlmr.datasets.read_squad : Questions from a file.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLQA
    >>> questions, contexts = ["Who wrote it?", "Where is it?"], ["Ada wrote it.", "It is in Rome."]
    >>> X = pd.DataFrame({"question": questions, "context": contexts})
    >>> qa = XLMRXLQA("nano", learning_rate=5e-3, random_state=0).fit(pd.concat([X] * 8), ["Ada", "Rome"] * 8)
    >>> qa.predict(X).shape
    (2,)
    """

    max_answer_length: int = parameter(default=30, valid=[Interval(Integral, 1, None, closed="left")], order=20)
    null_threshold: float | None = parameter(
        default=None, valid=[Interval(Real, None, None, closed="neither"), None], order=20
    )
    language: str | None = parameter(default=None, valid=[str, None], order=20)
    align_to_words: bool = parameter(default=True, valid=["boolean"], order=20)
    errors: str = parameter(default="raise", valid=[StrOptions({"raise", "drop"})], order=20)

    def _new_task(self) -> Answering:
        windows = Windows(self.max_length, self.stride)
        return Answering(
            windows,
            self.max_answer_length,
            self.null_threshold,
            language=self.language,
            align_to_words=self.align_to_words,
            errors=self.errors,
        )

    def predict(self, X: Any) -> np.ndarray:
        """Return the best answer to each question.

        Parameters
        ----------
        X : two columns, question and context

        Returns
        -------
        ndarray of shape (n_samples,) of str
            Parts of the contexts; "" for no answer.
        """
        return self._outputs(X)

    def predict_answers(self, X: Any, top_k: int = 3, null_threshold: float | None = None) -> pd.DataFrame:
        """Return the best answers to each question.

        Parameters
        ----------
        X : two columns, question and context
        top_k : int, default=3
            Maximum number of answers per question.
        null_threshold : float, default=None
            Overrides the parameter of this name.

        Returns
        -------
        DataFrame
            One row per answer, the best first: row (its position in X), answer, start, end, score, no_answer_score,
            is_answered. `context[start:end]` is the answer. Scores are probabilities among the answers listed and "no
            answer"; is_answered says whether `predict` would return the best of them, and not "".

        Raises
        ------
        ValueError
            If `top_k` is not an integer of at least 1, or `null_threshold` is not a number.
        """
        if not isinstance(top_k, Integral) or top_k < 1:
            raise ValueError(f"top_k must be an integer of at least 1, got {top_k!r}.")
        task = self._task()
        if null_threshold is not None:
            if not isinstance(null_threshold, Real):
                raise ValueError(f"null_threshold must be a number, got {null_threshold!r}.")
            task = replace(task, null_threshold=null_threshold)

        def best(outputs: np.ndarray, plan: QuestionPlan) -> np.ndarray:
            rows = zip(*task.best_spans(outputs, plan, top_k), plan.text_of_row, strict=True)
            return as_objects([(spans, null, plan.contexts[text]) for spans, null, text in rows])

        found = []
        for row, (spans, null, context) in enumerate(self._run(self._check_fitted_column(X), best)):
            *scores, none = softmax([*(score for score, _, _ in spans), null])
            answered = task.is_answered(spans, null)
            for score, (_, start, end) in zip(scores, spans, strict=True):
                found.append((row, context[start:end], start, end, score, none, answered))
        columns = ["row", "answer", "start", "end", "score", "no_answer_score", "is_answered"]
        dtypes = {"row": int, "start": int, "end": int, "score": float, "no_answer_score": float, "is_answered": bool}
        return pd.DataFrame(found, columns=columns).astype(dtypes)  # also if it is empty

    @requires_y
    def metrics(self, X: Any, y: Any, language: str | None = None) -> dict[str, float]:
        """Return F1 and exact match as the scorer of SQuAD, or of MLQA for a language, computes them.

        Parameters
        ----------
        X : two columns, question and context
        y : answers as `fit` takes them
            They need not occur in the contexts.
        language : str, default=None
            Overrides the parameter of this name.

        Returns
        -------
        dict
            f1 and exact_match, from 0 to 1; see `skxlmr.metrics.squad_scores`.
        """
        predicted, answers = self._predict_with_answers(X, y)[:2]
        return squad_scores(predicted, answers, self.language if language is None else language)

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None, language: str | None = None) -> float:
        """Return the mean F1 of answers, over words, as the scorer of SQuAD, or of MLQA for a language, computes it.

        Parameters
        ----------
        X : two columns, question and context
        y : answers as `fit` takes them
            They need not occur in the contexts.
        sample_weight : array-like of shape (n_samples,), default=None
        language : str, default=None
            Overrides the parameter of this name.

        Returns
        -------
        float
        """
        predicted, answers, column = self._predict_with_answers(X, y)
        weights = check_sample_weight(sample_weight, column.texts)
        return mean_f1(predicted, answers, weights, self.language if language is None else language)

    def _predict_with_answers(self, X: Any, y: Any) -> tuple[list[str], list[list[str]], TextColumn]:
        """Predict, and read the true answers of each row; both from one reading of X."""
        column = self._check_fitted_column(X)
        answers = [[text for text, _ in of_row] for of_row in check_answers(y, column, errors="keep")]
        return self._run(column, self._task().per_row).tolist(), answers, column
