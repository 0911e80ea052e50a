"""Scores on validation rows after each epoch, and early stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from skxlmr.training.callbacks import Callback, CallbackState

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer


class EarlyStopping(Callback):
    """Score a module after each epoch; if it `stops`, end training and keep the best weights.

    Training ends when more than `n_iter_no_change` epochs in a row improve the score, of which higher is better, by
    less than `tol`.
    """

    def __init__(
        self, module: nn.Module, score: Callable[[], float], n_iter_no_change: int, tol: float, stops: bool
    ) -> None:
        self.module = module
        self.score = score
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.stops = stops
        self.scores: list[float] = []  # after each epoch
        self.n_without_improvement = 0
        self.best_weights: dict[str, Tensor] = {}

    def on_epoch_end(self, trainer: Trainer) -> bool:
        was_training = self.module.training
        self.module.eval()
        try:
            score = self.score()
        finally:
            self.module.train(was_training)
        if self.stops and not self.scores and np.isnan(score):
            raise ValueError(
                "The validation score is NaN, so no epoch is the best one; R2, for example, needs at least two rows. "
                "Use a larger validation_fraction, or pass more rows as X_val and y_val."
            )
        best = max(self.scores, default=-np.inf)
        self.n_without_improvement = self.n_without_improvement + 1 if score < best + self.tol else 0
        if score > best and self.stops:
            self.best_weights = {
                name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad
            }
        self.scores.append(score)
        trainer.metrics["validation_score"] = score
        return self.stops and self.n_without_improvement > self.n_iter_no_change

    def restore_best(self) -> None:
        """Load the weights of the best epoch."""
        self.module.load_state_dict(self.best_weights, strict=False)

    def state(self) -> CallbackState:
        return {"scores": self.scores, "n_without_improvement": self.n_without_improvement}, self.best_weights

    def load_state(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.scores, self.n_without_improvement = list(numbers["scores"]), numbers["n_without_improvement"]
        device = next(self.module.parameters()).device
        self.best_weights = {name: tensor.to(device) for name, tensor in tensors.items()}
