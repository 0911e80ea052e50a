"""Optimiser steps over micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skxlmr.inference import Plan
from skxlmr.progress import progress_bar
from skxlmr.text.batching import token_batches

# RoBERTa (arXiv:1907.11692), appendix C: linear decay after a warm-up over 6% of the steps.
WARMUP = 0.06
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0


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
    """

    batch_size: int
    batch_tokens: int
    max_epochs: int
    learning_rate: float

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step: up from zero over the warm-up, then down to zero, both linearly."""
        warmup = max(1, round(WARMUP * n_steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (n_steps - step) / max(1, n_steps - warmup)


def train(
    losses: Callable[[np.ndarray, np.ndarray], Tensor],
    parameters: Iterable[nn.Parameter],
    plan: Plan,
    row_weights: np.ndarray,
    schedule: Schedule,
    random_state: np.random.RandomState,
    verbose: int = 0,
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

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, learning_rate (at its end), seconds.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    parameters = list(parameters)
    optimizer = adamw(parameters)
    n_rows, history = len(row_weights), []
    n_steps = schedule.max_epochs * -(-n_rows // schedule.batch_size)
    step = 0
    with progress_bar(n_steps, "fit", unit="step", shown=bool(verbose)) as bar:
        for epoch in range(1, schedule.max_epochs + 1):
            started, total = time.perf_counter(), 0.0
            order = random_state.permutation(n_rows)
            for rows in np.split(order, range(schedule.batch_size, n_rows, schedule.batch_size)):
                rate = schedule.rate(step, n_steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = accumulate_gradients(losses, plan, rows, row_weights[rows], schedule.batch_tokens)
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss became {loss} in step {step + 1} of epoch {epoch}. Lower learning_rate "
                        f"(it is {schedule.learning_rate:g}), or use dtype='float32'."
                    )
                nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss * row_weights[rows].sum()
                step += 1
                bar.update()
                bar.set_postfix(epoch=f"{epoch}/{schedule.max_epochs}", loss=f"{loss:.4f}", refresh=False)
            seconds = time.perf_counter() - started
            history.append((epoch, total / row_weights.sum(), rate, seconds))
    return pd.DataFrame(history, columns=["epoch", "loss", "learning_rate", "seconds"])


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
        loss = losses(windows[batch], rows[place[batch]])
        loss = (loss * torch.as_tensor(shares[batch], dtype=loss.dtype, device=loss.device)).sum()
        loss.backward()
        step_loss += loss.item()
    return step_loss


def adamw(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; biases and the gains of LayerNorm are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)
