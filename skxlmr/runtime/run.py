"""Running a base model over windows of token ids, in batches of similar length."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.dynamic_outliers import Guess, guessing
from skxlmr.model.packing import Packing, bounds
from skxlmr.model.transfer import downloads, upload
from skxlmr.runtime import graphs
from skxlmr.runtime.ahead import ahead
from skxlmr.runtime.devices import share
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.system.forks import gate
from skxlmr.system.out_of_memory import as_out_of_memory
from skxlmr.system.progress import progress_bar
from skxlmr.text.batching import token_batches

Prepared = TypeVar("Prepared")

TOO_LARGE = (
    "Batches were halved, but the memory that is free does not suffice for a single text. "
    "`skxlmr.release_models()` frees models that no estimator uses. Otherwise use load_in_8bit=True, a lower "
    "max_length, or another device; `skxlmr.memory_estimate` says what is needed."
)


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of packed windows on a device."""

    windows: Sequence[np.ndarray]  # as on the host
    ids: Tensor  # (T,), int64
    position_ids: Tensor  # (T,), int64
    packing: Packing
    places: Tensor | None  # (n,) int64, the tokens whose states are features; None means one feature per window
    pooled: tuple[Tensor, Packing] | None  # the tokens that the pooling takes, and their packing; None means all
    more: list[Tensor]  # what else was uploaded with it


@dataclass(frozen=True, eq=False)
class HostBatch:
    """A batch of windows that is ready for its upload."""

    windows: Sequence[np.ndarray]
    lengths: np.ndarray  # (B,), int64
    arrays: list[np.ndarray]  # ids, position ids, places and `left_out` if there are some, and more
    has_places: bool
    left_out: np.ndarray | None  # (B,), int64
    causal: bool

    @classmethod
    def of(
        cls,
        windows: Sequence[np.ndarray],
        model: XLMRobertaXLModel,
        positions: Sequence[np.ndarray] | None = None,
        left_out: np.ndarray | None = None,
        *,
        more: Sequence[np.ndarray] = (),
        causal: bool = False,
    ) -> HostBatch:
        """Join windows for a model; `more` is uploaded with them.

        `positions` in each window have features; or there is one per window, and the pooling takes all tokens but the
        first `left_out`, (B,) int64.
        """
        lengths = np.fromiter(map(len, windows), np.int64, len(windows))
        starts = np.cumsum(lengths) - lengths
        ids = np.concatenate(windows).astype(np.int64)
        position_ids = np.arange(len(ids)) + np.repeat(model.config.first_position - starts, lengths)
        arrays = [ids, position_ids]
        if positions is not None:
            counts = np.fromiter(map(len, positions), np.int64, len(positions))
            arrays.append(np.repeat(starts, counts) + np.concatenate(positions))
        if left_out is not None:
            arrays.append(left_out)
        return cls(windows, lengths, [*arrays, *more], positions is not None, left_out, causal)

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device, all at once."""
        on_host = torch.from_numpy(self.lengths)
        cu_seqlens, ids, position_ids, *more = upload([bounds(on_host), *self.arrays], device)
        packing = Packing(cu_seqlens, on_host, self.causal)
        places = more.pop(0) if self.has_places else None
        pooled = None
        if self.left_out is not None:
            pooled = packing.without_first(more.pop(0), torch.from_numpy(self.left_out))
        return Batch(self.windows, ids, position_ids, packing, places, pooled, more)


def encode(model: XLMRobertaXLModel, batch: Batch, layers: Sequence[int] = (-1,)) -> list[Tensor]:
    """Run one batch of windows; returns the hidden states (T, H) after each of `layers`."""
    return graphs.encode(model, batch.ids, batch.position_ids, batch.packing, layers=layers)


def run(
    computes: Mapping[torch.device, Callable[[Prepared], Tensor]],
    prepare: Callable[[np.ndarray], Prepared],
    lengths: np.ndarray,
    *,
    batch_tokens: int,
    counts: np.ndarray | None = None,
    verbose: int = 0,
    description: str = "encode",
) -> np.ndarray:
    """Run windows of the given lengths in batches of similar length; returns (counts.sum(), d), float32, in order.

    `prepare` takes the indices of a batch of windows; `computes` has for each device, of one type, a function that
    takes the result, and returns `counts` rows for each window, (n, d), on the device; None means one. Where these are
    GPUs, a thread prepares the next batch meanwhile, and the results of a batch are read while the next one is
    computed. Several GPUs take batches from one queue. Raises FloatingPointError if a result is infinite or NaN.
    """
    if counts is None:
        counts = np.ones(len(lengths), np.int64)
    batches = token_batches(lengths, batch_tokens)
    on_gpu = next(iter(computes)).type == "cuda"
    prepared = ahead(prepare, batches) if on_gpu else _each(prepare, batches)
    bar = progress_bar(int(lengths.sum()), description, unit="tok", shown=bool(verbose), leave=False)
    results: Any = None
    lock = threading.Lock()

    def store(batch: np.ndarray, output: np.ndarray) -> None:
        nonlocal results
        _check_finite(output, lengths[batch], counts[batch])
        with lock:
            if results is None:
                results = np.empty((int(counts.sum()), output.shape[1]), np.float32)
            bar.update(int(lengths[batch].sum()))
        results[rows_of(batch, counts)] = output

    @torch.inference_mode()
    def work(device: torch.device, queue: Iterator[tuple[np.ndarray, Prepared]]) -> None:
        for batch, output in _outputs(computes[device], prepare, queue):
            store(batch, output)

    with bar, closing(prepared):  # the thread ends also after an error of the model
        share([*computes][: max(len(batches), 1)], zip(batches, prepared, strict=True), work)
    return results


def _outputs(
    compute: Callable[[Prepared], Tensor],
    prepare: Callable[[np.ndarray], Prepared],
    queue: Iterator[tuple[np.ndarray, Prepared]],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run the batches of a queue on one device; yield each and its results, while the next one is computed."""
    may_guess = True  # how many outliers there are; see `skxlmr.model.dynamic_outliers`
    begun: deque[tuple[np.ndarray, Guess]] = deque()

    def tensors() -> Iterator[Tensor]:
        for batch, ready in queue:
            with guessing(may_guess) as guess:
                output = _within_memory(compute, prepare, batch, ready).float()
            begun.append((batch, guess))
            yield output

    for output in downloads(tensors()):
        batch, guess = begun.popleft()
        if guess.used and not bool(output.isfinite().all()):
            may_guess = False
            output = _within_memory(compute, prepare, batch, prepare(batch)).float().cpu()
        yield batch, output.numpy()


