"""The settings of a training once their "auto" is resolved, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# RoBERTa (arXiv:1907.11692), appendix C: linear decay after a warm-up over 6% of the steps.
WARMUP = 0.06
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0

# Share of the learning rate after a share of the steps that follow the warm-up.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}

# A study on topics, sentiment and pairs (benchmarks/NOTES.md): few rows gain from ten epochs, many need fewer.
MAX_EPOCHS = 10
MIN_EPOCHS = 3
STEPS = 150


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """Return the number of epochs of `max_epochs="auto"`: about `STEPS` steps, within bounds.

    Examples
    --------
    >>> [auto_epochs(n_rows, 32) for n_rows in (56, 700, 4500)]
    [10, 7, 3]
    """
    per_epoch = -(-n_rows // batch_size)
    return min(max(-(-STEPS // per_epoch), MIN_EPOCHS), MAX_EPOCHS)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; see `TrainingParameters`."""

    batch_size: int  # rows per optimiser step
    batch_tokens: int  # per micro-batch; changes memory use and speed, not what is learned
    max_epochs: int
    learning_rate: float
    lr_schedule: str = "linear"
    warmup: float = WARMUP
    weight_decay: float = WEIGHT_DECAY
    max_grad_norm: float | None = MAX_GRAD_NORM
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False  # run each layer again in the backward pass, to save memory

    def rate(self, step: int, n_steps: int) -> float:
        """Compute the learning rate of a step: a linear warm-up, then `lr_schedule`."""
        warmup = round(self.warmup * n_steps)
        if self.warmup:
            warmup = max(1, warmup)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * LR_SCHEDULES[self.lr_schedule]((step - warmup) / max(1, n_steps - warmup))
