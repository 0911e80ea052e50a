"""Tunings, labels, weights and windows of the classifier."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

from skxlmr import Full, Head, LoRA, XLMRXLClassifier
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import WindowPlan

GOOD = ["wonderful", "I loved it", "很好", "excellent work", "a delight", "superb"]
BAD = ["dreadful", "I hated it", "很差", "awful work", "a bore", "terrible"]
TEXTS, LABELS = GOOD + BAD, ["good"] * 6 + ["bad"] * 6


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "learning_rate": 5e-3, "random_state": 0, **parameters})


@pytest.mark.parametrize(
    "tuning", ["lora", "head", "full", LoRA(rank=2, layers=1, dropout=0.1), Full(), Head()], ids=str
)
def test_fit_with_each_tuning_learns_labels(tuning):
    rate = {"full": 1e-3, "Full()": 1e-3}.get(str(tuning), 1e-2)
    clf = classifier(tuning=tuning, learning_rate=rate, max_epochs=40).fit(TEXTS, LABELS)
    assert clf.score(TEXTS, LABELS) >= 11 / 12
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    assert list(clf.history_.columns) == ["epoch", "loss", "learning_rate", "seconds"]
    assert clf.n_iter_ == len(clf.history_) == 40


@pytest.mark.parametrize("tuning", ["lora", "head", "full"])
def test_fit_leaves_shared_backbone_unchanged(tuning):
    base = get_backbone("nano").model
    before = {name: value.clone() for name, value in base.state_dict().items()}
    classifier(tuning=tuning, max_epochs=2).fit(TEXTS, LABELS)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not base.training


@pytest.mark.parametrize(
    "classes",
    [["no", "yes"], [0, 1], [-1.0, 3.0], [False, True], [10, 20, 30], ["a", "b", "c"]],
    ids=str,
)
def test_fit_with_labels_of_any_sortable_type_keeps_dtype(classes):
    y = np.array(classes)[np.arange(len(TEXTS)) % len(classes)]
    clf = classifier(tuning="head", max_epochs=1).fit(TEXTS, y)
    assert clf.classes_.tolist() == sorted(classes)
    assert clf.predict(TEXTS).dtype == y.dtype
    proba, decision = clf.predict_proba(TEXTS), clf.decision_function(TEXTS)
    assert proba.shape == (12, len(classes))
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    if len(classes) == 2:
        assert decision.shape == (12,)
        np.testing.assert_allclose(1 / (1 + np.exp(-decision)), proba[:, 1], rtol=1e-4)
    else:
        np.testing.assert_array_equal(decision.argmax(1), proba.argmax(1))
    np.testing.assert_array_equal(clf.predict(TEXTS), clf.classes_[proba.argmax(1)])


def test_fit_with_categorical_series_infers_classes():
    y = pd.Series(LABELS, dtype="category")
    clf = classifier(tuning="head", max_epochs=1).fit(pd.Series(TEXTS, dtype="string"), y)
    assert clf.classes_.tolist() == ["bad", "good"]


def test_fit_with_micro_batches_takes_same_steps(monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)  # dropout masks depend on the batches
    texts = [*TEXTS, "a longer text " * 20, "one of several windows " * 60]
    labels = [*LABELS, "bad", "good"]
    curves = [
        classifier(max_epochs=2, batch_size=8, batch_tokens=tokens, max_length=64, stride=8).fit(texts, labels)
        for tokens in (16, 10_000)
    ]
    np.testing.assert_allclose(curves[0].loss_curve_, curves[1].loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(curves[0].decision_function(texts), curves[1].decision_function(texts), atol=1e-3)


def test_fit_with_zero_sample_weight_equals_leaving_rows_out():
    weights = np.ones(12)
    weights[[2, 7]] = 0
    kept = np.flatnonzero(weights)
    weighted = classifier(max_epochs=2).fit(TEXTS, LABELS, sample_weight=weights)
    absent = classifier(max_epochs=2).fit([TEXTS[i] for i in kept], [LABELS[i] for i in kept])
    np.testing.assert_array_equal(weighted.decision_function(TEXTS), absent.decision_function(TEXTS))


def test_fit_with_class_weight_weights_rows_of_class():
    y = ["rare"] * 2 + ["common"] * 10
    plain, heavy = (
        classifier(tuning="head", class_weight=w).fit(TEXTS, y).predict_proba(TEXTS)[:, 1].mean()
        for w in (None, {"rare": 50, "common": 1})
    )
    assert heavy > plain + 0.1
    balanced = classifier(tuning="head", class_weight="balanced").fit(TEXTS, y)
    weights = np.where(np.array(y) == "rare", 12 / 4, 12 / 20)
    same = classifier(tuning="head").fit(TEXTS, y, sample_weight=weights)
    np.testing.assert_allclose(balanced.predict_proba(TEXTS), same.predict_proba(TEXTS), rtol=1e-5)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"good": -1, "bad": 1}, "class_weight must give finite weights that are not negative"),
        ({"good": np.nan, "bad": 1}, "class_weight must give finite weights that are not negative"),
        ({"good": 0, "bad": 0}, "all their weights are zero"),
        ({"good": 0, "bad": 1}, "1 class: 'bad'"),
    ],
)
def test_fit_with_invalid_class_weight_raises(class_weight, message):
    with pytest.raises(ValueError, match=message):
        classifier(tuning="head", max_epochs=1, class_weight=class_weight).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["good"], ValueError, "at least 2 labels"),
        ([], ValueError, "at least 2 labels"),
        (["good", "bad", None], ValueError, "none of them missing"),
        (["good", "bad", 1], TypeError, "classes holds labels of several types"),
        (["good", "fair"], ValueError, "classes has not: .'bad'."),
    ],
)
def test_partial_fit_with_invalid_classes_raises(classes, error, message):
    clf = classifier(tuning="head")
    with pytest.raises(error, match=message):
        clf.partial_fit(TEXTS, LABELS, classes=classes)
    assert not hasattr(clf, "classes_")


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="needs NumPy 2.0")
def test_fit_with_variable_width_strings_infers_classes():
    y = np.array(LABELS, dtype=np.dtypes.StringDType())
    clf = classifier(tuning="head", max_epochs=1).fit(TEXTS, y)
    assert clf.classes_.tolist() == ["bad", "good"]
    assert clf.score(TEXTS, LABELS) == np.mean(clf.predict(TEXTS) == np.array(LABELS))


def test_fit_on_text_pairs_learns_relation_of_columns():
    words = ["cat", "dog", "sun", "tea"]
    df = pd.DataFrame([(a, b, a == b) for a in words for b in words], columns=["a", "b", "same"])
    clf = classifier(tuning=Full(), learning_rate=2e-3, max_epochs=60, class_weight="balanced")
    clf.fit(df[["a", "b"]], df.same)
    assert clf.n_features_in_ == 2
    assert clf.feature_names_in_.tolist() == ["a", "b"]
    assert clf.score(df[["a", "b"]], df.same) >= 0.9


def test_decision_function_of_long_text_equals_mean_over_windows():
    clf = classifier(max_epochs=2, max_length=16, stride=4).fit(TEXTS, LABELS)
    text = " ".join(GOOD * 10)
    backbone = get_backbone("nano")
    ids = backbone.tokenizer.encode_batch([text])[0]
    windows = backbone.tokenizer.windows(ids, max_length=16, stride=4)
    assert len(windows) > 3
    plans = [WindowPlan([w.input_ids], np.array([0]), np.array([0])) for w in windows]
    decisions = [clf._finetuned.run(backbone, plan, 100)[0] for plan in plans]
    expected = np.mean(decisions, axis=0)
    np.testing.assert_allclose(clf.decision_function([text])[0], expected[1] - expected[0], atol=1e-5)


def test_fit_and_predict_proba_with_very_long_text_return_one_row_per_text():
    clf = classifier(tuning="head", max_epochs=1).fit([*TEXTS, "book " * 10_000], [*LABELS, "bad"])
    assert clf.predict_proba(["word and " * 20_000]).shape == (1, 2)


def test_fit_with_diverging_loss_raises_and_keeps_earlier_fit():
    clf = classifier(max_epochs=2).fit(TEXTS, LABELS)
    before = clf.decision_function(TEXTS)
    clf.set_params(learning_rate=1e30, max_epochs=20)
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        clf.fit(TEXTS, LABELS)
    np.testing.assert_array_equal(clf.decision_function(TEXTS), before)


def test_fit_leaves_global_random_state_unchanged():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    classifier(max_epochs=1).fit(TEXTS, LABELS)
    assert torch.equal(torch.rand(3), expected)


def test_fit_with_invalid_parameters_raises():
    with pytest.raises(ValueError, match="max_length=600, but 'nano' reads at most 512"):
        classifier(max_length=600).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="'tuning' parameter"):
        classifier(tuning="lara").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="LoRA targets must be among"):
        classifier(tuning=LoRA(targets=["quarry"])).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="this model has 4 layers"):
        classifier(tuning=LoRA(layers=5)).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="'rank' parameter of LoRA"):
        classifier(tuning=LoRA(rank=0)).fit(TEXTS, LABELS)


def test_fit_with_verbose_shows_progress_bar_on_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    classifier(max_epochs=2, verbose=1).fit(TEXTS, LABELS)
    assert "loss=" in capsys.readouterr().err
    classifier(max_epochs=2).fit(TEXTS, LABELS)
    assert capsys.readouterr().err == ""


def test_decision_function_in_threads_with_shared_backbone_equals_sequential():
    first = classifier(max_epochs=3).fit(TEXTS, LABELS)
    second = classifier(max_epochs=3, random_state=1, tuning=LoRA(rank=2, targets=["up", "down"])).fit(TEXTS, LABELS)
    assert first._fitted_backbone() is second._fitted_backbone()
    expected = [clf.decision_function(TEXTS) for clf in (first, second)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: (first, second)[i % 2].decision_function(TEXTS), range(16)))
    for i, values in enumerate(got):
        np.testing.assert_array_equal(values, expected[i % 2])
