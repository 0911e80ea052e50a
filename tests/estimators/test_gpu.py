"""All estimators on a GPU, with each storage of weights and each dtype: close to what the CPU computes in float32."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV

import skxlmr
from skxlmr import (
    XLMRXLQA,
    Float8,
    Int8,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import clear_features

TEXTS = ["good", "bad", "a nice film , it was", "poor", "nice film", "awful"]
LABELS = ["yes", "no"] * 3
WORDS = [text.split() for text in TEXTS]
QUESTIONS = pd.DataFrame(
    {"question": ["what was good?", "who is bad?"], "context": ["the film was good and long", "he is bad, they say"]}
)
CHOICES = pd.DataFrame({"premise": TEXTS, "choices": [["x", "y z"]] * 6})
FIT = {"model": "nano", "device": "cuda", "random_state": 0, "max_epochs": 1, "batch_size": 3}

pytestmark = pytest.mark.usefixtures("gpu")
slow = pytest.mark.slow  # in `make test-gpu` only


@pytest.fixture(scope="module")
def on_cpu():
    """Vectors by pooling, computed on the CPU in float32."""
    poolings = ("mean", "cls", "max", "first_last_mean")
    return {
        pooling: XLMRXLEmbedder("nano", device="cpu", dtype="float32", pooling=pooling).fit_transform(TEXTS)
        for pooling in poolings
    }


STORAGES = {
    "plain": {},
    "int8": {"load_in_8bit": True},
    "int8 without outliers": {"load_in_8bit": Int8(outliers="none")},
    "int8 with outliers": {"load_in_8bit": Int8(threshold=2.5)},
    "int8 with dynamic outliers": {"load_in_8bit": Int8(outliers="dynamic", threshold=2.0)},
    "int8 dequantised": {"load_in_8bit": Int8(engine="dequantize")},
    "float8": {"load_in_8bit": Float8()},
    "nf4": {"load_in_4bit": True},
}


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=slow), "bfloat16", pytest.param("float16", marks=slow)]
)
@pytest.mark.parametrize("storage", STORAGES)
def test_embedder_equals_cpu_with_each_storage_and_dtype(storage, dtype, on_cpu):
    vectors = XLMRXLEmbedder("nano", device="cuda", dtype=dtype, **STORAGES[storage]).fit_transform(TEXTS)
    distance = np.linalg.norm(vectors - on_cpu["mean"]) / np.linalg.norm(on_cpu["mean"])
    assert distance < (
        0.25 if storage == "nf4" else 0.06 if storage != "plain" else 1e-4 if dtype == "float32" else 0.02
    )


@pytest.mark.parametrize("pooling", ["cls", "max", "first_last_mean"])
def test_embedder_equals_cpu_with_each_pooling(pooling, on_cpu):
    vectors = XLMRXLEmbedder("nano", device="cuda", pooling=pooling).fit_transform(TEXTS)
    np.testing.assert_allclose(vectors, on_cpu[pooling], atol=0.05)


@pytest.mark.parametrize("load_in_8bit", [False, True])
def test_text_alone_equals_text_in_a_batch(load_in_8bit):
    """Up to the rounding of the products of matrices, whose kernels the device chooses by their sizes."""
    embedder = XLMRXLEmbedder("nano", device="cuda", load_in_8bit=load_in_8bit).fit(TEXTS)
    together = embedder.transform([*TEXTS, "long " * 200])
    clear_features()
    for text, vector in zip(TEXTS[:3], together[:3], strict=True):
        clear_features()
        np.testing.assert_allclose(embedder.transform([text])[0], vector, atol=0.01)


def fit_and_use(make, fit, use):
    def run(**parameters):
        return use(make(**(FIT | parameters)).fit(*fit))

    return run


USES = {
    "classifier": fit_and_use(XLMRXLClassifier, (TEXTS, LABELS), lambda e: e.predict_proba(TEXTS)),
    "classifier of several labels": fit_and_use(
        XLMRXLClassifier, (TEXTS, [["a"], ["b"], ["a", "b"], [], ["a"], ["b"]]), lambda e: e.predict_proba(TEXTS)
    ),
    "regressor": fit_and_use(XLMRXLRegressor, (TEXTS, np.arange(6.0)), lambda e: e.predict(TEXTS)),
    "tagger": fit_and_use(
        XLMRXLTagger,
        (WORDS, [["B-X"] + ["O"] * (len(words) - 1) for words in WORDS]),
        lambda e: np.concatenate(list(e.predict_proba(WORDS))),
    ),
    "qa": fit_and_use(XLMRXLQA, (QUESTIONS, ["film", "bad"]), lambda e: [e.score(QUESTIONS, ["film", "bad"])]),
    "multiple choice": fit_and_use(
        XLMRXLMultipleChoice, (CHOICES, [0, 1] * 3), lambda e: e.predict_proba(CHOICES).astype(float)
    ),
    "masked lm": fit_and_use(XLMRXLMaskedLM, (TEXTS,), lambda e: e.pseudo_log_likelihood(TEXTS[:2])),
    "generator": fit_and_use(XLMRXLGenerator, (TEXTS,), lambda e: e.log_likelihood(TEXTS[:2])),
}


@pytest.mark.parametrize("load", [pytest.param({}, marks=slow), {"load_in_8bit": True}], ids=["plain", "int8"])
@pytest.mark.parametrize("task", USES)
def test_each_estimator_with_defaults_on_this_gpu(task, load):
    """The default dtype is float16 on GPUs before Ampere and bfloat16 on the others."""
    result = np.asarray(USES[task](**load), float)
    assert np.isfinite(result).all()


@slow
@pytest.mark.parametrize("task", ["classifier", "tagger", "generator"])
def test_estimators_in_float32_equal_cpu(task):
    """Dropout aside, of which the head has some; a single epoch moves the results little."""
    np.testing.assert_allclose(
        np.asarray(USES[task](dtype="float32"), float),
        np.asarray(USES[task](dtype="float32", device="cpu"), float),
        rtol=0.1,
        atol=0.1,
    )


def test_classifier_saved_pickled_and_moved_predicts_alike(tmp_path):
    clf = XLMRXLClassifier(**FIT, vocabulary="trim", early_stopping=True, validation_fraction=0.4).fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    clf.save(tmp_path / "saved")
    others = [skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(clf)), clf.set_params(device="cpu")]
    for other in others:
        np.testing.assert_allclose(other.predict_proba(TEXTS), expected, atol=0.02)


@slow
def test_grid_search_on_a_gpu():
    search = GridSearchCV(XLMRXLClassifier(**FIT), {"learning_rate": [1e-3, 1e-4]}, cv=2).fit(TEXTS, LABELS)
    assert 0 <= search.best_score_ <= 1


def test_default_dtype_is_float16_on_gpus_without_bfloat16():
    has_bfloat16 = torch.cuda.get_device_capability() >= (8, 0)
    assert get_backbone("nano", device="cuda").model.dtype == (torch.bfloat16 if has_bfloat16 else torch.float16)


@pytest.fixture(scope="module")
def large_numbers(tmp_path_factory):
    """A model whose outputs are above 65504."""
    folder = tmp_path_factory.mktemp("large")
    model = skxlmr.model.XLMRobertaXLForMaskedLM.from_pretrained("nano")
    model.roberta.norm.weight.data.fill_(5e4)
    model.save_pretrained(folder)
    get_backbone("nano", device="cpu").tokenizer.save_pretrained(folder)
    return folder


def test_overflow_of_float16_is_an_error_that_names_the_remedy(large_numbers):
    embedder = XLMRXLEmbedder(large_numbers, device="cuda", dtype="float16")
    with pytest.raises(FloatingPointError, match=r"above 65504 are infinite: use dtype='float32'"):
        embedder.fit_transform(TEXTS)
    assert np.abs(embedder.set_params(dtype="float32").fit_transform(TEXTS)).max() > 65504
    clf = XLMRXLClassifier(**(FIT | {"model": large_numbers}), dtype="float16")
    with pytest.raises(FloatingPointError, match="use dtype='float32'"):
        clf.fit(TEXTS, LABELS)
