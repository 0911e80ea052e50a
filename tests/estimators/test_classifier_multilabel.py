"""Classifiers of rows with any number of labels."""

import pickle

import numpy as np
import pandas as pd
import pytest
from containers import COLUMNS_OF_VECTORS, TABLES
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.preprocessing import MultiLabelBinarizer

import skxlmr
from skxlmr import XLMRXLClassifier

WORDS = {"sun": "weather", "rain": "weather", "goal": "sport", "match": "sport"}
TEXTS = ["sun goal", "rain", "match", "sun rain", "goal match", "nothing here", "rain match", "sun", "goal", "nothing"]
LISTS = [sorted({WORDS[w] for w in text.split() if w in WORDS}) for text in TEXTS]
INDICATOR = MultiLabelBinarizer().fit_transform(LISTS)  # columns sport, weather


def classifier(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 30, "learning_rate": 5e-3, "batch_size": 4}
    return XLMRXLClassifier(**(settings | parameters))


def test_fit_with_lists_equals_fit_with_indicator():
    lists = classifier().fit(TEXTS, LISTS)
    matrix = classifier().fit(TEXTS, INDICATOR)
    np.testing.assert_array_equal(lists.predict_proba(TEXTS), matrix.predict_proba(TEXTS))
    assert lists.classes_.tolist() == ["sport", "weather"]
    assert matrix.classes_.tolist() == [0, 1]
    assert lists.score(TEXTS, LISTS) == matrix.score(TEXTS, INDICATOR) >= 0.9
    assert matrix.predict(TEXTS).dtype.kind == "i"
    np.testing.assert_array_equal(matrix.predict(TEXTS), (matrix.predict_proba(TEXTS) > 0.5).astype(int))
    for labels, row in zip(lists.predict(TEXTS), matrix.predict(TEXTS), strict=True):
        assert labels == tuple(np.array(["sport", "weather"])[row.astype(bool)])
    assert lists.decision_function(TEXTS).shape == (len(TEXTS), 2)


def test_fit_with_indicator_frame_takes_classes_from_columns():
    clf = classifier(max_epochs=1).fit(TEXTS, pd.DataFrame(INDICATOR, columns=["sport", "weather"]))
    assert clf.classes_.tolist() == ["sport", "weather"]
    assert clf.predict(TEXTS).shape == INDICATOR.shape


def test_multilabel_classifier_survives_pickle_and_save(tmp_path):
    clf = classifier(max_epochs=2).fit(TEXTS, LISTS, X_val=TEXTS, y_val=LISTS)
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(TEXTS, LISTS))
    clf.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path)):
        np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
        assert again.predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()


def test_score_with_sample_weight_equals_weighted_subset_accuracy():
    clf = classifier(max_epochs=1, label_smoothing=0.1).fit(TEXTS, LISTS)
    right = clf.predict(TEXTS).tolist()
    true = [list(labels) if i % 3 else ["sport", "weather"] * (not labels) for i, labels in enumerate(right)]
    weights = np.arange(len(TEXTS), dtype=float)
    expected = np.average([i % 3 > 0 for i in range(len(TEXTS))], weights=weights)
    assert clf.score(TEXTS, true, sample_weight=weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([["a"], None], ValueError, "y, row 1: None is not a list of labels"),
        ([None, ["a"]], ValueError, "y, row 0: None is not a list of labels"),
        ([["a"], np.nan], ValueError, "y, row 1: nan is not a list of labels"),
        ([["a"], [["b"]]], TypeError, r"y, row 1: the label \['b'\] is a list"),
        ([["a"], ["b", None]], ValueError, "y, row 1: None is not a label"),
        (pd.DataFrame({"a": [1, None], "b": [0, 1]}, dtype="Int64"), ValueError, "y, row 1: nan for the label 'a'"),
        (pd.DataFrame({"a": [True, None], "b": [True, False]}, dtype="boolean"), ValueError, "y, row 1: nan for"),
    ],
)
def test_fit_with_invalid_labels_raises_and_names_row(y, error, message):
    with pytest.raises(error, match=message):
        classifier().fit(["x", "y"], y)


