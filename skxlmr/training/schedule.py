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
