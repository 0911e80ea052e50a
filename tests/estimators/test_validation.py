"""Validation rows: their weights, and their scores by scorers of scikit-learn."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from scipy.sparse import coo_matrix
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer, max_error, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from validation_rows import (
    ANSWERS,
    CHOICES,
    LABELS,
    QUESTIONS,
    QUICK,
    RIGHT,
    TAGS,
    TEXTS,
    WEIGHTS,
    X_VAL,
    Y_VAL,
    classifier,
)

import skxlmr
from skxlmr import (
    XLMRXLQA,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)

# One epoch is enough to compare scores and losses with others.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def held_out(n, fraction, strata=None):
    """The rows that early stopping holds out with random_state=0."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    return np.sort(train_test_split(np.arange(n), test_size=fraction, stratify=strata, random_state=seed)[1])


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda X: np.array(X, object),
        lambda X: pd.Series(X, index=range(100, 100 + len(X))),
        lambda X: pd.DataFrame({"text": X}, index=[f"row {i}" for i in range(len(X))]),
        lambda X: pl.DataFrame({"text": X}),
        lambda X: pa.table({"text": X}),
        lambda X: [[text, "other"] for text in X],
        lambda X: pd.DataFrame({"question": X, "context": X[::-1]}),
    ],
    ids="list array series frame polars pyarrow pairs frame_of_pairs".split(),
)
def test_scoring_with_early_stopping_scores_rows_that_are_held_out(make):
    X, y, seen = make(TEXTS), pd.Series(LABELS, index=range(7, 27)), []

    def scoring(estimator, X, y):
        seen.append((X, y))
        return f1_score(y, estimator.predict(X), average="macro")

    settings = {"early_stopping": True, "validation_fraction": 0.3, "init": "random"}
    clf = classifier(scoring=scoring, **settings).fit(X, y)
    rows = held_out(20, 0.3, LABELS)
    assert len(seen) == 3
    for some, labels in seen:
        assert type(some) is type(X)
        assert labels.equals(y.iloc[rows])
    assert clf.best_validation_score_ == max(clf.validation_scores_) == clf.history_.validation_score.max()
    assert clf.best_validation_score_ == scoring(clf, seen[0][0], seen[0][1])
    expected = [X[i] for i in rows] if isinstance(X, list) else None
    assert expected is None or seen[0][0] == expected
    by_name = classifier(scoring="f1_macro", **settings).fit(X, y)
    assert by_name.validation_scores_ == clf.validation_scores_


@pytest.mark.parametrize("scoring", ["f1_macro", "neg_log_loss", "roc_auc_ovr", "balanced_accuracy"])
def test_scoring_by_name_equals_scorer_of_sklearn(scoring):
    clf = classifier(scoring=scoring).fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=WEIGHTS)
    expected = get_scorer(scoring)(clf, X_VAL, Y_VAL, sample_weight=WEIGHTS)
    unweighted = get_scorer(scoring)(clf, X_VAL, Y_VAL)
    assert clf.validation_scores_[-1] == pytest.approx(expected)
    assert clf.best_validation_score_ >= max(clf.validation_scores_), "the start is scored, too"
    if scoring == "neg_log_loss":
        assert abs(expected - unweighted) > 1e-3
    plain = classifier(scoring=scoring).fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert plain.validation_scores_[-1] == pytest.approx(unweighted)


def test_scoring_does_not_change_training_and_restores_best_epoch():
    scripted, seen = iter([0.5, 0.75, 0.75, 0.7]), []

    def scoring(estimator, X, y):
        seen.append(estimator.predict_proba(X))
        return np.float32(next(scripted))

    settings = {"tuning": skxlmr.LoRA(rank=2, dropout=0.1), "init": "random", "learning_rate": 1e-2, "max_epochs": 9}
    clf = classifier(scoring=scoring, early_stopping=True, n_iter_no_change=1, **settings)
    clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert clf.validation_scores_ == pytest.approx([0.5, 0.75, 0.75, 0.7])
    assert clf.best_validation_score_ == 0.75
    np.testing.assert_array_equal(clf.predict_proba(X_VAL), seen[1])
    assert np.abs(seen[1] - seen[3]).max() > 1e-3
    plain = classifier(**settings).fit(TEXTS, LABELS)
    assert plain.loss_curve_[:4] == clf.loss_curve_


