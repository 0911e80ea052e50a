"""`fit`, and what goes out of a fitted estimator: what those share that learn one y for each text or pair."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.utils.validation import _check_sample_weight
from torch import nn

from skxlmr.columns import TextColumn, check_features
from skxlmr.estimators.learning import LearningXLMRXL, snapshot
from skxlmr.model import XLMRobertaXLForSequenceClassification
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Learned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.streaming import run_in_parts
from skxlmr.saving.exporting import export_adapter, export_pretrained
from skxlmr.tasks.base import Task
from skxlmr.training.rows import Outcome, Rows
from skxlmr.training.sklearn_callbacks import (
    CallbackSupportMixin,
    EpochContexts,
    callback_context,
    with_callbacks,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class TrainableXLMRXL(CallbackSupportMixin, LearningXLMRXL):
    """Base of the estimators that learn from y.

    A subclass says what it learns by `_learn_task` and `_targets`; see `skxlmr.tasks.base`.
    """

    def _learn_task(self, y: Any, column: TextColumn, weights: np.ndarray) -> Task:
        """Find out what y asks for; `weights` are those that the caller gave the rows."""
        raise NotImplementedError

    def _targets(self, y: Any, column: TextColumn, task: Task, name: str = "y") -> np.ndarray:
        """Check y and turn it into what the task's losses take."""
        raise NotImplementedError

    def _factors(self, targets: np.ndarray, task: Task) -> np.ndarray | float:
        """What the weights of the rows are multiplied by."""
        return 1.0

    def _check_enough(self, targets: np.ndarray, task: Task) -> None:
        """Refuse rows that nothing can be learned from."""

    @property
    def _n_outputs(self) -> int:
        """Outputs of the head that was learned."""
        raise NotImplementedError

    _exported_class: type[PretrainedModel] = XLMRobertaXLForSequenceClassification

    _peft_task: str | None = "SEQ_CLS"

    def _exported_config(self) -> dict[str, Any]:
        """What the config of an exported model says of the head."""
        return {"num_labels": self._n_outputs, "id2label": None}

    def _exported_heads(self, head: nn.Module) -> dict[str, nn.Module]:
        """The parts of the head, by the names that they have in the exported class."""
        return {"classifier": head}

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> Self:
        """Fine-tune.

        Parameters
        ----------
        X : text column of shape (n_samples,), or several columns
            List, array, Series or DataFrame of str; what the columns are, see the class.
        y : array-like of shape (n_samples,), or (n_samples, n_outputs)
            What is to be learned; see the class.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss. Rows of weight zero are left out.
        X_val, y_val : text column and array-like of shape (n_validation,), default=None
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
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    def _fit(self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> Self:
        context = callback_context(self, self.max_epochs)
        data = {"X": X, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
        if context is not None:
            context.call_on_fit_task_begin(estimator=self, **data)
        column = self._check_column(X)
        weights = self._check_weights(sample_weight, column)
        task = self._learn_task(y, column, weights)
        targets = self._targets(y, column, task)
        weights = weights * self._factors(targets, task)
        self._check_enough(targets[weights > 0], task)
        validation = self._check_held_out(X_val, y_val, column, task)
        start = self._go_on_from(task) if self.warm_start else None
        backbone, rows = self._base_and_rows(column, targets, weights, start)
        held_out = None if validation is None else self._rows(backbone, *validation, np.ones(len(validation[1])))

        def epoch_contexts(learned: Learned) -> EpochContexts | None:
            def attributes() -> dict[str, Any]:
                return self._fitted_attributes(backbone, column, **task.attributes, _learned=snapshot(learned))

            return None if context is None else EpochContexts(self, context, data, attributes)

        outcome = self._learn(backbone, rows, held_out, task, epoch_contexts, start)
        self._become_fitted(self._outcome_attributes(backbone, column, task, outcome, outcome.history))
        if context is not None:
            context.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
        return self

    def _fit_one_epoch(self, X: Any, y: Any, task: Task, sample_weight: Any) -> Self:
        """What `partial_fit` does once it knows the task."""
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it trains for one epoch.")
        earlier = hasattr(self, "_learned")
        column = self._check_column(X)
        targets = self._targets(y, column, task)
        if earlier:
            check_features(self, column)
        start = self._go_on_from(task)
        weights = self._check_weights(sample_weight, column) * self._factors(targets, task)
        backbone, rows = self._base_and_rows(column, targets, weights, start)
        state, epochs_before = getattr(self, "_optimizer_state", None), self.n_iter_ if earlier else 0
        outcome = self._learn_one_epoch(backbone, rows, task, start, state, epochs_before)
        history = pd.concat([self.history_, outcome.history], ignore_index=True) if earlier else outcome.history
        attributes = self._outcome_attributes(backbone, column, task, outcome, history)
        if hasattr(self, "feature_names_in_"):  # they stay, though these rows have none
            attributes["feature_names_in_"] = self.feature_names_in_
        self._become_fitted(attributes | {"_optimizer_state": outcome.optimizer_state})
        return self

    def _outcome_attributes(
        self, backbone: Backbone, column: TextColumn, task: Task, outcome: Outcome, history: pd.DataFrame
    ) -> dict[str, Any]:
        scores = outcome.validation_scores
        return self._fitted_attributes(
            backbone,
            column,
            **task.attributes,
            history_=history,
            loss_curve_=history["loss"].tolist(),
            validation_scores_=scores,
            best_validation_score_=max(scores) if scores else None,
            n_iter_=len(history),
            _learned=outcome.learned,
            _optimizer_state=None,
        )

    def _check_weights(self, sample_weight: Any, column: TextColumn) -> np.ndarray:
        return _check_sample_weight(sample_weight, column.texts, dtype=np.float64, ensure_non_negative=True)

    def _base_and_rows(
        self, column: TextColumn, targets: np.ndarray, weights: np.ndarray, start: Learned | None
    ) -> tuple[Backbone, Rows]:
        """The base to learn on, and the rows in its tokens.

        With `vocabulary="trim"` its words are those of the rows; but who goes on learning keeps those of then.
        """
        if start is not None or self.vocabulary == "full":
            backbone = self._load_with(None if start is None else self._pieces_of_fit())
            return backbone, self._rows(backbone, column, targets, weights)
        backbone = self._trim_to(self._load_backbone(whole=False), column)
        return backbone, self._rows(backbone, column, targets, weights)

    def _rows(self, backbone: Backbone, column: TextColumn, targets: np.ndarray, weights: np.ndarray) -> Rows:
        """Tokenise rows; those of weight zero are left out."""
        plan = self._plan(backbone, column)
        plan.warn_of_cut()
        rows = Rows(plan, targets, weights, np.arange(len(targets)))
        return rows.take(np.flatnonzero(weights))

    def _check_held_out(
        self, X_val: Any, y_val: Any, column: TextColumn, task: Task
    ) -> tuple[TextColumn, np.ndarray] | None:
        """Check validation rows; returns the column and the targets, or None."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val go together: one of them is missing.")
        if X_val is None:
            return None
        held_out = self._check_column(X_val)
        if held_out.n_features != column.n_features:
            raise ValueError(f"X_val has {held_out.n_features} columns, but X has {column.n_features}.")
        names = [None if c.feature_names is None else list(c.feature_names) for c in (held_out, column)]
        if None not in names and names[0] != names[1]:
            raise ValueError(f"X_val has the columns {names[0]}, but X has {names[1]}, in this order.")
        return held_out, self._targets(y_val, held_out, task, "y_val")

    def _go_on_from(self, task: Task) -> Learned | None:
        """What an earlier fit learned, None where there was none."""
        if not hasattr(self, "_learned"):
            return None
        self._check_same_task(task)
        self._fitted_backbone()  # the same base as then
        return self._learned

    def _check_same_task(self, task: Task) -> None:
        """Refuse to go on from what another kind of y has left."""
        if task.n_outputs != self._n_outputs:
            raise ValueError(
                f"y asks for {task.n_outputs} outputs, but this {type(self).__name__} has learned {self._n_outputs}."
            )

    def export_pretrained(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write what was fitted as a whole model that transformers loads as its `...For...` class, without skxlmr.

        The adapter is merged into the checkpoint's own weights, in float32. The logits are those of this estimator
        where it runs in float32, too; where it runs in 8 or 4 bits, or in half precision, they differ by what that
        rounds. Of texts longer than the model reads at once transformers takes the beginning.

        Parameters
        ----------
        directory : str or path
            A model that is there already is replaced when the new one is complete.
        dtype : {"float32", "bfloat16", "float16"}, default="float32"
            Of the weights that are written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `model` is another checkpoint now than it was fitted on, or one whose weights are in 8 bits; or if
            `directory` is where it lies.

        Examples
        --------
        >>> import tempfile
        >>> from skxlmr import XLMRXLClassifier
        >>> clf = XLMRXLClassifier("nano", max_epochs=1, random_state=0).fit(["good", "bad"], ["yes", "no"])
        >>> directory = tempfile.mkdtemp()
        >>> clf.export_pretrained(directory)
        >>> from skxlmr.model import XLMRobertaXLForSequenceClassification
        >>> XLMRobertaXLForSequenceClassification.from_pretrained(directory).config.id2label
        {0: 'no', 1: 'yes'}
        """
        export_pretrained(self, directory, dtype)

    def export_adapter(self, directory: str | os.PathLike) -> None:
        """Write a LoRA and its head in peft's format: adapter_config.json and adapter_model.safetensors.

        `peft.PeftModel.from_pretrained(model, directory)` puts it on transformers' model of the same checkpoint.

        Parameters
        ----------
        directory : str or path

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it was not fitted with LoRA, `model` is another checkpoint now, or `directory` is where it lies.
        """
        export_adapter(self, directory)

    def _outputs(self, X: Any) -> np.ndarray:
        """The head's output for each row, (n_samples, n_outputs)."""
        return self._run(X, self._of_rows)

    def _run(self, X: Any, of_rows: Callable[[np.ndarray, WindowPlan], np.ndarray]) -> np.ndarray:
        """Run rows, of a long column some after the others, and make of the head's outputs what each row gets."""
        column = self._check_fitted_column(X)
        backbone, learned = self._fitted_backbone(), self._learned  # another thread may fit meanwhile
        batch_tokens = self._choose_batch_tokens(backbone)
        settings = {"memory": self.memory, "verbose": self.verbose}

        def compute(plan: WindowPlan, description: str) -> np.ndarray:
            return of_rows(learned.run(backbone, plan, batch_tokens, description=description, **settings), plan)

        return run_in_parts(
            column,
            lambda rows: self._plan(backbone, rows),
            compute,
            batch_tokens,
            description="predict",
            verbose=self.verbose,
        )
