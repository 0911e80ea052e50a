"""Reports on classifiers, regressors, taggers and question answering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import classification_report, f1_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.estimators.learner import XLMRXLLearner
from skxlmr.inspection import Report, report
from skxlmr.inspection.tables import length_ranges
from skxlmr.metrics import entity_report, squad_scores

SENTENCES = [["Ada", "lives", "in", "Rome"], ["Rome", "is", "old"], ["I", "saw", "Ada"]] * 4
TAGS = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"], ["O", "O", "B-PER"]] * 4


@pytest.fixture
def n_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element for each time that a fitted model runs a column."""
    runs: list[int] = []
    run = XLMRXLLearner._run
    monkeypatch.setattr(XLMRXLLearner, "_run", lambda self, *args: runs.append(1) or run(self, *args))
    return runs


@pytest.fixture(scope="module")
def tagger() -> XLMRXLTagger:
    return XLMRXLTagger("nano", tuning="head", max_epochs=2, random_state=0).fit(SENTENCES, TAGS)


def with_errors(reviews: pd.DataFrame) -> pd.Series:
    """Labels of which some are not what the classifier has learned."""
    return reviews.label.where(reviews.reset_index().index % 4 != 0, "good")


def test_report_of_a_classifier_has_the_scores_of_sklearn(
    classifier: XLMRXLClassifier, reviews: pd.DataFrame, n_runs: list[int]
):
    y = with_errors(reviews)
    found = report(classifier, reviews.text, y, groups=reviews.language)
    assert n_runs == [1]
    predicted = classifier.predict(reviews.text)
    expected = pd.DataFrame(classification_report(y, predicted, output_dict=True, zero_division=0)).T
    expected = expected.drop("accuracy").rename(columns={"f1-score": "f1"})
    pd.testing.assert_frame_equal(found.by_class, expected, check_dtype=False, check_names=False)
    english = (reviews.language == "en").to_numpy()
    assert found.by_group.loc["en", "n"] == 12
    assert found.by_group.index.tolist() == ["en", "zh"]
    assert found.by_group.loc["en", "accuracy"] == (predicted == y)[english].mean()
    assert found.by_group.loc["en", "f1_macro"] == f1_score(y[english], predicted[english], average="macro")
    assert found.confusion.to_numpy().sum() == 20
    assert found.confusion.index.name == "true"
    assert found.by_length["n"].sum() == 20
    assert found.calibration["n"].sum() == 20
    assert found.summary.loc["all rows", "accuracy"] == (predicted == y).mean()


def test_worst_errors_are_the_most_confident(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    y, predicted = with_errors(reviews), classifier.predict(reviews.text)
    worst = report(classifier, reviews.text, y, groups=reviews.language, n_worst=3).worst
    assert 1 <= len(worst) <= 3
    assert worst["probability"].is_monotonic_decreasing
    for label, row in worst.iterrows():
        assert reviews.index[row["row"]] == label
        assert reviews.text[label] == row["text"]
        assert (row["true"], row["predicted"]) == (y[label], predicted[row["row"]])
        assert row["true"] != row["predicted"]
        assert row["group"] == reviews.language[label]
    assert len(report(classifier, reviews.text, y, n_worst=0).worst) == 0


def test_report_of_a_classifier_without_probabilities(reviews: pd.DataFrame):
    svc = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(reviews.text, reviews.label)
    found = report(svc, reviews.text, with_errors(reviews))
    assert found.calibration is None
    assert found.by_group is None
    assert "probability" not in found.worst
    assert "calibration_error" not in found.summary
    assert "Calibration" not in str(found)


def test_report_counts_labels_that_fit_has_not_seen(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    found = report(classifier, reviews.text, ["neutral", *reviews.label[1:]])
    assert found.by_class.loc["neutral", ["recall", "support"]].tolist() == [0, 1]
    assert found.confusion.loc["neutral"].sum() == 1


def test_report_of_several_labels(reviews: pd.DataFrame):
    indicator = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]] * 5)
    y = pd.DataFrame(indicator, columns=["a", "b", "c"], index=reviews.index)
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(reviews.text, y)
    found, predicted = report(clf, reviews.text, y, groups=reviews.language), clf.predict(reviews.text)
    assert found.by_class.index.tolist() == ["a", "b", "c", "micro avg", "macro avg", "weighted avg"]
    assert found.by_class.loc["micro avg", "f1"] == f1_score(indicator, predicted, average="micro", zero_division=0)
    true_positive = ((indicator == 1) & (predicted == 1)).sum(axis=0)
    assert found.confusion["true_positive"].tolist() == true_positive.tolist()
    assert (found.confusion.sum(axis=1) == 20).all()
    assert found.summary.loc["all rows", "accuracy"] == (indicator == predicted).all(axis=1).mean()
    assert len(found.worst) == min(10, (indicator != predicted).any(axis=1).sum())
    first = found.worst.iloc[0]
    assert len(first["missed"]) + len(first["wrong"]) == (indicator != predicted).sum(axis=1).max()
    assert found.calibration["n"].sum() == 60


