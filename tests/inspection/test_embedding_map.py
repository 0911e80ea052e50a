"""Maps of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.inspection import EmbeddingMapDisplay

Z = np.random.default_rng(0).normal(size=(20, 60))


def test_pca_is_that_of_sklearn():
    display = EmbeddingMapDisplay.from_vectors(Z)
    np.testing.assert_allclose(display.points, PCA(2, svd_solver="full").fit_transform(Z))
    assert display.ax_.get_xlabel().startswith("Component 1, ")
    assert display.figure_ is display.ax_.figure
    assert display.ax_.get_legend() is None


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_vectors_give_the_same_map(method: str):
    first, second = (EmbeddingMapDisplay.from_vectors(Z, method=method).points for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (20, 2)


def test_labels_are_colours_and_groups_are_markers():
    labels, groups = ["x", "y"] * 10, ["en"] * 15 + [None] * 5
    display = EmbeddingMapDisplay.from_vectors(Z, labels=labels, groups=groups)
    assert [len(scatter.get_offsets()) for scatter in display.scatters_] == [5, 15]
    entries = display.ax_.get_legend().legend_handles
    names = {entry.get_label(): (entry.get_marker(), tuple(entry.get_color())) for entry in entries}
    assert list(names) == ["x", "y", "(missing)", "en"]
    assert names["(missing)"][0] != names["en"][0]
    of_en = display.scatters_[1].get_facecolors()[:2, :3]
    np.testing.assert_allclose(of_en, [names["x"][1][:3], names["y"][1][:3]])


def test_floats_are_a_scale_with_a_colour_bar():
    display = EmbeddingMapDisplay.from_vectors(Z, labels=np.arange(20.0))
    assert len(display.figure_.axes) == 2
    assert len(np.unique(display.scatters_[0].get_facecolors(), axis=0)) == 20


@pytest.mark.parametrize(("n_labels", "has_legend"), [(10, True), (11, True), (20, True), (40, False)])
def test_each_label_has_its_own_colour(n_labels: int, has_legend: bool):
    vectors = np.repeat(Z, 2, axis=0)
    display = EmbeddingMapDisplay.from_vectors(vectors, labels=[i % n_labels for i in range(40)])
    assert len(np.unique(display.scatters_[0].get_facecolors(), axis=0)) == n_labels
    assert (display.ax_.get_legend() is not None) == has_legend


def test_from_estimator_transforms(reviews: pd.DataFrame):
    embedder = XLMRXLEmbedder("nano").fit(reviews.text)
    display = EmbeddingMapDisplay.from_estimator(embedder, reviews.text, labels=reviews.label)
    expected = EmbeddingMapDisplay.from_vectors(embedder.transform(reviews.text)).points
    np.testing.assert_allclose(display.points, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["x"]}, "labels has 1 values, but Z has 20 rows"),
        ({"groups": ["en"] * 3}, "groups has 3 values, but Z has 20 rows"),
        ({"groups": range(20)}, "groups has 20 groups, but there are 12 markers"),
        ({"method": "umap"}, "method must be one of 'pca', 'tsne'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        EmbeddingMapDisplay.from_vectors(Z, **arguments)


def test_wrong_vectors_and_estimators_are_named(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    with pytest.raises(ValueError, match="minimum of 3 is required"):
        EmbeddingMapDisplay.from_vectors(Z[:2])
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        EmbeddingMapDisplay.from_vectors(np.full((5, 5), np.nan))
    with pytest.raises(TypeError, match="estimator is a XLMRXLClassifier, which has no transform"):
        EmbeddingMapDisplay.from_estimator(classifier, reviews.text)
    with pytest.raises(NotFittedError, match="estimator is not fitted"):
        EmbeddingMapDisplay.from_estimator(XLMRXLEmbedder("nano"), reviews.text)
