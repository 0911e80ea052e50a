"""Tables of scores by group and by length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import TextColumn, name_row
from skxlmr.inspection.arguments import rows_by

Scores = Callable[[np.ndarray], dict[str, float]]  # the scores of the rows at these positions


@dataclass(frozen=True, eq=False)
class ReportRows:
    """The rows that a report is of.

    Attributes
    ----------
    column : TextColumn
    texts : dict of str to list of str
        What to show of each row, by the names of the columns.
    sizes : ndarray of shape (n_rows,)
        Length of each row.
    unit : {"characters", "tokens"}
    groups : ndarray of shape (n_rows,), or None
    index : pandas.Index or None
    n_lengths, n_worst, n_bins : int
        The parameters of the report.
    """

    column: TextColumn
    texts: dict[str, list[str]]
    sizes: np.ndarray
    unit: str
    groups: np.ndarray | None
    index: pd.Index | None
    n_lengths: int
    n_worst: int
    n_bins: int

    def by_group(self, scores: Scores) -> pd.DataFrame | None:
        """Return the scores of each group; None if there are no groups."""
        if self.groups is None:
            return None
        return table_of(rows_by(self.groups), scores, "group")

    def by_length(self, scores: Scores) -> pd.DataFrame:
        """Return the scores of each range of lengths."""
        return table_of(length_ranges(self.sizes, self.n_lengths), scores, self.unit)

    def worst(self, order: np.ndarray, columns: Mapping[str, Any]) -> pd.DataFrame:
        """Return the first rows of an order of errors, with their texts and these columns, (n_rows,) each."""
        order = order[: self.n_worst]
        named = {} if self.groups is None else {"group": [self.groups[i] for i in order]}
        others = {"row": order, **named, **{name: [values[i] for i in order] for name, values in columns.items()}}
        texts = {
            f"text_{name}" if name in others else name: [values[i] for i in order]
            for name, values in self.texts.items()
        }
        index = None if self.index is None else self.index[order]
        return pd.DataFrame(others | texts, index=index)

    def where(self, row: int) -> str:
        """Name a row, for messages."""
        return name_row(row, self.index)


def table_of(parts: Mapping[Any, np.ndarray], scores: Scores, name: str) -> pd.DataFrame:
    """Return a table with one row per part: n, its number of rows, and its scores."""
    rows = [{"n": len(positions), **scores(positions)} for positions in parts.values()]
    return pd.DataFrame(rows, index=pd.Index(list(parts), name=name, tupleize_cols=False))


def confusion_table(counts: np.ndarray, names: Sequence[Any]) -> pd.DataFrame:
    """Return a confusion matrix with the names of its classes."""
    true, predicted = (pd.Index(names, name=name, tupleize_cols=False) for name in ("true", "predicted"))
    return pd.DataFrame(counts, index=true, columns=predicted)


def length_ranges(sizes: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return the positions of the rows in each range of lengths, from the shortest; all have about as many rows.

    There are fewer than `n` if many rows have the same length.

    Examples
    --------
    >>> {name: rows.tolist() for name, rows in length_ranges(np.array([5, 9, 1, 7]), 2).items()}
    {'1 to 5': [0, 2], '7 to 9': [1, 3]}
    """
    edges = np.unique(np.quantile(sizes, np.arange(1, n) / n, method="inverted_cdf"))
    number = np.searchsorted(edges, sizes)
    ranges = {}
    for i in np.unique(number):
        rows = np.flatnonzero(number == i)
        shortest, longest = sizes[rows].min(), sizes[rows].max()
        ranges[f"{shortest:,} to {longest:,}" if shortest < longest else f"{shortest:,}"] = rows
    return ranges