def test_scoring_passes_weights_to_scorers_that_take_them():
    seen = []

    def scoring(estimator, X, y, sample_weight=None):
        seen.append(sample_weight)
        return 0.0

    val = {"X_val": X_VAL, "y_val": Y_VAL}
    classifier(max_epochs=1, init="random", scoring=scoring).fit(TEXTS, LABELS, **val, sample_weight_val=WEIGHTS)
    classifier(max_epochs=1, init="random", scoring=scoring).fit(TEXTS, LABELS, **val)
    assert seen[0].tolist() == WEIGHTS[WEIGHTS > 0].tolist(), "rows of weight zero are left out"
    assert seen[1:] == [None]
    numbers = np.arange(20.0)
    reg = XLMRXLRegressor(**QUICK, scoring=make_scorer(max_error, greater_is_better=False))  # has no sample_weight
    reg.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    used = WEIGHTS > 0
    expected = -max_error(numbers[3:10][used], reg.predict(X_VAL)[used])
    assert reg.validation_scores_[-1] == pytest.approx(expected)


def test_early_stopping_passes_sample_weights_of_held_out_rows_without_class_weights():
    weights, rows = np.linspace(0.5, 3, 20), held_out(20, 0.3, LABELS)
    settings = {"early_stopping": True, "validation_fraction": 0.3, "max_epochs": 1, "class_weight": "balanced"}
    clf = classifier(scoring="accuracy", **settings).fit(TEXTS, LABELS, sample_weight=weights)
    own = classifier(**settings).fit(TEXTS, LABELS, sample_weight=weights)
    X, y = [TEXTS[i] for i in rows], [LABELS[i] for i in rows]
    for one in (clf, own):
        assert one.best_validation_score_ == pytest.approx(one.score(X, y, sample_weight=weights[rows]))