def _check_finite(output: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> None:
    """Raise FloatingPointError unless the results of a batch are finite."""
    is_finite = np.isfinite(output).all(axis=1)
    if not is_finite.all():
        bad = np.unique(np.repeat(np.arange(len(counts)), counts)[~is_finite])
        raise FloatingPointError(
            f"The model gives infinite numbers or NaN for {len(bad)} of {len(lengths)} texts of a batch, the first of "
            f"{lengths[bad[0]]} tokens. In float16, the default on GPUs without bfloat16, numbers above 65504 are "
            f"infinite: use dtype='float32', or load_in_8bit=True with it to save memory. In any other dtype the "
            f"training has diverged: fit again with a lower learning_rate."
        )


def _each(prepare: Callable[[np.ndarray], Prepared], batches: list[np.ndarray]) -> Generator[Prepared, None, None]:
    yield from map(prepare, batches)


def _within_memory(
    compute: Callable[[Prepared], Tensor],
    prepare: Callable[[np.ndarray], Prepared],
    batch: np.ndarray,
    prepared: Prepared,
) -> Tensor:
    """Run a batch; if memory runs out, without CUDA graphs, then in halves."""
    try:
        with gate.inside(), as_out_of_memory():
            return compute(prepared)
    except torch.OutOfMemoryError as error:
        freed = graphs.free()
        if len(batch) == 1 and not freed:
            raise torch.OutOfMemoryError(f"{error}\n{TOO_LARGE}") from None
    # Outside of the handler, whose traceback holds the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if freed:
        return _within_memory(compute, prepare, batch, prepare(batch))
    half = len(batch) // 2
    halves = (batch[:half], batch[half:])
    return torch.cat([_within_memory(compute, prepare, each, prepare(each)) for each in halves])


def pool_windows(values: np.ndarray, groups: np.ndarray, how: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Combine the windows of each text by `how`, "mean" or "max": (n_windows, d) -> (n_texts, d).

    `groups` (n_windows,) holds the text of each window, ascending and without gaps; `weights` (n_windows,) are for the
    mean.
    """
    counts = np.bincount(groups)
    if (counts == 1).all():
        return values
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    if how == "max":
        return np.maximum.reduceat(values, starts)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    total = np.add.reduceat(values * weights[:, None], starts)
    return (total / np.add.reduceat(weights, starts)[:, None]).astype(values.dtype)


def pool_texts(vectors: np.ndarray, plan: WindowPlan, pooling: str) -> np.ndarray:
    """Pool the vectors of windows as those of tokens were, (n_windows, d) -> (n_rows, d).

    Means are weighted by the numbers of tokens; with "cls" windows are averaged.
    """
    if "+" in pooling:
        modes = pooling.split("+")
        parts = np.split(vectors, len(modes), axis=1)
        return np.hstack([pool_texts(part, plan, mode) for part, mode in zip(parts, modes, strict=True)])
    how = "max" if pooling == "max" else "mean"
    return pool_windows(vectors, plan.text_of_window, how, plan.n_pooled if "mean" in pooling else None)[
        plan.text_of_row
    ]
