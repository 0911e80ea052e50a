"""Running a base model over windows of token ids, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.system.forks import gate
from skxlmr.system.progress import progress_bar
from skxlmr.text.batching import token_batches


def collate(
    windows: Sequence[np.ndarray], model: XLMRobertaXLModel, causal: bool = False
) -> tuple[Tensor, Tensor, Packing]:
    """Pack windows into token ids (T,), position ids (T,) and the packing, on the device of the model."""
    packing = Packing.from_lengths([len(window) for window in windows], model.device, causal=causal)
    positions = [np.arange(len(window)) for window in windows]
    first_position = model.config.first_position
    ids = torch.from_numpy(np.concatenate(windows).astype(np.int64)).to(model.device)
    return ids, torch.from_numpy(np.concatenate(positions) + first_position).to(model.device), packing


def encode(
    model: XLMRobertaXLModel,
    windows: Sequence[np.ndarray],
    *,
    layers: Sequence[int] = (-1,),
    causal: bool = False,
) -> tuple[list[Tensor], Packing]:
    """Run one batch of windows; returns the hidden states (T, H) after each of `layers`, and the packing."""
    ids, positions, packing = collate(windows, model, causal)
    return model.encode(ids, positions, packing, layers=layers), packing


@torch.inference_mode()
def run(
    compute: Callable[[np.ndarray], Tensor],
    lengths: np.ndarray,
    *,
    batch_tokens: int,
    counts: np.ndarray | None = None,
    verbose: int = 0,
    description: str = "encode",
) -> np.ndarray:
    """Run windows of the given lengths in batches of similar length; returns (counts.sum(), d), float32, in order.

    `compute` takes the indices of a batch of windows and returns `counts` rows for each, (n, d); None means one.
    Raises FloatingPointError if a result is infinite or NaN.
    """
    if counts is None:
        counts = np.ones(len(lengths), np.int64)
    results: Any = None
    with progress_bar(int(lengths.sum()), description, unit="tok", shown=bool(verbose), leave=False) as bar:
        for batch in token_batches(lengths, batch_tokens):
            output = _within_memory(compute, batch).float().cpu().numpy()
            _check_finite(output, lengths[batch], counts[batch])
            if results is None:
                results = np.empty((int(counts.sum()), output.shape[1]), np.float32)
            results[rows_of(batch, counts)] = output
            bar.update(int(lengths[batch].sum()))
    return results


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


def _within_memory(compute: Callable[[np.ndarray], Tensor], batch: np.ndarray) -> Tensor:
    """Run a batch, in halves if memory runs out."""
    try:
        with gate.inside():
            return compute(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside of the handler, whose traceback holds the tensors of the failed attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(batch) // 2
    return torch.cat([_within_memory(compute, batch[:half]), _within_memory(compute, batch[half:])])


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
