"""Classifiers of rows with any number of labels."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
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
    with pytest.raises(ValueError, match="class_weight needs one class per row"):
        classifier(class_weight="balanced").fit(TEXTS, LISTS)
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
