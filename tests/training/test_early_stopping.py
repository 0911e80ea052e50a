"""Validation scores and early stopping."""

import pytest

from skxlmr import XLMRXLClassifier

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, **parameters})


def test_early_stopping_restores_the_best_epoch():
    clf = classifier(early_stopping=True, validation_fraction=0.25, max_epochs=30, n_iter_no_change=2)
    clf.fit(TEXTS, LABELS, X_val=TEXTS, y_val=LABELS)
    assert clf.best_validation_score_ == max(clf.validation_scores_) == clf.history_.validation_score.max()
    assert clf.score(TEXTS, LABELS) == pytest.approx(clf.best_validation_score_)
    own = classifier(early_stopping=True, validation_fraction=0.25, max_epochs=30, n_iter_no_change=2)
    assert own.fit(TEXTS, LABELS).n_iter_ < 30
    with pytest.raises(ValueError, match="y_val has labels that y has not"):
        clf.fit(TEXTS, LABELS, X_val=TEXTS, y_val=[*LABELS[:-1], "perhaps"])
    with pytest.raises(ValueError, match="go together"):
        clf.fit(TEXTS, LABELS, X_val=TEXTS)


def test_fit_with_validation_rows_scores_them():
    clf = classifier(max_epochs=2).fit(TEXTS, LABELS, X_val=TEXTS[:4], y_val=LABELS[:4])
    assert len(clf.validation_scores_) == 2
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    assert clf.history_.validation_score.tolist() == clf.validation_scores_
    assert clf.validation_scores_[-1] == clf.score(TEXTS[:4], LABELS[:4])
    with pytest.raises(ValueError, match="go together"):
        classifier().fit(TEXTS, LABELS, X_val=TEXTS)
    with pytest.raises(ValueError, match=r"labels that y has not: \['maybe'\]"):
        classifier().fit(TEXTS, LABELS, X_val=["a", "b"], y_val=["maybe", "no"])
    one_class = classifier(max_epochs=1).fit(TEXTS, LABELS, X_val=["good"], y_val=["yes"])
    assert one_class.validation_scores_[0] in (0, 1)