def test_scoring_that_is_wrong_raises_before_training(monkeypatch):
    monkeypatch.setattr("skxlmr.estimators.learner.load_base", None)  # nothing must be loaded
    with pytest.raises(ValueError, match=r"The 'scoring' parameter of XLMRXLClassifier must be a str among .*f1_macro"):
        classifier(scoring="f1_makro").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="looks like it is a metric function rather than a scorer"):
        classifier(scoring=accuracy_score).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "returned NaN for the validation rows.*larger validation_fraction"),
        (np.array(np.nan), "returned NaN"),
        (None, r"must return a number, got None \(NoneType\)"),
        ("0.5", r"must return a number, got '0.5' \(str\)"),
        (np.array([0.5, 0.5]), r"must return a number, got array.*\(ndarray\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_scoring_without_a_number_raises(value, message, early_stopping):
    clf = classifier(scoring=lambda estimator, X, y: value, early_stopping=early_stopping)
    with pytest.raises(ValueError, match=message):
        clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert not hasattr(clf, "classes_")


def test_scoring_with_names_of_one_column_only_does_not_warn():
    frame = pd.DataFrame({"text": TEXTS})
    clf = classifier(scoring="accuracy", max_epochs=1)
    clf.fit(frame, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert clf.feature_names_in_.tolist() == ["text"]
    clf.fit(TEXTS, LABELS, X_val=frame[3:10], y_val=Y_VAL)
    assert clf.validation_scores_[-1] == clf.score(X_VAL, Y_VAL)


def test_scoring_of_several_labels_equals_scorer_of_sklearn():
    indicator = np.stack([np.array(LABELS) == "yes", np.arange(20) % 3 > 0], axis=1).astype(int)
    settings = {"scoring": "f1_macro", "early_stopping": True, "validation_fraction": 0.4, "max_epochs": 1}
    rows = held_out(20, 0.4)
    for y in (indicator, pd.DataFrame(indicator, columns=["a", "b"]), coo_matrix(indicator)):
        clf = classifier(**settings).fit(TEXTS, y)
        expected = f1_score(indicator[rows], clf.predict([TEXTS[i] for i in rows]), average="macro")
        assert clf.best_validation_score_ == pytest.approx(expected)


def test_scoring_of_regressor_equals_scorer_of_sklearn():
    numbers = np.arange(20.0)
    reg = XLMRXLRegressor(**QUICK, scoring="neg_mean_absolute_error")
    reg.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    error = np.average(abs(reg.predict(X_VAL) - numbers[3:10]), weights=WEIGHTS)
    assert reg.validation_scores_[-1] == pytest.approx(-error)
    plain = XLMRXLRegressor(**QUICK)
    plain.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    expected = r2_score(numbers[3:10], plain.predict(X_VAL), sample_weight=WEIGHTS)
    assert plain.validation_scores_[-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimator", "X", "y"),
    [
        (XLMRXLTagger, [text.split() for text in TEXTS], TAGS),
        (XLMRXLTagger, pd.Series([text.split() for text in TEXTS], index=range(5, 25)), pd.Series(TAGS)),
        (XLMRXLQA, QUESTIONS, ANSWERS),
        (XLMRXLQA, pd.DataFrame(QUESTIONS, columns=["question", "context"]), pd.Series(ANSWERS)),
        (XLMRXLMultipleChoice, CHOICES, RIGHT),
        (XLMRXLMultipleChoice, pd.DataFrame(CHOICES, columns=["prompt", "choices"]), RIGHT),
    ],
    ids="tagger tagger_series qa qa_frame choice choice_frame".split(),
)
def test_scoring_of_other_estimators_takes_functions(estimator, X, y):
    n_predicted = []

    def scoring(estimator, X, y):
        n_predicted.append(len(estimator.predict(X)))
        return 1 + estimator.score(X, y)

    settings = {"early_stopping": True, "validation_fraction": 0.4, "tuning": "head", "scoring": scoring}
    one = estimator(**QUICK, **settings).fit(X, y)
    own = estimator(**(QUICK | settings | {"scoring": None})).fit(X, y)
    assert set(n_predicted) == {round(0.4 * len(y) + 0.4)}
    assert one.validation_scores_ == pytest.approx([1 + score for score in own.validation_scores_])


@pytest.mark.parametrize("estimator", [XLMRXLMaskedLM, XLMRXLGenerator])
def test_scoring_of_language_models_takes_functions_without_y(estimator):
    seen = []

    def scoring(estimator, X):
        seen.append(X)
        return estimator.score(X) if isinstance(estimator, XLMRXLMaskedLM) else estimator.log_likelihood(X).mean()

    lm = estimator(**QUICK, early_stopping=True, validation_fraction=0.2, scoring=scoring).fit(["", *TEXTS])
    assert len(seen[0]) == 4
    assert "" not in seen[0]
    assert lm.best_validation_score_ == pytest.approx(scoring(lm, seen[0]))


def test_estimator_with_scoring_survives_save_if_it_is_a_name(tmp_path):
    clf = classifier(scoring="f1_macro", max_epochs=1).fit(TEXTS, LABELS)
    clf.save(tmp_path / "named")
    assert skxlmr.load(tmp_path / "named").scoring == "f1_macro"
    with pytest.raises(TypeError, match="scoring cannot be saved"):
        clf.set_params(scoring=get_scorer("f1_macro")).save(tmp_path / "object")


def test_sample_weight_val_that_does_not_fit_raises():
    val = {"X_val": X_VAL, "y_val": Y_VAL}
    with pytest.raises(ValueError, match=r"sample_weight_val has 6 values, but X_val has 7 rows"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=WEIGHTS[:-1])
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight_val`: that of row"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=-WEIGHTS)
    with pytest.raises(ValueError, match=r"sample_weight_val .*zero"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=0 * WEIGHTS)
    for early_stopping in (False, True):
        with pytest.raises(ValueError, match="sample_weight_val has the weights of the rows of X_val, but there is no"):
            classifier(early_stopping=early_stopping).fit(TEXTS, LABELS, sample_weight_val=WEIGHTS)
    with pytest.raises(ValueError, match="there is no X_val"):
        XLMRXLMaskedLM(**QUICK).fit(TEXTS, sample_weight_val=WEIGHTS)


def test_zero_sample_weight_val_equals_leaving_rows_out():
    kept = np.flatnonzero(WEIGHTS)
    weighted, absent = (
        classifier(max_epochs=1).fit(TEXTS, LABELS, X_val=X, y_val=y, sample_weight_val=weights)
        for X, y, weights in [
            (X_VAL, Y_VAL, WEIGHTS),
            ([X_VAL[i] for i in kept], [Y_VAL[i] for i in kept], WEIGHTS[kept]),
        ]
    )
    columns = ["validation_score", "validation_loss"]
    pd.testing.assert_frame_equal(weighted.history_[columns], absent.history_[columns])


def test_sample_weight_val_with_metadata_routing_reaches_fit():
    val = {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": WEIGHTS}
    with sklearn.config_context(enable_metadata_routing=True):
        clf = classifier(max_epochs=1, init="random").set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        grid = GridSearchCV(clf, {"learning_rate": [1e-3]}, cv=2).fit(TEXTS, LABELS, **val)
    expected = classifier(max_epochs=1, init="random", learning_rate=1e-3).fit(TEXTS, LABELS, **val)
    assert grid.best_estimator_.validation_scores_ == expected.validation_scores_
    assert grid.best_estimator_.score(X_VAL, Y_VAL, WEIGHTS) == pytest.approx(expected.validation_scores_[-1])
