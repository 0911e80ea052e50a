"""From a text column to windows of token ids, through a base, and back to the caller's rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.model.packing import Packing
from skxlmr.progress import progress_bar
from skxlmr.text.batching import deduplicate, token_batches

# Bytes of feed-forward activations in flight. On a CPU larger batches are no faster (see benchmarks/NOTES.md), and
# buffers of 32 MiB and more would be asked of the system anew for each batch.
ACTIVATION_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20, "mps": 256 * 2**20}


@dataclass(frozen=True)
class Plan:
    """What has to be run for a text column.

    Attributes
    ----------
    windows : list of ndarray, int32
        Token ids of each window, special tokens included. A text that fits is one window.
    text_of_window : ndarray of shape (n_windows,), int64
        The distinct text that each window is of, ascending.
    text_of_row : ndarray of shape (n_rows,), int64
        The distinct text of each of the caller's rows.
    positions : list of ndarray, int64, or None
        The tokens of each window that features are read at; None where a window has one vector of features.
    texts_are_whole : bool
        Whether the loss of a text is of all its windows together, which then share a micro-batch.
    n_cut, cut_at : int
        Distinct texts of which only so many tokens are read; whoever uses the plan calls `warn_of_cut`, since
        plans may be made in a thread.
    """

    windows: list[np.ndarray]
    text_of_window: np.ndarray
    text_of_row: np.ndarray
    positions: list[np.ndarray] | None = None
    texts_are_whole: bool = False
    n_cut: int = 0
    cut_at: int = 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each window."""
        return np.fromiter(map(len, self.windows), np.int64, len(self.windows))

    @property
    def counts(self) -> np.ndarray:
        """Vectors of features of each window."""
        if self.positions is None:
            return np.ones(len(self.windows), np.int64)
        return np.fromiter(map(len, self.positions), np.int64, len(self.windows))

    @property
    def windows_per_text(self) -> np.ndarray:
        """Number of windows of each distinct text."""
        return np.bincount(self.text_of_window)

    @property
    def n_texts(self) -> int:
        """Distinct texts."""
        return int(self.text_of_window[-1]) + 1

    def take(self, rows: np.ndarray) -> Plan:
        """The plan for some of the rows."""
        return replace(self, text_of_row=self.text_of_row[rows])

    def warn_of_cut(self, n_cut: int | None = None, n_texts: int | None = None) -> None:
        """Warn of texts that are not read to their end: those of this plan, or so many of several like it."""
        n_cut = self.n_cut if n_cut is None else n_cut
        if n_cut:
            warnings.warn(self._say_cut(n_cut, n_texts or self.n_texts), UserWarning, stacklevel=4)

    def _say_cut(self, n_cut: int, n_texts: int) -> str:
        return (
            f"{n_cut} of {n_texts} distinct texts were cut at {self.cut_at} tokens (truncation=True). "
            f"Use truncation=False to read long texts whole, in windows."
        )

    def micro_batches(self, windows: np.ndarray, place: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
        """Cut windows, each with the place of its row as `windows_of_rows` gives them, into batches of `batch_tokens`.

        Returns indices into `windows`; those of a row lie together where its text is whole.
        """
        lengths = self.lengths[windows]
        if not self.texts_are_whole:
            return token_batches(lengths, batch_tokens)
        counts = np.bincount(place)
        return [rows_of(batch, counts) for batch in token_batches(np.bincount(place, lengths), batch_tokens)]

    def shortest(self, rows: np.ndarray) -> int:
        """Tokens of the smallest part of these rows that can be run alone."""
        windows, place = self.windows_of_rows(rows)
        lengths = self.lengths[windows]
        return int((np.bincount(place, lengths) if self.texts_are_whole else lengths).min())

    def windows_of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of some rows: indices into `windows`, and for each the place of its row in `rows`."""
        texts, counts = self.text_of_row[rows], self.windows_per_text
        return rows_of(texts, counts), np.repeat(np.arange(len(rows)), counts[texts])


def plan(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    stride: int,
    truncation: bool = False,
) -> Plan:
    """Tokenise each distinct text (or pair) once and cut what is too long into windows.

    Parameters
    ----------
    max_length : int
        Most tokens in a window, special tokens included.
    stride : int
        Pieces that two neighbouring windows share.
    truncation : bool, default=False
        Keep only the beginning of a long text instead.
    """
    first, text_of_row = deduplicate(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    ids = tokenizer.encode_batch([texts[i] for i in first])
    pair_ids = [None] * len(ids) if pairs is None else tokenizer.encode_batch([pairs[i] for i in first])
    windows, text_of_window, truncated = [], [], 0
    for text, (a, b) in enumerate(zip(ids, pair_ids, strict=True)):
        if truncation:
            window, dropped = tokenizer.truncate(a, b, max_length=max_length)
            of_text, truncated = [window], truncated + (dropped > 0)
        else:
            of_text = [w.input_ids for w in tokenizer.windows(a, b, max_length=max_length, stride=stride)]
        windows += of_text
        text_of_window += [text] * len(of_text)
    return Plan(windows, np.asarray(text_of_window, np.int64), text_of_row, n_cut=truncated, cut_at=max_length)


def default_batch_tokens(config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens in a batch that keep a device busy without straining its memory."""
    per_token = config.intermediate_size * dtype.itemsize
    return int(np.clip(ACTIVATION_BYTES[device.type] // per_token, 512, 32_768))


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


def rows_of(chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where the rows of some windows lie, when each has `counts` of them, one window after the other.

    Examples
    --------
    >>> rows_of(np.array([2, 0]), np.array([2, 1, 3])).tolist()
    [3, 4, 5, 0, 1]
    """
    starts = np.cumsum(counts) - counts
    n = counts[chosen]
    return np.arange(n.sum()) + np.repeat(starts[chosen] - (np.cumsum(n) - n), n)


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
