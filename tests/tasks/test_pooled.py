"""The reading of texts as vectors."""

import numpy as np
import pytest

from skxlmr import XLMRXLClassifier, XLMRXLRegressor
from skxlmr.columns import check_text_column
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.heads import ClassificationHead, PairHead, PooledHead
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.sentence_settings import SentenceSettings
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.regression import Regression

E5 = SentenceSettings("mean", True, "query: ", True)
BGE = SentenceSettings("cls", True, "", True)
MASKED = SentenceSettings("mean", False, "", False)
TEXTS, PAIRS = check_text_column(["a", "b"]), check_text_column([["a", "b"], ["c", "d"]])
CONFIG = XLMRobertaXLConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)


@pytest.mark.parametrize(
    ("settings", "given", "pooling", "prompt", "normalize", "head"),
    [
        (E5, {}, "mean", "query: ", True, PooledHead),
        (MASKED, {}, "mean", "", False, PooledHead),
        (BGE, {}, "cls", "", True, PooledHead),
        (BGE, {"pooling": "cls"}, "cls", "", False, ClassificationHead),
        (MASKED, {"pooling": "cls"}, "cls", "", False, ClassificationHead),
        (E5, {"pooling": "max", "prompt": None}, "max", "", True, PooledHead),
        (E5, {"prompt": "topic: "}, "mean", "topic: ", True, PooledHead),
    ],
)
def test_read_as_resolves_auto_and_head_follows(settings, given, pooling, prompt, normalize, head):
    task = Classification(classes=np.arange(3), **given).read_as(settings, TEXTS)
    assert (task.pooling, task.prompt, task.pairs, task.normalize) == (pooling, prompt, None, normalize)
    assert type(task.head(CONFIG)) is head


@pytest.mark.parametrize(
    ("task", "settings", "given", "column", "expected"),
    [
        (Regression, E5, "auto", PAIRS, "separate"),
        (Regression, MASKED, "auto", PAIRS, "joint"),
        (Regression, E5, "joint", PAIRS, "joint"),
        (Classification, E5, "auto", PAIRS, "separate"),
        (Classification, MASKED, "auto", PAIRS, "joint"),
        (Classification, MASKED, "separate", PAIRS, "separate"),
        (Classification, E5, "separate", TEXTS, None),
    ],
)
def test_read_as_of_pairs(task, settings, given, column, expected):
    assert task(pairs=given).read_as(settings, column).pairs == expected


def test_pairs_that_are_read_separately_have_a_pair_head():
    task = Classification(classes=np.arange(2), pairs="separate").read_as(E5, PAIRS)
    assert type(task.head(CONFIG)) is PairHead


def test_prompt_is_put_before_texts_and_before_both_of_separate_pairs():
    joint = Classification(prompt="p: ", pairs="joint", pooling="mean").prompted(PAIRS)
    separate = Classification(prompt="p: ", pairs="separate", pooling="mean").prompted(PAIRS)
    assert (joint.texts, joint.pairs) == (["p: a", "p: c"], ["b", "d"])
    assert (separate.texts, separate.pairs) == (["p: a", "p: c"], ["p: b", "p: d"])


def test_separate_pairs_are_symmetric_features_of_each_text_alone():
    pairs = [["a good film", "a bad one"], ["rain", "it is wet outside"], ["one", "two"], ["x", "y"]]
    settings = {"pairs": "separate", "random_state": 0, "device": "cpu", "max_epochs": 1}
    reg = XLMRXLRegressor("nano", **settings).fit(pairs, [1.0, 4.0, 2.0, 3.0])
    backbone = get_backbone("nano", device="cpu")
    plan = reg._task().plan(backbone, check_text_column(pairs))
    singles = [[a, a] for a, _ in pairs]
    np.testing.assert_array_equal(plan.windows[0], reg._task().plan(backbone, check_text_column(singles)).windows[0])
    assert reg.predict(pairs[:2]).shape == (2,)
    np.testing.assert_array_equal(reg.predict(pairs)[::-1], reg.predict(pairs[::-1]))


def test_long_pairs_that_are_read_separately_use_all_windows():
    long = "a good film with many words " * 5
    pairs = [[long, "short"], ["short", long], [long + "end", long], ["bad", "good"]] * 2
    clf = XLMRXLClassifier("nano", pairs="separate", max_length=12, stride=2, random_state=0, device="cpu")
    clf.fit(pairs, ["x", "y", "x", "y"] * 2)
    assert clf.score(pairs, ["x", "y", "x", "y"] * 2) == 1.0
    np.testing.assert_allclose(clf.predict_proba(pairs[:3]), clf.predict_proba(pairs)[:3], atol=1e-6)


def test_warm_start_with_another_reading_raises():
    texts, labels = ["good", "bad"] * 4, [1, 0] * 4
    clf = XLMRXLClassifier("nano", tuning="head", warm_start=True, random_state=0).fit(texts, labels)
    with pytest.raises(ValueError, match=r"read texts with pooling='mean', now it is 'max'"):
        clf.set_params(pooling="max").fit(texts, labels)
    with pytest.raises(ValueError, match=r"read texts with prompt='', now it is 'p: '"):
        clf.set_params(pooling="auto", prompt="p: ").fit(texts, labels)


def test_warm_start_keeps_what_auto_stood_for():
    pairs, labels = [["good", "film"], ["bad", "film"]] * 4, [1, 0] * 4
    settings = {"tuning": "head", "warm_start": True, "random_state": 0}
    clf = XLMRXLClassifier("nano", pairs="separate", pooling="max", **settings).fit(pairs, labels)
    clf.set_params(pairs="auto", pooling="auto").fit(pairs, labels)
    assert (clf.pairs_, clf.pooling_) == ("separate", "max")


def test_trimmed_vocabulary_keeps_the_pieces_of_the_prompt():
    settings = {"prompt": "question: ", "tuning": "head", "random_state": 0, "device": "cpu"}
    whole = XLMRXLClassifier("nano", **settings).fit(["good", "bad"] * 4, [1, 0] * 4)
    trimmed = XLMRXLClassifier("nano", vocabulary="trim", **settings).fit(["good", "bad"] * 4, [1, 0] * 4)
    np.testing.assert_allclose(whole.predict_proba(["good"]), trimmed.predict_proba(["good"]), atol=1e-5)
