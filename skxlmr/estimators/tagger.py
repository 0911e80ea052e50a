"""Tagging of tokens: entities, parts of speech, anything with one tag per word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight

from skxlmr.columns import as_objects
from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import ClassWeight, FeatureMemory, Init, Vocabulary
from skxlmr.runtime.plan import Windows
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.tagging.schemes import SCHEMES, tag_score
from skxlmr.tasks.tagging.targets import check_tags
from skxlmr.tasks.tagging.task import Tagging


@declare_parameters
class XLMRXLTagger(Vocabulary, FeatureMemory, ClassWeight, Init, XLMRXLLearner[Tagging]):
    """Tag the tokens of sentences, by fine-tuning XLM-RoBERTa-XL.

    X is a column of token lists, or of strings; strings are split at white space, and each punctuation mark and each
    Chinese or Japanese character is its own token (`skxlmr.text.words.split_words`). y has one list per row: of tags,
    in BIO, BIOES, IO or without a scheme, or of spans (start, end, label), in characters if X is strings, in tokens if
    it is token lists. A token is tagged at its first piece; a bare space, as before most Chinese words, does not count
    as one. Long sentences are read in overlapping windows; nothing is cut off.

    Parameters
    ----------
    scheme : {"auto", "BIO", "BIOES", "IO", "plain"}
        What the tags mean; "auto" infers it from y. In BIO and BIOES only sequences are predicted that the scheme
        allows; "IO" is for IOB1, too.

    Attributes
    ----------
    classes_ : ndarray of shape (n_tags,)
        The tags, sorted.
    scheme_ : {"BIO", "BIOES", "IO", "plain"}
    $history

    See Also
    --------
    skxlmr.datasets.read_conll : Tagged sentences from a file.
    skxlmr.datasets.read_conllu : Treebanks of Universal Dependencies.

    Examples
    --------
    >>> from skxlmr import XLMRXLTagger
    >>> sentences = [["Ada", "lives", "in", "Rome"], ["Rome", "is", "old"], ["I", "saw", "Ada"]] * 4
    >>> tags = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"], ["O", "O", "B-PER"]] * 4
    >>> tagger = XLMRXLTagger("nano", learning_rate=5e-3, random_state=0).fit(sentences, tags)
    >>> tagger.predict([["Ada", "is", "old"]]).tolist()
    [['B-PER', 'O', 'O']]
    """

    scheme: str = parameter(default="auto", valid=[StrOptions({"auto", *SCHEMES})], order=20)

    def _new_task(self) -> Tagging:
        return Tagging(Windows(self.max_length, self.stride), self.scheme, self.class_weight)

    def predict(self, X: Any) -> np.ndarray:
        """Return one tag per token.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of lists of str
            One tag per token of the row.
        """
        tags = self._run(self._check_fitted_column(X), self._task().tags)
        return as_objects([row.copy() for row in tags])  # equal rows of a long column share one

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each tag for every token.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of ndarray of shape (n_tokens, n_tags)
            In the order of `classes_`. Each token by itself, without the constraints of the scheme.
        """
        logits = self._outputs(X)
        for i, of_row in enumerate(logits):
            logits[i] = softmax(of_row, axis=1)
        return logits

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of what `predict_proba` returns.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of ndarray of shape (n_tokens, n_tags)
        """
        logits = self._outputs(X)
        for i, of_row in enumerate(logits):
            logits[i] = log_softmax(of_row, axis=1)
        return logits

    def predict_spans(self, X: Any) -> pd.DataFrame:
        """Return the spans that the predicted tags mark.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        DataFrame
            One row per span: row (its position in X), label, start, end, text, score. `text` is `X[row][start:end]`:
            if X is strings, start and end count characters; if it is token lists, they count tokens, and text is a
            list. The score is the mean probability of the span's tags. Tags without
            a scheme are spans of one token each.
        """
        column, found = self._check_fitted_column(X), []
        for row, spans in enumerate(self._run(column, self._task().spans)):
            source = list(column.texts[row]) if column.sources is None else column.sources[row]
            for start, end, label, score in spans:
                a, b = start, end
                if column.offsets is not None:
                    a, b = column.offsets[row][[start, end - 1], [0, 1]].tolist()
                found.append((row, label, a, b, source[a:b], score))
        table = pd.DataFrame(found, columns=["row", "label", "start", "end", "text", "score"])
        return table.astype({"row": int, "start": int, "end": int, "score": float})  # also if it is empty

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None, *, strict: bool = False) -> float:
        """Return the F1 of entities, which must match in label and both ends; for tags without a scheme the accuracy.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)
        y : tags or spans as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows' entities, or of their tokens.
        strict : bool, default=False
            Count only well-formed entities of the scheme; otherwise they are read as CoNLL's scorer does.

        Returns
        -------
        float
        """
        column = self._check_fitted_column(X)
        true = check_tags(y, column)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64)
        return tag_score(true, self._run(column, self._task().tags), self.scheme_, weights, strict)
