"""Estimators on the second of two GPUs, and on both; emulated where there are none."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import skxlmr
from skxlmr import (
    Full,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLRegressor,
    XLMRXLTagger,
    memory_estimate,
)
from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.hardware.device import choose_device, choose_devices, choose_dtype
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import clear_features

TEXTS = [f"{word} film number {i}" for i, word in enumerate(["good", "bad", "a nice one , fine", "poor"] * 4)]
LABELS = ["yes", "no"] * 8
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-X"] + ["O"] * (len(words) - 1) for words in WORDS]
FIT = {"model": "nano", "random_state": 0, "max_epochs": 1, "batch_size": 8, "batch_tokens": 48}


@pytest.fixture
def two(request, emulate_or_real):
    """Two A10 that are emulated, or the GPUs of this machine, for which this is None."""
    return emulate_or_real("A10", None, 2)


@pytest.fixture
def emulate_or_real(request):
    if not torch.cuda.is_available():
        return request.getfixturevalue("emulate")
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    return lambda *_: None


USES = {
    "part of the layers": lambda d: (
        XLMRXLClassifier(**FIT, tuning=LoRA(layers=2), device=d).fit(TEXTS, LABELS).predict_proba(TEXTS)
    ),
    "own weights": lambda d: (
        XLMRXLClassifier(**FIT, tuning=Full(layers=1), device=d).fit(TEXTS, LABELS).predict_proba(TEXTS)
    ),
    "head and trimmed vocabulary": lambda d: (
        XLMRXLClassifier(**FIT, tuning="head", vocabulary="trim", device=d).fit(TEXTS, LABELS).predict_proba(TEXTS)
    ),
    "8 bits, early stopping": lambda d: (
        XLMRXLRegressor(**FIT, load_in_8bit=True, early_stopping=True, validation_fraction=0.5, device=d)
        .fit(TEXTS, np.arange(16.0))
        .predict(TEXTS)
    ),
    "4 bits, 8-bit optimizer": lambda d: (
        XLMRXLRegressor(**FIT, load_in_4bit=True, optimizer="adamw8bit", device=d)
        .fit(TEXTS, np.arange(16.0))
        .predict(TEXTS)
    ),
    "tagger": lambda d: np.concatenate(list(XLMRXLTagger(**FIT, device=d).fit(WORDS, TAGS).predict_proba(WORDS))),
    "embedder": lambda d: XLMRXLEmbedder("nano", device=d, batch_tokens=48).fit_transform(TEXTS),
    "masked lm": lambda d: XLMRXLMaskedLM("nano", device=d, batch_tokens=48).pseudo_log_likelihood(TEXTS[:3]),
    "fill mask": lambda d: np.array(
        XLMRXLMaskedLM("nano", device=d, batch_tokens=48).fill_mask([f"a <mask> {text}" for text in TEXTS]).to_numpy()
    ),
    "generator": lambda d: XLMRXLGenerator(**FIT, device=d).fit(TEXTS).log_likelihood(TEXTS),
}


SLOW = ["own weights", "head and trimmed vocabulary", "generator"]


@pytest.mark.parametrize("name", [pytest.param(use, marks=pytest.mark.slow if use in SLOW else []) for use in USES])
def test_second_gpu_and_all_gpus_give_what_the_first_gives(two, name):
    found, shares = [], []
    for device in ("cuda:0", "cuda:1", "cuda:all"):
        clear_features()
        if two is None:
            found.append(USES[name](device))
            continue
        with two.counting() as counts:
            found.append(USES[name](device))
        shares.append({index for index, n in counts.operators_of_devices.items() if n})
    for other in found[1:]:
        if found[0].dtype == object:
            assert other.tolist() == found[0].tolist()
        else:
            np.testing.assert_allclose(other, found[0], rtol=0, atol=0 if two is not None else 0.01)
    if two is not None:
        assert shares == [{0}, {1}, {0, 1}]


def test_model_on_the_second_gpu_runs_while_the_first_is_current(two):
    load, options = skxlmr.model.XLMRobertaXLModel.from_pretrained, {"load_in_8bit": True, "add_pooling_layer": False}
    model = load("nano", device="cuda:1", **options).eval()
    ids = torch.tensor([[0, 7, 8, 9, 2]])
    with torch.no_grad():
        found = model(ids.to("cuda:1")).last_hidden_state
        assert str(found.device) == "cuda:1"
        on_first = load("nano", device="cuda:0", **options).eval()
        torch.testing.assert_close(found.cpu(), on_first(ids.to("cuda:0")).last_hidden_state.cpu())
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("device", ["cuda:1", "cuda:all"])
def test_generate_on_the_second_or_all_gpus_equals_the_first(two, device):
    generator = XLMRXLGenerator(**FIT, load_in_8bit=True, device="cuda:0").fit(TEXTS[:2])
    expected = generator.generate(TEXTS[:2], max_new_tokens=3).tolist()
    assert generator.set_params(device=device).generate(TEXTS[:2], max_new_tokens=3).tolist() == expected


def test_random_numbers_of_a_fit_are_those_of_its_own_gpu(two):
    torch.manual_seed(1)
    before = [torch.cuda.get_rng_state(index) for index in range(2)]
    XLMRXLClassifier(**FIT, device="cuda:1").fit(TEXTS, LABELS)
    for index in range(2):
        assert torch.equal(torch.cuda.get_rng_state(index), before[index])


def test_base_models_are_kept_per_gpu_and_shared(two):
    first, second, both = (get_backbone("nano", device=device) for device in ("cuda:0", "cuda:1", "cuda:all"))
    assert [each.model.device.index for each in (first, second, both)] == [0, 1, 0]
    assert [each.model for each in both.everywhere] == [first.model, second.model]
    with torch.cuda.device(1):
        assert get_backbone("nano", device="cuda").model is second.model


def test_features_of_one_gpu_serve_another_of_its_kind(two, tmp_path):
    expected = XLMRXLEmbedder("nano", device="cuda:0", memory=tmp_path).fit_transform(TEXTS)
    clear_features()
    if two is not None:
        with two.counting() as counts:
            found = XLMRXLEmbedder("nano", device="cuda:1", memory=tmp_path).fit_transform(TEXTS)
        assert not counts.operators_of_layers
        np.testing.assert_array_equal(found, expected)


def test_error_on_one_gpu_surfaces_and_names_the_cause(two, monkeypatch):
    embedder = XLMRXLEmbedder("nano", device="cuda:all", batch_tokens=48).fit(TEXTS)
    encode = skxlmr.model.XLMRobertaXLModel.encode

    def fails_on_second(self, x, *args, **kwargs):
        if x.get_device() == 1:
            raise ZeroDivisionError("of the second")
        return encode(self, x, *args, **kwargs)

    monkeypatch.setattr(skxlmr.model.XLMRobertaXLModel, "encode", fails_on_second)
    with pytest.raises(ZeroDivisionError, match="of the second"):
        embedder.transform(TEXTS * 50)


def test_estimator_saved_on_a_second_gpu_says_what_to_do_on_a_machine_without(emulate, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        emulate("A10", None, 2)
        clf = XLMRXLClassifier(**FIT, device="cuda:1").fit(TEXTS, LABELS)
        expected = clf.predict_proba(TEXTS)
        clf.save(tmp_path / "saved")
        pickled = pickle.dumps(clf)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        for restored in (skxlmr.load(tmp_path / "saved"), pickle.loads(pickled)):
            with pytest.raises(ValueError, match=r"has 1 CUDA device\(s\).*set_params\(device='auto'\)"):
                restored.predict(TEXTS)
            found = restored.set_params(device="auto").predict_proba(TEXTS)
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_all_gpus_of_a_machine_without_one_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda:all' is not on this machine: .*use device='auto' or 'cpu'"):
        XLMRXLClassifier("nano", device="cuda:all").fit(TEXTS, LABELS)


def test_all_of_one_gpu_is_that_gpu(emulate):
    emulate("A10")
    assert choose_devices("cuda:all") == choose_devices("cuda") == [torch.device("cuda", 0)]
    assert get_backbone("nano", device="cuda:all") is get_backbone("nano", device="cuda")


def test_memory_estimate_is_for_the_gpu_with_the_least_memory(emulate):
    gpu = emulate("A10", None, 2)
    gpu.memories[1].total = 10**9
    estimate = memory_estimate(device="cuda:all")
    assert (estimate.device, estimate.available) == ("cuda:1", 10**9)
    assert not estimate.fits
    assert memory_estimate(device="cuda:0").device == "cuda:0"
    gpu.memories[1].total = 10**5
    with pytest.raises(NotEnoughMemoryError, match="on cuda:1"):
        get_backbone("nano", device="cuda:all")


def test_dtype_and_storage_are_the_same_on_different_gpus(emulate, monkeypatch):
    gpu = emulate("A10", None, 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: torch.cuda.current_device() == 0)
    config = XLMRobertaXLConfig()
    assert choose_dtype("auto", choose_device("cuda:0"), config) == torch.bfloat16
    assert choose_dtype("auto", choose_device("cuda:1"), config) == torch.float16
    both = get_backbone("nano", device="cuda:all")
    assert {each.model.dtype for each in both.everywhere} == {torch.float16}
    assert gpu.memories[1].allocated > 0
