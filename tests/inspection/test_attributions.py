"""Attributions of words by occlusion."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, XLMRXLTagger
from skxlmr.inspection import attributions, token_attributions
from skxlmr.inspection.attributions import explain, log_odds

TEXTS = ["a lovely film", "a dull film", "what a lovely book", "such a dull book"] * 4
LABELS = ["good", "bad"] * 8
COLUMNS = ["word", "start", "end", "attribution"]


@pytest.fixture(scope="module")
def clf():
    return XLMRXLClassifier("nano", tuning="head", device="cpu", random_state=0).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def counts():
    """A linear model of counts, of which the attributions are known: they are its coefficients."""
    return make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)


def test_attributions_of_a_linear_model_are_its_coefficients(counts):
    (words,) = token_attributions(counts, ["a lovely but dull book"], target="good")
    vocabulary, coefficients = counts[0].vocabulary_, counts[1].coef_[0]
    expected = [coefficients[vocabulary[word]] if word in vocabulary else 0 for word in words.word]
    np.testing.assert_allclose(words.attribution, expected, atol=1e-12)
    (against,) = token_attributions(counts, ["a lovely but dull book"], target="bad")
    np.testing.assert_allclose(against.attribution, -words.attribution, atol=1e-12)


def test_attributions_are_differences_of_log_odds(clf):
    text = "what a lovely film"
    (words,) = token_attributions(clf, [text], target="good")
    logits = clf.decision_function([text, " a lovely film", "what  lovely film", "what a  film", "what a lovely "])
    np.testing.assert_allclose(words.attribution, logits[0] - logits[1:], rtol=1e-4, atol=1e-5)
    assert words.columns.tolist() == COLUMNS
    assert words.word[words.attribution.idxmax()] == "lovely"


def test_offsets_index_the_original_text(clf):
    texts = ["  A lovely\t film! ", "好看的电影👍🏽", "فيلم جميل", ""]
    frames = token_attributions(clf, pd.Series(texts, index=[7, 7, 3, 1]))
    assert [len(frame) for frame in frames] == [4, 6, 2, 0]
    for text, frame in zip(texts, frames, strict=True):
        assert frame.columns.tolist() == COLUMNS
        assert [text[a:b] for a, b in zip(frame.start, frame.end, strict=True)] == frame.word.tolist()
        assert frame.dtypes[["start", "end", "attribution"]].tolist() == [np.int64, np.int64, np.float64]


def test_same_attributions_again_and_in_other_company(clf):
    (alone,) = token_attributions(clf, ["a lovely film"])
    beside = token_attributions(clf, ["such a dull book", "a lovely film", "a lovely film"])
    pd.testing.assert_frame_equal(beside[1], alone, check_exact=True)
    pd.testing.assert_frame_equal(beside[2], alone, check_exact=True)


def test_default_target_is_the_predicted_class(clf):
    explained = explain(clf, ["a lovely film", "a dull film"])
    assert explained.targets == clf.predict(["a lovely film", "a dull film"]).tolist()
    np.testing.assert_allclose(
        explained.predictions, clf.predict_proba(["a lovely film", "a dull film"]).max(1), rtol=1e-5
    )
    each = token_attributions(clf, ["a lovely film"] * 2, target=["good", "bad"])
    np.testing.assert_allclose(each[0].attribution, -each[1].attribution, rtol=1e-6)


def test_texts_are_predicted_in_bounded_blocks(clf, monkeypatch):
    whole = token_attributions(clf, TEXTS[:4])
    sizes = []
    predict = attributions._predict
    monkeypatch.setattr(attributions, "CHARACTERS_AT_ONCE", 40)
    monkeypatch.setattr(
        attributions,
        "_predict",
        lambda clf, texts, names: sizes.append(sum(map(len, texts))) or predict(clf, texts, names),
    )
    for before, after in zip(whole, token_attributions(clf, TEXTS[:4]), strict=True):
        pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert len(sizes) > 4
    assert max(sizes) <= 40


def test_one_call_predicts_all_variants(counts):
    calls = []

    class Recorder(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = counts.classes_
            return self

        def predict_proba(self, X):
            calls.append(list(X))
            return counts.predict_proba(X)

    token_attributions(Recorder().fit(TEXTS, LABELS), ["one two", "three"])
    assert calls == [["one two", " two", "one ", "three", ""]]


@pytest.mark.parametrize("form", ["lists", "indicator"])
def test_several_labels_are_explained_one_by_one(form):
    labels = [["film"] * ("film" in text) + ["good"] * ("lovely" in text) for text in TEXTS]
    y = (
        labels
        if form == "lists"
        else pd.DataFrame(MultiLabelBinarizer().fit_transform(labels), columns=["film", "good"])
    )
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0).fit(TEXTS, y)
    logits = clf.decision_function(["lovely film", " film", "lovely "])
    for column, target in enumerate(["film", "good"]):
        (words,) = token_attributions(clf, ["lovely film"], target=target)
        expected = logits[0, column] - logits[1:, column]
        np.testing.assert_allclose(words.attribution, expected, rtol=1e-4, atol=1e-5)


def test_several_labels_of_other_estimators():
    y = np.array([["film" in text, "lovely" in text] for text in TEXTS]).astype(int)
    clf = make_pipeline(CountVectorizer(), OneVsRestClassifier(LogisticRegression())).fit(TEXTS, y)
    (words,) = token_attributions(clf, ["lovely film"], target=1)
    coefficients = clf[1].estimators_[1].coef_[0]
    expected = [coefficients[clf[0].vocabulary_[word]] for word in ("lovely", "film")]
    np.testing.assert_allclose(words.attribution, expected, atol=1e-9)


def test_regressor_loses_units_of_its_target():
    y = np.array([5.0 if "lovely" in text else 1.0 for text in TEXTS])
    reg = XLMRXLRegressor("nano", tuning="head", random_state=0).fit(TEXTS, y)
    (words,) = token_attributions(reg, ["a lovely film"])
    whole, *without = reg.predict(["a lovely film", " lovely film", "a  film", "a lovely "])
    np.testing.assert_allclose(words.attribution, whole - np.array(without))
    several = XLMRXLRegressor("nano", tuning="head", random_state=0).fit(TEXTS, np.column_stack([y, -y]))
    one, other = (token_attributions(several, ["a lovely film"], target=output)[0] for output in (0, 1))
    np.testing.assert_allclose(one.attribution, -other.attribution, atol=1e-5)
    with pytest.raises(ValueError, match="predicts 2 numbers: choose one by target=0 to 1"):
        token_attributions(several, ["a lovely film"])


def test_frames_keep_the_names_of_their_columns(recwarn):
    frame = pd.DataFrame({"text": TEXTS})
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0).fit(frame, LABELS)
    (words,) = token_attributions(clf, pd.DataFrame({"text": ["a lovely film"]}))
    assert len(words) == 3


def test_pipelines_and_searches_are_explained(clf):
    pipeline = make_pipeline(XLMRXLEmbedder("nano"), LogisticRegression()).fit(TEXTS, LABELS)
    search = GridSearchCV(XLMRXLClassifier("nano", tuning="head", random_state=0), {"warmup": [0.06]}, cv=2)
    for estimator in (pipeline, search.fit(TEXTS, LABELS)):
        (words,) = token_attributions(estimator, ["what a lovely film"], target="good")
        assert words.word[words.attribution.idxmax()] == "lovely"


def test_missing_texts_have_no_words():
    clf = XLMRXLClassifier("nano", tuning="head", missing="empty", random_state=0).fit(TEXTS, LABELS)
    assert token_attributions(clf, [None, "a film"])[0].empty


@pytest.mark.parametrize("p", [0.0, 1e-300, 1e-9, 0.3, 1 - 1e-9, 1.0])
def test_log_odds_are_finite_and_precise(p):
    with np.errstate(divide="ignore"):
        one_label = log_odds(np.array([[np.log(p), np.log1p(-p)]]))
        several_labels = log_odds(np.array([[np.log(p), np.log(0.5), np.log(0.9)]]))
    assert np.isfinite(one_label).all()
    assert np.isfinite(several_labels).all()
    assert one_label[0, 0] == pytest.approx(-one_label[0, 1])
    assert several_labels[0, 1] == pytest.approx(0, abs=1e-12)
    if 0 < p < 1:
        assert one_label[0, 0] == pytest.approx(np.log(p) - np.log1p(-p))
        assert several_labels[0, 0] == pytest.approx(one_label[0, 0])


class Numbers(RegressorMixin, BaseEstimator):
    """Counts the words of texts."""

    def fit(self, X, y):
        self.n_rows_ = len(X)
        return self

    def predict(self, X):
        return np.array([len(text.split()) for text in X], np.float32)


def test_other_regressors_are_explained():
    (words,) = token_attributions(Numbers().fit([], []), ["one two three"])
    assert words.attribution.tolist() == [1, 1, 1]


def test_wrong_arguments_are_named(clf):
    with pytest.raises(ValueError, match=r"target, row 0: 'great' is not a class. Known are \['bad', 'good'\]"):
        token_attributions(clf, ["a film"], target="great")
    with pytest.raises(ValueError, match="target has 1 labels, but X has 2 rows"):
        token_attributions(clf, ["a film", "a book"], target=["good"])
    with pytest.raises(ValueError, match="X has 2 columns, where one of texts is needed"):
        token_attributions(clf, [["a film", "a book"]])
    with pytest.raises(TypeError, match="X is a single str"):
        token_attributions(clf, "a film")
    with pytest.raises(NotFittedError):
        token_attributions(XLMRXLClassifier("nano"), ["a film"])
    svc = make_pipeline(CountVectorizer(), LinearSVC()).fit(TEXTS, LABELS)
    with pytest.raises(TypeError, match=r"has no predict_proba.*CalibratedClassifierCV"):
        token_attributions(svc, ["a film"])
    tagger = XLMRXLTagger("nano", tuning="head", random_state=0).fit(["a b", "b a"], [["X", "O"], ["O", "X"]])
    with pytest.raises(TypeError, match=r"neither a classifier nor a regressor.*show_entities"):
        token_attributions(tagger, ["a b"])


def test_probabilities_are_those_of_the_classifier(clf):
    explained = explain(clf, ["a film"], target="good")
    np.testing.assert_allclose(explained.predictions, expit(clf.decision_function(["a film"])), rtol=1e-5)
