"""Exact search, in blocks."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from skxlmr import XLMRXLEmbedder
from skxlmr.search import search

RNG = np.random.default_rng(0)
DOCUMENTS = RNG.standard_normal((300, 24)).astype(np.float32)
QUERIES = RNG.standard_normal((40, 24)).astype(np.float32)


def reference(queries, documents, k, metric="cosine"):
    """Compare all pairs in float64; ties, as they are in float32, by the order of the documents."""
    q, d = np.asarray(queries, np.float64), np.asarray(documents, np.float64)
    scores = q @ d.T
    if metric == "cosine":
        scores /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(d, axis=1)
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_scores_and_order_equal_those_of_all_pairs(metric):
    documents = DOCUMENTS * RNG.uniform(0.1, 9, (300, 1)).astype(np.float32)
    scores, indices = search(QUERIES, documents, 12, metric=metric, block_size=64)
    expected_scores, expected = reference(QUERIES, documents, 12, metric)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)


def test_neighbours_are_those_of_scikit_learn():
    distances, expected = NearestNeighbors(metric="cosine", algorithm="brute").fit(DOCUMENTS).kneighbors(QUERIES, 5)
    scores, indices = search(QUERIES, DOCUMENTS, 5)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, 1 - distances, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_result_does_not_depend_on_block_size_or_on_other_queries(metric):
    """Many documents are nearly equal, so that approximate scores would order them by chance."""
    near = np.repeat(DOCUMENTS[:30], 10, axis=0) * (1 + RNG.uniform(-3e-7, 3e-7, (300, 24)))
    scores, indices = search(QUERIES, near, 7, metric=metric)
    for block_size in (1, 15, 64, 299, 300, 10_000):
        again = search(QUERIES, near, 7, metric=metric, block_size=block_size)
        np.testing.assert_array_equal(again[0], scores)
        np.testing.assert_array_equal(again[1], indices)
    alone = [search(query[None], near, 7, metric=metric) for query in QUERIES]
    np.testing.assert_array_equal(np.vstack([one[1] for one in alone]), indices)


def test_ties_are_in_the_order_of_the_documents():
    documents = np.tile([[0.0, 1.0], [3.0, 4.0]], (50, 1))
    scores, indices = search([[0.6, 0.8], [0.0, 0.0]], documents, 4, block_size=16)
    assert indices.tolist() == [[1, 3, 5, 7], [0, 1, 2, 3]]
    assert scores.tolist() == [[1.0] * 4, [0.0] * 4]


def test_fewer_documents_than_k_are_all_returned():
    scores, indices = search(QUERIES, DOCUMENTS[:3], 10)
    assert scores.shape == indices.shape == (40, 3)
    np.testing.assert_array_equal(indices, reference(QUERIES, DOCUMENTS[:3], 3)[1])
    assert search(np.empty((0, 24)), DOCUMENTS, 2)[1].shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8])
def test_vectors_of_other_types_are_read_in_float32(dtype, tmp_path):
    documents = (DOCUMENTS * 10).astype(dtype)
    np.save(tmp_path / "documents.npy", documents)
    mapped = np.load(tmp_path / "documents.npy", mmap_mode="r")
    expected = reference(QUERIES, documents.astype(np.float32), 4)[1]
    np.testing.assert_array_equal(search(QUERIES, mapped, 4)[1], expected)


def test_texts_are_embedded_as_queries_and_as_documents():
    documents, queries = ["cats sleep", "rates rise", "it rains"], pd.Series(["what do cats do?", "weather"])
    embedder = XLMRXLEmbedder("nano")
    scores, indices = search(queries, documents, 2, embedder=embedder)
    assert not hasattr(embedder, "n_features_in_"), "a copy is fitted"
    embedder.fit(documents)
    expected = search(embedder.encode_query(queries), embedder.encode_document(documents), 2)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(search(queries, embedder.encode_document(documents), 2, embedder=embedder)[0], scores)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": 2.0}, TypeError, "k must be an integer"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1"),
        ({"metric": "euclid"}, ValueError, "metric must be one of 'cosine', 'dot'"),
        ({"queries": ["a"]}, ValueError, "queries has texts.*embedder="),
        ({"queries": QUERIES[:, :3]}, ValueError, "queries have 3 dimensions, but documents have 24"),
        ({"queries": QUERIES[0]}, ValueError, "queries must have two dimensions"),
        ({"documents": np.empty((0, 24))}, ValueError, "documents is empty"),
        ({"documents": np.full((2, 24), np.nan)}, ValueError, "documents, row 0: has values that are NaN"),
        ({"documents": np.full((2, 24), 1e300)}, ValueError, "too large for float32"),
        ({"documents": np.full((2, 24), 1j)}, TypeError, "complex"),
        (
            {"queries": ["word"], "documents": ["word"], "embedder": TfidfVectorizer()},
            TypeError,
            "queries is a sparse matrix",
        ),
        ({"queries": ["a"], "embedder": XLMRXLEmbedder("nano")}, NotFittedError, "not fitted"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        search(**{"queries": QUERIES, "documents": DOCUMENTS, **arguments})