def test_fit_with_unsuitable_labels_raises():
    with pytest.raises(ValueError, match="y, row 1: 2 for the label 1 is neither 0 nor 1"):
        classifier().fit(["a", "b"], np.array([[0, 1], [0, 2]]))
    clf = classifier(max_epochs=1).fit(TEXTS, LISTS)
    with pytest.raises(ValueError, match="y_val, row 9: the label 'art' is not one of those"):
        clf.fit(TEXTS, LISTS, X_val=TEXTS, y_val=[*LISTS[:-1], ["art"]])
    with pytest.raises(ValueError, match="row 2: 'sport' is not a list of labels"):
        clf.fit(TEXTS, [*LISTS[:2], "sport", *LISTS[3:]])
    with pytest.raises(ValueError, match="no label in any row"):
        clf.fit(TEXTS, [[] for _ in TEXTS])
    with pytest.raises(ValueError, match="class_weight must give finite weights that are not negative"):
        classifier(class_weight={"sport": -1.0}).fit(TEXTS, LISTS)
    with pytest.raises(ValueError, match=r"sport.*not in class_weight"):
        classifier(class_weight={"sports": 2.0}).fit(TEXTS, LISTS)
    with pytest.raises(ValueError, match="training can continue with the same only"):
        clf.set_params(warm_start=True).fit(TEXTS, INDICATOR)


def test_indicator_frame_with_reordered_columns_raises():
    frame = pd.DataFrame(INDICATOR[:, ::-1], columns=["weather", "sport"])
    fitted = classifier(max_epochs=1).fit(TEXTS, frame)
    begun = classifier().partial_fit(TEXTS, frame, classes=["weather", "sport"])
    assert fitted.classes_.tolist() == begun.classes_.tolist() == ["weather", "sport"]
    assert begun.partial_fit(TEXTS, frame, classes=["weather", "sport"]).n_iter_ == 2
    swapped = frame[["sport", "weather"]]
    for wrong in (
        lambda: fitted.score(TEXTS, swapped),
        lambda: begun.partial_fit(TEXTS, swapped),
        lambda: fitted.fit(TEXTS, frame, X_val=TEXTS, y_val=swapped),
    ):
        with pytest.raises(
            ValueError, match=r"columns \['sport', 'weather'\], but the labels are \['weather', 'sport'\]"
        ):
            wrong()
    assert fitted.score(TEXTS, frame) == fitted.score(TEXTS, frame.to_numpy())


def test_fit_with_sparse_indicator_equals_dense():
    sparse, dense = (classifier(max_epochs=2).fit(TEXTS, y) for y in (csr_matrix(INDICATOR), INDICATOR))
    np.testing.assert_array_equal(sparse.predict_proba(TEXTS), dense.predict_proba(TEXTS))
    assert sparse.score(TEXTS, csr_matrix(INDICATOR)) == dense.score(TEXTS, INDICATOR)


@pytest.mark.parametrize(
    "settings",
    [{"init": "probe", "max_epochs": "auto"}, {"init": "random", "max_epochs": 100, "learning_rate": 1e-2}],
    ids=["probe", "trained"],
)
def test_fit_with_class_weight_weights_entries_of_label(settings):
    texts, lists = ["sun"] * 8 + ["rain"] * 8, [["all", "rare"]] * 2 + [["all"]] * 6 + [["all"], []] * 4
    plain, heavy, balanced = (
        classifier(tuning="head", batch_size=16, class_weight=w, **settings).fit(texts, lists).predict_proba(texts)
        for w in (None, {"rare": 7.0}, "balanced")
    )
    assert plain[0, 1] == pytest.approx(2 / 8, abs=0.1)
    for weighted in (heavy, balanced):  # both weight the positives by 7, relative to the negatives
        assert weighted[0, 1] == pytest.approx(7 * 2 / (7 * 2 + 6), abs=0.1)
    np.testing.assert_allclose(heavy[:, 0], plain[:, 0], atol=0.05, err_msg="the other label has no weight")


