"""Optimiser steps over micro-batches."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skxlmr.inference import Plan
from skxlmr.progress import progress_bar
from skxlmr.text.batching import token_batches
from skxlmr.training.optimizers import make_optimizer

# RoBERTa (arXiv:1907.11692), appendix C: linear decay after a warm-up over 6% of the steps.
WARMUP = 0.06
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0

# The share of the learning rate that is left when a share of the steps after warm-up is done.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}

# Called after an epoch with its number and its history; gives further columns, and whether to stop.
EpochEnd = Callable[[int, dict[str, float]], tuple[dict[str, float], bool]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes
    ----------
    batch_size : int
        Rows in an optimiser step.
    batch_tokens : int
        Tokens in a micro-batch; changes memory and speed, not what is learned.
    max_epochs : int
    learning_rate : float
        The highest, after warm-up.
    lr_schedule : {"linear", "cosine", "constant"}
        How the rate goes down after warm-up: to zero, or not at all.
    warmup : float
        Share of the steps over which the rate goes up.
    weight_decay : float
    max_grad_norm : float or None
        Longer gradients are shortened to this.
    optimizer : {"adamw", "adamw8bit", "paged_adamw8bit"}
    """

    batch_size: int
    batch_tokens: int
    max_epochs: int
    learning_rate: float
    lr_schedule: str = "linear"
    warmup: float = WARMUP
    weight_decay: float = WEIGHT_DECAY
    max_grad_norm: float | None = MAX_GRAD_NORM
    optimizer: str = "adamw"

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step: up linearly over the warm-up, then by `lr_schedule`."""
        warmup = round(self.warmup * n_steps)
        if self.warmup:
            warmup = max(1, warmup)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * LR_SCHEDULES[self.lr_schedule]((step - warmup) / max(1, n_steps - warmup))


def train(
    losses: Callable[[np.ndarray, np.ndarray], Tensor],
    parameters: Iterable[nn.Parameter],
    plan: Plan,
    row_weights: np.ndarray,
    schedule: Schedule,
    random_state: np.random.RandomState,
    verbose: int = 0,
    *,
    row_numbers: np.ndarray | None = None,
    epoch_end: EpochEnd | None = None,
) -> pd.DataFrame:
    """Minimise the weighted mean loss over the rows of a plan.

    Parameters
    ----------
    losses : callable
        `losses(windows, rows)` takes indices of windows and, for each, the row it is of; returns one loss for each.
    parameters : iterable of Parameter
        What is learned.
    plan : Plan
    row_weights : ndarray of shape (n_rows,)
        The windows of one row share its weight.
    schedule : Schedule
    random_state : RandomState
        Of the order of the rows.
    verbose : int, default=0
    row_numbers : ndarray of shape (n_rows,), default=None
        What the user calls the rows, for messages; None numbers them as they are.
    epoch_end : callable, default=None

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, learning_rate (at its end), seconds, and what `epoch_end` gave.

    Raises
    ------
    FloatingPointError
        If the loss or its gradient is no longer finite; nothing has moved since the last good step.

    Warns
    -----
    UserWarning
        If a KeyboardInterrupt ended training early. Before the first step is done it is raised.
    """
    parameters = list(parameters)
    row_numbers = np.arange(len(row_weights)) if row_numbers is None else row_numbers
    optimizer = make_optimizer(schedule.optimizer, parameters, schedule.weight_decay)
    n_rows, history = len(row_weights), []
    n_steps = schedule.max_epochs * -(-n_rows // schedule.batch_size)
    step, batch_tokens, stop = 0, schedule.batch_tokens, False
    with progress_bar(n_steps, "fit", unit="step", shown=bool(verbose)) as bar:
        for epoch in range(1, schedule.max_epochs + 1):
            started, total, seen = time.perf_counter(), 0.0, 0.0
            order = random_state.permutation(n_rows)
            try:
                for rows in np.split(order, range(schedule.batch_size, n_rows, schedule.batch_size)):
                    rate = schedule.rate(step, n_steps)
                    weights = row_weights[rows]
                    try:
                        loss, batch_tokens = gradients_within_memory(
                            losses, parameters, plan, rows, weights, batch_tokens
                        )
                        clip_gradients(parameters, schedule.max_grad_norm)
                    except NotFiniteError as error:
                        raise FloatingPointError(
                            f"{error.describe(row_numbers)} in step {step + 1} of epoch {epoch}. Lower learning_rate "
                            f"(it is {schedule.learning_rate:g}), or use dtype='float32'."
                        ) from None
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    total, seen, step = total + loss * weights.sum(), seen + weights.sum(), step + 1
                    bar.update()
                    bar.set_postfix(epoch=f"{epoch}/{schedule.max_epochs}", loss=f"{loss:.4f}", refresh=False)
                metrics = {"epoch": epoch, "loss": total / seen, "learning_rate": rate}
                if epoch_end is not None:
                    more, stop = epoch_end(epoch, metrics)
                    metrics |= more
            except KeyboardInterrupt:
                if step == 0:
                    raise
                warnings.warn(
                    f"Training was interrupted in epoch {epoch} of {schedule.max_epochs}, after {step} of {n_steps} "
                    f"steps; the model is fitted so far.",
                    UserWarning,
                    stacklevel=2,
                )
                metrics = {"epoch": epoch, "loss": total / seen if seen else np.nan, "learning_rate": rate}
                stop = True
            history.append(metrics | {"seconds": time.perf_counter() - started})
            if stop:
                break
    return pd.DataFrame(history)


class NotFiniteError(Exception):
    """A loss or a gradient that is infinite or not a number, with the rows known to have caused it."""

    def __init__(self, what: str, rows: np.ndarray) -> None:
        super().__init__(what)
        self.what, self.rows = what, rows

    def describe(self, row_numbers: np.ndarray, n_shown: int = 5) -> str:
        """Say what happened, and where by the user's numbers of the rows."""
        if not len(self.rows):
            return self.what
        numbers = row_numbers[np.unique(self.rows)]
        shown = ", ".join(map(str, np.sort(numbers)[:n_shown]))
        more = ", ..." if len(numbers) > n_shown else ""
        return f"{self.what} at row{'s' if len(numbers) > 1 else ''} {shown}{more} of X"


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None) -> None:
    """Shorten the gradient to `max_norm`; one that is not finite is an error."""
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    if not torch.isfinite(norm):
        raise NotFiniteError(f"The gradient became {norm.item()}", np.array([], int))


