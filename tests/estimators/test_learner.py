"""Repeated fitting with `warm_start` and `partial_fit`, and validation while fitting."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from skxlmr import (
    XLMRXLQA,
    Full,
    LoRA,
    XLMRXLClassifier,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.columns import check_text_column
from skxlmr.runtime import run as run_module
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6
CONSTANT = {"lr_schedule": "constant", "warmup": 0.0}


def classifier(**parameters):
    settings = {"model": "nano", "tuning": "head", "random_state": 0, "batch_size": 5, "max_epochs": 3}
    return XLMRXLClassifier(**(settings | parameters))


@pytest.mark.parametrize("tuning", ["head", LoRA(rank=2, dropout=0.1), Full(layers=1)], ids=str)
def test_partial_fit_repeated_equals_epochs_of_fit(tuning):
    whole = classifier(tuning=tuning, init="random", **CONSTANT).fit(TEXTS, LABELS)
    parts = classifier(tuning=tuning)
    for n_epochs in range(1, 4):
        assert parts.partial_fit(TEXTS, LABELS, classes=["yes", "no"]) is parts
        assert parts.n_iter_ == n_epochs
    assert parts.history_.drop(columns="seconds").equals(whole.history_.drop(columns="seconds"))
    np.testing.assert_array_equal(parts.predict_proba(TEXTS), whole.predict_proba(TEXTS))


def test_partial_fit_on_changing_rows_learns_all_of_them():
    clf = classifier(learning_rate=1e-2)
    for _ in range(10):
        for start in range(0, 12, 4):
            clf.partial_fit(TEXTS[start : start + 4], LABELS[start : start + 4], classes=["no", "yes", "perhaps"])
    assert clf.classes_.tolist() == ["no", "perhaps", "yes"]
    assert clf.score(TEXTS, LABELS) > 0.8
    again = pickle.loads(pickle.dumps(clf)).partial_fit(TEXTS, LABELS)  # later calls need no classes
    assert again.n_iter_ == 31


def test_partial_fit_with_unsupported_arguments_raises_and_keeps_earlier_fit():
    with pytest.raises(ValueError, match="first call of partial_fit needs classes"):
        classifier().partial_fit(TEXTS, LABELS)
    clf = classifier().partial_fit(TEXTS, LABELS, classes=["yes", "no"])
    before = clf.predict_proba(TEXTS)
    with pytest.raises(ValueError, match=r"y has labels that classes has not: \['perhaps'\]"):
        clf.partial_fit(TEXTS, [*LABELS[:-1], "perhaps"])
    with pytest.raises(ValueError, match="training can continue with the same only"):
        clf.partial_fit(TEXTS, LABELS, classes=["yes", "no", "perhaps"])
    with pytest.raises(ValueError, match="early_stopping"):
        clf.set_params(early_stopping=True).partial_fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="class_weight='balanced'"):
        clf.set_params(early_stopping=False, class_weight="balanced").partial_fit(TEXTS, LABELS)
    with pytest.raises(FloatingPointError):
        clf.set_params(class_weight=None, learning_rate=1e30, tuning="head").partial_fit(TEXTS * 5, LABELS * 5)
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), before)


def test_partial_fit_after_diverging_partial_fit_continues_from_state_before_it():
    clf = classifier(tuning="lora").partial_fit(TEXTS, LABELS, classes=["yes", "no"])
    same = classifier(tuning="lora").partial_fit(TEXTS, LABELS, classes=["yes", "no"])
    with pytest.raises(FloatingPointError):
        clf.set_params(learning_rate=1e30).partial_fit(TEXTS * 5, LABELS * 5)
    clf.set_params(learning_rate="auto").partial_fit(TEXTS, LABELS)
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), same.partial_fit(TEXTS, LABELS).predict_proba(TEXTS))


def test_warm_start_continues_from_earlier_fit():
    cold = classifier(learning_rate=1e-2, max_epochs=10)
    first = cold.fit(TEXTS, LABELS).loss_curve_
    assert cold.fit(TEXTS, LABELS).loss_curve_ == first
    warm = classifier(learning_rate=1e-2, max_epochs=10, warm_start=True)
    assert warm.fit(TEXTS, LABELS).loss_curve_ == first
    assert warm.fit(TEXTS, LABELS).loss_curve_[0] < (first[0] + first[-1]) / 2
    assert warm.n_iter_ == 10, "epochs of the latest fit"


def test_warm_start_with_other_classes_or_tuning_raises():
    clf = classifier(tuning="lora", max_epochs=1, warm_start=True).fit(TEXTS, LABELS)
    before = clf.predict_proba(TEXTS)
    with pytest.raises(ValueError, match="training can continue with the same only"):
        clf.fit(TEXTS, [*LABELS[:-1], "perhaps"])
    with pytest.raises(ValueError, match="its tuning, or its model, was another one"):
        clf.set_params(tuning=LoRA(rank=3)).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(clf.set_params(tuning="lora").predict_proba(TEXTS), before)


def test_fit_with_reordered_validation_columns_raises():
    pairs = pd.DataFrame({"question": TEXTS, "context": TEXTS[::-1]})
    clf = classifier(max_epochs=1)
    with pytest.raises(ValueError, match=r"X_val has the columns \['context', 'question'\], but X has \['question', "):
        clf.fit(pairs, LABELS, X_val=pairs[["context", "question"]], y_val=LABELS)
    clf.fit(pairs, LABELS, X_val=pairs.to_numpy(), y_val=LABELS)
    assert len(clf.validation_scores_) == 1


def test_partial_fit_without_feature_names_warns_and_keeps_earlier_names():
    frame = pd.DataFrame({"review": TEXTS})
    clf = classifier(max_epochs=1).fit(frame, LABELS)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.partial_fit(TEXTS, LABELS)
    assert clf.feature_names_in_.tolist() == ["review"]
    clf.predict(frame)  # must not warn


def test_early_stopping_with_nan_score_raises():
    reg = XLMRXLRegressor("nano", tuning="head", early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match=r"validation score is NaN.*validation_fraction"):
        reg.fit(TEXTS[:8], np.arange(8.0))
    reg.set_params(validation_fraction=0.25, max_epochs=2).fit(TEXTS[:8], np.arange(8.0))
    assert np.isfinite(reg.best_validation_score_)


@pytest.mark.parametrize("max_length", [None, 6], ids=["whole", "windows"])
def test_early_stopping_runs_validation_rows_only(max_length, monkeypatch):
    texts = [f"{word} number {i} " * (1 + i % 3) for i, word in enumerate(["good", "bad"] * 10)]
    labels = np.array(["yes", "no"] * 10)
    lengths = []

    def run(compute, prepare, of_windows, device, **options):
        lengths.append(of_windows)
        return run_module.run(compute, prepare, of_windows, device, **options)

    monkeypatch.setattr("skxlmr.runtime.finetuned.run", run)
    settings = {"max_length": max_length, "stride": 1, "max_epochs": 3, "early_stopping": True, "random_state": 0}
    clf = XLMRXLClassifier("nano", validation_fraction=0.2, learning_rate=1e-2, device="cpu", **settings)
    clf.fit(texts, labels)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    _, held = train_test_split(np.arange(20), test_size=0.2, stratify=labels, random_state=seed)
    plan = clf._task().plan(get_backbone("nano", device="cpu"), check_text_column([texts[i] for i in held]))
    *start, of_start, first, second, third, trained = lengths
    assert [sorted(of_epoch) for of_epoch in (of_start, first, second, third)] == [sorted(plan.lengths)] * 4
    assert [len(of_run) for of_run in start] == [len(trained)] * 2  # the training rows: to start, and to judge it
    assert clf.best_validation_score_ == clf.score([texts[i] for i in held], labels[held])


# -- rows of weight zero ----------------------------------------------------------------------------------------------

ROWS = ["good film", "bad film", "fine", "poor show", "nice", "awful"]
UNUSED = "quartz xylophone"
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8]] * 3)
OF_EVERY_TASK = {
    "classifier": (XLMRXLClassifier, ROWS, ["yes", "no"] * 3, (UNUSED, "perhaps"), "decision_function"),
    "probabilities": (XLMRXLClassifier, ROWS, PROBABILITIES, (UNUSED, np.array([0.0, 1.0])), "decision_function"),
    "regressor": (XLMRXLRegressor, ROWS, [1.0, 2.0, 2.0, 5.0, 1.0, 7.0], (UNUSED, 1e6), "predict"),
    "outputs": (XLMRXLRegressor, ROWS, [[1.0, i] for i in range(6)], (UNUSED, [-1e6, 1e6]), "predict"),
    "tagger": (
        XLMRXLTagger, [["a", "b"], ["b"]] * 3, [["B-X", "O"], ["O"]] * 3, ([UNUSED], ["B-LOC"]), "predict_proba",
    ),
    "qa": (
        XLMRXLQA, [["who", "Ann did"], ["where", "in Rome"]] * 3, ["Ann", "Rome"] * 3, ([UNUSED, UNUSED], ""), "predict"
    ),
    "choices": (
        XLMRXLMultipleChoice, [["a", ["b", "c"]], ["d", ["e", "f"]]] * 3, [0, 1] * 3, ([UNUSED, ["x", "y", "z"]], 2),
        "decision_function",
    ),
    "masked": (XLMRXLMaskedLM, ROWS, None, (UNUSED, None), "pseudo_log_likelihood"),
    "generator": (XLMRXLGenerator, ROWS, None, (UNUSED, None), "log_likelihood"),
}  # fmt: skip


WEIGHTED = [(kind, None) for kind in OF_EVERY_TASK] + [("classifier", "balanced"), ("tagger", "balanced")]


@pytest.mark.parametrize(("kind", "class_weight"), WEIGHTED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_of_weight_zero_equal_removed_rows(kind, class_weight):
    """Not their words, nor their classes, targets or lengths are used, in training, in its start or in validation."""
    cls, X, y, (text, target), method = OF_EVERY_TASK[kind]
    settings = {"model": "nano", "random_state": 0, "device": "cpu", "vocabulary": "trim", "max_epochs": 2}
    settings |= {"class_weight": class_weight, "early_stopping": True, "validation_fraction": 0.34}
    settings = {name: value for name, value in settings.items() if name in cls().get_params()}
    weights = np.linspace(0.5, 2, len(X))
    data = {"X": [text, *X, text], "sample_weight": np.r_[0, weights, 0]}
    removed = {"X": X, "sample_weight": weights}
    if y is not None:
        data["y"] = [target, *y, target] if isinstance(y, list) else np.array([target, *y, target])
        removed["y"] = y
    with_zeros, without = cls(**settings).fit(**data), cls(**settings).fit(**removed)
    np.testing.assert_array_equal(with_zeros._base.pieces, without._base.pieces)
    for a, b in zip(getattr(with_zeros, method)(X), getattr(without, method)(X), strict=True):
        np.testing.assert_array_equal(a, b)
    if hasattr(without, "classes_"):
        assert with_zeros.classes_.tolist() == without.classes_.tolist()
    history = with_zeros.history_.drop(columns="seconds")
    pd.testing.assert_frame_equal(history, without.history_.drop(columns="seconds"))


def test_rows_of_weight_zero_are_neither_read_nor_counted_as_cut():
    long = "word " * 600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = classifier(truncation=True).fit([long, *TEXTS], ["yes", *LABELS], sample_weight=np.r_[0, np.ones(12)])
    with pytest.warns(UserWarning, match="1 of 13 distinct texts were cut"):
        clf.fit([long, *TEXTS], ["yes", *LABELS])


def test_fit_with_weights_that_are_all_zero_raises():
    with pytest.raises(ValueError, match="zero"):
        classifier().fit(TEXTS, LABELS, sample_weight=np.zeros(12))
