"""Estimators over a base model in 8-bit floating point: training, search, files."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skxlmr
from skxlmr import Bias, Float8, Full, Head, Int8, LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.model.float8 import Float8Linear
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["good", "bad", "a nice film , it was", "poor", "nice film", "awful"]
LABELS = ["yes", "no"] * 3
SETTINGS = {"model": "nano", "device": "cpu", "dtype": "float32", "load_in_8bit": Float8(), "random_state": 0}


def weights(backbone):
    """Return copies of the parameters of a base model, by name."""
    return {name: parameter.detach().clone() for name, parameter in backbone.model.named_parameters()}


@pytest.mark.parametrize("tuning", [LoRA(rank=2, layers=None), Bias(), Head()], ids=str)
def test_fit_trains_over_frozen_float8_weights(tuning):
    base = get_backbone("nano", device="cpu", dtype="float32", load_in_8bit=Float8())
    before = weights(base)
    clf = XLMRXLClassifier(**SETTINGS, tuning=tuning, max_epochs=8, learning_rate=5e-3, batch_size=2)
    clf.fit(TEXTS, LABELS)
    assert clf._fitted_backbone() is base, "one base model for all"
    assert clf.loss_curve_[-1] < 0.6 * clf.loss_curve_[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())
    assert isinstance(base.model.layers[0].ffn.up, Float8Linear)


def test_fit_is_close_to_that_over_weights_in_floating_point():
    """Gradients reach the lowest layer."""
    fit = {"tuning": LoRA(rank=2, layers=None), "max_epochs": 2, "learning_rate": 1e-3, "batch_size": 3}
    plain, ours = (
        XLMRXLClassifier(**SETTINGS | {"load_in_8bit": load}, **fit).fit(TEXTS, LABELS) for load in (False, Float8())
    )
    np.testing.assert_allclose(ours.loss_curve_, plain.loss_curve_, rtol=0.05)
    np.testing.assert_allclose(ours.predict_proba(TEXTS), plain.predict_proba(TEXTS), atol=0.05)


def test_fit_of_all_weights_raises():
    with pytest.raises(ValueError, match=r"tuning='full' trains every weight.*load_in_8bit=False, or tuning='lora'"):
        XLMRXLClassifier(**SETTINGS, tuning=Full()).fit(TEXTS, LABELS)


def test_grid_search_chooses_among_storages():
    search = GridSearchCV(
        XLMRXLClassifier(**SETTINGS, tuning="head"),
        [{"load_in_8bit": [False, Int8(), Float8()]}, {"load_in_8bit__engine": ["auto", "dequantize"]}],
        cv=2,
        error_score="raise",
    ).fit(TEXTS, LABELS)
    assert len(search.cv_results_["params"]) == 5
    assert search.predict(TEXTS).shape == (6,)


def test_save_and_load_keep_the_storage(tmp_path):
    clf = XLMRXLClassifier(**SETTINGS | {"load_in_8bit": Float8(engine="dequantize")}, tuning="head").fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    clf.save(tmp_path)
    again = skxlmr.load(tmp_path)
    assert again.load_in_8bit == Float8(engine="dequantize")
    for same in (again, pickle.loads(pickle.dumps(clf)), clone(clf).fit(TEXTS, LABELS)):
        np.testing.assert_allclose(same.predict_proba(TEXTS), expected, rtol=1e-5)
    other = skxlmr.load(tmp_path, load_in_8bit=False)
    np.testing.assert_allclose(other.predict_proba(TEXTS), expected, atol=0.05)
    assert skxlmr.load(tmp_path, load_in_8bit=Float8()).load_in_8bit == Float8()


def test_skops_types_has_it():
    assert "skxlmr.model.float8.Float8" in skxlmr.skops_types()


def test_transform_of_text_alone_equals_that_in_a_batch():
    embedder = XLMRXLEmbedder(**SETTINGS).fit(TEXTS)
    together = embedder.transform(TEXTS)
    skxlmr.set_feature_cache(0)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embedder.transform([text])[0], vector, rtol=1e-4, atol=1e-5)


def test_float16_beyond_its_range_raises_instead_of_giving_infinities(emulate):
    """Numbers above 65504 are infinite in float16, whatever the weights are stored in."""
    emulate("H100")
    embedder = XLMRXLEmbedder(**SETTINGS | {"device": "cuda", "dtype": "float16"}).fit(TEXTS)
    layer = embedder._fitted_backbone().model.layers[1].ffn.down
    layer.scales.data.mul_(1e6)
    with pytest.raises(FloatingPointError, match="use dtype='float32'"):
        embedder.transform(["a text that was not seen"])


def test_predictions_need_few_operators_per_layer(emulate):
    gpu = emulate("H100")
    embedder = XLMRXLEmbedder(**SETTINGS | {"device": "cuda", "dtype": "bfloat16"}).fit(TEXTS)
    embedder.transform(["another text"])
    with gpu.counting() as counts:
        embedder.transform(["one more text", "and another"])
    assert counts.kernels["e4m3 product"] == 6 * len(counts.operators_of_layers)
    assert max(layer.total() for layer in counts.operators_of_layers) <= 78  # 32 of them are kernels
    assert max(layer["linalg_vector_norm"] for layer in counts.operators_of_layers) == 4, "q, k and v share theirs"