def gradients_within_memory(
    losses: Callable[[np.ndarray, np.ndarray], Tensor],
    parameters: list[nn.Parameter],
    plan: Plan,
    rows: np.ndarray,
    weights: np.ndarray,
    batch_tokens: int,
) -> tuple[float, int]:
    """Accumulate the gradients of a step; where memory runs out, again with half the tokens at once.

    Returns
    -------
    loss : float
    batch_tokens : int
        With which it went.
    """
    device = parameters[0].device
    devices = [device] if device.type == "cuda" else []
    while True:
        # A failed attempt has drawn dropout's numbers; the next one is to draw the same.
        states = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]
        try:
            return accumulate_gradients(losses, plan, rows, weights, batch_tokens), batch_tokens
        except torch.OutOfMemoryError:
            shortest = plan.lengths[plan.windows_of_rows(rows)[0]].min()
            if batch_tokens <= shortest:  # one window at a time already
                raise
        # Outside of the handler, whose traceback holds the tensors of the failed attempt.
        for parameter in parameters:
            parameter.grad = None
        torch.set_rng_state(states[0])
        for d, state in zip(devices, states[1], strict=True):
            torch.cuda.set_rng_state(state, d)
            torch.cuda.empty_cache()
        batch_tokens //= 2


def accumulate_gradients(
    losses: Callable[[np.ndarray, np.ndarray], Tensor],
    plan: Plan,
    rows: np.ndarray,
    weights: np.ndarray,
    batch_tokens: int,
) -> float:
    """Add up the gradients of one step over its micro-batches; returns the step's weighted mean loss."""
    windows, place = plan.windows_of_rows(rows)
    shares = weights[place] / np.bincount(place)[place] / weights.sum()
    step_loss = 0.0
    for batch in token_batches(plan.lengths[windows], batch_tokens):
        each = losses(windows[batch], rows[place[batch]])
        loss = (each * torch.as_tensor(shares[batch], dtype=each.dtype, device=each.device)).sum()
        value = loss.item()
        if not math.isfinite(value):
            bad = ~torch.isfinite(each.detach()).cpu().numpy()
            raise NotFiniteError(f"The loss became {value}", rows[place[batch][bad]])
        loss.backward()
        step_loss += value
    return step_loss
