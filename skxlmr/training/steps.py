"""The gradient of each step of a training, computed again if memory or the range of float16 did not suffice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from skxlmr.model.dynamic_outliers import Guess, guessing
from skxlmr.runtime import graphs
from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.out_of_memory import as_out_of_memory
from skxlmr.training.callbacks import LOGGER
from skxlmr.training.gradients import (
    BatchLosses,
    Begin,
    Losses,
    NotFiniteError,
    accumulate_gradients,
    clip_gradients,
)
from skxlmr.training.optimizers import allocate_state
from skxlmr.training.ranks import OutOfMemoryTogetherError
from skxlmr.training.state import TrainingState

# Gradients in float16 vanish unless the loss is scaled up; start and growth are those of torch.amp.GradScaler.
FIRST_LOSS_SCALE = 2.0**16
STEPS_UNTIL_GROWTH = 2000

TOO_LARGE = (
    "The training does not fit into the memory that is free, with the smallest batches and gradient checkpointing. "
    "`skxlmr.release_models()` frees models that no estimator uses. Otherwise use load_in_8bit=True, a tuning that "
    "trains less, a lower max_length, or another device; `skxlmr.memory_estimate` says what is needed."
)


STATE_TOO_LARGE = (
    "The state of the optimizer does not fit into the memory that is free beside the weights. Use "
    "optimizer='adamw8bit' on CUDA, a tuning that trains less, such as 'lora', or another device; "
    "`skxlmr.release_models()` frees models that no estimator uses, and `skxlmr.memory_estimate` says what is needed."
)
PARTLY_UPDATED = (
    "Memory ran out while the optimizer updated the weights. Some of them are updated and others are not, so this "
    "training cannot go on. Lower batch_tokens, or free memory of the device; with checkpoint_dir, the next fit "
    "resumes from the latest checkpoint."
)


class _LossScaleError(Exception):
    """The scaled gradient overflows float16."""


@dataclass(eq=False, repr=False)
class StepGradients:
    """Computes the gradients of steps, with the tokens per batch and the loss scale that a `TrainingState` has."""

    losses: Losses | BatchLosses
    module: nn.Module
    plan: WindowPlan
    row_weights: np.ndarray  # (n_rows,)
    max_grad_norm: float | None
    state: TrainingState

    def __post_init__(self) -> None:
        self._may_guess = True  # see `skxlmr.model.dynamic_outliers`
        self._guessed = False  # in the latest step, in one of the processes

    def compute(self, rows: np.ndarray) -> float:
        """Compute the gradient of a step; returns its loss.

        If memory runs out, retry without CUDA graphs, which frozen layers may use, then with smaller batches. If
        float16 overflows, retry with a smaller scale; if a guess was wrong, without guesses.

        Raises NotFiniteError if the loss or the gradient is not finite, and KeyboardInterrupt if one of the processes
        was interrupted.
        """
        state = self.state
        while True:
            try:
                # A retry draws the same dropout as the failed attempt.
                with as_out_of_memory(), state.randomness.drawing_parts() as begin, guessing(self._may_guess) as guess:
                    return self._attempt(rows, begin, guess)
            except torch.OutOfMemoryError as error:
                ranks = state.ranks
                freed = graphs.free() and ranks.size == 1  # several processes reduce their batches together
                # Unless all processes raise it, the others go on, and wait for this one.
                alone = ranks.size > 1 and not isinstance(error, OutOfMemoryTogetherError)
                if not freed and (alone or not self._reduce_memory(rows)):
                    raise torch.OutOfMemoryError(f"{error}\n{TOO_LARGE}") from None
            except (NotFiniteError, _LossScaleError) as error:
                if self._guessed:
                    self._may_guess = False
                elif isinstance(error, NotFiniteError):
                    raise
                else:
                    state.position.loss_scale /= 2
                    state.position.steps_since_overflow = 0
            # Outside of the handler, whose traceback holds the tensors of the failed attempt.
            state.optimizer.zero_grad(set_to_none=True)
            self.module.zero_grad(set_to_none=True)  # of which the optimizer has shards
            self._empty_cache()

    def _attempt(self, rows: np.ndarray, begin: Begin, guess: Guess) -> float:
        position, ranks, parameters = self.state.position, self.state.ranks, list(self.state.parameters.values())
        scale = position.loss_scale
        losses = accumulate_gradients(
            self.losses,
            self.plan,
            rows,
            self.row_weights[rows],
            position.batch_tokens,
            position.recompute,
            scale,
            ranks,
            begin,
        )
        self._guessed, interrupted = ranks.any([guess.used_so_far, ranks.interrupted])
        if interrupted:
            raise KeyboardInterrupt
        ranks.sum_gradients(parameters)
        clipped = clip_gradients(parameters, self.max_grad_norm, scale, ranks)
        loss, norm = losses.read(clipped, ranks=ranks)
        if not np.isfinite(norm):
            if scale > 1:
                raise _LossScaleError
            raise NotFiniteError(f"The gradient became {norm}", np.array([], int))
        if scale > 1:
            position.steps_since_overflow += 1
            if position.steps_since_overflow % STEPS_UNTIL_GROWTH == 0:
                position.loss_scale *= 2
        return loss

    def allocate(self) -> None:
        """Allocate the state of the optimizer; raise torch.OutOfMemoryError if memory does not suffice."""
        for attempt in range(2):
            try:
                with as_out_of_memory():
                    allocate_state(self.state.optimizer)
                return
            except torch.OutOfMemoryError as error:
                if not graphs.free() or attempt:
                    raise torch.OutOfMemoryError(f"{error}\n{STATE_TOO_LARGE}") from None
            self._empty_cache()

    def apply(self) -> None:
        """Update the parameters by the gradients of the step, which end with it."""
        try:
            with as_out_of_memory():
                self.state.optimizer.step()
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"{error}\n{PARTLY_UPDATED}") from None
        self.state.optimizer.zero_grad(set_to_none=True)

    def _empty_cache(self) -> None:
        if self.state.randomness.device.type == "cuda":
            torch.cuda.empty_cache()

    def _reduce_memory(self, rows: np.ndarray) -> bool:
        """Halve `batch_tokens`, then recompute layers in the backward pass; return False if both are exhausted."""
        position = self.state.position
        if position.batch_tokens > self.plan.shortest(rows):
            position.batch_tokens //= 2
            LOGGER.info("out of memory: batch_tokens is %d from here on", position.batch_tokens)
        elif not position.recompute:
            position.recompute = True
            LOGGER.info("out of memory: layers are computed again in the backward pass from here on")
        else:
            return False
        return True
