"""Adapters by which scikit-learn's checks, which provide rows of numbers, run estimators of text columns.

Each row of numbers becomes a text with one word per number, and y, which holds one number per row, what the estimator
learns: tags, answers or choices. What it predicts becomes numbers again.
"""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import _get_feature_names, check_array

from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.columns import TextColumn
from skxlmr.tasks.choices import ChoiceColumn
from skxlmr.tasks.tagging.sentences import TokenColumn


class Words:
    """Mixin that reads rows of numbers as texts."""

    def _check_column(self, X):
        names = _get_feature_names(X)
        X = check_array(X, estimator=self)
        words = [["abcdefghij"[j % 10] + str(round(float(v))) for j, v in enumerate(row)] for row in X]
        return self._column_of(words, {"feature_names": names, "n_features": X.shape[1]})

    def _column_of(self, words, features):
        return TextColumn(texts=list(map(" ".join, words)), pairs=None, **features)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


class TaskOnWords(Words):
    """Mixin of the estimators with a task: the task reads as the estimator does, and converts y."""

    def _new_task(self):
        task, of_numbers = super()._new_task(), self._targets_of

        class OnWords(type(task)):
            read = staticmethod(self._check_column)

            def find(self, y, column, weights):
                return super().find(of_numbers(y, column), column, weights)

            def targets(self, y, column, name="y"):
                return super().targets(of_numbers(y, column), column, name)

        return OnWords(**vars(task))

    def _targets_of(self, y, column):
        """Turn the numbers of y into what the estimator learns."""
        return y


class WordsClassifier(TaskOnWords, XLMRXLClassifier):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # a few steps on meaningless words
        return tags


class WordsRegressor(TaskOnWords, XLMRXLRegressor):
    pass


class WordsEmbedder(Words, XLMRXLEmbedder):
    pass


class WordsMaskedLM(TaskOnWords, XLMRXLMaskedLM):
    def predict(self, X):
        """Return the number of characters of each text."""
        return np.array([len(text) for text in super().predict(X)])


class WordsGenerator(TaskOnWords, XLMRXLGenerator):
    def predict(self, X):
        """Return the number of characters of each continuation."""
        return np.array([len(text) for text in super().predict(X)])


class WordsTagger(TaskOnWords, XLMRXLTagger):
    """A tagger; the tag of a row's first word and of each other one is the number of the row."""

    def _column_of(self, words, features):
        return TokenColumn(texts=list(map(tuple, words)), pairs=None, **features)

    def _targets_of(self, y, column):
        y = column_of_numbers(y, column)
        return [[str(value + i % 2) for i in range(len(tokens))] for value, tokens in zip(y, column.texts, strict=True)]

    def predict(self, X):
        """Return the tag of the first word of each row as a number."""
        return np.array([int(tags[0]) for tags in super().predict(X)])

    def predict_proba(self, X):
        """Return the probabilities of the tags of the first word of each row."""
        return np.array([of_row[0] for of_row in super().predict_proba(X)])

    def score(self, X, y, sample_weight=None):
        return super().score(X, self._targets_of(y, self._check_column(X)), sample_weight)


class WordsQA(TaskOnWords, XLMRXLQA):
    """Questions after one of a row's words, of the number of the row."""

    def _column_of(self, words, features):
        texts = list(map(" ".join, words))
        return TextColumn(texts=texts, pairs=texts, **features)

    def _targets_of(self, y, column):
        y = column_of_numbers(y, column)
        answers = []
        for value, text in zip(y, column.texts, strict=True):
            words = text.split(" ")
            at = value % len(words)
            answers.append((words[at], len(" ".join([*words[:at], ""]))))
        return answers

    def score(self, X, y, sample_weight=None):
        return super().score(X, self._targets_of(y, self._check_column(X)), sample_weight)

    def predict(self, X):
        """Return the number of characters of each answer."""
        return np.array([len(answer) for answer in super().predict(X)])


class WordsMultipleChoice(TaskOnWords, XLMRXLMultipleChoice):
    """The choice between a row and its reverse, by the parity of the number of the row."""

    def _column_of(self, words, features):
        texts = list(map(" ".join, words))
        choices = [(text, text[::-1]) for text in texts]
        read = {"choices": choices, "labels": [None] * len(texts), "most_choices": 2, "prompts": (0,)}
        return ChoiceColumn(texts=texts, pairs=None, **read, **features)

    def _targets_of(self, y, column):
        return [value % 2 for value in column_of_numbers(y, column)]


def column_of_numbers(y, column):
    """Return the numbers of y, rounded; there must be one per row."""
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    if len(y) != len(column.texts):
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {[len(column.texts), len(y)]}")
    return [round(float(np.ravel(value)[0])) if np.ravel(value).dtype.kind in "biuf" else 0 for value in y]
