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
from skxlmr.training.ranks import ALONE, Ranks

# From indices of windows, the row of each, and whether to recompute layers in the backward pass, to their losses.
Losses = Callable[[np.ndarray, np.ndarray, bool], Tensor]

# Called with the number of a micro-batch before it is run, so that its dropout depends on this number.
Begin = Callable[[int], None]


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

    def of_step(self, step: Step, recompute: bool, ranks: Ranks, begin: Begin) -> tuple[Tensor, np.ndarray]:
        """Compute the losses of the rows of a step, and for each the place of its row in `step.rows`.

        The backward pass runs each of several micro-batches again, one after the other, so that the memory is that of
        one (a gradient cache, arXiv:2101.06983). With several processes, each has the losses of all rows, whose
        backward pass leads to the vectors that it has encoded itself.
        """
        on_device = torch.empty(0, device=self.device)  # tells `checkpoint` whose random state to keep for dropout
        mine = ranks.share(step.n_tokens)

        def encode(number: int) -> Tensor:
            begin(number)
            windows, of_rows = step.batch(number)
            if len(mine) == 1:
                return self.encode(windows, of_rows, recompute)
            return checkpoint(lambda _: self.encode(windows, of_rows, recompute), on_device, use_reentrant=False)

        with ranks.together():
            vectors = torch.cat([encode(number) for number in mine]) if mine else on_device
        of_vectors = step.rows_encoded(mine)
        if ranks.size > 1:
            vectors, of_vectors = _with_others(vectors, of_vectors, step, ranks), np.arange(len(step.rows))
        return self.compare(vectors, step.rows[of_vectors]), of_vectors


def _with_others(vectors: Tensor, of_vectors: np.ndarray, step: Step, ranks: Ranks) -> Tensor:
    """Return the vectors of all rows of a step, in order; gradients flow to those of this process."""
    shape = vectors.shape[1:]
    if len(step.batches) < ranks.size:  # then some have none, whose shape they do not know
        shape = ranks.broadcast(shape)
    places = upload_one(of_vectors, vectors.device)
    every = torch.zeros(len(step.rows), *shape, device=vectors.device)
    if not len(of_vectors):
        return ranks.sum_tensor(every)
    others = ranks.sum_tensor(every.to(vectors.dtype).index_copy(0, places, vectors.detach()))
    return others.index_copy(0, places, vectors)


@dataclass(frozen=True, eq=False)
class Step:
    """The rows of an optimiser step, and the micro-batches that all processes together run."""

    rows: np.ndarray  # (n_rows,)
    windows: np.ndarray  # (n_windows,)
    place: np.ndarray  # (n_windows,), that of the row of each window in `rows`
    batches: list[np.ndarray]  # indices into `windows`
    n_tokens: list[int]  # of each micro-batch

    @classmethod
    def of(cls, plan: WindowPlan, rows: np.ndarray, batch_tokens: int, ranks: Ranks) -> Step:
        """Cut rows into micro-batches of at most `batch_tokens`."""
        windows, place = plan.windows_of_rows(rows)
        lengths = plan.lengths[windows]
        batches = plan.micro_batches(windows, place, ranks.n_tokens(int(lengths.sum()), batch_tokens))
        return cls(rows, windows, place, batches, [int(lengths[batch].sum()) for batch in batches])

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows of a micro-batch, and the row of each."""
        batch = self.batches[number]
        return self.windows[batch], self.rows[self.place[batch]]

    def rows_encoded(self, numbers: list[int]) -> np.ndarray:
        """Return the places of the rows of some micro-batches, once for all windows of a row."""
        of_windows = np.concatenate([np.empty(0, np.int64), *(self.place[self.batches[i]] for i in numbers)])
        return of_windows[np.diff(of_windows, prepend=-1) != 0]


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

    def read(self, *more: Tensor, ranks: Ranks = ALONE) -> list[float]:
        """Wait for the device; return the weighted mean loss of the step, and `more` numbers.

        Raises NotFiniteError if a loss is not finite, in all processes.
        """
        numbers = torch.stack([*self.sums, *more]).tolist()
        sums, others = numbers[: len(self.sums)], numbers[len(self.sums) :]
        total = ranks.sum(sum(sums))
        if not math.isfinite(total):
            bad = [
                (value, rows[~torch.isfinite(losses).cpu().numpy()])
                for value, (losses, rows) in zip(sums, self.each, strict=True)
                if not math.isfinite(value)
            ]
            found = [each for of_rank in ranks.gather(bad[:1]) for each in of_rank]
            rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in found)])
            raise NotFiniteError(f"The loss became {found[0][0] if found else total}", rows)
        return [total, *others]


def accumulate_gradients(
    losses: Losses | BatchLosses,
    plan: WindowPlan,
    rows: np.ndarray,
    weights: np.ndarray,
    batch_tokens: int,
    recompute: bool = False,
    loss_scale: float = 1.0,
    ranks: Ranks = ALONE,
    begin: Begin = lambda number: None,
) -> StepLosses:
    """Accumulate the gradient of one step, times `loss_scale`; returns its losses.

    The windows of a row share its weight, and micro-batches count by the weights in them, so the result does not
    depend on `batch_tokens`. Each of several processes runs some of the micro-batches; the sum of their gradients is
    that of the step.
    """
    step = Step.of(plan, rows, batch_tokens, ranks)
    if isinstance(losses, BatchLosses):
        each, place = losses.of_step(step, recompute, ranks, begin)
        with ranks.together():
            loss = _backward(each, weights[place] / weights.sum(), loss_scale)
        return StepLosses([loss if ranks.is_first else torch.zeros_like(loss)], [(each.detach(), rows[place])])
    place, found = step.place, StepLosses([], [])
    shares = weights[place] / np.bincount(place)[place] / weights.sum()
    with ranks.together():
        for _ in range(ranks.padding(step.n_tokens)):
            begin(0)
            each = losses(*step.batch(0), recompute)
            _backward(each, np.zeros(len(each)), loss_scale)
        for number in ranks.share(step.n_tokens):
            begin(number)
            windows, of_rows = step.batch(number)
            each = losses(windows, of_rows, recompute)
            found.sums.append(_backward(each, shares[step.batches[number]], loss_scale))
            found.each.append((each.detach(), of_rows))
    return found


def _backward(each: Tensor, shares: np.ndarray, loss_scale: float) -> Tensor:
    """Add the gradient of a sum of losses, weighted by `shares`; returns the sum."""
    loss = (each * upload_one(shares, each.device).to(each.dtype)).sum()
    if loss.requires_grad:  # not so if another process has encoded all rows
        (loss * loss_scale).backward()
    return loss.detach()


def clip_gradients(
    parameters: list[nn.Parameter], max_norm: float | None, loss_scale: float = 1.0, ranks: Ranks = ALONE
) -> Tensor:
    """Divide the gradient by the loss scale and clip its norm to `max_norm`; returns the norm before clipping."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if loss_scale != 1:
        torch._foreach_div_(gradients, loss_scale)
    norm = ranks.norm(parameters)
    if max_norm is not None:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