@pytest.mark.parametrize("init", ["probe", "random"])
def test_fit_with_balanced_class_weight_equals_fit_with_balanced_rows(init):
    """If all labels of a row need the same factor, it may as well be the weight of the row."""
    indicator = np.array([[1, 1]] * 3 + [[0, 0]] * 8)
    texts = [*TEXTS, "sun"]
    settings = {"tuning": "head", "max_epochs": 3, "init": init}
    balanced = classifier(**settings, class_weight="balanced").fit(texts, indicator)
    weights = np.where(indicator[:, 0], 11 / 6, 11 / 16)
    weighted = classifier(**settings).fit(texts, indicator, sample_weight=weights)
    np.testing.assert_allclose(balanced.predict_proba(texts), weighted.predict_proba(texts), atol=1e-2)
    unweighted = classifier(**settings).fit(texts, indicator).predict_proba(texts)
    if init == "probe":
        assert np.abs(balanced.predict_proba(texts) - unweighted).max() > 0.05


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # one epoch is compared with another
def test_partial_fit_with_class_weight_equals_one_epoch_of_fit():
    settings = {"tuning": "head", "max_epochs": 1, "lr_schedule": "constant", "warmup": 0.0, "init": "random"}
    clf = classifier(**settings, class_weight={"sport": 9.0})
    whole = clf.fit(TEXTS, LISTS).predict_proba(TEXTS)
    parts = classifier(**settings, class_weight={"sport": 9.0}).partial_fit(TEXTS, LISTS, classes=["sport", "weather"])
    np.testing.assert_array_equal(parts.predict_proba(TEXTS), whole)
    assert not np.array_equal(classifier(**settings).fit(TEXTS, LISTS).predict_proba(TEXTS), whole)
    with pytest.raises(ValueError, match="class_weight='balanced'"):
        classifier(class_weight="balanced").partial_fit(TEXTS, LISTS, classes=["sport", "weather"])


# -- containers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_array():
    """What comes of a NumPy indicator, as `everything` returns it."""
    return everything(lambda rows: np.array(rows))


def everything(make):
    """All that can be done with a y of one container."""
    y, some = make(INDICATOR.tolist()), make(INDICATOR[:5].tolist())
    settings = {"tuning": "head", "max_epochs": 2, "class_weight": "balanced"}
    clf = classifier(**settings, scoring="f1_micro").fit(TEXTS, y, X_val=TEXTS[:5], y_val=some)
    stopped = classifier(**settings, early_stopping=True, validation_fraction=0.3, scoring="f1_macro").fit(TEXTS, y)
    begun = classifier(tuning="head").partial_fit(TEXTS, y, classes=[0, 1]).partial_fit(TEXTS[:5], some)
    return {
        "form": [clf.multilabel_, begun.multilabel_],
        "probabilities": [model.predict_proba(TEXTS) for model in (clf, stopped, begun)],
        "predictions": clf.predict(TEXTS),
        "scores": [clf.score(TEXTS, y), clf.score(TEXTS, y, sample_weight=np.arange(10.0)), clf.score(TEXTS[:5], some)],
        "validation": [clf.validation_scores_, clf.history_.validation_loss.tolist(), stopped.validation_scores_],
    }


