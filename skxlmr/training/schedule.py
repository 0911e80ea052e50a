"""How long and how fast to learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
    gradient_checkpointing : bool
        Run each layer again in the backward pass, to keep less.
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
    gradient_checkpointing: bool = False

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step: up linearly over the warm-up, then by `lr_schedule`."""
        warmup = round(self.warmup * n_steps)
        if self.warmup:
            warmup = max(1, warmup)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * LR_SCHEDULES[self.lr_schedule]((step - warmup) / max(1, n_steps - warmup))
