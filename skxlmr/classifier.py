"""Text classification."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from skxlmr.backbone import Backbone
from skxlmr.base import TrainableXLMRXL
from skxlmr.inference import Plan, pool_windows
from skxlmr.model.heads import ClassificationHead
from skxlmr.training.adapters import Tuning, as_tuning
from skxlmr.training.early_stopping import EarlyStopping
from skxlmr.training.learned import Learned, first_token, seeded
from skxlmr.training.loop import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY, train
from skxlmr.validation import TextColumn, check_labels, check_several_classes
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
        load_in_8bit: bool | str | Int8 = "auto",
        load_in_4bit: bool = False,
        dtype: str = "auto",
        device: str = "auto",
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
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

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
        column = self._check_column(X)
        y = check_labels(y, column, self)
        classes, targets = np.unique(y, return_inverse=True)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64, ensure_non_negative=True)
        weights = weights * compute_class_weight(self.class_weight, classes=classes, y=y)[targets]
        rows = np.flatnonzero(weights)
        check_several_classes(targets[rows], type(self).__name__)
        random_state = check_random_state(self.random_state)

        held_out = self._validation_column(X_val, y_val, column, classes)
        if held_out is None and self.early_stopping:
            rows, held_rows = self._split(rows, targets, random_state)
        backbone = self._load_backbone()
        whole = self._plan(backbone, column)
        validation = None
        if held_out is not None:
            validation = self._plan(backbone, held_out[0]), held_out[1], np.ones(len(held_out[1]))
        elif self.early_stopping:
            validation = whole.take(held_rows), targets[held_rows], weights[held_rows]
        learned, history, stopping = self._learn(
            backbone, whole.take(rows), targets[rows], weights[rows], rows, validation, len(classes), random_state
        )
        self._become_fitted(
            backbone,
            column,
            classes_=classes,
            history_=history,
            loss_curve_=history["loss"].tolist(),
            validation_scores_=None if stopping is None else stopping.scores,
            best_validation_score_=None if stopping is None else stopping.best_score,
            n_iter_=len(history),
            _learned=learned,
        )
        return self

    def _validation_column(
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
        unknown = sorted(set(labels.tolist()) - set(classes.tolist()))
        if unknown:
            raise ValueError(f"y_val has labels that y has not: {unknown[:5]}.")
        return held_out, np.searchsorted(classes, labels)

    def _split(
        self, rows: np.ndarray, targets: np.ndarray, random_state: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set rows aside for validation, of each class alike; returns those to learn from and those set aside."""
        try:
            kept, held = train_test_split(
                rows, test_size=self.validation_fraction, stratify=targets[rows], random_state=random_state
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True cannot set validation_fraction={self.validation_fraction} of {len(rows)} rows "
                f"aside: {error} Pass X_val and y_val, or use another validation_fraction."
            ) from error
        return np.sort(kept), np.sort(held)

    def _learn(
        self,
        backbone: Backbone,
        plan: Plan,
        targets: np.ndarray,
        weights: np.ndarray,
        row_numbers: np.ndarray,
        validation: tuple[Plan, np.ndarray, np.ndarray] | None,
        n_classes: int,
        random_state: np.random.RandomState,
    ) -> tuple[Learned, pd.DataFrame, EarlyStopping | None]:
        """Train an adapter and a head; returns them, the history and what the validation rows said."""
        base, tuning = backbone.model, as_tuning(self.tuning)
        schedule = self._schedule(tuning, backbone)
        targets = torch.from_numpy(targets).to(base.device)
        with seeded(random_state.randint(2**31 - 1), base.device):
            learned = Learned(tuning, base, ClassificationHead(base.config, n_classes)).train()
            if learned.base is not None:
                tuning.choose_weights(learned.base)
            features = learned.features(base, plan, first_token, schedule.batch_tokens, self.verbose)

            def losses(windows: np.ndarray, rows: np.ndarray) -> Tensor:
                logits = learned.head(features(windows))
                return F.cross_entropy(logits, targets[rows], reduction="none", label_smoothing=self.label_smoothing)

            def score() -> float:
                held_plan, held_targets, held_weights = validation
                logits = learned.run(base, held_plan.windows, first_token, schedule.batch_tokens)
                logits = pool_windows(logits, held_plan.text_of_window, "mean")[held_plan.text_of_row]
                return float(np.average(logits.argmax(axis=1) == held_targets, weights=held_weights))

            stopping = None
            if validation is not None:
                stopping = EarlyStopping(learned, score, self.n_iter_no_change, self.tol, stops=self.early_stopping)
            parameters = [parameter for parameter in learned.parameters() if parameter.requires_grad]
            history = train(
                losses, parameters, plan, weights, schedule, random_state, self.verbose,
                row_numbers=row_numbers, epoch_end=stopping,
            )  # fmt: skip
            if stopping is not None:
                stopping.restore_best()
        return learned.eval().requires_grad_(False), history, stopping

    def _logits(self, X: Any) -> np.ndarray:
        """The head's output for each row, (n_samples, n_classes)."""
        column = self._check_fitted_column(X)
        backbone = self._fitted_backbone()
        plan = self._plan(backbone, column)
        logits = self._learned.run(
            backbone.model, plan.windows, first_token, self._choose_batch_tokens(backbone), self.verbose
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
