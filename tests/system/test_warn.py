import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skxlmr import XLMRXLQA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLGenerator, XLMRXLMaskedLM, XLMRXLTagger
from skxlmr.training import Callback

LONG = ["word " * 40, "other " * 40]


class Interrupt(Callback):
    def on_step_end(self, trainer):
        raise KeyboardInterrupt


def embed():
    return XLMRXLEmbedder("nano", max_length=8, truncation=True).fit_transform(LONG)


def embed_in_pipeline():
    embedder = XLMRXLEmbedder("nano", max_length=8, truncation=True)
    return make_pipeline(embedder, LogisticRegression()).fit(LONG, [0, 1])


def fit_classifier():
    return XLMRXLClassifier("nano", max_length=8, truncation=True, max_epochs=1).fit(LONG, [0, 1])


def fit_lone_surrogates():
    return XLMRXLEmbedder("nano").fit(["a\ud800"])


def fit_questions():
    X = [["who?", "ada and ada"], ["who?", "ada"]]
    return XLMRXLQA("nano", max_epochs=1).fit(X, ["ada", "ada"])


def fit_interrupted():
    return XLMRXLTagger("nano", callbacks=[Interrupt()]).fit([["a", "b"]] * 2, [["X", "Y"]] * 2)


def fit_interrupted_language_model():
    return XLMRXLMaskedLM("nano", callbacks=[Interrupt()]).fit(["one two", "three four"])


def generate_after_long_texts():
    generator = XLMRXLGenerator("nano", max_epochs=1, max_length=16).fit(["a b", "c d"])
    return generator.generate(LONG, max_new_tokens=2)


CALLS = [
    embed,
    embed_in_pipeline,
    fit_classifier,
    fit_lone_surrogates,
    fit_questions,
    fit_interrupted,
    fit_interrupted_language_model,
    generate_after_long_texts,
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_warn_from_estimator_names_line_of_caller(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert caught
    first_line = call.__code__.co_firstlineno
    n_lines = max(line for *_, line in call.__code__.co_lines() if line) - first_line
    for warning in caught:
        assert warning.filename == __file__
        assert first_line < warning.lineno <= first_line + n_lines


def test_warn_in_long_column_names_line_of_caller(monkeypatch):
    monkeypatch.setattr("skxlmr.runtime.streaming.BATCHES_IN_A_PART", {"cpu": 1, "cuda": 1})
    texts = [f"{i} " + "word " * 40 for i in range(30)]
    embedder = XLMRXLEmbedder("nano", max_length=8, truncation=True, batch_tokens=16)
    with pytest.warns(UserWarning, match="30 of 30 distinct texts were cut") as caught:
        assert embedder.fit_transform(texts).dtype == np.float32
    assert [warning.filename for warning in caught] == [__file__]
