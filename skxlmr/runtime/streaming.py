"""Running a column of any length in parts: each distinct row is run once, and results are in the caller's order.

Only the tokens of two parts are in memory at a time: while one is run, a thread tokenises the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from skxlmr.columns import TextColumn
from skxlmr.runtime.ahead import ahead
from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.progress import progress_bar
from skxlmr.text.batching import deduplicate

# On CPUs many, since texts are sorted by length within a part, and its last batch is not full. A GPU takes packed texts
# of any length, and waits for the tokens of the first part: few.
BATCHES_IN_A_PART = {"cpu": 64, "cuda": 4}
CHARACTERS_PER_TOKEN = 4  # roughly


def run_in_parts(
    column: TextColumn,
    make_plan: Callable[[TextColumn], WindowPlan],
    compute: Callable[[WindowPlan, str], np.ndarray],
    batch_tokens: int,
    devices: Sequence[torch.device],
    *,
    description: str,
    verbose: int = 0,
) -> np.ndarray:
    """Run a column, part by part if it is long; returns the results, (n_rows, ...).

    `make_plan` tokenises some rows of the column, if it is long in another thread. `compute` takes a plan, and the
    description of its progress bar, and returns one result per row of the plan; it runs on `devices`. Warns once if
    texts were truncated.
    """
    sizes = column.sizes
    batches = BATCHES_IN_A_PART.get(devices[0].type, BATCHES_IN_A_PART["cpu"]) * len(devices)
    most = batches * CHARACTERS_PER_TOKEN * batch_tokens
    if sizes.sum() <= most:
        plan = make_plan(column)
        plan.warn_of_cut()
        return compute(plan, description)

    first, text_of_row = deduplicate(column.keys)
    sizes = sizes[first]
    bounds = part_bounds(sizes, most)
    rows_by_text = np.argsort(text_of_row, kind="stable")
    row_bounds = np.searchsorted(text_of_row[rows_by_text], bounds)
    results: Any = None
    n_cut = n_texts = 0
    parts = ahead(lambda part: make_plan(column.take(first[slice(*part)])), pairwise(bounds))
    whole = progress_bar(int(sizes.sum()), description, unit="char", shown=bool(verbose))
    with whole as bar, closing(parts):  # the thread ends also after an error of the model
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
    """Return where parts of about `most` in size begin, and where the last one ends; no part is empty."""
    ends = np.cumsum(sizes)
    part = (ends - sizes) // most
    return [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(sizes)]
