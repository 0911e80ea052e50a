"""A column of any length through a model: tokenised in parts, each distinct row once, results in the caller's order.

What is held at a time, beyond the column and the results, are the tokens of the part that is run and of the next one,
which a thread tokenises meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np

from skxlmr.columns import TextColumn
from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.progress import progress_bar
from skxlmr.text.batching import deduplicate

Item = TypeVar("Item")
Result = TypeVar("Result")

# A part has many batches: within it texts are ordered by length, and only its last batch is not full.
BATCHES_IN_A_PART = 64
CHARACTERS_PER_TOKEN = 4  # about


def run_in_parts(
    column: TextColumn,
    make_plan: Callable[[TextColumn], WindowPlan],
    compute: Callable[[WindowPlan, str], np.ndarray],
    batch_tokens: int,
    *,
    description: str,
    verbose: int = 0,
) -> np.ndarray:
    """Run a column; one that is long part by part.

    Parameters
    ----------
    column : TextColumn
    make_plan : callable
        Tokenises some rows of the column; of a long one in another thread.
    compute : callable
        Takes a plan, and the text beside its progress bar; returns a value for each row of the plan.
    batch_tokens : int
        Tokens in a batch, of which a part has many.
    description : str
        Beside the progress bar of the whole.
    verbose : int, default=0
        Whether to show that bar.

    Returns
    -------
    ndarray of shape (n_rows, ...)

    Warns
    -----
    UserWarning
        Once, with the count, if texts were cut.
    """
    sizes = column.sizes
    most = BATCHES_IN_A_PART * CHARACTERS_PER_TOKEN * batch_tokens
    if sizes.sum() <= most:
        plan = make_plan(column)
        plan.warn_of_cut()
        return compute(plan, description)

    first, text_of_row = deduplicate(column.keys)
    sizes = sizes[first]
    bounds = part_bounds(sizes, most)
    rows_by_text = np.argsort(text_of_row, kind="stable")
    row_bounds = np.searchsorted(text_of_row[rows_by_text], bounds)
    results, n_cut, n_texts = None, 0, 0
    parts = ahead(lambda part: make_plan(column.take(first[slice(*part)])), pairwise(bounds))
    whole = progress_bar(int(sizes.sum()), description, unit="char", shown=bool(verbose))
    with whole as bar, closing(parts):  # an error of the model ends the thread, too
        for i, plan in enumerate(parts):
            of_texts = compute(plan, f"part {i + 1} of {len(bounds) - 1}")
            bar.update(int(sizes[bounds[i] : bounds[i + 1]].sum()))
            if results is None:
                results = np.empty((len(text_of_row), *of_texts.shape[1:]), of_texts.dtype)
            rows = rows_by_text[row_bounds[i] : row_bounds[i + 1]]
            results[rows] = of_texts[text_of_row[rows] - bounds[i]]
            n_cut, n_texts = n_cut + plan.n_cut, n_texts + plan.n_texts
    plan.warn_of_cut(n_cut, n_texts)
    return results


def part_bounds(sizes: np.ndarray, most: int) -> list[int]:
    """Where parts begin, and the last one ends, that hold about `most` in size; no part is empty.

    Examples
    --------
    >>> part_bounds(np.array([3, 3, 9, 1, 1]), most=5)
    [0, 2, 3, 5]
    """
    ends = np.cumsum(sizes)
    part = (ends - sizes) // most
    return [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(sizes)]


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Map, in a thread that is one item ahead of who takes the results.

    Examples
    --------
    >>> list(ahead(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="skxlmr-ahead")
    try:
        waiting = None
        for item in items:
            following = _begin(thread, function, item)
            if waiting is not None:
                yield waiting()
            waiting = following
        if waiting is not None:
            yield waiting()
    finally:
        thread.shutdown(cancel_futures=True)


def _begin(thread: ThreadPoolExecutor, function: Callable[[Item], Result], item: Item) -> Callable[[], Result]:
    """Call in the thread, or later where there can be none; returns what waits for the result."""
    try:
        return thread.submit(function, item).result
    except RuntimeError:  # the main thread has ended, and with it Python's pools of threads
        return partial(function, item)
