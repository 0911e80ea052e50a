"""Rows with any number of labels, and zero-shot labels by entailment."""

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
    assert clf._task(clf.classes_, "lists").label_smoothing == 0.1


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([["a"], None], ValueError, "y, row 1: None is no list of labels"),
        ([None, ["a"]], ValueError, "y, row 0: None is no list of labels"),
        ([["a"], np.nan], ValueError, "y, row 1: nan is no list of labels"),
        ([["a"], [["b"]]], TypeError, r"y, row 1: the label \['b'\] is a list"),
        ([["a"], ["b", None]], ValueError, "y, row 1: None is no label"),
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
    with pytest.raises(ValueError, match="y_val, row 9: the label 'art' is none of those"):
        clf.fit(TEXTS, LISTS, X_val=TEXTS, y_val=[*LISTS[:-1], ["art"]])
    with pytest.raises(ValueError, match="row 2: 'sport' is no list of labels"):
        clf.fit(TEXTS, [*LISTS[:2], "sport", *LISTS[3:]])
    with pytest.raises(ValueError, match="no label in any row"):
        clf.fit(TEXTS, [[] for _ in TEXTS])
    with pytest.raises(ValueError, match="class_weight is for labels of which a row has one"):
        classifier(class_weight="balanced").fit(TEXTS, LISTS)
    with pytest.raises(ValueError, match="can go on with the same ones only"):
        clf.set_params(warm_start=True).fit(TEXTS, INDICATOR)


PAIRS = [(f"{word} today", f"This text is about {topic}.") for word in WORDS for topic in ("weather", "sport")]
FOLLOWS = ["entailment" if WORDS[a.split()[0]] in b else "contradiction" for a, b in PAIRS]


def test_zero_shot_equals_softmax_of_entailment_logits():
    frame = pd.DataFrame(PAIRS, columns=["premise", "hypothesis"])
    nli = classifier(tuning="full", learning_rate=2e-3, max_epochs=40).fit(frame, FOLLOWS)
    table = nli.zero_shot(["sun today", "goal today"], ["weather", "sport"])
    assert table.columns.tolist() == ["weather", "sport"]
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    logits = nli._outputs(pd.DataFrame([PAIRS[0], PAIRS[1]], columns=frame.columns))
    odds = np.exp(logits[:, nli.classes_.tolist().index("entailment")])
    np.testing.assert_allclose(table.iloc[0], odds / odds.sum(), rtol=1e-4)
    assert table.iloc[0].idxmax() == "weather"
    assert table.iloc[1].idxmax() == "sport"


def test_zero_shot_with_unsuitable_template_or_classifier_raises():
    nli = classifier(max_epochs=1).fit(PAIRS, FOLLOWS)
    with pytest.raises(ValueError, match="place for the label"):
        nli.zero_shot(["sun"], ["weather"], template="about it")
    with pytest.raises(ValueError, match="got None"):
        nli.zero_shot(["sun"], ["weather"], template=None)
    with pytest.raises(ValueError, match="makes the second itself"):
        nli.zero_shot(PAIRS, ["weather"])
    with pytest.raises(ValueError, match="class 'entailment'"):
        classifier(max_epochs=1).fit(PAIRS, np.array(FOLLOWS) == "entailment").zero_shot(["a"], ["b"])
    with pytest.raises(ValueError, match="fitted on pairs"):
        classifier(max_epochs=1).fit([a for a, _ in PAIRS], FOLLOWS).zero_shot(["a"], ["b"])


def test_zero_shot_with_braces_in_template_keeps_index_and_labels():
    nli = classifier(max_epochs=1).fit(PAIRS, FOLLOWS)
    texts = pd.Series(["sun", "goal"], index=[7, 5])
    table = nli.zero_shot(texts, ["{sport}", "the sun"], template="{x}: {} or {}")
    assert table.index.tolist() == [7, 5]
    assert table.columns.tolist() == ["{sport}", "the sun"]
    pairs = [["goal", "{x}: the sun or the sun"], ["goal", "{x}: {sport} or {sport}"]]
    of_sun, of_sport = nli._outputs(pairs)[:, nli.classes_.tolist().index("entailment")]
    np.testing.assert_allclose(table.loc[5, "the sun"], 1 / (1 + np.exp(of_sport - of_sun)), rtol=1e-4)
    for labels, error, message in [
        ("sport", TypeError, r"labels is a single str. Put it into a list: \['sport'\]"),
        (["sport", 5], TypeError, "labels, row 1: 5 is a int, not a text"),
        (["sport", None], ValueError, "labels, row 1: None is a missing value"),
        ([], ValueError, "labels is empty"),
    ]:
        with pytest.raises(error, match=message):
            nli.zero_shot(texts, labels)


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
