"""The nearest neighbours of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from skxlmr.columns import check_one_text
from skxlmr.inspection.arguments import check_count, check_fitted
from skxlmr.inspection.html import QUIET, STRONG, TEXT, Html, View, element, rgba
from skxlmr.sklearn_defaults import sklearn_defaults

COLOR, SHADE = (0, 114, 178), 0.6
CELL = "padding:.2em .8em .2em 0;vertical-align:baseline;text-align:start;border:none"
NARROW = f"{CELL};width:1%;white-space:nowrap"
BAR = "display:inline-block;height:.6em;border-radius:.2em"
BAR_WIDTH = 6  # of a similarity of 1, in em


class NeighborView(View):
    """Texts with their nearest neighbours; `show_neighbors` makes it.

    Attributes
    ----------
    indices : ndarray of shape (n_queries, k)
        The positions of the neighbours, the nearest first.
    similarities : ndarray of shape (n_queries, k)
        Their cosines to the query.
    """

    def __init__(self, queries: list[str], documents: list[str], indices: np.ndarray, similarities: np.ndarray) -> None:
        self._queries, self._documents = queries, documents
        self.indices, self.similarities = indices, similarities

    def __len__(self) -> int:
        return len(self._queries)

    def _row_html(self, row: int) -> Html:
        lines = []
        for index, similarity in zip(self.indices[row].tolist(), self.similarities[row].tolist(), strict=True):
            width = max(similarity, 0) * BAR_WIDTH
            bar = element("span", style=f"{BAR};width:{width:.2f}em;background:{rgba(COLOR, SHADE)}")
            cells = [
                element("td", f"{similarity:.3f}", style=NARROW),
                element("td", bar, style=f"{CELL};width:{BAR_WIDTH}em;min-width:{BAR_WIDTH}em"),
                element("td", str(index), style=f"{NARROW};{QUIET}"),
                element("td", element("div", self._documents[index], dir="auto", style=TEXT), style=CELL),
            ]
            lines.append(element("tr", *cells, style="background:none"))
        query = element("div", self._queries[row], dir="auto", style=f"{TEXT};{STRONG}")
        table = element("table", element("tbody", *lines), style="border-collapse:collapse;margin:0;width:100%")
        return Html(query + table)

    def _row_text(self, row: int) -> str:
        lines = [f"{row}: {self._queries[row]}"]
        for index, similarity in zip(self.indices[row].tolist(), self.similarities[row].tolist(), strict=True):
            lines.append(f"   {similarity:.3f}  {self._documents[index]}")
        return "\n".join(lines)


def show_neighbors(embedder: Any, queries: Any, documents: Any = None, k: int = 5) -> NeighborView:
    """Show the texts whose vectors are most similar to those of queries.

    Parameters
    ----------
    embedder : fitted XLMRXLEmbedder
        Or another transformer from texts to vectors. If it has the methods `encode_query` and `encode_document`,
        and there are documents, they are used instead of `transform`.
    queries : text column of shape (n_queries,)
    documents : text column of shape (n_documents,), default=None
        The texts to look among; None are the other queries.
    k : int, default=5
        Number of neighbours; all documents if there are fewer.

    Returns
    -------
    NeighborView
        Rendered by notebooks; `to_html()` returns its HTML.

    Raises
    ------
    TypeError
        If `embedder` has no `transform`.
    NotFittedError
        If it is not fitted.
    ValueError
        If `k` is not an integer of at least 1, or there is only one query and no documents.

    Examples
    --------
    >>> from skxlmr import XLMRXLEmbedder
    >>> from skxlmr.inspection import show_neighbors
    >>> embedder = XLMRXLEmbedder("nano").fit(["a text"])
    >>> view = show_neighbors(embedder, ["good morning"], ["good evening", "good morning"], k=1)
    >>> view.indices
    array([[1]])
    """
    check_fitted(embedder, "transform", "embedder")
    check_count(k, "k")
    missing = getattr(embedder, "missing", "error")
    queries = check_one_text(queries, missing=missing).texts
    if documents is None:
        if len(queries) == 1:
            raise ValueError("There is one query and no documents, so it has no neighbours. Pass documents.")
        vectors = _dense(embedder.transform(queries))
        return NeighborView(queries, queries, *_nearest(vectors, None, min(k, len(queries) - 1)))
    documents = check_one_text(documents, missing=missing).texts
    of_documents = _dense(getattr(embedder, "encode_document", embedder.transform)(documents))
    of_queries = _dense(getattr(embedder, "encode_query", embedder.transform)(queries))
    return NeighborView(queries, documents, *_nearest(of_documents, of_queries, min(k, len(documents))))


def _dense(vectors: Any) -> np.ndarray:
    """Return vectors as a matrix, from the containers that a transformer may return."""
    return vectors.toarray() if hasattr(vectors, "toarray") else np.asarray(vectors)


def _nearest(documents: np.ndarray, queries: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and the cosines of the nearest documents; without queries, of each document's others."""
    with sklearn_defaults():
        nearest = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(documents)
        distances, indices = nearest.kneighbors(queries)
    return indices, 1 - distances
