"""The training loop: epochs of optimiser steps over micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.current_device import on_device
from skxlmr.system.warn import warn
from skxlmr.training.callbacks import Callback
from skxlmr.training.gradients import BatchLosses, Losses, NotFiniteError
from skxlmr.training.optimizers import make_optimizer
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import ALONE, Ranks
from skxlmr.training.schedule import Schedule
from skxlmr.training.state import Position, TrainingState
from skxlmr.training.steps import FIRST_LOSS_SCALE, StepGradients

# Draws the order of the rows in an epoch, (n_rows,).
RowOrder = Callable[[np.random.RandomState], np.ndarray]

# What the history has of each epoch, beside what callbacks add.
METRICS = ("epoch", "loss", "learning_rate", "seconds")


@dataclass(eq=False, repr=False)
class Trainer:
    """Minimise the weighted mean loss over the rows of a plan; callbacks see the trainer.

    With several processes, each runs some of the micro-batches of a step, and all take the same step with the sum of
    their gradients. They continue from what rank 0 has after `on_fit_begin` of its callbacks, and end when those do.
    """

    losses: Losses | BatchLosses
    module: nn.Module  # its parameters that require gradients are trained
    plan: WindowPlan
    row_weights: np.ndarray  # (n_rows,)
    schedule: Schedule
    seed: int  # of row order and dropout; each epoch derives its own from it
    _: KW_ONLY
    callbacks: Sequence[Callback] = ()  # called in this order
    row_numbers: np.ndarray | None = None  # the user's numbers of the rows, for messages; None counts from 0
    order: RowOrder | None = None  # None shuffles them
    half: bool = False  # gradients pass through float16, so the loss is scaled
    epochs_before: int = 0  # epochs of earlier trainings that this one continues
    before: dict[str, float] = field(default_factory=dict)  # metrics before the first epoch
    ranks: Ranks = ALONE  # the processes that train together, all with the same arguments but for `callbacks`

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be instances of skxlmr.training.Callback, got {callback!r}. Callbacks of "
                    f"scikit-learn are set by set_callbacks(...)."
                )
        schedule = self.schedule
        self.parameters = self.ranks.trained(self.module)
        self.device = next(iter(self.parameters.values())).device
        loss_scale = FIRST_LOSS_SCALE if self.half else 1.0
        self.state = TrainingState(
            self.seed,
            self.parameters,
            make_optimizer(schedule.optimizer, list(self.parameters.values()), schedule.weight_decay),
            Randomness(self.seed, self.device),
            Position(schedule.batch_tokens, schedule.gradient_checkpointing, loss_scale),
            self.callbacks,
            self.ranks,
            n_rows=len(self.row_weights),
            max_epochs=schedule.max_epochs,
        )
        self._gradients = StepGradients(
            self.losses, self.module, self.plan, self.row_weights, schedule.max_grad_norm, self.state
        )
        self.n_steps = schedule.max_epochs * -(-len(self.row_weights) // schedule.batch_size)
        self.loss = self.learning_rate = float("nan")  # of the latest step
        self.finished = False  # True after the last epoch, not after an interruption

    @property
    def position(self) -> Position:
        return self.state.position

    @property
    def step(self) -> int:
        return self.position.step

    @property
    def epoch(self) -> int:
        return self.epochs_before + self.position.epoch

    @property
    def max_epochs(self) -> int:
        return self.epochs_before + self.schedule.max_epochs

    @property
    def metrics(self) -> dict[str, float]:
        return self.position.history[-1] if self.position.history else self.before

    @property
    def settings(self) -> dict[str, Any]:
        """The schedule and the seed, for logs."""
        return asdict(self.schedule) | {"seed": self.seed}

    def run(self) -> pd.DataFrame:
        """Train; returns the history, one row of `metrics` per epoch.

        A KeyboardInterrupt ends training with a warning, or is raised if there was no step yet. Raises
        FloatingPointError, before the weights change, if the loss or its gradient is no longer finite.
        """
        begun: list[Callback] = []
        with on_device(self.device):  # libraries launch kernels on the current device: 8-bit optimizers, Triton
            return self._run(begun)

    def _run(self, begun: list[Callback]) -> pd.DataFrame:
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(self)
                begun.append(callback)
            self.state.take_over()
            if not self.position.stopped and self.position.epoch < self.schedule.max_epochs:
                self._gradients.allocate()
            while not self.position.stopped and self.position.epoch < self.schedule.max_epochs:
                self._run_epoch()
            self.finished = True
        except KeyboardInterrupt:
            if self.step == 0:
                raise
            self._close_epoch_early()
        finally:
            with ExitStack() as stack:  # all of them end, even if one raises
                for callback in reversed(begun):
                    stack.callback(callback.on_fit_end, self)
        return pd.DataFrame(self.position.history, columns=None if self.position.history else list(METRICS))

    def _run_epoch(self) -> None:
        position, n_rows = self.position, len(self.row_weights)
        of_epoch = np.random.RandomState([self.seed, self.epochs_before + position.epoch])
        order = of_epoch.permutation(n_rows) if self.order is None else self.order(of_epoch)
        if position.rows_done == 0:
            self.state.randomness = Randomness(int(of_epoch.randint(2**31 - 1)), self.device)
        for callback in self.callbacks:
            with self._interruptible():
                callback.on_epoch_begin(self)
        began = time.perf_counter() - position.seconds
        while position.rows_done < n_rows:
            self._run_step(order[position.rows_done : position.rows_done + self.schedule.batch_size])
            position.seconds = time.perf_counter() - began
            for callback in self.callbacks:
                with self._interruptible():
                    callback.on_step_end(self)
        self._close_epoch()
        position.epoch += 1
        for callback in self.callbacks:
            with self._interruptible():
                position.stopped |= bool(callback.on_epoch_end(self))
        position.stopped = self.ranks.broadcast(position.stopped)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let all processes end training in the next step if a callback raises KeyboardInterrupt."""
        try:
            yield
        except KeyboardInterrupt:
            if self.ranks.size == 1:
                raise
            self.ranks.interrupted = True

    def _close_epoch(self) -> None:
        """Append the epoch to the history and reset the sums."""
        position = self.position
        position.history.append(
            {
                "epoch": self.epoch + 1,
                "loss": position.loss_sum / position.weight_sum,
                "learning_rate": self._rate(position.step - 1),
                "seconds": position.seconds,
            }
        )
        position.rows_done, position.loss_sum, position.weight_sum, position.seconds = 0, 0.0, 0.0, 0.0

    def _close_epoch_early(self) -> None:
        warn(
            f"Training was interrupted in epoch {min(self.epoch + 1, self.max_epochs)} of {self.max_epochs}, after "
            f"{self.step} of {self.n_steps} steps; the model is fitted so far."
        )
        if self.position.rows_done:
            self._close_epoch()

    def _rate(self, step: int) -> float:
        return self.schedule.rate(step, self.n_steps)

    def _run_step(self, rows: np.ndarray) -> None:
        position = self.position
        try:
            self.loss = self._gradients.compute(rows)
        except NotFiniteError as error:
            numbers = np.arange(len(self.row_weights)) if self.row_numbers is None else self.row_numbers
            raise FloatingPointError(
                f"{error.describe(numbers)} in step {self.step + 1} of epoch {self.epoch + 1}. Lower "
                f"learning_rate (it is {self.schedule.learning_rate:g}), or use dtype='float32'."
            ) from None
        self.learning_rate = self._rate(position.step)
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._gradients.apply()
        weight = float(self.row_weights[rows].sum())
        position.loss_sum += self.loss * weight
        position.weight_sum += weight
        position.rows_done += len(rows)
        position.step += 1
