"""Windows of token ids through a base, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.runtime.plan import rows_of
from skxlmr.system.progress import progress_bar
from skxlmr.text.batching import token_batches


def collate(
    windows: Sequence[np.ndarray], model: XLMRobertaXLModel, causal: bool = False
) -> tuple[Tensor, Tensor, Packing]:
    """Pack windows: token ids (T,), position ids (T,) and the packing, on the model's device."""
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
    """Run one batch of windows; returns a hidden state (T, H) for each of `layers`, and the packing."""
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
    """Run windows in batches of like length and return the output for each, in the order given.

    Parameters
    ----------
    compute : callable
        Takes the indices of a batch of windows; returns one row for each, or `counts` rows, (n, d).
    lengths : ndarray of shape (n_windows,)
        Tokens in each window.
    batch_tokens : int
    counts : ndarray of shape (n_windows,), default=None
        Rows of each window; None is one.

    Returns
    -------
    ndarray of shape (n_windows, d) or (counts.sum(), d), float32
    """
    if counts is None:
        counts = np.ones(len(lengths), np.int64)
    results: np.ndarray | None = None
    with progress_bar(int(lengths.sum()), description, unit="tok", shown=bool(verbose), leave=False) as bar:
        for batch in token_batches(lengths, batch_tokens):
            output = _within_memory(compute, batch).float().cpu().numpy()
            if results is None:
                results = np.empty((int(counts.sum()), output.shape[1]), np.float32)
            results[rows_of(batch, counts)] = output
            bar.update(int(lengths[batch].sum()))
    return results


def _within_memory(compute: Callable[[np.ndarray], Tensor], batch: np.ndarray) -> Tensor:
    """Run a batch; where memory runs out, in halves."""
    try:
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
    """Combine the windows of each text.

    Parameters
    ----------
    values : ndarray of shape (n_windows, d)
    groups : ndarray of shape (n_windows,)
        The text of each window: 0, 0, 1, 2, 2..., ascending and without gaps.
    how : {"mean", "max"}
    weights : ndarray of shape (n_windows,), default=None
        Of a mean.

    Returns
    -------
    ndarray of shape (n_texts, d)
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
