"""Similarities that do not depend on how rows are grouped."""

import numpy as np
import pandas as pd
import pytest

from skxlmr.search.vectors import Vectors, is_texts, margin


def test_similarities_of_pairs_are_the_same_bits_in_any_company(monkeypatch):
    rng = np.random.default_rng(0)
    for width in (1, 3, 17, 384, 1025):
        vectors = Vectors.of(rng.standard_normal((50, width)).astype(np.float32), "X")
        i, j = rng.integers(0, 50, (2, 200))
        together = vectors.similarities(i, vectors, j, "cosine")
        alone = [vectors.similarities(i[[n]], vectors, j[[n]], "cosine")[0] for n in range(200)]
        np.testing.assert_array_equal(together, alone)
        with monkeypatch.context() as patched:
            patched.setattr("skxlmr.search.vectors.VALUES_AT_ONCE", 7 * width)
            np.testing.assert_array_equal(vectors.similarities(i, vectors, j, "cosine"), together)


@pytest.mark.parametrize("width", [2, 384, 2560])
def test_margin_bounds_the_error_of_approximate_scores(width):
    rng = np.random.default_rng(0)
    vectors = Vectors.of(rng.uniform(0.5, 1, (100, width)).astype(np.float32), "X")
    unit = vectors.scaled(0, 100)
    i, j = np.divmod(np.arange(10_000), 100)
    error = np.abs((unit @ unit.T).ravel() - vectors.similarities(i, vectors, j, "cosine"))
    assert error.max() < margin(width)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (["a"], True),
        (np.array(["a"]), True),
        (np.array(["a"], object), True),
        (pd.Series(["a"]), True),
        (pd.DataFrame({"text": ["a"]}), True),
        ([[1.0, 2.0]], False),
        (np.eye(2), False),
        (pd.DataFrame(np.eye(2)), False),
        ([], False),
    ],
)
def test_texts_are_told_from_vectors(X, expected):
    assert is_texts(X) is expected


def test_hidden_values_of_masked_vectors_are_refused():
    with pytest.raises(ValueError, match="documents, row 1: has values that are NaN"):
        Vectors.of(np.ma.array(np.eye(3), mask=[[0, 0, 0], [0, 1, 0], [0, 0, 0]]), "documents")
