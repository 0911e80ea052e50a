"""The base class of the estimators that are trained: `fit`, its variants, and exports."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import joblib
import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from typing_extensions import Self

from skxlmr.columns import TextColumn, check_features
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.parameters import HISTORY, Tuned
from skxlmr.runtime.backbone import find_checkpoint
from skxlmr.runtime.base_choice import load_base, load_trimmed
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.sentence_settings import SentenceSettings, read_sentence_settings
from skxlmr.runtime.streaming import run_in_parts
from skxlmr.saving.estimators import SavedEstimator, SavedWeights
from skxlmr.saving.peft import export_adapter
from skxlmr.saving.transformers import ExportedModel, export_pretrained
from skxlmr.system.parameters import declare_parameters
from skxlmr.tasks.base import Task
from skxlmr.training.fit import Fit, OneEpoch
from skxlmr.training.settings import TrainingParameters
from skxlmr.training.sklearn_callbacks import OBSERVED, CallbackSupportMixin, EpochContexts, with_callbacks
from skxlmr.tuning import as_tuning


def requires_y(method: Callable) -> Callable:
    """Let a call without y name the public class and method, whichever base class defines it."""

    @functools.wraps(method)
    def checked(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if (args[0] if args else kwargs.get("y")) is None:
            name = f"{type(self).__name__}.{method.__name__}"
            raise (ValueError if args or "y" in kwargs else TypeError)(
                f"{name} requires y to be passed, but the target y is None. Call {method.__name__}(X, y)."
            )
        return method(self, X, *args, **kwargs)

    return checked


AnyTask = TypeVar("AnyTask", bound=Task)


@declare_parameters
class XLMRXLLearner(CallbackSupportMixin, Tuned, TrainingParameters, XLMRXLEstimator, Generic[AnyTask], abstract=True):
    """Base class of the estimators that are trained.

    A subclass says by `_new_task` what it learns, and answers from the task's results; see `skxlmr.tasks.base.Task`.
    """

    vocabulary: ClassVar[str] = "full"  # parameters of some subclasses
    memory: ClassVar[str | os.PathLike | joblib.Memory | None] = None
    init: ClassVar[str] = "random"

    _documentation: ClassVar[dict[str, str]] = {"history": HISTORY}

    def _new_task(self) -> AnyTask:
        """Make the task that the parameters describe."""
        raise NotImplementedError

    def _task(self) -> AnyTask:
        """Return the task with what the fit found."""
        return self._new_task().restore(self.__dict__)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    @requires_y
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

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        known: AnyTask | None = None,
    ) -> Self:
        """Fit; with a `known` task, which y need not show in full, train for one epoch."""
        observers = [EpochContexts(self, X, y, sample_weight)] if OBSERVED & vars(self).keys() else []
        task = self._new_task() if known is None else known
        column = task.read(X)
        if known is not None and hasattr(self, "_finetuned"):
            check_features(self, column)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64, ensure_non_negative=True)
        task, targets = task.find(y, column, weights) if known is None else (task, task.targets(y, column))
        task = task.read_as(self._sentence_settings(), column)
        start = getattr(self, "_finetuned", None) if self.warm_start or known is not None else None
        if start is not None:
            new, task = task, task.continued(self._task())
            targets = targets if task is new else task.targets(y, column)
            backbone = self._fitted_backbone()  # with the vocabulary of the earlier fit
        elif self.vocabulary == "trim":
            backbone = load_trimmed(self, task.prompted(column))
        else:
            backbone = load_base(self)
        validation = None if X_val is None and y_val is None else self._check_validation(X_val, y_val, column, task)
        rows = task.rows(backbone, column, targets, weights)
        held_out = None if validation is None else task.rows(backbone, *validation)
        epoch = None
        if known is not None:
            epoch = OneEpoch(getattr(self, "_optimizer_state", None), 0 if start is None else self.n_iter_)
        for observer in observers:
            observer.fitted_attributes = lambda finetuned: self._fitted_attributes(
                backbone, column, **task.fitted(), _finetuned=finetuned
            )
        fit = Fit(backbone, task, as_tuning(self.tuning), self, self.memory, self.init)
        outcome = fit.learn(rows, held_out, start, observers, epoch)
        history, scores, state = outcome.history, outcome.validation_scores, outcome.optimizer_state
        if epoch is not None and start is not None:
            history = pd.concat([self.history_, history], ignore_index=True)
        attributes = self._fitted_attributes(
            backbone,
            column,
            **task.fitted(),
            history_=history,
            loss_curve_=history["loss"][history["epoch"] > 0].tolist(),
            validation_scores_=scores,
            best_validation_score_=None if scores is None else float(history["validation_score"].max()),
            n_iter_=int(history["epoch"].max()),
            _finetuned=outcome.finetuned,
            _optimizer_state=None if epoch is None else state,
        )
        if epoch is not None and hasattr(self, "feature_names_in_"):  # they stay, though these rows have none
            attributes["feature_names_in_"] = self.feature_names_in_
        self._set_fitted(attributes)
        for observer in observers:
            observer.end()
        return self

    def _sentence_settings(self) -> SentenceSettings:
        """How the model turns a text into a vector, where that is what the task learns from."""
        return read_sentence_settings(self.model, needs_pooling=getattr(self, "pooling", None) == "auto")

    def _check_column(self, X: Any) -> Any:
        return self._new_task().read(X)

    def _check_validation(
        self, X_val: Any, y_val: Any, column: TextColumn, task: Task
    ) -> tuple[TextColumn, np.ndarray]:
        """Check validation rows; returns their column and their targets."""
        if X_val is None or (y_val is None and task.needs_y):
            raise ValueError("X_val and y_val go together: one of them is missing.")
        held_out = task.read(X_val)
        if held_out.n_features != column.n_features:
            raise ValueError(f"X_val has {held_out.n_features} columns, but X has {column.n_features}.")
        names = [None if c.feature_names is None else list(c.feature_names) for c in (held_out, column)]
        if None not in names and names[0] != names[1]:
            raise ValueError(f"X_val has the columns {names[0]}, but X has {names[1]}, in this order.")
        return held_out, task.targets(y_val, held_out, "y_val")

    def export_pretrained(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write what was fitted as a whole model that transformers loads as its `...For...` class, without skxlmr.

        The adapter is merged into the checkpoint's own weights, in float32. The logits are those of this estimator
        if it runs in float32, too; if it runs in 8 or 4 bits, or in half precision, they differ by the rounding of
        that. Of texts longer than the model reads at once transformers takes the beginning.

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
        NotImplementedError
            If transformers has no class for what it learned.
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
        export_pretrained(self._exported(), directory, dtype)

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
        NotImplementedError
            If peft has no format for the head, or transformers no class for what it learned.
        ValueError
            If it was not fitted with LoRA, `model` is another checkpoint now, or `directory` is where it lies.
        """
        export_adapter(self._exported(), directory)

    def _exported(self) -> ExportedModel:
        check_is_fitted(self, "_finetuned")
        export = self._task().export
        if export is None:
            raise NotImplementedError(f"transformers has no class for what {type(self).__name__} learns; use save.")
        files = find_checkpoint(self.model)
        self._base.check(files.fingerprint, self)
        return ExportedModel(self._finetuned, export, files, self._base.pieces, str(self.model))

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the task's result for each row of X."""
        return self._run(self._check_fitted_column(X), self._task().per_row)

    def _run(self, column: TextColumn, per_row: Callable[[np.ndarray, Any], np.ndarray]) -> np.ndarray:
        """Run a column, a long one in parts, and let `per_row` turn the head's outputs into results of rows."""
        backbone, finetuned, task = self._fitted_backbone(), self._finetuned, self._task()  # one fit, in threads too
        batch_tokens = backbone.batch_tokens(self.batch_tokens)

        def compute(plan: WindowPlan, description: str) -> np.ndarray:
            outputs = finetuned.run(
                backbone, plan, batch_tokens, memory=self.memory, verbose=self.verbose, description=description
            )
            return per_row(outputs, plan)

        return run_in_parts(
            column,
            lambda rows: task.plan(backbone, rows),
            compute,
            batch_tokens,
            description="predict",
            verbose=self.verbose,
        )

    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        """Score the results of rows, all from one reading of X."""
        column, task = self._check_fitted_column(X), self._task()
        targets = task.targets(y, column)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64)
        return task.row_score(self._run(column, task.per_row), targets, weights)

    def _fitted_names(self) -> tuple[str, ...]:
        return (*super()._fitted_names(), *self._new_task().found)

    def _restore(self, saved: SavedEstimator) -> None:
        super()._restore(saved)
        if not isinstance(saved.finetuned, SavedWeights):
            raise ValueError("it has no trained weights")
        task = self._task()
        self._finetuned = saved.finetuned.build(task.head, task.pooling, task.causal)
