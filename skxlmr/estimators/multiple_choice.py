"""The right one of several choices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import joblib
import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.estimators.parameters import documented
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMultipleChoice
from skxlmr.model.heads import ChoiceHead
from skxlmr.model.int8 import Int8
from skxlmr.model.packing import segment_logsumexp
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.run import pool_windows
from skxlmr.tasks.base import Choosing, Task
from skxlmr.tasks.choices import ChoiceColumn, ChoicePlan, check_choices, check_right_choices, padded, plan_choices
from skxlmr.training.callbacks import Callback
from skxlmr.training.rows import Rows
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.tuning import Tuning


@documented
class XLMRXLMultipleChoice(TrainableXLMRXL):
    """Choose the right one of several texts, by fine-tuning XLM-RoBERTa-XL.

    X has a column of prompts, first, and after it one column of lists of choices, or a column for each choice. Rows
    need not have as many choices as others: lists may differ in length, and of several columns the last ones may be
    missing (None or NaN). y has for each row the index of the right choice, from 0, or its text. Each choice is read
    together with its prompt, in overlapping windows where they are long, and the highest score wins.

    Parameters
    ----------
    $reading
    $training
    $stopping
    $going_on
    $loading

    Attributes
    ----------
    target_form_ : {"index", "choice"}
        What y held, and `predict` gives.
    $history

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLMultipleChoice
    >>> X = pd.DataFrame({"prompt": ["It rained.", "The sun shone."], "choices": [["wet", "dry"], ["wet", "dry"]]})
    >>> chooser = XLMRXLMultipleChoice("nano", max_epochs=2, random_state=0).fit(X, ["wet", "dry"])
    >>> chooser.predict_proba(X).shape
    (2, 2)
    """

    _parameter_constraints: dict = {**TrainableXLMRXL._parameter_constraints}
    del _parameter_constraints["truncation"]

    _needed_attributes = ("target_form_",)

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        tuning: str | Tuning = "lora",
        max_length: int | None = None,
        stride: int | str = "auto",
        batch_size: int = 32,
        batch_tokens: int | str = "auto",
        learning_rate: float | str = "auto",
        max_epochs: int = 10,
        lr_schedule: str = "linear",
        warmup: float = WARMUP,
        weight_decay: float = WEIGHT_DECAY,
        max_grad_norm: float | None = MAX_GRAD_NORM,
        optimizer: str = "adamw",
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
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.lr_schedule = lr_schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.optimizer = optimizer
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

    def _check_column(self, X: Any) -> ChoiceColumn:
        return check_choices(X)

    def _plan(self, backbone: Backbone, column: ChoiceColumn) -> ChoicePlan:
        max_length, stride = self._window(backbone)
        return plan_choices(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def _learn_task(self, y: Any, column: ChoiceColumn, weights: np.ndarray) -> Choosing:
        _, form = check_right_choices(y, column)
        if max(len(choices) for choices, weight in zip(column.choices, weights, strict=True) if weight) < 2:
            raise ValueError("X has only one choice in every row: there is nothing to learn from.")
        return Choosing(form)

    def _targets(self, y: Any, column: ChoiceColumn, task: Task, name: str = "y") -> np.ndarray:
        return check_right_choices(y, column, name)[0]

    def _losses_of_outputs(
        self, task: Task, rows: Rows, device: torch.device
    ) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        """The cross-entropy over a row's choices, for each of its windows; they come together."""
        choice_of_window, targets = rows.plan.choice_of_window, rows.targets

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            choices, n_windows = _runs(np.stack([of_rows, choice_of_window[windows]], axis=1))
            row_of_choice, n_choices = _runs(choices[:, :1])
            scores = torch.segment_reduce(outputs, "mean", lengths=_on(device, n_windows), axis=0, unsafe=True)
            right = np.cumsum(n_choices) - n_choices + targets[row_of_choice[:, 0]]
            each = segment_logsumexp(scores, _on(device, n_choices)) - scores[_on(device, right)]
            windows_per_row = np.add.reduceat(n_windows, np.cumsum(n_choices) - n_choices)
            return each[:, 0].repeat_interleave(_on(device, windows_per_row))

        return losses

    def _of_rows(self, outputs: np.ndarray, plan: ChoicePlan) -> np.ndarray:
        """Scores of the choices, (n_rows, most choices), -inf where a row has fewer."""
        of_choices = pool_windows(outputs, plan.choice_of_window, "mean")[:, 0]
        return padded(of_choices, plan.n_choices, plan.most_choices)[plan.text_of_row]

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: int) -> ChoiceHead:
        return ChoiceHead(config)

    @property
    def _n_outputs(self) -> int:
        return 1

    _exported_class = XLMRobertaXLForMultipleChoice
    _peft_task = None  # it has no name for this one

    def _exported_heads(self, head: nn.Module) -> dict[str, nn.Module]:
        return {"roberta.pooler": head.pooler, "classifier": head.linear}

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the score of each choice.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples, most choices), float32
            -inf where a row has fewer choices than others.
        """
        return self._outputs(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each choice to be the right one.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples, most choices), float32
            0 where a row has fewer choices than others.
        """
        return softmax(self.decision_function(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the choice with the highest score.

        Parameters
        ----------
        X : prompts and choices

        Returns
        -------
        ndarray of shape (n_samples,)
            Indices of choices, or their texts where y held texts.
        """
        chosen = self.decision_function(X).argmax(axis=1)
        if self.target_form_ == "index":
            return chosen
        texts = np.empty(len(chosen), object)
        texts[:] = [choices[i] for choices, i in zip(self._check_column(X).choices, chosen, strict=True)]
        return texts

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose right choice is predicted.

        Parameters
        ----------
        X : prompts and choices
        y : indices or texts of the right choices
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        check_is_fitted(self)
        right, _ = check_right_choices(y, self._check_column(X))
        return float(accuracy_score(right, self.decision_function(X).argmax(axis=1), sample_weight=sample_weight))


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring rows that are equal: the row that they are, and how many."""
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    return keys[starts], np.diff(starts, append=len(keys))


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device)
