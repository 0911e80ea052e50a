"""The gradient of one optimiser step, accumulated over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skxlmr.model.transfer import upload_one
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


@dataclass(frozen=True, eq=False)
class StepLosses:
    """The losses of the micro-batches of a step, on the device: the host has not waited for them."""

    sums: list[Tensor]  # the share of each micro-batch in the weighted mean loss
    each: list[tuple[Tensor, np.ndarray]]  # of each micro-batch, its losses (n,) and the row of each

    def read(self, *more: Tensor) -> list[float]:
        """Wait for the device; return the weighted mean loss of the step, and `more` numbers.

        Raises NotFiniteError if a loss is not finite.
        """
        numbers = torch.stack([*self.sums, *more]).tolist()
        sums, others = numbers[: len(self.sums)], numbers[len(self.sums) :]
        for value, (losses, rows) in zip(sums, self.each, strict=True):
            if not math.isfinite(value):
                raise NotFiniteError(f"The loss became {value}", rows[~torch.isfinite(losses).cpu().numpy()])
        return [sum(sums), *others]


def accumulate_gradients(
    losses: Losses | BatchLosses,
    plan: WindowPlan,
    rows: np.ndarray,
    weights: np.ndarray,
    batch_tokens: int,
    recompute: bool = False,
    loss_scale: float = 1.0,
) -> StepLosses:
    """Accumulate the gradient of one step, times `loss_scale`; returns its losses.

    The windows of a row share its weight, and micro-batches count by the weights in them, so the result does not
    depend on `batch_tokens`.
    """
    windows, place = plan.windows_of_rows(rows)
    batches = plan.micro_batches(windows, place, batch_tokens)
    if isinstance(losses, BatchLosses):
        each, place = losses.of_step(windows, place, rows, batches, recompute)
        loss = _backward(each, weights[place] / weights.sum(), loss_scale)
        return StepLosses([loss], [(each.detach(), rows[place])])
    shares = weights[place] / np.bincount(place)[place] / weights.sum()
    step = StepLosses([], [])
    for batch in batches:
        each, of_rows = losses(windows[batch], rows[place[batch]], recompute), rows[place[batch]]
        step.sums.append(_backward(each, shares[batch], loss_scale))
        step.each.append((each.detach(), of_rows))
    return step


def _backward(each: Tensor, shares: np.ndarray, loss_scale: float) -> Tensor:
    """Add the gradient of a sum of losses, weighted by `shares`; returns the sum."""
    loss = (each * upload_one(shares, each.device).to(each.dtype)).sum()
    (loss * loss_scale).backward()
    return loss.detach()


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None, loss_scale: float = 1.0) -> Tensor:
    """Divide the gradient by the loss scale and clip its norm to `max_norm`; returns the norm before clipping."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if loss_scale != 1:
        torch._foreach_div_(gradients, loss_scale)
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