@pytest.mark.parametrize("container", COLUMNS_OF_VECTORS | TABLES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_indicator_means_the_same_in_every_container(container, of_array):
    make = (COLUMNS_OF_VECTORS | TABLES)[container]
    if container in ("polars frame", "pyarrow table") and make is TABLES[container]:
        pytest.skip("its columns have names, which are the classes; see test_labels.py")
    found = everything(make)
    assert found["form"] == of_array["form"] == ["indicator", "indicator"]
    for name in ("probabilities", "predictions", "scores", "validation"):
        np.testing.assert_array_equal(found[name], of_array[name], err_msg=name)
    assert 0.5 < of_array["scores"][0] <= 1


def test_scoring_of_a_column_of_vectors_is_that_of_sklearn(of_array):
    settings = {"tuning": "head", "max_epochs": 2, "class_weight": "balanced", "scoring": "f1_micro"}
    clf = classifier(**settings).fit(TEXTS, pd.Series(INDICATOR.tolist()), X_val=TEXTS, y_val=INDICATOR.tolist())
    assert clf.validation_scores_[-1] == f1_score(INDICATOR, clf.predict(TEXTS), average="micro")


def test_sets_of_0_and_1_are_sets_of_labels():
    y = [{0, 1} if "sun" in text else {1, 2} for text in TEXTS]
    clf = classifier(tuning="head", max_epochs=1).fit(TEXTS, pd.Series(y))
    assert (clf.multilabel_, clf.classes_.tolist()) == ("lists", [0, 1, 2])
    as_vectors = [sorted(row) for row in y]
    assert clf.score(TEXTS, as_vectors) == clf.score(TEXTS, y), "once fitted, vectors are lists of labels, too"
    begun = classifier(tuning="head").partial_fit(TEXTS, as_vectors, classes=[0, 1, 2])
    assert begun.partial_fit(TEXTS[:2], [[0, 1], [1, 0]]).multilabel_ == "lists"


@pytest.mark.parametrize("y", [list(map(set, LISTS)), pd.Series(map(frozenset, LISTS))], ids=["list", "Series"])
def test_grid_search_over_sets_of_labels_works_with_a_number_of_folds(y):
    search = GridSearchCV(classifier(tuning="head"), {"label_smoothing": [0.0]}, cv=2, error_score="raise").fit(
        TEXTS, y
    )
    lists = GridSearchCV(search.estimator, {"label_smoothing": [0.0]}, cv=KFold(2)).fit(TEXTS, LISTS)
    assert search.best_score_ == lists.best_score_
    np.testing.assert_array_equal(search.predict(TEXTS), lists.predict(TEXTS))


def test_grid_search_over_lists_of_labels_works_with_kfold():
    lists = [*LISTS[:-1], ["rare"]]  # which one of the folds has only to score
    search = GridSearchCV(classifier(tuning="head", max_epochs=1), {"label_smoothing": [0.0, 0.1]}, cv=KFold(2))
    search.set_params(error_score="raise").fit(TEXTS, lists)
    assert search.best_estimator_.classes_.tolist() == ["rare", "sport", "weather"]
    predicted = cross_val_predict(search.best_estimator_, TEXTS, LISTS, cv=KFold(2))
    right = [set(a) == set(b) for a, b in zip(predicted, LISTS, strict=True)]
    assert 0 <= np.mean(right) <= 1


def test_score_counts_labels_that_fit_has_not_seen_as_wrong():
    clf = classifier(tuning="head").fit(TEXTS, LISTS)
    predicted = clf.predict(TEXTS).tolist()
    assert clf.score(TEXTS, predicted) == 1.0
    assert clf.score(TEXTS, [[*predicted[0], "art"], *predicted[1:]]) == 0.9


# -- rows of weight zero ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [LISTS, INDICATOR], ids=["lists", "indicator"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("tuning", ["head", "lora"])
def test_rows_of_weight_zero_equal_removed_rows(y, class_weight, tuning):
    settings = {"class_weight": class_weight, "tuning": tuning, "max_epochs": 2, "vocabulary": "trim"}
    unused = ["xylophone", "quartz"]
    extra = [["weather", "music"], ["music"]] if y is LISTS else [[1, 1], [1, 1]]
    weights = np.r_[0.0, np.linspace(0.5, 2, 10), 0.0]
    texts, labels = [unused[0], *TEXTS, unused[1]], [extra[0], *y, extra[1]]
    with_zeros = classifier(**settings).fit(texts, labels, sample_weight=weights)
    without = classifier(**settings).fit(TEXTS, y, sample_weight=weights[1:-1])
    assert with_zeros.classes_.tolist() == without.classes_.tolist()
    np.testing.assert_array_equal(with_zeros._base.pieces, without._base.pieces)
    np.testing.assert_array_equal(with_zeros.predict_proba(TEXTS), without.predict_proba(TEXTS))
