"""The start of heads."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, XLMRXLTagger
from skxlmr.columns import check_text_column
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.probes import Centering
from skxlmr.training.start import some_rows

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"] * 2
LABELS = ["yes", "no"] * 8
SETTINGS = {"random_state": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def _one_strength(monkeypatch):
    monkeypatch.setattr("skxlmr.tasks.probes.STRENGTHS", (10.0,))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_classifier_with_tuning_head_equals_logistic_regression_on_embeddings(pooling):
    clf = XLMRXLClassifier("nano", tuning="head", pooling=pooling, **SETTINGS).fit(TEXTS, LABELS)
    vectors = XLMRXLEmbedder("nano", pooling=pooling, device="cpu").fit_transform(TEXTS)
    centred = Centering.fit(vectors, np.ones(16)).transform(vectors)
    expected = LogisticRegression(C=10.0, max_iter=1000).fit(centred, LABELS).predict_proba(centred)
    np.testing.assert_allclose(clf.predict_proba(TEXTS), expected, atol=1e-4)
    assert clf.n_iter_ == 0
    assert clf.history_.columns.tolist() == ["epoch", "loss", "learning_rate", "seconds"]
    assert clf.start_metrics_["loss"] == pytest.approx(-np.log(expected[np.arange(16), [1, 0] * 8]).mean(), abs=1e-4)


def test_head_with_max_epochs_trains_on_from_the_start():
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=3, **SETTINGS).fit(TEXTS, LABELS)
    assert clf.n_iter_ == 3
    assert clf.history_["loss"].iloc[-1] < clf.start_metrics_["loss"] + 0.05


def softened(proba):
    """Divide the log-odds of probabilities by ten."""
    return softmax(np.log(proba) / 10, axis=1)


def test_lora_starts_with_the_predictions_of_the_linear_model_softened():
    start = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, LABELS)
    clf = XLMRXLClassifier("nano", learning_rate=1e-9, max_epochs=1, **SETTINGS).fit(TEXTS, LABELS)
    np.testing.assert_allclose(clf.predict_proba(TEXTS), softened(start.predict_proba(TEXTS)), atol=1e-4)
    assert clf.start_metrics_["loss"] < 0.2 < clf.loss_curve_[0]  # the metrics are those of the linear model itself


def test_random_init_has_no_start():
    clf = XLMRXLClassifier("nano", init="random", max_epochs=1, **SETTINGS).fit(TEXTS, LABELS)
    assert clf.start_metrics_ is None


@pytest.mark.parametrize("max_length", [None, 5], ids=["whole", "windows"])
def test_start_of_long_texts_weights_their_windows(max_length):
    texts = [f"{text} {text} {text} and more" for text in TEXTS]
    settings = {"max_length": max_length, "stride": 1, "tuning": "head", **SETTINGS}
    clf = XLMRXLClassifier("nano", **settings).fit(texts, LABELS)
    assert clf.score(texts, LABELS) == 1.0


def test_start_ignores_rows_of_weight_zero_and_counts_duplicates():
    twice = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS + TEXTS[:4], LABELS + LABELS[:4])
    weights = np.where(np.arange(16) < 4, 2.0, 1.0)
    weighted = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, LABELS, weights)
    np.testing.assert_allclose(twice.predict_proba(TEXTS), weighted.predict_proba(TEXTS), atol=1e-4)


def test_regressor_on_separate_pairs_starts_from_their_cosine():
    pairs = [[a, b] for a in TEXTS[:8] for b in TEXTS[:8]]
    embedder = XLMRXLEmbedder("nano", normalize=True, device="cpu")
    u, v = (embedder.fit_transform([pair[side] for pair in pairs]) for side in (0, 1))
    cosine = (u * v).sum(axis=1)
    few = np.random.RandomState(0).permutation(64)[:10]
    settings = {"tuning": "head", "pairs": "separate", **SETTINGS}
    reg = XLMRXLRegressor("nano", **settings).fit([pairs[i] for i in few], 3 * cosine[few])
    assert np.corrcoef(reg.predict(pairs), cosine)[0, 1] > 0.9999


def test_tagger_with_tuning_head_is_a_logistic_regression_of_tokens():
    sentences, tags = [["good", "film"], ["bad", "day"], ["lovely", "food"]] * 4, [["A", "N"]] * 12
    tagger = XLMRXLTagger("nano", tuning="head", **SETTINGS).fit(sentences, tags)
    proba = np.concatenate(list(tagger.predict_proba(sentences)))
    assert tagger.n_iter_ == 0
    assert tagger.score(sentences, tags) == 1.0
    assert abs(proba[:, 0].mean() - 0.5) < 1e-3  # a logistic regression is right on average


def test_several_labels_per_row_start_from_one_regression_per_label():
    y = np.stack([np.arange(16) % 2, np.arange(16) % 4 == 0], axis=1)
    clf = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, y)
    assert clf.score(TEXTS, y) == 1.0
    np.testing.assert_allclose(clf.predict_proba(TEXTS).mean(axis=0), y.mean(axis=0), atol=1e-2)


def test_some_rows_draws_about_as_many_feature_vectors_as_asked():
    backbone, column = get_backbone("nano", device="cpu"), check_text_column([f"text {i}" for i in range(50)])
    task = Classification(pooling="mean", prompt="", pairs="joint", classes=np.arange(2))
    rows = task.rows(backbone, column, np.arange(50) % 2, np.ones(50))
    drawn = some_rows(rows, seed=0, most=20)
    assert len(drawn) == len(set(drawn)) == 20
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(some_rows(rows, seed=0), np.arange(50))


def test_lora_on_many_rows_starts_from_a_sample(monkeypatch):
    monkeypatch.setattr("skxlmr.training.start.some_rows", lambda rows, seed: np.arange(0, 16, 3))
    clf = XLMRXLClassifier("nano", tuning=LoRA(rank=1), learning_rate=1e-9, max_epochs=1, **SETTINGS)
    proba = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    few = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS[::3], LABELS[::3])
    np.testing.assert_allclose(proba, softened(few.predict_proba(TEXTS)), atol=1e-4)
