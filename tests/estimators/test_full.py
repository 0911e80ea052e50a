"""Estimators with tuning="full", which have trained copies of the weights of the base."""

from __future__ import annotations

from weakref import WeakValueDictionary

import numpy as np
import pytest

import skxlmr
from skxlmr import Full, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLGenerator, XLMRXLMaskedLM, memory_estimate
from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.model import XLMRobertaXLModel

TEXTS = ["a good film", "a bad film", "long and boring", "I loved it"]
SETTINGS = {"model": "nano", "device": "cpu", "tuning": Full(), "max_epochs": 1, "random_state": 0}


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch: pytest.MonkeyPatch):
    """Let no base model be found that estimators of other tests have loaded."""
    skxlmr.release_models()
    monkeypatch.setattr("skxlmr.runtime.backbone._pool", WeakValueDictionary())


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch):
    """Let nothing load the weights of a base."""
    skxlmr.release_models()
    with monkeypatch.context() as patch:
        patch.setattr(XLMRobertaXLModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded weights"))
        yield patch


def classifier(**settings):
    return XLMRXLClassifier(**SETTINGS | settings).fit(TEXTS, [0, 1, 1, 0])


def embedder():
    return XLMRXLEmbedder(**SETTINGS, objective="classes").fit(TEXTS, [0, 1, 1, 0])


def log_likelihoods(fitted):
    return fitted.token_log_likelihood(TEXTS).log_probability


FITTED = {
    "classifier": (classifier, lambda fitted: fitted.predict_proba(TEXTS)),
    "in 16 bits": (lambda: classifier(dtype="bfloat16"), lambda fitted: fitted.predict_proba(TEXTS)),
    "embedder": (embedder, lambda fitted: fitted.transform(TEXTS)),
    "masked": (lambda: XLMRXLMaskedLM(**SETTINGS).fit(TEXTS), lambda fitted: fitted.fill_mask(["a <mask>"]).score),
    "causal": (lambda: XLMRXLGenerator(**SETTINGS).fit(TEXTS), log_likelihoods),
}


@pytest.mark.parametrize("kind", FITTED)
def test_loaded_estimator_with_all_weights_predicts_without_those_of_the_base(kind, tmp_path, request):
    fit, predict = FITTED[kind]
    fitted = fit()
    expected = np.asarray(predict(fitted))
    fitted.save(tmp_path / "saved")
    del fitted
    patch = request.getfixturevalue("no_weights")
    loaded = skxlmr.load(tmp_path / "saved")
    assert np.array_equal(predict(loaded), expected)
    patch.undo()
    other = XLMRXLEmbedder("nano", device="cpu").fit(TEXTS)  # finds no base without weights in the pool
    assert np.isfinite(other.transform(TEXTS)).all()


def test_loaded_estimator_with_all_weights_is_trained_on(tmp_path):
    classifier(warm_start=True).save(tmp_path / "saved")
    skxlmr.release_models()
    loaded = skxlmr.load(tmp_path / "saved")
    before = loaded.predict_proba(TEXTS)
    assert not loaded._base.load(loaded, weights=False).has_weights
    loaded.fit(TEXTS, [0, 1, 1, 0])
    assert loaded._fitted_backbone().has_weights
    assert not np.array_equal(loaded.predict_proba(TEXTS), before)


def test_loaded_estimator_with_some_weights_needs_the_base(tmp_path, request):
    classifier(tuning=Full(layers=1)).save(tmp_path / "saved")
    request.getfixturevalue("no_weights")
    with pytest.raises(pytest.fail.Exception, match="loaded weights"):
        skxlmr.load(tmp_path / "saved").predict(TEXTS)


@pytest.mark.parametrize("tuning", ["lora", Full(layers=1)], ids=str)
def test_prediction_needs_no_memory_for_training(tuning, tmp_path, monkeypatch):
    classifier(tuning=tuning, batch_tokens=512).save(tmp_path / "saved")
    skxlmr.release_models()
    nano = {"model": "nano", "device": "cpu", "batch_tokens": 512}
    enough = memory_estimate(**nano).total
    assert enough < memory_estimate(**nano, tuning=tuning).total
    monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: enough)
    loaded = skxlmr.load(tmp_path / "saved", warm_start=True)
    assert loaded.predict(TEXTS).shape == (4,)
    skxlmr.release_models()
    del loaded
    loaded = skxlmr.load(tmp_path / "saved", warm_start=True)
    with pytest.raises(NotEnoughMemoryError, match="learned"):
        loaded.fit(TEXTS, [0, 1, 1, 0])
