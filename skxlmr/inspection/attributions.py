"""How much each word of a text speaks for the predicted class, or adds to the predicted number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp
from sklearn.base import is_classifier, is_regressor

from skxlmr.columns import check_one_text, feature_names, one_column
from skxlmr.inspection.arguments import check_fitted
from skxlmr.inspection.words import whole_words

LEAST = np.log(np.finfo(np.float64).tiny)  # logarithm of a probability that is predicted as 0
CHARACTERS_AT_ONCE = 20_000_000  # of the texts that are predicted in one call


@dataclass(frozen=True, eq=False)
class Explained:
    """What was explained: the texts, the target of each (a class, or the number of an output), and its prediction.

    `predictions` are the probabilities of the targets, or the predicted numbers, (n_samples,); `most_probable` are the
    classes that are the targets by default, None for a regressor.
    """

    texts: list[str]
    targets: list[Any]
    predictions: np.ndarray
    most_probable: list[Any] | None
    attributions: list[pd.DataFrame]


def token_attributions(clf: Any, X: Any, target: Any = None) -> list[pd.DataFrame]:
    """Return how much each word speaks for a class, by occlusion.

    Each word is left out in turn, and the attribution is what the prediction loses: the log-odds of the class for the
    text, minus those for the text without the word (Robnik-Šikonja and Kononenko, 2008, "Explaining classifications for
    individual instances"; Li et al., arXiv:1612.08220). A word of attribution 1 multiplies the odds by e. For a
    regressor it is the difference of the predicted numbers. If two words say the same, neither is missed much.

    Punctuation marks, and the characters of scripts without spaces between words, are words of their own. A text of n
    words costs n + 1 predictions, which are made together, in batches of any size; there is nothing random in it.

    Parameters
    ----------
    clf : fitted classifier or regressor
        `XLMRXLClassifier`, `XLMRXLRegressor`, or any other of scikit-learn that takes texts, such as a pipeline; a
        classifier needs `predict_proba`.
    X : text column of shape (n_samples,)
    target : label, or array-like of shape (n_samples,), default=None
        The class that is explained: one for all rows, or one for each. None is the most probable class of each row. For
        a regressor with several outputs, the number of an output.

    Returns
    -------
    list of DataFrame
        For each text a row per word: word, start, end, attribution. `text[start:end]` is the word.

    Raises
    ------
    TypeError
        If `clf` is not a classifier with probabilities, or a regressor.
    NotFittedError
        If it is not fitted.
    ValueError
        If `target` is not a class, or does not have one label per row; or X has two columns of texts.

    See Also
    --------
    show_attributions : The same, as coloured texts.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.inspection import token_attributions
    >>> texts, labels = ["a lovely film", "a dull film"] * 8, ["good", "bad"] * 8
    >>> clf = XLMRXLClassifier("nano", learning_rate=5e-3, random_state=0).fit(texts, labels)
    >>> (words,) = token_attributions(clf, ["what a lovely film"], target="good")
    >>> words.word[words.attribution.idxmax()]
    'lovely'
    """
    return explain(clf, X, target).attributions


def explain(clf: Any, X: Any, target: Any = None) -> Explained:
    """Return the attributions of words, and what they are about; see `token_attributions`."""
    _check_estimator(clf)
    column = check_one_text(X, missing=getattr(clf, "missing", "error"))
    texts, names = column.texts, feature_names(X)
    words = [whole_words(text) for text in texts]

    # The first row of each text in the predictions is the text itself, and the next ones leave out a word each.
    n_variants = np.array([1 + len(of_text) for of_text in words])
    predicted = np.concatenate([_predict(clf, block, names) for block in _blocks(texts, words)])
    predicted = predicted if is_regressor(clf) else log_odds(predicted)
    first = np.cumsum(n_variants) - n_variants
    targets, outputs = _find_targets(clf, target, predicted[first])
    chosen = np.take_along_axis(predicted, np.repeat(outputs, n_variants)[:, None], axis=1)[:, 0]

    attributions = []
    for text, of_text, row in zip(texts, words, first.tolist(), strict=True):
        start, end = of_text.T
        lost = chosen[row] - chosen[row + 1 : row + 1 + len(of_text)]
        written = [text[a:b] for a, b in of_text.tolist()]
        frame = {"word": pd.Series(written, dtype=object), "start": start, "end": end, "attribution": lost}
        attributions.append(pd.DataFrame(frame))
    most_probable = None
    if is_classifier(clf):
        most_probable = [clf.classes_[i] for i in predicted[first].argmax(axis=1)]
    predictions = chosen[first] if is_regressor(clf) else expit(chosen[first])
    return Explained(texts, targets, predictions, most_probable, attributions)


def _check_estimator(clf: Any) -> None:
    check_fitted(clf, "fit", "clf")
    if not is_classifier(clf) and not is_regressor(clf):
        raise TypeError(
            f"clf is a {type(clf).__name__}, which is neither a classifier nor a regressor. For spans there is "
            f"show_entities, for answers show_answers, for vectors show_neighbors."
        )
    if is_classifier(clf) and not hasattr(clf, "predict_proba"):
        raise TypeError(
            f"clf, a {type(clf).__name__}, has no predict_proba, from which attributions are computed. Wrap it in "
            f"sklearn.calibration.CalibratedClassifierCV."
        )


def _blocks(texts: list[str], words: list[np.ndarray]) -> Iterator[list[str]]:
    block: list[str] = []  # texts, each followed by what is left of it without each of its words
    size = 0
    for text, of_text in zip(texts, words, strict=True):
        for start, end in [(0, 0), *of_text.tolist()]:
            if block and size + len(text) > CHARACTERS_AT_ONCE:
                yield block
                block, size = [], 0
            block.append(text[:start] + text[end:])
            size += len(text)
    yield block


def _predict(clf: Any, texts: list[str], names: np.ndarray | None) -> np.ndarray:
    """Return the logarithms of probabilities, or the predicted numbers, (n_texts, n_classes or n_outputs) float64."""
    X = texts if names is None else pd.DataFrame({names[0]: texts})
    if is_regressor(clf):
        return np.asarray(clf.predict(X), np.float64).reshape(len(texts), -1)
    with np.errstate(divide="ignore"):  # some estimators predict 0
        if hasattr(clf, "predict_log_proba"):
            return np.asarray(clf.predict_log_proba(X), np.float64)
        return np.log(np.asarray(clf.predict_proba(X), np.float64))


def log_odds(log_proba: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) from log(p), (n_rows, n_classes); finite also for p of 0 and 1.

    If the probabilities of a row sum to 1, 1 - p is the sum of the others, which is precise where p is almost 1. They
    do not where there are several labels per row.

    Examples
    --------
    >>> log_odds(np.log([[0.2, 0.8]])).round(3)
    array([[-1.386,  1.386]])
    """
    log_proba = np.maximum(log_proba, LEAST)
    if np.allclose(logsumexp(log_proba, axis=1), 0, atol=1e-3):
        columns = range(log_proba.shape[1])
        others = np.stack([logsumexp(np.delete(log_proba, i, axis=1), axis=1) for i in columns], axis=1)
    else:
        others = np.log(np.maximum(-np.expm1(log_proba), np.exp(LEAST)))
    return log_proba - others


def _find_targets(clf: Any, target: Any, predicted: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Return the target of each row, and the column of `predicted` that it is."""
    n_rows, n_outputs = predicted.shape
    if is_regressor(clf):
        if target is None and n_outputs > 1:
            raise ValueError(f"The regressor predicts {n_outputs} numbers: choose one by target=0 to {n_outputs - 1}.")
        known, default = list(range(n_outputs)), np.zeros(n_rows, np.intp)
    else:
        known, default = np.asarray(clf.classes_).tolist(), predicted.argmax(axis=1)
    if target is None:
        return [known[i] for i in default], default
    wanted = [target] * n_rows if np.ndim(target) == 0 else one_column(target, "target")[0]
    if len(wanted) != n_rows:
        raise ValueError(f"target has {len(wanted)} labels, but X has {n_rows} rows. Give one label, or one per row.")
    columns = {label: i for i, label in enumerate(known)}
    for row, label in enumerate(wanted):
        if label not in columns:
            what = "the number of an output" if is_regressor(clf) else "a class"
            raise ValueError(f"target, row {row}: {label!r} is not {what}. Known are {known[:10]}.")
    found = np.array([columns[label] for label in wanted], np.intp)
    return [known[i] for i in found], found
