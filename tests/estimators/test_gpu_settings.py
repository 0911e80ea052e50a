"""Settings of torch that concern a GPU: deterministic algorithms, default device, autocast."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from skxlmr import (
    XLMRXLQA,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.runtime.feature_cache import clear_features

TEXTS = ["good", "bad", "a nice film , it was", "poor", "nice film", "awful"]
LABELS = ["yes", "no"] * 3
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-X"] + ["O"] * (len(words) - 1) for words in WORDS]
QUESTIONS = pd.DataFrame(
    {"question": ["what was good?", "who is bad?"], "context": ["the film was good and long", "he is bad, they say"]}
)
FIT = {"model": "nano", "device": "cuda", "random_state": 0, "max_epochs": 1, "batch_size": 3}


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def generated():
    generator = XLMRXLGenerator(**FIT).fit(TEXTS)
    generator.log_likelihood(TEXTS)
    generator.generate(TEXTS[:2], max_new_tokens=3, num_beams=2)
    return generator.generate(TEXTS[:2], max_new_tokens=3, do_sample=True, top_p=0.9, no_repeat_ngram_size=2)


USES = {
    "classifier": lambda: XLMRXLClassifier(**FIT, tuning=LoRA(dropout=0.2)).fit(TEXTS, LABELS).predict_proba(TEXTS),
    "classifier of 8 bits": lambda: XLMRXLClassifier(**FIT, load_in_8bit=True).fit(TEXTS, LABELS).predict_proba(TEXTS),
    "regressor": lambda: XLMRXLRegressor(**FIT, loss="huber", pooling="max").fit(TEXTS, np.arange(6.0)).predict(TEXTS),
    "tagger": lambda: XLMRXLTagger(**FIT, aggregation="mean").fit(WORDS, TAGS).predict_proba(WORDS),
    "answers": lambda: XLMRXLQA(**FIT).fit(QUESTIONS, ["film", "bad"]).predict_answers(QUESTIONS),
    "embedder": lambda: XLMRXLEmbedder(**FIT, objective="classes").fit(TEXTS, LABELS).transform(TEXTS),
    "masked words": lambda: XLMRXLMaskedLM(**FIT).fit(TEXTS).fill_mask(["a <mask>"]),
    "generator": generated,
}


FAST = ("classifier", "generator")


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", [pytest.param("T4", marks=pytest.mark.slow), "H100"])
@pytest.mark.parametrize("use", [pytest.param(use, marks=[] if use in FAST else pytest.mark.slow) for use in USES])
def test_estimators_need_no_operator_without_a_deterministic_algorithm(emulate, name, use):
    emulate(name)
    assert len(USES[use]())


@pytest.mark.parametrize("load", [{}, {"load_in_8bit": True}], ids=["plain", "int8"])
def test_autocast_and_default_device_change_nothing_on_a_gpu(gpu, load):
    embedder = XLMRXLEmbedder("nano", device="cuda", dtype="float32", **load).fit(TEXTS)
    expected = embedder.transform(TEXTS)
    clear_features()
    with torch.autocast("cuda", torch.float16), torch.device("cuda"):
        found = embedder.transform(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if gpu is not None else 1e-5)


@pytest.mark.parametrize("device", ["auto", "cuda:0", "cuda:all"])
def test_gpu_in_a_forked_child_says_how_to_start_processes(gpu, monkeypatch, device):
    embedder = XLMRXLEmbedder("nano", device=device).fit(TEXTS)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True, raising=False)
    for use in (lambda: embedder.transform(["another"]), lambda: XLMRXLEmbedder("nano", device=device).fit(TEXTS)):
        with pytest.raises(
            RuntimeError, match=r"forked from one that had used CUDA.*get_context\('spawn'\).*device='cpu'"
        ):
            use()
