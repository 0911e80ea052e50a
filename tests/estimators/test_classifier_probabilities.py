"""Classifiers that learn from probabilities of classes."""

import pickle

import numpy as np
import pandas as pd
import pytest

import skxlmr
from skxlmr import XLMRXLClassifier

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"] * 2
LABELS = ["yes", "no"] * 8
PROBA = np.where(np.arange(16)[:, None] % 2 == 0, [0.2, 0.8], [0.9, 0.1])


@pytest.fixture(autouse=True)
def _weak_penalty(monkeypatch):
    """Cross-validation would shrink a model of these texts, which tell nothing about each other."""
    monkeypatch.setattr("skxlmr.tasks.probes.STRENGTHS", (100.0,))


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "random_state": 0, "device": "cpu", **parameters})


@pytest.mark.parametrize("tuning", ["head", "lora"])
def test_fit_on_probabilities_reproduces_them(tuning):
    clf = classifier(tuning=tuning).fit(TEXTS, PROBA)
    assert clf.classes_.tolist() == [0, 1]
    assert clf.multilabel_ is None
    np.testing.assert_allclose(clf.predict_proba(TEXTS), PROBA, atol=0.15)
    assert clf.score(TEXTS, PROBA) == clf.score(TEXTS, PROBA.argmax(axis=1)) == 1.0


def test_columns_of_a_frame_name_the_classes_in_any_order():
    frame = pd.DataFrame(PROBA, columns=["no", "yes"])
    clf = classifier(tuning="head").fit(TEXTS, frame)
    same = classifier(tuning="head").fit(TEXTS, frame[["yes", "no"]])
    assert clf.classes_.tolist() == same.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), same.predict_proba(TEXTS))
    assert clf.score(TEXTS, LABELS) == 1.0
    with pytest.raises(ValueError, match=r"y_val has the columns \['no', 'maybe'\], but the classes are"):
        clf.fit(TEXTS, frame, X_val=TEXTS, y_val=frame.set_axis(["no", "maybe"], axis=1))


def test_student_of_a_teacher_predicts_alike_and_survives_persistence(tmp_path):
    teacher = classifier(tuning="head").fit(TEXTS, LABELS)
    proba = pd.DataFrame(teacher.predict_proba(TEXTS), columns=teacher.classes_)
    student = classifier(early_stopping=True, validation_fraction=0.25).fit(TEXTS, proba, sample_weight=np.ones(16))
    assert (student.predict(TEXTS) == teacher.predict(TEXTS)).all()
    student.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(student)), skxlmr.load(tmp_path)):
        np.testing.assert_array_equal(again.predict_proba(TEXTS), student.predict_proba(TEXTS))


def test_loss_is_the_cross_entropy_to_the_probabilities():
    clf = classifier(tuning="head").fit(TEXTS, PROBA)
    expected = -(PROBA * np.log(clf.predict_proba(TEXTS))).sum(axis=1).mean()
    assert clf.start_metrics_["loss"] == pytest.approx(expected, abs=1e-5)


def test_y_val_may_hold_labels():
    clf = classifier(tuning="head", early_stopping=True).fit(TEXTS, PROBA, X_val=TEXTS, y_val=PROBA.argmax(axis=1))
    assert clf.best_validation_score_ == 1.0


def test_zeros_and_ones_are_an_indicator_of_several_labels():
    clf = classifier(tuning="head").fit(TEXTS, np.eye(2)[[0, 1] * 8])
    assert clf.multilabel_ == "indicator"


def test_class_weights_of_probabilities():
    weighted = classifier(tuning="head", class_weight={0: 20, 1: 1}).fit(TEXTS, PROBA)
    same = classifier(tuning="head").fit(TEXTS, PROBA, sample_weight=PROBA @ [20, 1])
    np.testing.assert_allclose(weighted.predict_proba(TEXTS), same.predict_proba(TEXTS), atol=1e-5)
    with pytest.raises(ValueError, match="needs labels, but y has probabilities"):
        classifier(class_weight="balanced").fit(TEXTS, PROBA)
