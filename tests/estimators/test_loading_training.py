"""Training, and predictions for other labels, with what `skxlmr.load` returned."""

import numpy as np
import pytest
import transformers
from loaded_checkpoints import FAMILIES, NLI, PAIRS, TEXTS, again
from sklearn.base import clone

import skxlmr
from skxlmr import Full, LoRA


@pytest.mark.parametrize("tuning", ["lora", "head", "bias", LoRA(rank=2), Full(layers=1), "full"], ids=str)
def test_warm_start_continues_from_the_weights_of_a_checkpoint(tuning, make, tmp_path):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, tuning=tuning, max_epochs=1, random_state=0, batch_size=3)
    before = clf.decision_function(PAIRS)
    y = clf.classes_[np.arange(3)]
    clf.set_params(warm_start=True, learning_rate=1e-9).fit(PAIRS, y)
    assert clf.n_iter_ == 1
    assert clf.n_features_in_ == 2
    np.testing.assert_allclose(clf.decision_function(PAIRS), before, atol=1e-4)
    with pytest.raises(ValueError, match="X has 1 features"):
        clf.predict(TEXTS)
    for estimator in again(clf, tmp_path):
        np.testing.assert_array_equal(estimator.decision_function(PAIRS), clf.decision_function(PAIRS))
    clf.set_params(learning_rate=1e-2, max_epochs=5).fit(PAIRS, y)
    assert clf.history_["loss"].iloc[-1] < clf.history_["loss"].iloc[0]


def test_warm_start_on_single_texts_or_other_labels(make, tmp_path):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, warm_start=True, tuning="head", max_epochs=1, learning_rate=1e-9)
    before = clf.decision_function(TEXTS)
    with pytest.raises(ValueError, match=r"classes_=\['no', 'yes'\], but the earlier fit found \['contradiction'"):
        clf.fit(TEXTS, ["yes", "no", "yes"])
    np.testing.assert_array_equal(clf.decision_function(TEXTS), before)
    clf.fit(TEXTS, clf.classes_)
    for estimator in again(clf, tmp_path):
        np.testing.assert_allclose(estimator.decision_function(TEXTS), before, atol=1e-5)
        with pytest.raises(ValueError, match="X has 2 features"):
            estimator.predict(PAIRS)
    other = clone(clf).fit(TEXTS, ["yes", "no", "yes"])
    assert other.classes_.tolist() == ["no", "yes"]


def test_partial_fit_continues_from_the_weights_of_a_checkpoint(make):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, random_state=0, learning_rate=1e-9)
    before = clf.decision_function(PAIRS)
    for n_epochs in (1, 2):
        clf.partial_fit(PAIRS[:2], ["entailment", "neutral"])
        assert clf.n_iter_ == len(clf.history_) == n_epochs
    np.testing.assert_allclose(clf.decision_function(PAIRS), before, atol=1e-4)
    assert clf.history_["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_zero_shot_of_checkpoint_equals_pipeline(family, make):
    labels = {0: "NEUTRAL", 1: "Contradiction", 2: "ENTAILMENT"}
    directory, _ = make(f"{family}ForSequenceClassification", id2label=labels)
    candidates, template = ["music", "the river"], "This example is {}."
    pipeline = transformers.pipeline("zero-shot-classification", str(directory), device="cpu")
    expected = pipeline(TEXTS, candidate_labels=candidates, hypothesis_template=template)
    found = skxlmr.load(directory).zero_shot(TEXTS, candidates, template)
    for row, answer in enumerate(expected):
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        np.testing.assert_allclose(found.iloc[row], [scores[label] for label in candidates], atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
        ["entailment", "neutral", "contradiction"],
        ["entailment", "not_entailment"],
        ["contradiction", "entailment"],
    ],
    ids="-".join,
)
def test_zero_shot_with_multi_label_equals_pipeline(labels, make):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=dict(enumerate(labels)))
    candidates, template = ["music", "the river"], "This example is {}."
    pipeline = transformers.pipeline("zero-shot-classification", str(directory), device="cpu")
    expected = pipeline(TEXTS, candidate_labels=candidates, hypothesis_template=template, multi_label=True)
    found = skxlmr.load(directory).zero_shot(TEXTS, candidates, template, multi_label=True)
    for row, answer in enumerate(expected):
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        np.testing.assert_allclose(found.iloc[row], [scores[label] for label in candidates], atol=1e-5)


def test_zero_shot_with_multi_label_without_contradiction_raises(make):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label={0: "entailment", 1: "other"})
    with pytest.raises(
        ValueError, match=r"needs one class 'contradiction' or 'not_entailment'.*\['entailment', 'other'"
    ):
        skxlmr.load(directory).zero_shot(TEXTS, ["music"], multi_label=True)


def test_zero_shot_of_checkpoint_without_entailment_raises(make):
    directory, _ = make("XLMRobertaForSequenceClassification", num_labels=2)
    with pytest.raises(ValueError, match=r"class 'entailment'.*\['LABEL_0', 'LABEL_1'\].*id2label"):
        skxlmr.load(directory).zero_shot(TEXTS, ["music"])
