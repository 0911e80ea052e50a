"""Memory of a GPU is given back: after a fit, after an error with its traceback, and when another base needs it."""

from __future__ import annotations

import gc
from unittest import mock

import pytest

import skxlmr
from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.model.layers import Layer
from skxlmr.runtime.backbone import get_backbone
from skxlmr.training.steps import StepGradients

TEXTS = ["good", "bad", "a nice film", "poor", "nice", "awful"] * 2
LABELS = ["yes", "no"] * 6


@pytest.fixture
def h100(emulate):
    """An emulated GPU without CUDA graphs, features in memory and collected cycles."""
    gpu = emulate("H100")
    skxlmr.set_feature_cache(0)
    skxlmr.set_cuda_graphs(0)
    gc.collect()
    gc.disable()
    yield gpu
    gc.enable()
    skxlmr.set_feature_cache()
    skxlmr.set_cuda_graphs()


def classifier(tuning):
    return XLMRXLClassifier("nano", device="cuda", tuning=tuning, init="random", max_epochs=1, random_state=0)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_memory_of_a_fit_is_given_back_without_the_garbage_collector(h100, tuning):
    clf = classifier(tuning).fit(TEXTS, LABELS)
    before = h100.memory.allocated
    clf.fit(TEXTS, LABELS)
    clf = classifier(tuning).fit(TEXTS, LABELS)
    assert h100.memory.allocated == before
    del clf
    skxlmr.release_models()
    assert h100.memory.allocated == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_fit_and_prediction_keep_no_memory_by_their_tracebacks(h100, error):
    def fail(*arguments):
        del arguments
        raise error("injected")

    clf = classifier("lora").fit(TEXTS, LABELS)
    expected, before = clf.predict_proba(TEXTS), h100.memory.allocated
    with mock.patch.object(StepGradients, "apply", fail), pytest.raises(error) as of_fit:
        clf.fit(TEXTS, LABELS)
    assert h100.memory.allocated == before
    with mock.patch.object(Layer, "forward", fail), pytest.raises(error) as of_predict:
        clf.predict_proba(TEXTS)
    assert h100.memory.allocated == before
    assert (clf.predict_proba(TEXTS) == expected).all()
    assert "injected" in str(of_fit.value) + str(of_predict.value)  # both are alive until here


def test_base_that_nobody_uses_makes_room_for_another(emulate):
    gpu = emulate("H100")
    used = get_backbone("nano", device="cuda", dtype="bfloat16")
    smaller = {"dtype": "bfloat16", "load_in_8bit": True, "device": "cuda"}
    gpu.memory.total = skxlmr.memory_estimate("nano", **smaller).needed + gpu.memory.allocated // 2
    with pytest.raises(NotEnoughMemoryError):
        get_backbone("nano", **smaller)
    del used
    XLMRXLEmbedder("nano", **smaller).fit_transform(TEXTS)
