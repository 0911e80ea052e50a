"""Text classification."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from skxlmr.backbone import Backbone
from skxlmr.inference import pool_windows
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.heads import ClassificationHead, XLMRobertaXLForSequenceClassification
from skxlmr.trainable import TrainableXLMRXL, snapshot
from skxlmr.training.adapters import Tuning
from skxlmr.training.callbacks import Callback
from skxlmr.training.learned import Learned
from skxlmr.training.rows import Outcome, Rows
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.training.sklearn_callbacks import EpochContexts, callback_context, with_callbacks
from skxlmr.validation import TextColumn, check_features, check_labels, check_several_classes
from skxlmr.weights.quantization import Int8


class XLMRXLClassifier(ClassifierMixin, TrainableXLMRXL):
    """Classify texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The base model stays frozen and is shared by all estimators of the process; what is learned is a small adapter
    and a head on the first token (`tuning="lora"`), the head alone (`"head"`), or a copy of everything (`"full"`).

    Parameters
    ----------
    model : str or path, default="facebook/xlm-roberta-xl"
        Id of a checkpoint on the hub, a local directory, or "nano", the small one that is bundled.
    tuning : {"lora", "bias", "head", "full"} or Tuning, default="lora"
        What of the model learns; `LoRA(rank=16)` in place of "lora" sets its parameters.
    max_length : int, default=None
        Most tokens that the model reads at once; None takes all it can, 512.
    stride : int or "auto", default="auto"
        Tokens that neighbouring windows of a text longer than `max_length` share; "auto" is an
        eighth of `max_length`. The decision for a long text is the mean over its windows.
    truncation : bool, default=False
        Read only the beginning of a long text. How many were cut is told in a warning.
    batch_size : int, default=32
        Rows in an optimiser step. The default is that of the XLM-R-XL paper (arXiv:2105.00572).
    batch_tokens : int or "auto", default="auto"
        Tokens that are run at once; changes memory and speed, not results (but for the draws of dropout).
    learning_rate : float or "auto", default="auto"
        The highest rate, after warm-up; "auto" takes that of the tuning.
    max_epochs : int, default=10
        Passes over the rows. The default is that of the paper.
    lr_schedule : {"linear", "cosine", "constant"}, default="linear"
        How the rate goes on after warm-up: down to zero in a line or half a cosine, or not at all.
    warmup : float, default=0.06
        Share of the steps over which the rate goes up. The default is that of RoBERTa (arXiv:1907.11692).
    weight_decay : float, default=0.01
        AdamW's, of matrices; biases and LayerNorms are not decayed.
    max_grad_norm : float or None, default=1.0
        Longer gradients are shortened to this length; None lets them be.
    optimizer : {"adamw", "adamw8bit", "paged_adamw8bit"}, default="adamw"
        The latter two are those of bitsandbytes, with their state in 8 bits, and need a CUDA device.
    label_smoothing : float, default=0.0
        Share of the target that goes to all classes evenly.
    early_stopping : bool, default=False
        Stop when the validation score (weighted accuracy) no longer rises, and go back to the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows, of each class alike, that early stopping sets aside; not where `fit` is given `X_val`.
    n_iter_no_change : int, default=3
        With early stopping, how many epochs in a row may bring less than `tol`.
    tol : float, default=1e-4
        Least rise of the validation score that counts.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as in scikit-learn.
    warm_start : bool, default=False
        Whether `fit` goes on from what an earlier `fit` learned, with a new schedule.
    callbacks : list of Callback or None, default=None
        Called around steps and epochs; see `skxlmr.training.Callback`. scikit-learn's own go to `set_callbacks`.
    checkpoint_dir : str, path or None, default=None
        A folder for checkpoints while `fit` runs. A fit that was killed, run again with the same parameters and
        data, goes on from the latest, and on a CPU ends with the same weights to the last bit. Each fit has a folder
        of its own there, so those of a grid search do not meet; at its end it is removed.
    checkpoint_steps : int, default=100
        Optimiser steps from one checkpoint to the next; there is one after each epoch, too.
    load_in_8bit : "auto", bool or Int8, default="auto"
        Hold the frozen base in 8 bits: a quarter of float32's memory, and faster on CPUs. "auto" does so for XL and
        XXL, on a GPU only where 16 bits would take more than half of its memory. `Int8` opens the settings to a grid.
    load_in_4bit : bool, default=False
        Hold it in 4 bits (NF4): half the memory of 8, slower and less exact.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the base's activations, and of its weights unless these are in 8 or 4 bits; "auto" is bfloat16 where the
        hardware has it (on a CPU not for small models), else float16 on CUDA and float32 elsewhere.
        What is learned is float32.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    memory : str, path, joblib.Memory or None, default=None
        With `tuning="head"`, a folder where the base's features of the texts are kept, for other processes
        (`n_jobs`) and another day. Within a process they are remembered anyway; see `skxlmr.set_feature_cache`.
    random_state : int, RandomState or None, default=None
        Of the start of what is learned, the order of the rows and dropout.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    history_ : DataFrame
        One row per epoch: epoch, loss, learning_rate, seconds; validation_score where there are validation rows.
    validation_scores_ : list of float, or None
        Score on the validation rows after each epoch.
    best_validation_score_ : float, or None
        The highest of them.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_iter_ : int
        Epochs run.
    n_features_in_ : int
        1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    XLMRXLEmbedder : Turn texts into vectors for any other estimator.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> texts = ["what a lovely film", "很好看", "dreadful and dull", "难看死了"] * 4
    >>> labels = ["good", "good", "bad", "bad"] * 4
    >>> clf = XLMRXLClassifier(model="nano", learning_rate=5e-3, random_state=0).fit(texts, labels)
    >>> clf.predict(["a lovely film"])
    array(['good'], dtype='<U4')
    """

    _parameter_constraints: dict = {
        **TrainableXLMRXL._parameter_constraints,
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        tuning: str | Tuning = "lora",
        max_length: int | None = None,
        stride: int | str = "auto",
        truncation: bool = False,
        batch_size: int = 32,
        batch_tokens: int | str = "auto",
        learning_rate: float | str = "auto",
        max_epochs: int = 10,
        lr_schedule: str = "linear",
        warmup: float = WARMUP,
        weight_decay: float = WEIGHT_DECAY,
        max_grad_norm: float | None = MAX_GRAD_NORM,
        optimizer: str = "adamw",
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
        class_weight: dict | str | None = None,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_steps: int = 100,
        load_in_8bit: bool | str | Int8 = "auto",
        load_in_4bit: bool = False,
        dtype: str = "auto",
        device: str = "auto",
        memory: str | os.PathLike | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.tuning = tuning
        self.max_length = max_length
        self.stride = stride
        self.truncation = truncation
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.lr_schedule = lr_schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_steps = checkpoint_steps
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> XLMRXLClassifier:
        """Fine-tune on labelled texts.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
            List, array, Series or DataFrame of str.
        y : array-like of shape (n_samples,)
            Labels of any sortable type, at least two different ones.
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
        context = callback_context(self, self.max_epochs)
        if context is not None:
            data = {"X": X, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
            context.call_on_fit_task_begin(estimator=self, **data)
        column = self._check_column(X)
        y = check_labels(y, column, self)
        classes = np.unique(y)
        weights = self._weigh(y, classes, column, sample_weight)
        held_out = self._check_held_out(X_val, y_val, column, classes)
        start = self._go_on_from(classes) if self.warm_start else None
        check_several_classes(y[weights > 0], type(self).__name__)
        backbone = self._load_backbone()
        rows = self._rows(backbone, column, np.searchsorted(classes, y), weights)
        if held_out is not None:
            held_out = self._rows(backbone, *held_out, np.ones(len(held_out[1])))

        def epoch_contexts(learned: Learned) -> EpochContexts | None:
            if context is None:
                return None
            return EpochContexts(
                self,
                context,
                data,
                lambda: self._fitted_attributes(backbone, column, classes_=classes, _learned=snapshot(learned)),
            )

        outcome = self._learn(backbone, rows, held_out, len(classes), epoch_contexts, start)
        self._become_fitted(self._outcome_attributes(backbone, column, classes, outcome, outcome.history))
        if context is not None:
            context.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> XLMRXLClassifier:
        """Train for one more epoch, on rows of which there may be others each time.

        The learning rate is constant, and AdamW goes on with the moments that it has gathered; these are not
        pickled. `max_epochs`, `lr_schedule` and `warmup` do not count here.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `y` has a label that `classes` has not, or a parameter makes no sense here.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it trains for one epoch.")
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced', which needs all of y at once. Compute the "
                "weights with sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
            )
        earlier = hasattr(self, "classes_")
        if not earlier and classes is None:
            raise ValueError("The first call of partial_fit needs classes: all labels that will ever come.")
        if classes is None:
            classes = self.classes_
        classes = np.unique(np.asarray(classes))
        column = self._check_column(X)
        y = check_labels(y, column, self, several=False)
        self._check_known(y, classes, "y", "classes")
        start = self._go_on_from(classes) if earlier else None
        if earlier:
            check_features(self, column)
        weights = self._weigh(y, classes, column, sample_weight)
        backbone = self._load_backbone()
        rows = self._rows(backbone, column, np.searchsorted(classes, y), weights)
        outcome = self._learn_one_epoch(
            backbone,
            rows,
            len(classes),
            start,
            getattr(self, "_optimizer_state", None),
            self.n_iter_ if earlier else 0,
        )
        history = pd.concat([self.history_, outcome.history], ignore_index=True) if earlier else outcome.history
        attributes = self._outcome_attributes(backbone, column, classes, outcome, history)
        self._become_fitted(attributes | {"_optimizer_state": outcome.optimizer_state})
        return self

    def _outcome_attributes(
        self, backbone: Backbone, column: TextColumn, classes: np.ndarray, outcome: Outcome, history: pd.DataFrame
    ) -> dict[str, Any]:
        scores = outcome.validation_scores
        return self._fitted_attributes(
            backbone,
            column,
            classes_=classes,
            history_=history,
            loss_curve_=history["loss"].tolist(),
            validation_scores_=scores,
            best_validation_score_=max(scores) if scores else None,
            n_iter_=len(history),
            _learned=outcome.learned,
            _optimizer_state=None,
        )

    def _weigh(self, y: np.ndarray, classes: np.ndarray, column: TextColumn, sample_weight: Any) -> np.ndarray:
        """The weight of each row in the loss."""
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64, ensure_non_negative=True)
        of_class = compute_class_weight(self.class_weight, classes=classes, y=y)
        return weights * of_class[np.searchsorted(classes, y)]

    def _rows(self, backbone: Backbone, column: TextColumn, targets: np.ndarray, weights: np.ndarray) -> Rows:
        """Tokenise rows; those of weight zero are left out."""
        rows = Rows(self._plan(backbone, column), targets, weights, np.arange(len(targets)))
        return rows.take(np.flatnonzero(weights))

    def _check_known(self, y: np.ndarray, classes: np.ndarray, name: str, known: str) -> None:
        unknown = sorted(set(y.tolist()) - set(classes.tolist()))
        if unknown:
            raise ValueError(f"{name} has labels that {known} has not: {unknown[:5]}.")

    def _check_held_out(
        self, X_val: Any, y_val: Any, column: TextColumn, classes: np.ndarray
    ) -> tuple[TextColumn, np.ndarray] | None:
        """Check validation rows; returns the column and the numbers of its classes, or None."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val go together: one of them is missing.")
        if X_val is None:
            return None
        held_out = self._check_column(X_val)
        if held_out.n_features != column.n_features:
            raise ValueError(f"X_val has {held_out.n_features} columns, but X has {column.n_features}.")
        labels = check_labels(y_val, held_out, self, several=False)
        self._check_known(labels, classes, "y_val", "y")
        return held_out, np.searchsorted(classes, labels)

    def _go_on_from(self, classes: np.ndarray) -> Learned | None:
        """What an earlier fit learned, None where there was none."""
        if not hasattr(self, "classes_"):
            return None
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"y has the labels {classes.tolist()[:5]}, but this {type(self).__name__} has learned "
                f"{self.classes_.tolist()[:5]}: it can go on with the same ones only."
            )
        self._fitted_backbone()  # the same base as then
        return self._learned

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: int) -> ClassificationHead:
        return ClassificationHead(config, n_outputs)

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    _exported_class = XLMRobertaXLForSequenceClassification

    def _exported_config(self) -> dict[str, Any]:
        return {
            "id2label": {i: str(label) for i, label in enumerate(self.classes_.tolist())},
            "problem_type": "single_label_classification",
        }

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)

    def _loss_settings(self) -> tuple:
        return (self.label_smoothing,)

    def _score_outputs(self, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(outputs.argmax(axis=1) == targets, weights=weights))

    def _strata(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def _logits(self, X: Any) -> np.ndarray:
        """The head's output for each row, (n_samples, n_classes)."""
        column = self._check_fitted_column(X)
        backbone = self._fitted_backbone()
        plan = self._plan(backbone, column)
        logits = self._learned.run(
            backbone,
            plan.windows,
            self._choose_batch_tokens(backbone),
            memory=self.memory,
            verbose=self.verbose,
        )
        return pool_windows(logits, plan.text_of_window, "mean")[plan.text_of_row]

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the confidence in each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) if there are two classes, float32
            Logits. With two classes the logit of `classes_[1]` minus that of `classes_[0]`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            In the order of `classes_`.
        """
        return softmax(self._logits(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]
