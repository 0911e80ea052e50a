"""Scores on validation rows after each epoch, and the end of training when they no longer rise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from skxlmr.training.callbacks import Callback, CallbackState

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer


class EarlyStopping(Callback):
    """Score a module after each epoch; keep the best weights and say when to stop.

    Parameters
    ----------
    module : Module
        What learns.
    score : callable
        Returns the validation score; higher is better.
    n_iter_no_change : int
        How many epochs in a row may bring less than `tol`.
    tol : float
    stops : bool
        Whether to stop and to go back to the best weights, or only to score.

    Attributes
    ----------
    scores : list of float
        After each epoch.
    """

    def __init__(
        self, module: nn.Module, score: Callable[[], float], n_iter_no_change: int, tol: float, stops: bool
    ) -> None:
        self.module = module
        self.score = score
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.stops = stops
        self.scores: list[float] = []
        self.n_without_rise = 0
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best_score(self) -> float | None:
        """The highest score, None before the first epoch has ended."""
        return max(self.scores, default=None)

    def on_epoch_end(self, trainer: Trainer) -> bool:
        was_training = self.module.training
        self.module.eval()
        try:
            score = self.score()
        finally:
            self.module.train(was_training)
        if self.stops and not self.scores and np.isnan(score):
            raise ValueError(
                "The validation score is NaN, by which no epoch is the best: R2, for one, needs two rows at least. Use "
                "a larger validation_fraction, or pass more rows as X_val and y_val."
            )
        best = -np.inf if self.best_score is None else self.best_score
        self.n_without_rise = self.n_without_rise + 1 if score < best + self.tol else 0
        if score > best and self.stops:
            self.best_weights = {
                name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad
            }
        self.scores.append(score)
        trainer.metrics["validation_score"] = score
        return self.stops and self.n_without_rise > self.n_iter_no_change

    def restore_best(self) -> None:
        """Bring back the weights of the best epoch."""
        self.module.load_state_dict(self.best_weights, strict=False)

    def state(self) -> CallbackState:
        return {"scores": self.scores, "n_without_rise": self.n_without_rise}, self.best_weights

    def load_state(self, numbers: dict[str, object], tensors: dict[str, Tensor]) -> None:
        self.scores, self.n_without_rise = list(numbers["scores"]), numbers["n_without_rise"]
        device = next(self.module.parameters()).device
        self.best_weights = {name: tensor.to(device) for name, tensor in tensors.items()}
