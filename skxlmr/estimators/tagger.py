"""Tagging of tokens: entities, parts of speech, anything with one tag per word."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.utils._param_validation import StrOptions

from skxlmr.columns import as_objects, check_sample_weight
from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import ClassWeight, FeatureMemory, Init, Vocabulary
from skxlmr.runtime.plan import Windows
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tags.scores import entity_report
from skxlmr.tasks.tagging.schemes import scheme_of_score, tag_score
from skxlmr.tasks.tagging.sentences import TokenColumn
from skxlmr.tasks.tagging.spans import ALIGNMENTS
from skxlmr.tasks.tagging.targets import SCHEME_NAMES
from skxlmr.tasks.tagging.task import Tagging
from skxlmr.tasks.tagging.tokenizers import Tokenizer, tokenizer_name


@declare_parameters
class XLMRXLTagger(Vocabulary, FeatureMemory, ClassWeight, Init, XLMRXLLearner[Tagging]):
    """Tag the tokens of sentences, by fine-tuning XLM-RoBERTa-XL.

    X is a column of token lists, or of strings, which are split into tokens; `tokenize` shows them. y has one list per
    row: of tags, or of spans, in characters if X is strings, in tokens if it is token lists. A span is (start, end,
    label), or a dict with these keys, with start_offset, end_offset and label (doccano), or with start, end and labels
    (Label Studio); if it has a text, that must be what stands there. Spans that overlap are an error. Long sentences
    are read in overlapping windows; nothing is cut off.

    Parameters
    ----------
    scheme : {"auto", "BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"}
        What the tags mean; IOB2, IOBES and BILUO are other names of BIO, BIOES and BILOU. Only sequences are predicted
        that the scheme allows. "auto" infers it from y; if most tags have a scheme, others are an error. "IO" joins
        entities of one type that touch, and is also for types without a prefix (PERSON PERSON O), if it is set; "plain"
        is for tags that mark no entities, such as parts of speech. Spans become tags of the scheme, with "auto" of BIO.
    align : {"strict", "expand", "contract"}
        What becomes of a span of characters that begins or ends within a token: an error, a span of all tokens that it
        touches, or one of the tokens that it contains (if there are none, it is left out, with a warning).
    tokenizer : callable or None
        Splits a string: returns a list of (start, end), or of str, which are looked up in it in their order. It must be
        importable to be pickled, and is not saved by `save`: set it again after `load`. None splits at white space and
        zero-width spaces; each punctuation mark, and each character of Chinese, Japanese, Thai, Lao, Khmer and Burmese
        with its marks, is a token of its own (`skxlmr.text.words.split_words`).
    aggregation : {"first", "mean", "max"}
        What of a token is read, in training and prediction: the mean or the maximum of the vectors of its pieces, or
        its first piece, as the reference's example run_ner.py trains, which was less accurate with few sentences. A
        bare space, as before most Chinese words, does not count as a piece. An exported model returns logits of pieces:
        those of a token are with "mean" their mean, but with "max" they cannot be computed from them.

    Attributes
    ----------
    classes_ : ndarray of shape (n_tags,)
        The tags, sorted.
    scheme_ : {"BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"}
    tokenizer_name_ : str or None
        Name of the tokenizer of the fit; None if there was none, since X had token lists.
    $history

    See Also
    --------
    skxlmr.tags.convert_tags : Tags of another scheme.
    skxlmr.metrics.entity_report : Scores of tags or spans.
    skxlmr.datasets.read_conll : Tagged sentences from a file.
    skxlmr.datasets.read_doccano : Spans that were annotated with doccano.
    skxlmr.datasets.read_label_studio : Spans that were annotated with Label Studio.
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

    scheme: str = parameter(default="auto", valid=[StrOptions(SCHEME_NAMES)], order=20)
    align: str = parameter(default="strict", valid=[StrOptions(set(ALIGNMENTS))], order=20)
    tokenizer: Tokenizer | None = parameter(default=None, valid=[callable, None], order=20)
    aggregation: str = parameter(default="mean", valid=[StrOptions({"first", "mean", "max"})], order=20)

    _pretrained_parameters: ClassVar[dict[str, Any]] = {"aggregation": "first"}

    def _new_task(self) -> Tagging:
        return Tagging(
            Windows(self.max_length, self.stride),
            self.scheme,
            self.class_weight,
            align=self.align,
            aggregation=self.aggregation,
            tokenizer=self.tokenizer,
        )

    def _check_fitted_column(self, X: Any) -> TokenColumn:
        column = super()._check_fitted_column(X)
        now, then = tokenizer_name(self.tokenizer), self.tokenizer_name_
        if column.sources is not None and then not in (None, now):
            raise ValueError(
                f"X has strings, which {now} would split, but the estimator was fitted with the tokenizer {then}. Set "
                f"the same by set_params(tokenizer=...), which `save` does not write; or pass token lists."
            )
        return column

    def tokenize(self, X: Any, *, return_offsets: bool = False) -> np.ndarray:
        """Return the tokens that tags belong to; also before `fit`.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)
        return_offsets : bool, default=False
            Return instead where the tokens are in their strings.

        Returns
        -------
        ndarray of shape (n_samples,) of lists of str, or of ndarray of shape (n_tokens, 2)
            The tokens of each row; or the character where each token begins, and the one after it.

        Raises
        ------
        ValueError
            If offsets are asked for, but X has token lists.

        Examples
        --------
        >>> XLMRXLTagger("nano").tokenize(["Ada's 你好!"])[0]
        ['Ada', "'", 's', '你', '好', '!']
        """
        column = self._new_task().read(X)
        if not return_offsets:
            return as_objects([list(tokens) for tokens in column.texts])
        if column.offsets is None:
            raise ValueError("return_offsets=True needs a column of strings, but X has token lists.")
        return as_objects(column.offsets)

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
            list. The score is the mean probability of the span's tags. In the scheme "plain" each token with another
            tag than O is a span.
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
        true = self._task().check_tags_of_score(y, column)
        weights = check_sample_weight(sample_weight, column.texts)
        return tag_score(true, self._run(column, self._task().tags), self.scheme_, weights, strict)

    @requires_y
    def entity_report(self, X: Any, y: Any, sample_weight: Any = None, *, strict: bool = False) -> pd.DataFrame:
        """Return precision, recall, F1 and support of each type of entity, and their averages.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)
        y : tags or spans as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows' entities.
        strict : bool, default=False
            As in `score`.

        Returns
        -------
        DataFrame
            See `skxlmr.metrics.entity_report`.

        Raises
        ------
        ValueError
            If the tags have no scheme.
        """
        column, task = self._check_fitted_column(X), self._task()
        if self.scheme_ == "plain":
            raise ValueError("The tags mark no entities (scheme_='plain'). Use sklearn.metrics.classification_report.")
        true = task.check_tags_of_score(y, column)
        weights = None if sample_weight is None else check_sample_weight(sample_weight, column.texts)
        scheme = scheme_of_score(self.scheme_, strict)
        return entity_report(true, self._run(column, task.tags), strict=strict, scheme=scheme, sample_weight=weights)
