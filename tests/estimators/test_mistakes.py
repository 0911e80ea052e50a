"""Ordinary mistakes: the message says what is wrong, where, and what to do, and the traceback ends in this library."""

import re
import traceback
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier

import skxlmr
from skxlmr import (
    XLMRXLQA,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
    memory_estimate,
)
from skxlmr.search import search

TEXTS = ["a lovely film", "dreadful and dull", "good", "bad"] * 2
LABELS = ["pos", "neg"] * 4
FRAME = pd.DataFrame({"id": range(8), "text": TEXTS, "label": LABELS, "stars": [5, 1] * 4})
TOKENS = [["John", "lives", "in", "Paris"], ["Mary", "sleeps"]]
SENTENCES = ["John lives in Paris", "Mary sleeps"]
QUESTIONS = pd.DataFrame({"question": ["Who?", "Who sleeps?"], "context": ["John lives.", "Mary sleeps."]})
CHOICES = pd.DataFrame({"p": ["a", "b"], "c1": ["x", "y"], "c2": ["z", "w"]})


def classifier(**parameters):
    return XLMRXLClassifier(**({"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0} | parameters))


def fit(X=TEXTS, y=LABELS, weight=None, **parameters):
    return classifier(**parameters).fit(X, y, weight)


def tag(X, y):
    return XLMRXLTagger("nano", max_epochs=1).fit(X, y)


def answer(X, y):
    return XLMRXLQA("nano", max_epochs=1).fit(X, y)


def choose(y):
    return XLMRXLMultipleChoice("nano", max_epochs=1).fit(CHOICES, y)


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(FRAME[["text"]], LABELS)


@pytest.fixture(scope="module")
def of_pairs():
    return classifier().fit(pd.DataFrame({"a": TEXTS, "b": TEXTS[1:] + TEXTS[:1]}), LABELS)


MISTAKES = {
    "whole frame": (lambda: fit(FRAME), r"X has 4 columns: 'id'.*df\['text'\]"),
    "column of numbers": (lambda: fit(FRAME.stars), r"column 'stars', row 0: 5 is a int.*astype\(str\)"),
    "labels among the texts": (lambda: fit(FRAME[["text", "label"]]), r"column 'label'.*Leave it out"),
    "missing text": (lambda: fit([*TEXTS[:-1], None]), r"X, row 7: None is a missing value.*fillna"),
    "bytes": (lambda: fit([b"good", b"bad"] * 4), r"row 0: b'good'.*decode"),
    "one text": (lambda: fit("good", ["pos"]), r"single str.*\[X\]"),
    "name of a file": (lambda: fit("reviews.csv", ["pos"]), r"single str.*pandas\.read_csv\(X\)"),
    "path of a file": (lambda: fit(Path("reviews.csv"), ["pos"]), r"X is a .*Path.*pandas\.read_csv\(X\)"),
    "masked text": (lambda: fit(np.ma.array(TEXTS, mask=[0] * 7 + [1])), r"X, row 7: None is a missing value"),
    "dict": (lambda: fit({"text": TEXTS}), r"X is a dict.*pandas\.DataFrame\(X\)"),
    "generator": (lambda: fit(text for text in TEXTS), r"X is a generator.*list\(X\)"),
    "words": (lambda: fit([["a", "b"], ["a", "b", "c"]], ["p", "n"]), r"row 1: 3 values.*join them"),
    "three words": (lambda: fit([["a", "b", "c"]] * 2, ["p", "n"]), r"3 columns.*join them"),
    "lengths": (lambda: fit(TEXTS, LABELS[:-1]), r"X has 8 rows, but y has 7"),
    "lengths of tags": (lambda: tag(TOKENS, [["O"]]), r"X has 2 rows, but y has 1"),
    "missing label": (lambda: fit(TEXTS, [None, *LABELS[1:]]), r"y, row 0: None is not a label.*Leave"),
    "one class": (lambda: fit(TEXTS, ["pos"] * 8), r"2 classes.*'pos'"),
    "no y": (lambda: classifier().fit(TEXTS), r"XLMRXLClassifier\.fit requires y.*fit\(X, y\)"),
    "same lists of labels": (lambda: fit(TEXTS, [("pos", "neg")] * 8), r"8 rows of y have the same labels"),
    "continuous y": (lambda: fit(TEXTS, np.linspace(0, 1, 8)), r"Unknown label type.*XLMRXLRegressor"),
    "dates": (lambda: fit(TEXTS, [date(2020, 1, 1)] * 8), r"row 0: datetime\.date.* is a date\..*y\.astype\(str\)"),
    "intervals": (lambda: fit(TEXTS, pd.cut(pd.Series(range(8)), 2)), r"is a Interval\..*y\.astype\(str\)"),
    "large labels": (lambda: fit(TEXTS, [2**70, 1] * 4), r"row 0: 1180.*whole numbers of 64 bits"),
    "columns of classes": (lambda: fit(TEXTS, FRAME[["label", "text"]]), r"row 0: pos.*MultiOutputClassifier"),
    "mixed labels": (lambda: fit(TEXTS, ["pos", 1] * 4), r"several types.*astype\(str\)"),
    "texts as numbers": (lambda: XLMRXLRegressor("nano").fit(TEXTS, LABELS), r"row 0: 'pos'.*XLMRXLClassifier"),
    "name of model": (lambda: fit(model="e5small"), r"'e5small'.*Did you mean 'e5-small'"),
    "other model": (lambda: fit(model="bert-base-uncased"), r"XLM-RoBERTa family.*'FacebookAI/xlm-roberta-base'"),
    "path of model": (lambda: fit(model="./my_model"), r"my_model is not a directory\. Check the path"),
    "path to load": (lambda: skxlmr.load("/missing/none"), r"none is not a directory"),
    "device": (lambda: fit(device="gpu"), r"device='gpu'.*'cuda'"),
    "case of a value": (lambda: fit(tuning="Lora"), r"'tuning'.*Did you mean 'lora'"),
    "qlora": (lambda: fit(tuning="qlora"), r"Did you mean 'lora' with load_in_4bit=True"),
    "dtype": (lambda: fit(dtype="fp16"), r"Did you mean 'float16'"),
    "dtype of torch": (lambda: fit(dtype=torch.bfloat16), r"Did you mean 'bfloat16'"),
    "pooling": (lambda: XLMRXLEmbedder("nano", pooling="average").fit(TEXTS), r"Did you mean 'mean'"),
    "tuning of estimate": (lambda: memory_estimate("nano", tuning="lorra"), r"Did you mean 'lora'"),
    "rank as a text": (lambda: fit(tuning=LoRA(rank="8")), r"'rank' parameter of LoRA.*Did you mean 8, a number"),
    "rate as a text": (lambda: fit(learning_rate="1e-4"), r"Did you mean 0\.0001, a number"),
    "one callback": (lambda: fit(callbacks=print), r"'callbacks'.*Put it into a list"),
    "epochs": (lambda: classifier(epochs=3), r"no parameter 'epochs'. Did you mean 'max_epochs'"),
    "key of a grid": (
        lambda: GridSearchCV(classifier(tuning=LoRA()), {"tuning__r": [4]}, cv=2).fit(TEXTS, LABELS),
        r"'r' for estimator LoRA. Did you mean 'rank'",
    ),
    "number of weights": (lambda: fit(weight=[1] * 3), r"sample_weight has 3 values, but X has 8 rows"),
    "missing weight": (lambda: fit(weight=[1.0] * 7 + [np.nan]), r"contains NaN\. .*nan, of row 7"),
    "weight as a text": (lambda: fit(weight=[1.0] * 7 + ["a"]), r"sample_weight.*'a'.*of row 7"),
    "masked weight": (lambda: fit(weight=np.ma.array([1] * 8, mask=[0] * 7 + [1])), r"nan, of row 7"),
    "negative weight": (lambda: fit(weight=[1.0] * 7 + [-1.0]), r"`sample_weight`: that of row 7 is -1"),
    "class_weight": (lambda: fit(class_weight={"foo": 2}), r"class_weight has \['foo'\].*\['neg', 'pos'\]"),
    "text as class_weight": (lambda: fit(class_weight={"pos": "a"}), r"class_weight must give numbers.*'pos' is 'a'"),
    "no schedule": (lambda: fit(lr_schedule=None), r"'lr_schedule'.*Got None instead\.$"),
    "few held-out rows": (
        lambda: fit(early_stopping=True),
        r"the number of classes = 2\. Pass X_val and y_val",
    ),
    "one text for PCA": (lambda: XLMRXLEmbedder("nano", n_components=1).fit(["a"]), r"at least 2 texts.*X has 1"),
    "query as a text": (
        lambda: search("good", TEXTS, embedder=XLMRXLEmbedder("nano")),
        r"queries is a single str.*\[queries\]",
    ),
    "swapped tags": (lambda: tag([["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]], TOKENS), r"'B-PER'.*swapped"),
    "tags as texts": (lambda: tag(TOKENS, ["O O O O", "O O"]), r"row 0: 'O O O O'.*tags\.split\(\)"),
    "number of tags": (lambda: tag(TOKENS, [["O", "O"], ["O", "O"]]), r"row 0: 2 tags for 4 tokens.*each token"),
    "order of a span": (lambda: tag(SENTENCES, [[("PER", 0, 4)], []]), r"a span is \(start, end, label\)"),
    "answer": (lambda: answer(QUESTIONS, ["Bob", "Mary"]), r"row 0: the answer 'Bob' does not stand"),
    "one column": (lambda: answer(QUESTIONS.question, ["John", "Mary"]), r"df\[\['question', 'context'\]\]"),
    "choice from 1": (lambda: choose([1, 2]), r"row 1: 2 is not an index.*subtract 1"),
    "mask of another model": (lambda: XLMRXLMaskedLM("nano").fill_mask(["a [MASK]"]), r"<mask> in place of \[MASK\]"),
}


def message_of(mistake):
    with pytest.raises((TypeError, ValueError, OSError)) as caught:
        mistake()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "skxlmr" in frames[-1].filename, f"the traceback ends in {frames[-1].filename}"
    assert caught.value.__cause__ is None, "no traceback of a cause"
    return str(caught.value).replace("\n", " ")


@pytest.mark.parametrize("name", MISTAKES)
def test_message_of_mistake(name):
    mistake, pattern = MISTAKES[name]
    assert re.search(pattern, message_of(mistake))


def test_messages_of_predict(fitted, of_pairs):
    for mistake, pattern in (
        (lambda: fitted.predict("good"), r"single str.*\[X\]"),
        (lambda: fitted.predict(FRAME[["label"]]), r"missing: - text.*X\[\['text'\]\]"),
        (lambda: of_pairs.predict(pd.DataFrame({"b": TEXTS, "a": TEXTS})), r"same order.*X\[\['a', 'b'\]\]"),
        (lambda: fitted.zero_shot(TEXTS, ["sport"]), r"pairs of texts.*\['premise', 'hypothesis'\]"),
    ):
        assert re.search(pattern, message_of(mistake))
    with pytest.warns(UserWarning, match="valid feature names"), pytest.raises(ValueError, match=r"X\[\['a', 'b'\]\]"):
        of_pairs.predict(TEXTS)


def test_score_of_labels_that_fit_did_not_see_warns(fitted):
    with pytest.warns(UserWarning, match=r"No row of y has a label that fit saw.*foo.*\['neg', 'pos'\]"):
        assert fitted.score(FRAME[["text"]], ["foo"] * 8) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted.score(FRAME[["text"]], ["foo"] * 7 + ["pos"]) <= 1 / 8


def test_fit_on_joined_labels_warns():
    with pytest.warns(UserWarning, match=r"the class 'a,b'.*y\.str\.split\(','\)"):
        fit(TEXTS, ["a,b", "b"] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(TEXTS, ["yes, please", "no"] * 4)  # a comma, but of no other class


def test_rows_in_another_order_are_warned_of(fitted):
    texts, labels = FRAME[["text"]], FRAME.label.sort_values()
    other_order = r"the same index, but in another order.*y\.loc\[X\.index\]"
    embedder = XLMRXLEmbedder("nano", objective="classes", max_epochs=1, random_state=0)
    for call in (
        lambda: fit(texts, labels),
        lambda: classifier().partial_fit(texts, labels, ["neg", "pos"]),
        lambda: fitted.score(texts, labels),
        lambda: embedder.fit(texts, labels),
    ):
        with pytest.warns(UserWarning, match=other_order):
            call()
    with pytest.warns(UserWarning, match=r"rows of X_val and of y_val have the same index.*y_val\.loc\[X_val\.index\]"):
        classifier().fit(texts, FRAME.label, X_val=texts, y_val=labels)
    with pytest.warns(UserWarning, match=r"sample_weight have the same index.*sample_weight\.loc"):
        fit(texts, FRAME.label, pd.Series(1.0, index=range(7, -1, -1)))


@pytest.mark.filterwarnings("ignore:The model did not learn well")
def test_fit_on_same_texts_warns_of_them_only():
    with pytest.warns(UserWarning, match=r"All 8 rows of X are the same, ''") as caught:
        fit([""] * 8, init="auto", max_epochs="auto")
    assert not [each for each in caught if "not writable" in str(each.message)], "a warning of torch"


PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not in this copy")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_page_of_errors_has_the_messages_as_they_are(fitted, of_pairs):
    more = [
        lambda: fitted.predict(FRAME[["label"]]),
        lambda: fitted.zero_shot(TEXTS, ["sport"]),
        lambda: of_pairs.predict(TEXTS),
        lambda: OneVsOneClassifier(classifier()).fit(FRAME[["text"]], LABELS),
        lambda: BaggingClassifier(classifier()).fit(FRAME.text, LABELS),
        lambda: fit(pl.LazyFrame({"text": TEXTS})),
        lambda: classifier().predict(TEXTS),
        lambda: fit(early_stopping=True, y=list("abcdefgh")),
        lambda: fit(learning_rate=1e6, tuning="lora", max_epochs=3, lr_schedule="constant", warmup=0.0, batch_size=2),
    ]
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for mistake in [*(mistake for mistake, _ in MISTAKES.values()), *more]:
            with pytest.raises((TypeError, ValueError, OSError, FloatingPointError)) as raised:
                mistake()
            messages.append(str(raised.value).replace("\n", " "))
        fitted.score(FRAME[["text"]], ["foo"] * 8)
        fit([""] * 8, ["a,b", "b"] * 4)
        fit([f"{i}.txt" for i in range(8)], ["b", "b "] * 4)
        fit(LABELS, [f"text {i}" for i in range(8)])
        fit(FRAME.text, FRAME.label[::-1])
    messages += [str(warning.message) for warning in caught]
    text = PAGE.read_text("utf-8")
    tables = text[: text.index("## Training and the machine")]
    documented = re.findall(r"^\| `(.+?)` \|", tables, re.MULTILINE)
    assert len(documented) > 30
    for message in [*documented, "The loss became nan at rows …", "early_stopping=True cannot set … rows aside"]:
        pattern = ".*?".join(map(re.escape, message.split("…")))
        assert any(re.search(pattern, each) for each in messages), message
