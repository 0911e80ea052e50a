"""Exact search for the nearest vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from skxlmr.search.vectors import (
    Vectors,
    blocks,
    check_count,
    check_metric,
    embed,
    fitted,
    is_texts,
    margin,
    read_texts,
)

QUERIES_AT_ONCE = 256


def search(
    queries: Any,
    documents: Any,
    k: int = 10,
    *,
    embedder: Any = None,
    metric: str = "cosine",
    block_size: int = 8192,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the documents that are most similar to each query, by comparing all pairs.

    Memory beside the vectors is bounded by `block_size`; the documents may lie in a file that `numpy.load` has mapped
    (`mmap_mode="r"`). For millions of documents and many queries use an index, such as those of faiss.

    Parameters
    ----------
    queries : array-like of shape (n_queries, n_features), or text column of shape (n_queries,)
        Vectors, or texts if there is an `embedder`.
    documents : array-like of shape (n_documents, n_features), or text column of shape (n_documents,)
        As the queries. Vectors are read in float32.
    k : int, default=10
        How many documents to return for each query; all, if there are fewer.
    embedder : transformer, default=None
        What makes vectors of texts, such as an `XLMRXLEmbedder`: by `encode_query` and `encode_document` if it has
        these methods, otherwise by `transform`. If it is not fitted, a copy is fitted on the documents.
    metric : {"cosine", "dot"}, default="cosine"
        The similarity: the cosine of the angle, 0 for a vector of zeros, or the scalar product.
    block_size : int, default=8192
        How many documents are compared at once; the result does not depend on it.

    Returns
    -------
    scores : ndarray of shape (n_queries, k), float32
        The similarities, in decreasing order.
    indices : ndarray of shape (n_queries, k), int64
        The positions of the documents. Of those with equal scores the first come first.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be; the message names it, and the row.

    See Also
    --------
    sklearn.neighbors.NearestNeighbors : Neighbours by distances, with other metrics and trees.

    Examples
    --------
    >>> import numpy as np
    >>> from skxlmr.search import search
    >>> documents = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> scores, indices = search([[0.0, 2.0]], documents, k=2)
    >>> indices
    array([[1, 2]])
    >>> scores
    array([[1. , 0.8]], dtype=float32)
    """
    check_metric(metric)
    k, block_size = check_count(k, "k"), check_count(block_size, "block_size")
    if is_texts(documents):
        texts = read_texts(documents, "documents", embedder)
        embedder = fitted(embedder, texts)
        documents = embed(embedder, texts, "encode_document")
    if is_texts(queries):
        texts = read_texts(queries, "queries", embedder)
        queries = embed(embedder, texts, "encode_query")
    wanted, found = Vectors.of(queries, "queries"), Vectors.of(documents, "documents")
    if wanted.width != found.width:
        raise ValueError(f"queries have {wanted.width} dimensions, but documents have {found.width}.")
    if not len(found):
        raise ValueError("documents is empty; there is nothing to search.")
    k = min(k, len(found))
    block_size = max(block_size, 2 * k)  # so that most documents of a block are left out by their approximate scores
    scores, indices = np.empty((len(wanted), k), np.float32), np.empty((len(wanted), k), np.int64)
    for start, stop in blocks(len(wanted), QUERIES_AT_ONCE):
        scores[start:stop], indices[start:stop] = _nearest(wanted, found, start, stop, k, metric, block_size)
    return scores, indices


def _nearest(
    queries: Vectors, documents: Vectors, start: int, stop: int, k: int, metric: str, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best scores of the queries start to stop, and where they are, (n, k) each."""
    scale = None if metric == "cosine" else float(documents.lengths.max())
    # A query's own length does not change the order of its scores.
    q = queries.scaled(start, stop)
    slack = 2 * margin(queries.width)
    scores, indices = np.empty((len(q), 0), np.float32), np.empty((len(q), 0), np.int64)
    floor = np.full(len(q), -np.inf, np.float32)  # of the approximate scores: what is below is not among the best
    for first, last in blocks(len(documents), block_size):
        approximate = q @ documents.scaled(first, last, scale).T  # (n, block)
        if last - first > k:
            kth = np.partition(approximate, last - first - k, axis=1)[:, last - first - k]
            floor = np.maximum(floor, kth - slack)
        rows, columns = np.nonzero(approximate >= floor[:, None])
        exact = queries.similarities(rows + start, documents, columns + first, metric)
        scores, indices = _merge(scores, indices, rows, exact, columns + first, k)
    return scores, indices


def _merge(
    scores: np.ndarray, indices: np.ndarray, rows: np.ndarray, new: np.ndarray, places: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of what was found before, (n, <= k), and of new scores, each of one row."""
    n_rows, width = scores.shape
    rows = np.concatenate([np.repeat(np.arange(n_rows), width), rows])
    new, places = np.concatenate([scores.ravel(), new]), np.concatenate([indices.ravel(), places])
    order = np.lexsort((places, -new, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
    best = order[rank < k]
    counts = np.bincount(rows[best], minlength=n_rows)
    assert counts.min() == counts.max(), "each block gives each query as many candidates as it has, or k"
    return new[best].reshape(n_rows, -1), places[best].reshape(n_rows, -1)
