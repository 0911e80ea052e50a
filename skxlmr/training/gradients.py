"""The gradient of one optimiser step, accumulated over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skxlmr.runtime.plan import WindowPlan

# From indices of windows, the row of each, and whether to recompute layers in the backward pass, to their losses.
Losses = Callable[[np.ndarray, np.ndarray, bool], Tensor]


@dataclass(frozen=True, eq=False)
class BatchLosses:
    """Losses that compare the rows of an optimiser step with each other, however small its micro-batches are.

    Attributes
    ----------
    encode : callable
        From indices of windows, the row of each, and whether to recompute layers in the backward pass, to one vector
        per row, in this order. All windows of a row are there, next to each other.
    compare : callable
        From the vectors of all rows of a step, and these rows, to their losses.
    device : torch.device
    """

    encode: Callable[[np.ndarray, np.ndarray, bool], Tensor]
    compare: Callable[[Tensor, np.ndarray], Tensor]
    device: torch.device

    def of_step(
        self, windows: np.ndarray, place: np.ndarray, rows: np.ndarray, batches: list[np.ndarray], recompute: bool
    ) -> tuple[Tensor, np.ndarray]:
        """Compute the losses of the rows of a step, and for each the place of its row in `rows`.

        `batches` are the micro-batches, as `WindowPlan.micro_batches` returns them. The backward pass runs each of
        several again, one after the other, so that the memory is that of one (a gradient cache, arXiv:2101.06983).
        """
        on_device = torch.empty(0, device=self.device)  # tells `checkpoint` whose random state to keep for dropout

        def encode(batch: np.ndarray) -> Tensor:
            if len(batches) == 1:
                return self.encode(windows[batch], rows[place[batch]], recompute)
            return checkpoint(
                lambda _: self.encode(windows[batch], rows[place[batch]], recompute), on_device, use_reentrant=False
            )

        vectors = torch.cat([encode(batch) for batch in batches])
        of_windows = place[np.concatenate(batches)]
        of_vectors = of_windows[np.diff(of_windows, prepend=-1) != 0]  # once for all windows of a row
        return self.compare(vectors, rows[of_vectors]), of_vectors


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
    losses: Losses | BatchLosses,
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
    batches = plan.micro_batches(windows, place, batch_tokens)
    if isinstance(losses, BatchLosses):
        each, place = losses.of_step(windows, place, rows, batches, recompute)
        return _backward(each, weights[place] / weights.sum(), rows[place], loss_scale)
    shares = weights[place] / np.bincount(place)[place] / weights.sum()
    step_loss = 0.0
    for batch in batches:
        each = losses(windows[batch], rows[place[batch]], recompute)
        step_loss += _backward(each, shares[batch], rows[place[batch]], loss_scale)
    return step_loss


def _backward(each: Tensor, shares: np.ndarray, rows: np.ndarray, loss_scale: float) -> float:
    """Add the gradient of a sum of losses, weighted by `shares`; returns the sum."""
    loss = (each * torch.as_tensor(shares, dtype=each.dtype, device=each.device)).sum()
    value = loss.item()
    if not math.isfinite(value):
        bad = ~torch.isfinite(each.detach()).cpu().numpy()
        raise NotFiniteError(f"The loss became {value}", rows[bad])
    (loss * loss_scale).backward()
    return value


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None, loss_scale: float = 1.0) -> float:
    """Divide the gradient by the loss scale and clip its norm to `max_norm`; returns the norm before clipping."""
    if loss_scale != 1:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], loss_scale)
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm).item()
