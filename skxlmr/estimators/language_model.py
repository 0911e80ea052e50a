"""What the estimators share that learn from a text column alone."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import _fit_context
from torch import nn

from skxlmr.columns import TextColumn, one_text
from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.lm_head import LMHead, read_lm_head
from skxlmr.model.pretrained import warn_of_new_parts
from skxlmr.runtime.backbone import Backbone, find_checkpoint
from skxlmr.runtime.finetuned import Learned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.tasks.language_modeling import Drawing, LanguageTask, language_losses, losses_of, pack
from skxlmr.tasks.tagging.sentences import plan_pieces
from skxlmr.text.batching import deduplicate
from skxlmr.training.callbacks import Callback
from skxlmr.training.gradients import Losses
from skxlmr.training.rows import Rows
from skxlmr.training.sklearn_callbacks import with_callbacks

if TYPE_CHECKING:
    from typing_extensions import Self


class LanguageXLMRXL(TrainableXLMRXL):
    """Base of the estimators that predict words; `_language_task` says which.

    The head is the checkpoint's own, tied to the word embeddings, and learns along.
    """

    _parameter_constraints: dict = {**TrainableXLMRXL._parameter_constraints}
    del _parameter_constraints["memory"]  # masks are other ones each time, and next tokens are too many to keep
    del _parameter_constraints["vocabulary"]
    vocabulary = "full"  # words are what they answer

    def _language_task(self) -> LanguageTask:
        """What is to be predicted."""
        raise NotImplementedError

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, X_val: Any = None) -> Self:
        """Go on with the pretraining.

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
            If the checkpoint has no head for words, so that it starts from random numbers.
        """
        return self._fit(X, None, sample_weight, X_val, None)

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
        column = self._check_fitted_column(X)
        backbone, learned = self._ready()
        weights = self._check_weights(sample_weight, column)
        rows = self._rows(backbone, column, np.zeros(len(weights)), weights)
        return self._score_rows(
            learned, backbone, rows, self._language_task(), self._choose_batch_tokens(backbone), verbose=self.verbose
        )

    def _check_column(self, X: Any) -> TextColumn:
        return one_text(super()._check_column(X))

    def _plan_every_piece(self, backbone: Backbone, column: TextColumn, causal: bool = False) -> WindowPlan:
        """Windows over each distinct text; the positions are all pieces, each where most is around it, or before it."""
        first, text_of_row = deduplicate(column.texts)
        texts = backbone.tokenizer.encode_batch([column.texts[i] for i in first])
        max_length, stride = self._window(backbone)
        every = [np.arange(len(ids)) for ids in texts]
        plan = plan_pieces(backbone.tokenizer, texts, every, max_length=max_length, stride=stride, causal=causal)
        return replace(plan, text_of_row=text_of_row)

    def _ready(self) -> tuple[Backbone, Learned]:
        """The base and what was learned on it."""
        backbone = self._fitted_backbone()
        return backbone, self._learned.to(backbone.model.device)

    def _learn_task(self, y: None, column: TextColumn, weights: np.ndarray) -> LanguageTask:
        return self._language_task()

    def _targets(self, y: None, column: TextColumn, task: LanguageTask, name: str = "y") -> np.ndarray:
        return np.zeros(len(column.texts))

    def _check_held_out(
        self, X_val: Any, y_val: None, column: TextColumn, task: LanguageTask
    ) -> tuple[TextColumn, np.ndarray] | None:
        return None if X_val is None else super()._check_held_out(X_val, [], column, task)

    def _rows(self, backbone: Backbone, column: TextColumn, targets: np.ndarray, weights: np.ndarray) -> Rows:
        """Tokenise rows; those of weight zero, and those without a word, are left out."""
        rows = super()._rows(backbone, column, targets, weights)
        n_pieces = np.bincount(rows.plan.text_of_window, rows.plan.lengths - 2)  # beside <s> and </s>
        rows = rows.take(np.flatnonzero(n_pieces[rows.plan.text_of_row]))
        if not len(rows.numbers):
            raise ValueError(
                "X (or X_val) has no text with a word in it and a weight above 0: there is nothing to predict."
            )
        return rows

    def _starting_point(self, backbone: Backbone, n_outputs: None, seed: int, start: Learned | None) -> Learned:
        learned = super()._starting_point(backbone, n_outputs, seed, start)
        if start is None:
            head = self._pretrained_head(backbone)
            if head is None:
                warn_of_new_parts(backbone.name, ["lm_head"])
            else:
                learned.head.load_state_dict(head.state_dict())
        return learned

    def _pretrained_head(self, backbone: Backbone) -> LMHead | None:
        """The head that the checkpoint has, None where it has none."""
        return read_lm_head(find_checkpoint(self.model), backbone.model.config)

    def _more_identity(self, backbone: Backbone) -> list[object]:
        return [self._window(backbone)]  # windows are packed by it

    def _objective(
        self, learned: Learned, backbone: Backbone, rows: Rows, task: LanguageTask, batch_tokens: int
    ) -> tuple[Rows, Losses, list[Callback]]:
        packs, window_weights = pack(rows, self._window(backbone)[0])
        drawing = Drawing(task, packs.plan, window_weights, backbone.tokenizer)
        return packs, language_losses(learned, backbone, drawing), [drawing]

    def _score_rows(
        self,
        learned: Learned,
        backbone: Backbone,
        rows: Rows,
        task: LanguageTask,
        batch_tokens: int,
        began: int | None = None,
        verbose: int = 0,
    ) -> float:
        """Minus the mean loss; what is to be predicted is drawn the same way each time."""
        packs, window_weights = pack(rows, self._window(backbone)[0])
        examples = task.examples(packs.plan, backbone.tokenizer, np.random.RandomState(0))
        losses = losses_of(learned, backbone, examples, batch_tokens, verbose)
        return -float(np.average(losses, weights=np.repeat(window_weights, examples.counts)))

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: None) -> LMHead:
        return LMHead(config)

    @property
    def _n_outputs(self) -> None:
        return None

    def export_adapter(self, directory: str | os.PathLike) -> None:
        """Not available: peft saves whole modules, and this head's would be all word embeddings once more.

        Raises
        ------
        NotImplementedError
            Always; `export_pretrained` writes a whole model.
        """
        raise NotImplementedError("peft has no format for a head over words; use export_pretrained.")

    def _exported_config(self) -> dict[str, Any]:
        return {}

    def _exported_heads(self, head: nn.Module) -> dict[str, nn.Module]:
        return {"lm_head": head}
