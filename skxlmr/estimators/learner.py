"""The base class of the estimators that are trained: `fit` and its variants."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import joblib
import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.utils import Tags
from torch import nn
from typing_extensions import Self

from skxlmr.columns import TextColumn, check_sample_weight, warn_of_other_order
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.exporting import ExportMixin
from skxlmr.estimators.parameters import HISTORY, OF_ROWS, OF_TRAINING, Tuned, of_no_training, of_training
from skxlmr.estimators.validation import Scorer, ValidationData, as_metrics_take, check_scorer
from skxlmr.model.heads import Head
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import load_base, load_trimmed
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.sentence_settings import SentenceSettings, read_sentence_settings
from skxlmr.runtime.streaming import run_in_parts
from skxlmr.saving.checkpoints_with_heads import TrainedModel, empty_head
from skxlmr.saving.estimators import SavedEstimator, SavedWeights
from skxlmr.scripts import scripts_of
from skxlmr.system.parameters import declare_parameters
from skxlmr.tasks.base import Task
from skxlmr.training.fit import Fit, OneEpoch
from skxlmr.training.processes import run_on_processes
from skxlmr.training.settings import TrainingParameters
from skxlmr.training.sklearn_callbacks import OBSERVED, CallbackSupportMixin, EpochContexts, with_callbacks
from skxlmr.tuning import as_tuning


def requires_y(method: Callable) -> Callable:
    """Let a call without y name the public class and method, whichever base class defines it.

    A y, or weights, whose rows are in another order than those of X are warned of.
    """

    @functools.wraps(method)
    def checked(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        y = args[0] if args else kwargs.get("y")
        if y is None:
            name = f"{type(self).__name__}.{method.__name__}"
            raise (ValueError if args or "y" in kwargs else TypeError)(
                f"{name} requires y to be passed, but the target y is None. Call {method.__name__}(X, y)."
            )
        warn_of_other_order(X, y)
        warn_of_other_order(X, kwargs.get("sample_weight", args[1] if len(args) > 1 else None), "sample_weight")
        return method(self, X, *args, **kwargs)

    return checked


AnyTask = TypeVar("AnyTask", bound=Task)


@declare_parameters
class XLMRXLLearner(
    CallbackSupportMixin, ExportMixin, Tuned, TrainingParameters, XLMRXLEstimator, Generic[AnyTask], abstract=True
):
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
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fine-tune.

        Parameters
        ----------
        X : text column of shape (n_samples,), or several columns
            List, array, Series or DataFrame of str; what the columns are, see the class.
        y : array-like of shape (n_samples,), or (n_samples, n_outputs)
            What is to be learned; see the class.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss. Rows of weight zero are left out: their words and labels are not learned.
        X_val, y_val : text column and array-like of shape (n_validation,), default=None
            Rows to score after each epoch, in place of those that early stopping would set aside.
        sample_weight_val : array-like of shape (n_validation,), default=None
            Weights of the rows of X_val in their score and their loss.

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
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        known: AnyTask | None = None,
    ) -> Self:
        """Fit; with a `known` task, which y need not show in full, train for one epoch."""
        observers = [EpochContexts(self, X, y, sample_weight)] if OBSERVED & vars(self).keys() else []
        if observers and self.processes is not None:
            raise ValueError(
                "Callbacks of scikit-learn cannot follow a training on several processes. Remove those of "
                "set_callbacks, or use the parameter callbacks, or processes=None."
            )
        arguments = (X, y, sample_weight, X_val, y_val, sample_weight_val, known, observers)
        self._set_fitted(run_on_processes(self, "_learn", *arguments))
        for observer in observers:
            observer.end()
        return self

    def _learn(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        X_val: Any,
        y_val: Any,
        sample_weight_val: Any,
        known: AnyTask | None,
        observers: Sequence[EpochContexts],
    ) -> dict[str, Any]:
        """Do what `fit` does, and return the attributes that it sets."""
        task, scorer = self._new_task() if known is None else known, check_scorer(self)
        continues = known is not None and hasattr(self, "_finetuned")
        column = self._check_fitted_column(X) if continues else task.read(X)
        weights = check_sample_weight(sample_weight, column.texts, non_negative=True)
        if not weights.any():  # scikit-learn checks this since 1.9
            raise ValueError("There are no rows to learn from: all sample weights are zero.")
        task, targets = task.find(y, column, weights) if known is None else (task, task.targets(y, column))
        start = getattr(self, "_finetuned", None) if self.warm_start or known is not None else None
        if start is None:
            task = task.read_as(self._sentence_settings(), column)
            backbone = self._new_backbone(task, column, targets, weights)
        else:
            earlier = self._task()
            new = task.limited(earlier.windows.limit)
            task = new.continued(earlier)
            targets = targets if task is new else task.targets(y, column)
            backbone = self._fitted_backbone(trains=True)  # with the vocabulary of the earlier fit
        validation = ValidationData.check(X_val, y_val, sample_weight_val, column, task)
        rows = task.rows(backbone, column, targets, weights)
        held_out = None if validation is None else validation.rows(task, backbone)
        epoch = None
        if known is not None:
            epoch = OneEpoch(getattr(self, "_optimizer_state", None), 0 if start is None else self.n_iter_)

        def holding(module: nn.Module, column: TextColumn = column) -> dict[str, Any]:
            default = task.windows.default(backbone)
            return self._fitted_attributes(backbone, column, **task.fitted(), max_length_=default, _finetuned=module)

        for observer in observers:
            observer.fitted_attributes = holding
        score = None
        if scorer is not None:
            data, read, true = (X, y), column, targets
            if validation is not None:
                data, read, true = (X_val, y_val), validation.column, validation.targets
            score = Scorer(
                self, scorer, data[0], as_metrics_take(data[1], task, true), lambda module: holding(module, read)
            )
        fit = Fit(backbone, task, as_tuning(self.tuning), self, self.memory, self.init, score)
        outcome = fit.learn(rows, held_out, start, observers, epoch)
        history = outcome.history
        if epoch is not None and start is not None:
            history = pd.concat([self.history_, history], ignore_index=True)
        attributes = holding(outcome.finetuned) | of_training(outcome, history)
        attributes["_optimizer_state"] = None if epoch is None else outcome.optimizer_state
        attributes |= self._rows_seen(column, weights, continues=epoch is not None and start is not None)
        if epoch is not None and hasattr(self, "feature_names_in_"):  # they stay, though these rows have none
            attributes["feature_names_in_"] = self.feature_names_in_
        return attributes

    def _new_backbone(self, task: AnyTask, column: TextColumn, targets: np.ndarray, weights: np.ndarray) -> Backbone:
        """Load the base model of a fit; a trimmed vocabulary has the pieces of the rows that count."""
        if self.vocabulary != "trim":
            return load_base(self)
        used = np.flatnonzero(weights * task.loss_weights(targets))
        return load_trimmed(self, task.prompted(column.take(used)), task.prompts_alone)

    def _rows_seen(self, column: TextColumn, weights: np.ndarray, continues: bool) -> dict[str, Any]:
        """Return what a model card says of the training rows; `partial_fit` adds to what it said of earlier ones."""
        rows = np.flatnonzero(weights)
        strings = (column if len(rows) == len(weights) else column.take(rows)).strings
        earlier = vars(self) if continues else {}
        scripts = dict.fromkeys([*earlier.get("_scripts", []), *scripts_of(strings)])
        return {"_n_rows": earlier.get("_n_rows", 0) + len(rows), "_scripts": list(scripts)}

    def _sentence_settings(self) -> SentenceSettings:
        """How the model turns a text into a vector, where that is what the task learns from."""
        return read_sentence_settings(self.model, needs_pooling=getattr(self, "pooling", None) == "auto")

    def _check_column(self, X: Any) -> Any:
        return self._new_task().read(X)

    def _select(self, X: Any) -> Any:
        return self._new_task().select(X)

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the task's result for each row of X."""
        return self._run(self._check_fitted_column(X), self._task().per_row)

    def _run(self, column: TextColumn, per_row: Callable[[np.ndarray, Any], np.ndarray]) -> np.ndarray:
        """Run a column, a long one in parts, and let `per_row` turn the head's outputs into results of rows."""
        fitted = self._snapshot()  # of one fit, also if another thread ends one meanwhile
        backbone, finetuned, task = fitted._backbone_to_run(), fitted._finetuned, fitted._task()
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
            backbone.devices,
            description="predict",
            verbose=self.verbose,
        )

    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        """Score the results of rows, all from one reading of X."""
        column, task = self._check_fitted_column(X), self._task()
        targets = task.targets_of_score(y, column)
        weights = check_sample_weight(sample_weight, column.texts)
        return task.row_score(self._run(column, task.per_row), targets, weights)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _fitted_types(self) -> dict[str, Any]:
        return super()._fitted_types() | OF_TRAINING | OF_ROWS | self._new_task().found_types

    def _check_restored(self) -> None:
        super()._check_restored()
        self._task().check_found(getattr(self, "n_features_in_", None))

    def _fitted_names(self) -> tuple[str, ...]:
        return (*super()._fitted_names(), *self._new_task().found)

    def _restore(self, saved: SavedEstimator) -> None:
        super()._restore(saved)
        if saved.finetuned is None:
            raise ValueError("it has no trained weights")

    def _restore_pretrained(self, trained: TrainedModel) -> None:
        new: Any = self._new_task()
        if trained.vectors is None:
            task, order = new.pretrained(trained.config)
        else:
            task, order = new.of_vectors(self._sentence_settings()).of_outputs(trained.config, trained.vectors.classes)
        export = task.export
        assert export is not None, "each task of a model of transformers has an export"
        head = empty_head(task.head, trained.config)
        trained.read_head(head, export)
        if order is not None:
            assert isinstance(head, Head)
            head.start(head.last.weight[order], head.last.bias[order])
        longest, limit = trained.config.max_length, self._sentence_settings().max_length
        fitted = task.fitted() | of_no_training() | {"max_length_": min(limit or longest, longest)}
        weights = trained.weights(head)
        self._restore(SavedEstimator(type(self).__name__, {}, fitted, trained.files.fingerprint, None, weights))

    def _build(self, weights: SavedWeights) -> Finetuned:
        task = self._task()
        return weights.build(task.head, task.pooling, task.causal)
