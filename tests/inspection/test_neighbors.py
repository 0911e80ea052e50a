"""Nearest neighbours of texts."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from html_reading import read_html
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from skxlmr import XLMRXLEmbedder
from skxlmr.inspection import show_neighbors

DOCUMENTS = ["good morning", "<b>good</b> evening", "早上好", "صباح الخير", "buy cheap & fast"]


@pytest.fixture(scope="module")
def embedder():
    return XLMRXLEmbedder("nano").fit(DOCUMENTS)


def test_neighbors_are_those_of_the_largest_cosines(embedder):
    queries = ["a good morning", "fast"]
    view = show_neighbors(embedder, pd.Series(queries), DOCUMENTS, k=3)
    cosines = cosine_similarity(embedder.transform(queries), embedder.transform(DOCUMENTS))
    np.testing.assert_array_equal(view.indices, np.argsort(-cosines, axis=1)[:, :3])
    np.testing.assert_allclose(view.similarities, -np.sort(-cosines, axis=1)[:, :3], atol=1e-5)
    reader = read_html(view.to_html(page=True))
    text = reader.text
    for row, query in enumerate(queries):
        assert query in text
        for index, similarity in zip(view.indices[row], view.similarities[row], strict=True):
            assert f"{similarity:.3f}{index}{DOCUMENTS[index]}" in text
            assert f"{similarity:.3f}  {DOCUMENTS[index]}" in str(view)


def test_without_documents_texts_are_not_their_own_neighbors(embedder):
    view = show_neighbors(embedder, [*DOCUMENTS, DOCUMENTS[0]], k=99)
    assert view.indices.shape == (6, 5)
    assert all(row not in of_row for row, of_row in enumerate(view.indices))
    assert (view.indices[0, 0], view.indices[5, 0]) == (5, 0)


def test_settings_of_the_user_do_not_matter(embedder):
    with sklearn.config_context(transform_output="pandas"):
        view = show_neighbors(embedder, ["good"], DOCUMENTS, k=1)
    assert view.similarities.shape == (1, 1)


def test_sparse_vectors_of_other_transformers_work():
    view = show_neighbors(TfidfVectorizer().fit(DOCUMENTS), ["evening"], DOCUMENTS, k=1)
    assert view.indices.tolist() == [[1]]


def test_queries_and_documents_are_encoded_as_such():
    class Encoder(BaseEstimator):
        def fit(self, X, y=None):
            self.n_texts_ = len(X)
            return self

        def transform(self, X):
            raise AssertionError("encode_query and encode_document are there")

        def encode_query(self, X):
            return np.array([[1.0, 0.0] for _ in X])

        def encode_document(self, X):
            return np.array([[len(text), 1.0] for text in X])

    assert show_neighbors(Encoder().fit([]), ["q"], ["a", "bbb", "cc"], k=3).indices.tolist() == [[1, 2, 0]]


def test_wrong_arguments_are_named(embedder):
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        show_neighbors(embedder, ["a"], DOCUMENTS, k=0)
    with pytest.raises(ValueError, match="one query and no documents"):
        show_neighbors(embedder, ["a"])
    with pytest.raises(TypeError, match="embedder is the class XLMRXLEmbedder, not an estimator"):
        show_neighbors(XLMRXLEmbedder, ["a"], DOCUMENTS)
    with pytest.raises(NotFittedError, match="embedder is not fitted"):
        show_neighbors(XLMRXLEmbedder("nano"), ["a"], DOCUMENTS)
