"""The gradient of one optimiser step, accumulated over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from skxlmr.runtime.plan import WindowPlan

# From indices of windows, the row of each, and whether to recompute layers in the backward pass, to their losses.
Losses = Callable[[np.ndarray, np.ndarray, bool], Tensor]


class NotFiniteError(Exception):
    """A loss or gradient is infinite or NaN; `rows` are those known to have caused it."""

    def __init__(self, what: str, rows: np.ndarray) -> None:
        super().__init__(what)
        self.what, self.rows = what, rows

    def describe(self, row_numbers: np.ndarray, n_shown: int = 5) -> str:
        """Return a message with the user's numbers of the rows."""
        if not len(self.rows):
            return self.what
        numbers = row_numbers[np.unique(self.rows)]
        shown = ", ".join(map(str, np.sort(numbers)[:n_shown]))
        more = ", ..." if len(numbers) > n_shown else ""
        return f"{self.what} at row{'s' if len(numbers) > 1 else ''} {shown}{more} of X"


def accumulate_gradients(
    losses: Losses,
    plan: WindowPlan,
    rows: np.ndarray,
    weights: np.ndarray,
    batch_tokens: int,
    recompute: bool = False,
    loss_scale: float = 1.0,
) -> float:
    """Accumulate the gradient of one step, times `loss_scale`; returns the weighted mean loss of the step.

    The windows of a row share its weight, and micro-batches count by the weights in them, so the result does not
    depend on `batch_tokens`. Raises NotFiniteError if a loss is not finite.
    """
    windows, place = plan.windows_of_rows(rows)
    shares = weights[place] / np.bincount(place)[place] / weights.sum()
    step_loss = 0.0
    for batch in plan.micro_batches(windows, place, batch_tokens):
        each = losses(windows[batch], rows[place[batch]], recompute)
        loss = (each * torch.as_tensor(shares[batch], dtype=each.dtype, device=each.device)).sum()
        value = loss.item()
        if not math.isfinite(value):
            bad = ~torch.isfinite(each.detach()).cpu().numpy()
            raise NotFiniteError(f"The loss became {value}", rows[place[batch][bad]])
        (loss * loss_scale).backward()
        step_loss += value
    return step_loss


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None, loss_scale: float = 1.0) -> float:
    """Divide the gradient by the loss scale and clip its norm to `max_norm`; returns the norm before clipping."""
    if loss_scale != 1:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], loss_scale)
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm).item()
