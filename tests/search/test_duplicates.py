"""Near duplicates, their groups, and what remains."""

import numpy as np
import pandas as pd
import pytest

from skxlmr import XLMRXLEmbedder
from skxlmr.search import duplicate_groups, keep_first, near_duplicates

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((120, 16)).astype(np.float32)
Z[60:100] = Z[:40] + 0.2 * RNG.standard_normal((40, 16))


def reference(vectors, threshold):
    """Compare all pairs in float64."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.nonzero(np.triu((unit @ unit.T).astype(np.float32) >= np.float32(threshold), 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


@pytest.mark.parametrize("block_size", [1, 7, 50, 120, 1000])
def test_pairs_are_those_of_all_pairs_whatever_the_block_size(block_size):
    pairs = near_duplicates(Z, 0.9, block_size=block_size)
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == reference(Z.astype(np.float64), 0.9)
    assert pairs.similarity.is_monotonic_decreasing
    assert (pairs["first"] < pairs["second"]).all()
    pd.testing.assert_frame_equal(pairs, near_duplicates(Z, 0.9))
    assert pairs.dtypes.map(str).to_list() == ["int64", "int64", "float32"]


def test_equal_rows_are_each_a_pair_with_the_first():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.01], [1.0, -0.0], [2.0, 0.0]])
    pairs = near_duplicates(rows, 0.99)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[0, 2], [0, 4], [0, 5], [0, 3], [3, 5]]
    assert pairs.similarity[:3].tolist() == [1.0] * 3


def test_many_equal_texts_make_few_pairs_and_are_embedded_once():
    texts = pd.Series(["the same"] * 3000 + ["the same!", "something else entirely"], index=range(5, 3007))
    pairs = near_duplicates(texts, 0.9, embedder=XLMRXLEmbedder("nano"), max_pairs=3000)
    assert len(pairs) == 3000
    assert pairs.iloc[-1][["first", "second"]].tolist() == [0, 3000]
    assert keep_first(pairs, len(texts)).nonzero()[0].tolist() == [0, 3001]


def test_groups_are_what_pairs_connect():
    pairs = pd.DataFrame({"first": [1, 3], "second": [3, 5], "similarity": [1.0, 0.96]})
    assert duplicate_groups(pairs, 7).tolist() == [0, 1, 2, 1, 3, 1, 4]
    assert keep_first(pairs, 7).tolist() == [True, True, True, False, True, False, True]
    none = near_duplicates(np.eye(3), 0.9)
    assert none.empty
    assert none.columns.to_list() == ["first", "second", "similarity"]
    assert duplicate_groups(none, 3).tolist() == [0, 1, 2]
    assert len(near_duplicates(np.empty((0, 2)))) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threshold": 0}, ValueError, "threshold must be a number above 0"),
        ({"threshold": "high"}, ValueError, "threshold must be a number above 0"),
        ({"max_pairs": 10, "threshold": 0.01}, ValueError, "More than max_pairs.*threshold=0.01. Raise the threshold"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1"),
        ({"X": ["a", "b"]}, ValueError, "X has texts.*embedder="),
        ({"X": ["a", None], "embedder": XLMRXLEmbedder("nano")}, ValueError, "row 1: None is a missing value"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        near_duplicates(**{"X": Z, **arguments})
    with pytest.raises(ValueError, match="positions in 'second' that are not from 0 to 2"):
        keep_first(pd.DataFrame({"first": [0], "second": [3]}), 3)
