"""The base class of the language models, which are trained on a text column alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.utils import Tags
from typing_extensions import Self

from skxlmr.columns import TextColumn, check_sample_weight
from skxlmr.estimators.learner import XLMRXLLearner
from skxlmr.estimators.parameters import MissingTexts
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import PiecePlan, Truncation
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.language_modeling import LanguageModeling
from skxlmr.tasks.tagging.sentences import plan_pieces
from skxlmr.text.batching import deduplicate
from skxlmr.text.offsets import SPACE
from skxlmr.training.settings import AT_LEAST_1
from skxlmr.training.sklearn_callbacks import with_callbacks


@declare_parameters
class XLMRXLLanguageModel(MissingTexts, Truncation, XLMRXLLearner[LanguageModeling], abstract=True):
    """Base class of the estimators that predict words.

    The head is the checkpoint's own, and is trained, too. Its decoder is the word embedding, or a matrix of its own if
    the checkpoint is untied; either is trained with `tuning=Full()` only.

    Parameters
    ----------
    batch_size : int
        Packs in an optimiser step. A pack is a run of neighbouring rows that together fill `max_length` tokens, so that
        a step learns from about as many tokens whatever the lengths of the texts. No text sees the others of its pack.
    max_epochs : int
        Passes over the rows.
    """

    batch_size: int = parameter(default=8, valid=[AT_LEAST_1], order=29)
    max_epochs: int = parameter(default=10, valid=[AT_LEAST_1], order=30)

    def _new_task(self) -> LanguageModeling:
        raise NotImplementedError

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, X_val: Any = None, sample_weight_val: Any = None
    ) -> Self:
        """Continue the pretraining.

        Parameters
        ----------
        X : text column of shape (n_samples,)
            List, array, Series or DataFrame of str. Texts without a word are left out.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows' tokens in the loss. Rows of weight zero are left out.
        X_val : text column of shape (n_validation,), default=None
            Rows to score after each epoch, in place of those that early stopping would set aside.
        sample_weight_val : array-like of shape (n_validation,), default=None
            Weights of the tokens of X_val's rows in their score and their loss.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a column is not what it should be; the message names the column and the row.
        FloatingPointError
            If the loss diverges; the message names the rows. An earlier fit stays usable.

        Warns
        -----
        UserWarning
            If a KeyboardInterrupt ended training; the model so far is fitted.
        NewHeadWarning
            If the checkpoint has no head for predicting words, which then starts from random weights.
        """
        return self._fit(X, None, sample_weight, X_val, None, sample_weight_val)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the mean loss of the tokens to predict, in nats; `exp(-score)` is the perplexity.

        Parameters
        ----------
        X : text column of shape (n_samples,)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        column, task = self._check_fitted_column(X), self._task()
        backbone, finetuned = self._ready()
        weights = check_sample_weight(sample_weight, column.texts, non_negative=True)
        rows = task.rows(backbone, column, task.targets(None, column), weights)
        batch_tokens = backbone.batch_tokens(self.batch_tokens)
        return task.evaluate(finetuned, backbone, rows, batch_tokens, verbose=self.verbose)["validation_score"]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    def _plan_every_piece(self, backbone: Backbone, column: TextColumn, causal: bool = False) -> PiecePlan:
        """Plan windows over each distinct text; the positions are all pieces, each in the window with most context."""
        first, text_of_row = deduplicate(column.texts)
        texts = backbone.tokenizer.encode_batch([column.texts[i] for i in first])
        max_length, stride = self._window(backbone)
        every = [np.arange(len(ids)) for ids in texts]
        plan = plan_pieces(backbone.tokenizer, texts, every, max_length=max_length, stride=stride, causal=causal)
        return replace(plan, text_of_row=text_of_row)

    def _sum_over_pieces(self, values: np.ndarray, plan: PiecePlan) -> np.ndarray:
        """Sum the values of pieces for each row of a plan, (n_pieces,) -> (n_rows,) float64."""
        text_of_piece = np.repeat(plan.text_of_window, plan.counts)
        sums = np.bincount(text_of_piece, values, len(plan.windows_per_text))
        return sums.astype(float)[plan.text_of_row]  # without any pieces bincount returns integers

    def _table_of_pieces(self, column: TextColumn, values: np.ndarray, plan: PiecePlan) -> pd.DataFrame:
        """Return the pieces of each text of a column with their values, (n_pieces,), a row each."""
        tokenizer = self._ready()[0].tokenizer
        n_pieces = np.bincount(plan.text_of_window, plan.counts, len(plan.windows_per_text)).astype(int)
        of_texts = np.split(values, np.cumsum(n_pieces)[:-1])
        tables: dict[int, list[tuple[str, int, int, float]]] = {}  # of each distinct text
        for text, number in zip(column.texts, plan.text_of_row.tolist(), strict=True):
            if number not in tables:
                ids, offsets = tokenizer.encode_with_offsets(text)
                tokens = [piece.replace(SPACE, " ").strip() for piece in tokenizer.convert_ids_to_tokens(ids)]
                of_pieces = zip(tokens, offsets.tolist(), of_texts[number].tolist(), strict=True)
                tables[number] = [(token, start, end, value) for token, (start, end), value in of_pieces]
        found = [(row, *piece) for row, number in enumerate(plan.text_of_row.tolist()) for piece in tables[number]]
        table = pd.DataFrame(found, columns=["row", "token", "start", "end", "log_probability"])
        return table.astype({"row": int, "start": int, "end": int, "log_probability": float})  # also if it is empty

    def _window(self, backbone: Backbone) -> tuple[int, int]:
        return self._task().windows.resolve(backbone)

    def _ready(self) -> tuple[Backbone, Finetuned]:
        """Return the base model and what was trained on it, on one device."""
        backbone = self._backbone_to_run()
        return backbone, self._finetuned.to(backbone.model.device)
