"""Near duplicates among texts or vectors."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from skxlmr.search.vectors import Vectors, blocks, check_count, embed, fitted, is_texts, margin, read_texts

COLUMNS = ("first", "second", "similarity")


def near_duplicates(
    X: Any,
    threshold: float = 0.95,
    *,
    embedder: Any = None,
    block_size: int = 2048,
    max_pairs: int = 10_000_000,
) -> pd.DataFrame:
    """Find pairs of rows that are almost the same, by the cosines of their vectors.

    Equal rows are found first, and only the first of them is compared with the others: it makes a pair of similarity 1
    with each of its copies. So a row with many copies makes few pairs; `duplicate_groups` finds all that belong
    together. All pairs of different rows are compared, so that the time grows with the square of their number; memory
    beside the vectors is bounded by `block_size` and `max_pairs`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features), or text column of shape (n_samples,)
        Vectors, or texts if there is an `embedder`.
    threshold : float, default=0.95
        The smallest cosine of a pair, above 0 and at most 1. Which value fits depends on the model: look at some pairs.
        The cosines of e5-small are all high, 0.7 and above for texts that have nothing in common.
    embedder : transformer, default=None
        What makes vectors of texts, by `transform`. If it is not fitted, a copy is fitted on the texts. Each distinct
        text is embedded once.
    block_size : int, default=2048
        How many rows are compared with as many others at once; the result does not depend on it.
    max_pairs : int, default=10_000_000
        If more pairs are found, an error is raised before memory is short.

    Returns
    -------
    DataFrame of shape (n_pairs, 3)
        Columns first and second, the positions of the rows, int64, with first < second; and similarity, float32. In the
        order of decreasing similarity, then of the positions.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be, or if there are more than `max_pairs`.

    See Also
    --------
    duplicate_groups : Which rows belong together, for example as the groups of a split.
    keep_first : A mask that drops duplicates.

    Examples
    --------
    >>> from skxlmr import XLMRXLEmbedder
    >>> from skxlmr.search import near_duplicates
    >>> texts = ["The hotel was clean.", "Bad food.", "The hotel was clean!", "Bad food."]
    >>> pairs = near_duplicates(texts, 0.9, embedder=XLMRXLEmbedder("nano"))
    >>> pairs[["first", "second"]].to_numpy().tolist()
    [[1, 3], [0, 2]]
    """
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a number above 0 and at most 1, got {threshold!r}.")
    block_size, max_pairs = check_count(block_size, "block_size"), check_count(max_pairs, "max_pairs")
    if is_texts(X):
        texts = read_texts(X, "X", embedder)
        first_of = _first_of(texts)
        distinct = np.flatnonzero(first_of == np.arange(len(texts)))
        some = [texts[i] for i in distinct]
        vectors = Vectors.of(embed(fitted(embedder, some), some), "the vectors of X")
    else:
        vectors = Vectors.of(X, "X")
        first_of = _first_of([row.tobytes() for row in np.asarray(vectors.values) + np.zeros((), vectors.values.dtype)])
        distinct = np.flatnonzero(first_of == np.arange(len(vectors)))
        vectors = vectors.take(distinct)
    copies = np.flatnonzero(first_of != np.arange(len(first_of)))
    found = _similar(vectors, np.float32(threshold), block_size, max_pairs - len(copies), threshold)
    first = np.concatenate([first_of[copies], distinct[found[0]]])
    second = np.concatenate([copies, distinct[found[1]]])
    similarity = np.concatenate([np.ones(len(copies), np.float32), found[2]])
    order = np.lexsort((second, first, -similarity))
    return pd.DataFrame(dict(zip(COLUMNS, (first[order], second[order], similarity[order]), strict=True)))


def duplicate_groups(pairs: pd.DataFrame, n_samples: int) -> np.ndarray:
    """Return the group of each row: rows that pairs connect, directly or through others, are in one group.

    Give them as `groups` to `StratifiedGroupKFold` or `GroupShuffleSplit`, so that no duplicate of a training row is in
    the test rows.

    Parameters
    ----------
    pairs : DataFrame
        What `near_duplicates` returned.
    n_samples : int
        Number of rows, those without a duplicate included.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Numbers from 0, in the order of the first rows of the groups.

    Raises
    ------
    ValueError
        If a position in the pairs is not below `n_samples`.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr.search import duplicate_groups
    >>> duplicate_groups(pd.DataFrame({"first": [0, 2], "second": [2, 4]}), 5)
    array([0, 1, 0, 2, 0])
    """
    n_samples = check_count(n_samples, "n_samples")
    ends = [pairs[name].to_numpy(np.int64) for name in COLUMNS[:2]]
    for name, places in zip(COLUMNS, ends, strict=False):
        if len(places) and not 0 <= places.min() <= places.max() < n_samples:
            raise ValueError(f"pairs has positions in {name!r} that are not from 0 to {n_samples - 1}.")
    graph = sparse.coo_array((np.ones(len(pairs), bool), ends), shape=(n_samples, n_samples))
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]
    return pd.factorize(labels)[0].astype(np.int64)


def keep_first(pairs: pd.DataFrame, n_samples: int) -> np.ndarray:
    """Return a mask of the rows to keep: the first of each group of duplicates, and all rows without a duplicate.

    Parameters
    ----------
    pairs : DataFrame
        What `near_duplicates` returned.
    n_samples : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n_samples,), bool

    Raises
    ------
    ValueError
        If a position in the pairs is not below `n_samples`.

    See Also
    --------
    duplicate_groups : The groups, of which one may be long: a row may be connected with the first through others only.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr.search import keep_first
    >>> keep_first(pd.DataFrame({"first": [0, 2], "second": [2, 4]}), 5)
    array([ True,  True, False,  True, False])
    """
    return ~pd.Series(duplicate_groups(pairs, n_samples)).duplicated().to_numpy()


def _first_of(keys: list) -> np.ndarray:
    """Return for each row the position of the first row with the same key, (n,) int64."""
    places: dict[Any, int] = {}
    return np.fromiter((places.setdefault(key, i) for i, key in enumerate(keys)), np.int64, len(keys))


def _similar(
    vectors: Vectors, threshold: np.float32, block_size: int, max_pairs: int, asked: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of rows i < j whose similarity is at least the threshold: i, j and the similarities."""
    floor, found, n_found = threshold - margin(vectors.width), [], 0
    for start, stop in blocks(len(vectors), block_size):
        rows = vectors.scaled(start, stop)
        for first, last in blocks(stop, block_size):  # those before and within the block
            approximate = vectors.scaled(first, last) @ rows.T
            i, j = np.nonzero(approximate >= floor)
            i, j = i + first, j + start
            i, j = i[i < j], j[i < j]
            similarity = vectors.similarities(i, vectors, j, "cosine")
            enough = similarity >= threshold
            found.append((i[enough], j[enough], similarity[enough]))
            n_found += int(enough.sum())
            if n_found > max_pairs:
                raise ValueError(
                    f"More than max_pairs pairs of rows have a similarity of at least threshold={asked}. Raise the "
                    f"threshold, or max_pairs if there is memory for more."
                )
    parts = list(zip(*found, strict=True)) or [(np.empty(0, np.int64),)] * 2 + [(np.empty(0, np.float32),)]
    i, j, similarity = (np.concatenate(part) for part in parts)
    return i, j, similarity
