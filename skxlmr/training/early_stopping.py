"""Scores on validation rows after each epoch, and early stopping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from skxlmr.system.schema import COUNT, parse
from skxlmr.training.callbacks import Callback, CallbackState
from skxlmr.training.optimizers import check_same_shapes

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer


@dataclass
class SavedScores:
    """The numbers of an `EarlyStopping.state`, as a file holds them."""

    scores: list[float]
    n_without_improvement: COUNT
    start_score: float | None


class EarlyStopping(Callback):
    """Score a module after each epoch; if it `stops`, end training and keep the best weights.

    A module that was `started` by something better than chance is scored before the first epoch, too, so that training
    never returns a worse one. Training ends when more than `n_iter_no_change` epochs in a row improve the score, of
    which higher is better, by less than `tol`.
    """

    def __init__(
        self,
        module: nn.Module,
        score: Callable[[], dict[str, float]],
        n_iter_no_change: int,
        tol: float,
        stops: bool,
        started: bool = False,
    ) -> None:
        self.module = module
        self.score = score
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.stops = stops
        self.started = started
        self.start_score = -np.inf
        self.scores: list[float] = []  # after each epoch
        self.n_without_improvement = 0
        self.best_weights: dict[str, Tensor] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        if self.started:
            self.start_score = self._score(trainer)
            self._keep(trainer)

    def on_epoch_end(self, trainer: Trainer) -> bool:
        score = self._score(trainer)
        best = max([self.start_score, *self.scores])
        self.n_without_improvement = self.n_without_improvement + 1 if score < best + self.tol else 0
        improves = score > best
        if trainer.ranks.is_sharded:  # only rank 0 knows the scores from before a checkpoint
            improves = trainer.ranks.broadcast(improves)
        if improves:
            self._keep(trainer)
        self.scores.append(score)
        return self.stops and self.n_without_improvement > self.n_iter_no_change

    def _score(self, trainer: Trainer) -> float:
        """Score the module and add the result to the metrics of the epoch."""
        was_training = self.module.training
        self.module.eval()
        try:
            metrics = self.score()
        finally:
            self.module.train(was_training)
        score = metrics["validation_score"]
        if self.stops and not self.scores and np.isnan(score):
            raise ValueError(
                "The validation score is NaN, so no epoch is the best one; R2, for example, needs at least two rows. "
                "Use a larger validation_fraction, or pass more rows as X_val and y_val."
            )
        trainer.metrics.update(metrics)
        return trainer.ranks.broadcast(score) if trainer.ranks.is_sharded else score

    def _keep(self, trainer: Trainer) -> None:
        """Remember the weights as the best so far, if they will be needed; of shards rank 0 has the whole."""
        if self.stops:
            self.best_weights = {
                name: trainer.ranks.whole(p, p.detach()).clone() for name, p in trainer.parameters.items()
            }

    @torch.no_grad()
    def restore_best(self, trainer: Trainer) -> None:
        """Load the weights of the best epoch."""
        ranks = trainer.ranks
        has_any = ranks.broadcast(bool(self.best_weights)) if ranks.is_sharded else bool(self.best_weights)
        for name, parameter in trainer.parameters.items() if has_any else ():
            best = self.best_weights.get(name, parameter)
            if ranks.is_sharded:
                best = (
                    best.cpu().contiguous()
                    if ranks.is_first
                    else torch.empty(ranks.like({name: parameter})[name].shape, dtype=parameter.dtype)
                )
                ranks.broadcast_tensors([best])
            parameter.copy_(ranks.part(parameter, best))

    def state(self) -> CallbackState:
        numbers = {
            "scores": self.scores,
            "n_without_improvement": self.n_without_improvement,
            "start_score": None if np.isinf(self.start_score) else self.start_score,  # JSON has no infinity
        }
        return numbers, self.best_weights

    def load_state(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        saved = parse(SavedScores, numbers)
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if tensors:
            check_same_shapes(tensors, trained, "best weights")
        self.scores, self.n_without_improvement = saved.scores, saved.n_without_improvement
        self.start_score = -np.inf if saved.start_score is None else saved.start_score
        device = next(self.module.parameters()).device
        self.best_weights = {name: tensor.to(device) for name, tensor in tensors.items()}
