"""Optimiser steps over micro-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.warn import warn
from skxlmr.training.callbacks import Callback
from skxlmr.training.gradients import Losses, NotFiniteError, accumulate_gradients, clip_gradients
from skxlmr.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from skxlmr.training.randomness import Randomness
from skxlmr.training.schedule import Schedule

# Gradients in float16 vanish unless the loss is scaled up; start and growth are those of torch.amp.GradScaler.
FIRST_LOSS_SCALE = 2.0**16
STEPS_UNTIL_GROWTH = 2000


@dataclass
class Position:
    """Where a training is; with the weights, the optimiser and the random states all that it takes to go on."""

    batch_tokens: int
    recompute: bool
    loss_scale: float
    epoch: int = 0  # epochs done
    step: int = 0  # steps done
    rows_done: int = 0  # of this epoch
    loss_sum: float = 0.0  # of this epoch, weighted
    weight_sum: float = 0.0
    seconds: float = 0.0
    steps_since_overflow: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class _LossScaleError(Exception):
    """The scaled gradient does not fit into float16."""


class Trainer:
    """Minimise the weighted mean loss over the rows of a plan.

    Parameters
    ----------
    losses : callable
        See `skxlmr.training.gradients.Losses`.
    module : Module
        What is learned: its parameters that take gradients.
    plan : WindowPlan
    row_weights : ndarray of shape (n_rows,)
    schedule : Schedule
    seed : int
        Of the order of the rows and of dropout, anew in each epoch.
    callbacks : sequence of Callback, default=()
        Called in this order.
    row_numbers : ndarray of shape (n_rows,), default=None
        What the user calls the rows, for messages; None numbers them as they are.
    half : bool, default=False
        Gradients pass through float16, and the loss is scaled.
    epochs_before : int, default=0
        Done in earlier trainings, of which this one is a part.

    Attributes
    ----------
    step, n_steps, epoch, max_epochs : int
        Steps done and planned; epochs done and planned.
    loss, learning_rate : float
        Of the latest step.
    metrics : dict
        Of the latest epoch: epoch, loss, learning_rate (at its end), seconds, and what callbacks added.
    settings : dict
        Of the schedule, for logs.
    """

    def __init__(
        self,
        losses: Losses,
        module: nn.Module,
        plan: WindowPlan,
        row_weights: np.ndarray,
        schedule: Schedule,
        seed: int,
        *,
        callbacks: Sequence[Callback] = (),
        row_numbers: np.ndarray | None = None,
        half: bool = False,
        epochs_before: int = 0,
    ) -> None:
        self.losses = losses
        self.module = module
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.plan = plan
        self.row_weights = row_weights
        self.schedule = schedule
        self.seed = seed
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be instances of skxlmr.training.Callback, got {callback!r}. Callbacks of "
                    f"scikit-learn are set by set_callbacks(...)."
                )
        self.row_numbers = np.arange(len(row_weights)) if row_numbers is None else row_numbers
        self.epochs_before = epochs_before
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = make_optimizer(schedule.optimizer, list(self.parameters.values()), schedule.weight_decay)
        self.randomness = Randomness(seed, self.device)
        self.n_steps = schedule.max_epochs * -(-len(row_weights) // schedule.batch_size)
        self.position = Position(
            schedule.batch_tokens, schedule.gradient_checkpointing, FIRST_LOSS_SCALE if half else 1.0
        )
        self.loss = self.learning_rate = float("nan")
        self.finished = False  # True after the last epoch, not after an interruption

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
        return self.position.history[-1]

    @property
    def settings(self) -> dict[str, object]:
        return asdict(self.schedule) | {"seed": self.seed}

    def run(self) -> pd.DataFrame:
        """Train to the end; returns one row per epoch, its `metrics`.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is no longer finite; nothing has moved since the last good step.

        Warns
        -----
        UserWarning
            If a KeyboardInterrupt ended training early. Before the first step is done it is raised.
        """
        begun = []
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(self)
                begun.append(callback)
            while not self.position.stopped and self.position.epoch < self.schedule.max_epochs:
                self._run_epoch()
            self.finished = True
        except KeyboardInterrupt:
            if self.step == 0:
                raise
            self._close_epoch_early()
        finally:
            with ExitStack() as stack:  # each one ends, though one before it raises
                for callback in reversed(begun):
                    stack.callback(callback.on_fit_end, self)
        return pd.DataFrame(self.position.history)

    def _run_epoch(self) -> None:
        position, n_rows = self.position, len(self.row_weights)
        of_epoch = np.random.RandomState([self.seed, self.epochs_before + position.epoch])
        order = of_epoch.permutation(n_rows)
        if position.rows_done == 0:
            self.randomness = Randomness(int(of_epoch.randint(2**31 - 1)), self.device)
        for callback in self.callbacks:
            callback.on_epoch_begin(self)
        began = time.perf_counter() - position.seconds
        while position.rows_done < n_rows:
            self._run_step(order[position.rows_done : position.rows_done + self.schedule.batch_size])
            position.seconds = time.perf_counter() - began
            for callback in self.callbacks:
                callback.on_step_end(self)
        self._close_epoch()
        position.epoch += 1
        for callback in self.callbacks:
            position.stopped |= bool(callback.on_epoch_end(self))

    def _close_epoch(self) -> None:
        """Put the epoch into the history and make ready for the next one."""
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
            self.loss = self._gradients(rows)
        except NotFiniteError as error:
            raise FloatingPointError(
                f"{error.describe(self.row_numbers)} in step {self.step + 1} of epoch {self.epoch + 1}. Lower "
                f"learning_rate (it is {self.schedule.learning_rate:g}), or use dtype='float32'."
            ) from None
        self.learning_rate = self._rate(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weight = float(self.row_weights[rows].sum())
        position.loss_sum += self.loss * weight
        position.weight_sum += weight
        position.rows_done += len(rows)
        position.step += 1

    def _gradients(self, rows: np.ndarray) -> float:
        """Compute a step's gradient; where memory runs out or float16 overflows, again in another way."""
        while True:
            try:
                # What a failed attempt has drawn for dropout the next one draws, too.
                with self.randomness.drawing():
                    return self._attempt(rows)
            except torch.OutOfMemoryError:
                if not self._can_do_with_less(rows):
                    raise
            except _LossScaleError:
                self.position.loss_scale /= 2
                self.position.steps_since_overflow = 0
            # Outside of the handler, whose traceback holds the tensors of the failed attempt.
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self, rows: np.ndarray) -> float:
        position = self.position
        scale = position.loss_scale
        loss = accumulate_gradients(
            self.losses, self.plan, rows, self.row_weights[rows], position.batch_tokens, position.recompute, scale
        )
        norm = clip_gradients(list(self.parameters.values()), self.schedule.max_grad_norm, scale)
        if not np.isfinite(norm):
            if scale > 1:
                raise _LossScaleError
            raise NotFiniteError(f"The gradient became {norm}", np.array([], int))
        if scale > 1:
            position.steps_since_overflow += 1
            if position.steps_since_overflow % STEPS_UNTIL_GROWTH == 0:
                position.loss_scale *= 2
        return loss

    def _can_do_with_less(self, rows: np.ndarray) -> bool:
        """Halve the tokens of a micro-batch; at one window each, keep less for the backward pass."""
        position = self.position
        if position.batch_tokens > self.plan.shortest(rows):
            position.batch_tokens //= 2
        elif not position.recompute:
            position.recompute = True
        else:
            return False
        return True

    def state(self) -> tuple[dict[str, object], dict[str, Tensor]]:
        """All that it takes to go on from here: numbers for JSON, and tensors."""
        optimizer_numbers, optimizer_tensors = optimizer_state(self.optimizer)
        numbers = {
            "seed": self.seed,
            "position": asdict(self.position),
            "optimizer": optimizer_numbers,
            "callbacks": [callback.state()[0] for callback in self._with_state()],
        }
        parts = {
            "learned": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": optimizer_tensors,
            "random": {str(i): state for i, state in enumerate(self.randomness.states)},
        }
        parts |= {f"callback{i}": callback.state()[1] for i, callback in enumerate(self._with_state())}
        return numbers, {
            f"{part}/{name}": tensor for part, of_part in parts.items() for name, tensor in of_part.items()
        }

    def load_state(self, numbers: dict[str, object], tensors: dict[str, Tensor]) -> None:
        """Go on from where `state` was called.

        Raises
        ------
        ValueError
            If the callbacks that have a state are not as many as then.
        """
        with_state = self._with_state()
        if len(with_state) != len(numbers["callbacks"]):
            raise ValueError(
                f"it was written with {len(numbers['callbacks'])} callbacks that have a state, and now there are "
                f"{len(with_state)}"
            )

        def part(name: str) -> dict[str, Tensor]:
            return {key.split("/", 1)[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}

        with torch.no_grad():
            for name, value in part("learned").items():
                self.parameters[name].copy_(value)
        load_optimizer_state(self.optimizer, numbers["optimizer"], part("optimizer"))
        self.position = Position(**numbers["position"])
        self.randomness.states = list(part("random").values())
        for i, (callback, of_callback) in enumerate(zip(with_state, numbers["callbacks"], strict=True)):
            callback.load_state(of_callback, part(f"callback{i}"))

    def _with_state(self) -> list[Callback]:
        """The callbacks that have something to remember; a bar, say, may be there the next time or not."""
        return [callback for callback in self.callbacks if type(callback).state is not Callback.state]
