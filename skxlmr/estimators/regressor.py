"""Regression on texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions

from skxlmr.columns import TextColumn
from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.estimators.parameters import documented
from skxlmr.model.int8 import Int8
from skxlmr.tasks.base import REGRESSION_LOSSES, Regression, Task
from skxlmr.tasks.classification import check_numbers
from skxlmr.training.callbacks import Callback
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.tuning import Tuning


@documented
class XLMRXLRegressor(RegressorMixin, TrainableXLMRXL):
    """Predict numbers from texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The targets are standardised before training and mapped back afterwards, so that their unit does not matter.

    Parameters
    ----------
    $reading
    $truncation
    $training
    loss : {"squared_error", "absolute_error", "huber"}, default="squared_error"
        Of the difference to a target, in standard deviations of the targets; "huber" is linear beyond one of them.
    $stopping
    $going_on
    $loading

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Mean and standard deviation of the training targets, weighted by `sample_weight`.
    n_outputs_ : int
        Columns of y.
    $history

    See Also
    --------
    XLMRXLClassifier : Labels in the place of numbers.

    Examples
    --------
    >>> from skxlmr import XLMRXLRegressor
    >>> texts = ["one star", "two stars", "four stars", "five stars"] * 4
    >>> reg = XLMRXLRegressor("nano", learning_rate=5e-3, random_state=0).fit(texts, [1, 2, 4, 5] * 4)
    >>> bool(reg.predict(["five stars"])[0] > reg.predict(["one star"])[0])
    True
    """

    _parameter_constraints: dict = {
        **TrainableXLMRXL._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
    }

    _needed_attributes = ("target_mean_", "target_scale_", "n_outputs_", "_one_dimensional")

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
        loss: str = "squared_error",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_steps: int = 100,
        vocabulary: str = "full",
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
        self.loss = loss
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_steps = checkpoint_steps
        self.vocabulary = vocabulary
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _learn_task(self, y: Any, column: TextColumn, weights: np.ndarray) -> Regression:
        values = check_numbers(y, column, self)
        mean = np.average(values, axis=0, weights=weights)
        scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        scale = np.where(scale > 0, scale, 1.0)
        return Regression(mean, scale, np.asarray(y).ndim == 1, self.loss)

    def _targets(self, y: Any, column: TextColumn, task: Task, name: str = "y") -> np.ndarray:
        values = check_numbers(y, column, self, name)
        if values.shape[1] != task.n_outputs:
            raise ValueError(f"{name} has {values.shape[1]} columns, but {task.n_outputs} are needed.")
        return (values - task.mean) / task.scale

    @property
    def _n_outputs(self) -> int:
        return self.n_outputs_

    def _exported_config(self) -> dict[str, Any]:
        return {"problem_type": "regression", "id2label": {i: f"LABEL_{i}" for i in range(self.n_outputs_)}}

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_outputs), float64
            As many dimensions as the y of `fit` had.
        """
        values = self._outputs(X) * self.target_scale_ + self.target_mean_
        return values[:, 0] if self._one_dimensional else values

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # on the few words of generic checks
        tags.target_tags.multi_output = True
        return tags