def test_report_of_a_regressor(reviews: pd.DataFrame, n_runs: list[int]):
    regressor = XLMRXLRegressor("nano", tuning="head", max_epochs=2, random_state=0).fit(reviews.text, reviews.score)
    y, groups = reviews.score + np.arange(20) % 3, ["alone"] + ["others"] * 19
    n_runs.clear()
    found = report(regressor, reviews.text, y, groups=groups, length="tokens")
    assert n_runs == [1]
    predicted = regressor.predict(reviews.text)
    assert found.summary.loc["all rows", "r2"] == pytest.approx(r2_score(y, predicted))
    assert found.by_group.loc["others", "mae"] == pytest.approx(np.abs(y - predicted)[1:].mean())
    assert found.by_group.loc["others", "bias"] == pytest.approx((predicted - y)[1:].mean())
    assert np.isnan(found.by_group.loc["alone", "r2"])
    assert found.worst["error"].abs().is_monotonic_decreasing
    assert found.worst["row"].iloc[0] == np.abs(predicted - y).argmax()
    assert (found.by_class, found.confusion, found.calibration) == (None, None, None)
    assert found.by_length.index.name == "tokens"


def test_report_of_several_outputs(reviews: pd.DataFrame):
    y = pd.DataFrame({"stars": reviews.score, "length": reviews.text.str.len().astype(float)})
    ridge = make_pipeline(TfidfVectorizer(), Ridge()).fit(reviews.text, y)
    found, predicted = report(ridge, reviews.text, y), ridge.predict(reviews.text)
    assert found.by_class.loc["length", "r2"] == pytest.approx(r2_score(y.length, predicted[:, 1]))
    assert {"true_stars", "predicted_length", "error_length"} <= set(found.worst)


def test_report_of_a_tagger_has_strict_scores(tagger: XLMRXLTagger, n_runs: list[int]):
    groups = ["one", "two", "two"] * 4
    found = report(tagger, SENTENCES, TAGS, groups=groups, length="tokens")
    assert n_runs == [1]
    predicted = tagger.predict(SENTENCES)
    expected = entity_report(TAGS, predicted, strict=True, scheme="BIO")
    pd.testing.assert_frame_equal(found.by_class, expected, check_names=False)
    of_one = entity_report(TAGS[::3], predicted[::3], strict=True, scheme="BIO").loc["micro avg"]
    assert found.by_group.loc["one", ["entities", "f1"]].tolist() == [of_one["support"], of_one["f1"]]
    assert found.by_length.index.tolist() == ["3", "4"]
    assert found.confusion.drop(columns="(none)").to_numpy().sum() == len(tagger.predict_spans(SENTENCES))


def test_report_of_a_tagger_lists_missed_and_wrong_entities(tagger: XLMRXLTagger):
    predicted = tagger.predict([SENTENCES[0]])[0]
    other = ["O", "B-ORG", "O", "O"]
    assert predicted != other
    worst = report(tagger, [SENTENCES[0]], [other]).worst
    assert worst["missed"].tolist() == ["ORG: lives"]
    assert worst["text"].tolist() == ["Ada lives in Rome"]
    spans = tagger.predict_spans([SENTENCES[0]])
    assert worst["n_errors"].tolist() == [1 + len(spans)]
    for label, text in zip(spans.label, spans.text, strict=True):
        assert f"{label}: {' '.join(text)}" in worst["wrong"].item()


def test_report_of_a_tagger_of_strings_takes_spans():
    texts, spans = ["Ada lives in Rome.", "I saw Ada."] * 4, [[(0, 3, "PER"), (13, 17, "LOC")], [(6, 9, "PER")]] * 4
    tagger = XLMRXLTagger("nano", tuning="head", max_epochs=2, random_state=0).fit(texts, spans)
    found = report(tagger, texts, spans)
    assert found.by_class.loc["PER", "support"] == 8
    assert found.by_length.index.tolist() == ["8", "15"]  # without spaces


def test_report_of_a_tagger_without_a_scheme_is_of_tokens():
    tags = [["NOUN", "VERB", "ADP", "NOUN"], ["NOUN", "VERB", "ADJ"], ["PRON", "VERB", "NOUN"]] * 4
    tagger = XLMRXLTagger("nano", tuning="head", max_epochs=2, random_state=0).fit(SENTENCES, tags)
    found = report(tagger, SENTENCES, tags)
    assert found.summary.loc["all rows", "accuracy"] == tagger.score(SENTENCES, tags)
    assert found.by_class.loc["NOUN", "support"] == 16
    assert found.by_class.index.name == "tag"
    assert found.confusion.to_numpy().sum() == 40
    assert found.calibration["n"].sum() == 40


def test_report_of_question_answering(n_runs: list[int]):
    X = pd.DataFrame({"question": ["Who wrote it?", "Where is it?"], "context": ["Ada wrote it.", "It is in Rome."]})
    X, y = pd.concat([X] * 4, ignore_index=True), ["Ada", ["Rome", "in Rome"], None, "Rome"] * 2
    qa = XLMRXLQA("nano", tuning="head", max_epochs=2, random_state=0).fit(X, y)
    n_runs.clear()
    found = report(qa, X, y, groups=["en", "de"] * 4)
    assert n_runs == [1]
    predicted, answers = qa.predict(X), [["Ada"], ["Rome", "in Rome"], [], ["Rome"]] * 2
    expected = squad_scores(predicted, answers)
    assert found.summary.loc["all rows", ["f1", "exact_match"]].to_dict() == pytest.approx(expected)
    assert found.by_class["n"].to_dict() == {"with answer": 6, "without answer": 2}
    of_de = squad_scores(predicted[1::2], answers[1::2])
    assert found.by_group.loc["de", ["f1", "exact_match"]].to_dict() == pytest.approx(of_de)
    assert found.confusion["without answer"].sum() == (predicted == "").sum()
    assert {"question", "context", "right", "predicted", "probability"} <= set(found.worst)


def test_report_of_a_frame_with_other_columns_takes_texts(reviews: pd.DataFrame):
    columns = make_column_transformer((TfidfVectorizer(), "text"), ("passthrough", ["score"]))
    model = make_pipeline(columns, LogisticRegression()).fit(reviews, reviews.label)
    found = report(model, reviews, with_errors(reviews), texts=reviews.text)
    assert found.worst["text"].tolist() == reviews.text[found.worst.index].tolist()
    with pytest.raises(ValueError, match=r"X has 4 columns.* Or pass texts="):
        report(model, reviews, reviews.label)
    with pytest.raises(ValueError, match="texts has 3 values, but X has 20 rows"):
        report(model, reviews, reviews.label, texts=["a"] * 3)


def test_report_of_pairs_shows_both_texts(reviews: pd.DataFrame):
    pairs = reviews[["text", "language"]].set_axis(["true", "language"], axis=1)
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(pairs, reviews.label)
    worst = report(clf, pairs, with_errors(reviews)).worst
    assert worst["text_true"].tolist() == reviews.text[worst.index].tolist()
    assert worst["language"].tolist() == reviews.language[worst.index].tolist()


def test_report_prints_and_renders_escaped(classifier: XLMRXLClassifier):
    text = "<script>alert('x')</script> & more\nof it " + "很好看" * 200
    found = report(classifier, [text, text], ["<b>", "good"], groups=["<i>en</i>", "zh"])
    printed, rendered = str(found), found._repr_html_()
    assert isinstance(found, Report)
    assert printed == repr(found)
    assert "XLMRXLClassifier: 2 rows" in printed
    assert "By group" in printed
    assert "..." in printed
    assert "more of it" in printed  # in one line
    assert not any(line.endswith(" ") for line in printed.splitlines())
    assert "<script>" not in rendered
    assert "<i>" not in rendered
    assert "<b>" not in rendered
    assert "&lt;script&gt;" in rendered
    assert "&lt;i&gt;en" in rendered
    assert found.worst["text"].iloc[0] == text  # the table has all of it


def test_length_ranges_have_about_equally_many_rows():
    sizes = np.random.default_rng(0).integers(1, 500, 1000)
    ranges = length_ranges(sizes, 4)
    assert [len(rows) for rows in ranges.values()] == pytest.approx([250] * 4, abs=10)
    assert sorted(np.concatenate(list(ranges.values())).tolist()) == list(range(1000))
    assert list(length_ranges(np.full(5, 7), 4)) == ["7"]
    assert list(length_ranges(np.array([1200, 3]), 1)) == ["3 to 1,200"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["en"] * 3}, "groups has 3 values, but X has 20 rows"),
        ({"groups": "language"}, "groups is a single str"),
        ({"length": "words"}, "length must be one of 'characters', 'tokens', got 'words'"),
        ({"n_lengths": 0}, "n_lengths must be an integer of at least 1, got 0"),
        ({"n_worst": -1}, "n_worst must be an integer of at least 0"),
        ({"n_bins": True}, "n_bins must be an integer"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], message: str, classifier: XLMRXLClassifier, reviews: pd.DataFrame, n_runs: list[int]
):
    with pytest.raises((ValueError, TypeError), match=message):
        report(classifier, reviews.text, reviews.label, **arguments)
    assert not n_runs  # before anything is predicted


def test_wrong_estimators_and_targets_are_named(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    text, label = reviews.text, reviews.label
    with pytest.raises(NotFittedError, match=r"estimator is not fitted. Call fit of this XLMRXLClassifier"):
        report(clone(classifier), text, label)
    with pytest.raises(TypeError, match="estimator is a XLMRXLEmbedder, which has no predict"):
        report(XLMRXLEmbedder("nano").fit(text), text, label)
    choices = XLMRXLMultipleChoice("nano", tuning="head", max_epochs=1, random_state=0)
    choices.fit([["a prompt", "one", "two"]] * 4, [0, 1] * 2)
    with pytest.raises(TypeError, match="estimator is a XLMRXLMultipleChoice; there are reports for classifiers"):
        report(choices, [["a prompt", "one", "two"]], [0])
    with pytest.raises(ValueError, match="y is None"):
        report(classifier, text, None)
    with pytest.raises(ValueError, match=r"y, row 3 \(index 103\): nan is not a label"):
        report(classifier, text, label.where(label.reset_index().index != 3))
    with pytest.raises(ValueError, match="length='tokens' needs an estimator of skxlmr"):
        report(make_pipeline(TfidfVectorizer(), LinearSVC()).fit(text, label), text, label, length="tokens")
    ridge = make_pipeline(TfidfVectorizer(), Ridge()).fit(text, reviews.score)
    with pytest.raises(TypeError, match="y must be numbers to score a regressor"):
        report(ridge, text, label)
    with pytest.raises(ValueError, match=r"y, row 0 \(index 100\).* is not finite"):
        report(ridge, text, reviews.score.where(reviews.score.reset_index().index != 0))


def test_rows_in_another_order_are_warned_of(classifier: XLMRXLClassifier, reviews: pd.DataFrame):
    with pytest.warns(UserWarning, match=r"the same index, but in another order.*groups\.loc\[X\.index\]"):
        report(classifier, reviews.text, reviews.label, groups=reviews.label[::-1])
    with pytest.warns(UserWarning, match=r"the same index, but in another order.*y\.loc\[X\.index\]"):
        report(classifier, reviews.text, reviews.label[::-1])
