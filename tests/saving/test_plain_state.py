"""What pickles, copies and files of skops hold: plain values and arrays."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pytest
import torch

from skxlmr import Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.checkpoints.errors import CheckpointError

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4


@pytest.fixture(scope="module")
def fitted():
    return XLMRXLClassifier("nano", tuning=LoRA(rank=2), max_epochs=1, random_state=0).fit(TEXTS, LABELS)


def plain(value):
    """Whether a value consists of what skops takes without trusting other types than our own."""
    if isinstance(value, dict):
        return all(map(plain, value)) and all(map(plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    if hasattr(value, "__getstate__") and type(value).__module__.startswith("skxlmr."):
        return plain(value.__getstate__())
    return value is None or isinstance(value, str | int | float | np.ndarray)


@pytest.mark.parametrize("tuning", ["head", LoRA(rank=2), Full(layers=1)], ids=str)
def test_state_is_plain(tuning):
    assert plain(XLMRXLClassifier("nano", tuning=tuning, max_epochs=1).fit(TEXTS, LABELS).__getstate__())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e, 0))])
def test_copies_are_equal_and_ready_for_prediction(fitted, copied):
    before = torch.get_rng_state()
    again = copied(fitted)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert again.history_.equals(fitted.history_)
    assert again.history_.dtypes.equals(fitted.history_.dtypes)
    assert not again._finetuned.training
    assert not any(parameter.requires_grad for parameter in again._finetuned.parameters())


def test_deep_copy_has_its_own_weights(fitted):
    again = copy.deepcopy(fitted)
    for parameter in again._finetuned.parameters():
        parameter.zero_()
    assert any(parameter.any() for parameter in fitted._finetuned.parameters())


def test_load_of_a_mapped_file_gives_weights_that_can_be_written(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "clf.joblib")
    again = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    again.set_params(warm_start=True).fit(TEXTS, LABELS)
    assert again.predict(TEXTS).shape == (8,)


def test_memory_is_kept_in_pickles_and_copies_and_by_no_other_state(tmp_path):
    embedder = XLMRXLEmbedder("nano", memory=str(tmp_path)).fit(TEXTS)
    assert embedder.__getstate__()["memory"] is None
    for again in (pickle.loads(pickle.dumps(embedder)), copy.copy(embedder), copy.deepcopy(embedder)):
        assert again.memory == str(tmp_path)
    again = XLMRXLEmbedder()
    again.__setstate__(embedder.__getstate__() | {"memory": str(tmp_path)})
    assert again.memory is None


def test_pickle_of_estimator_that_its_own_parameter_refers_to_is_restored():
    clf = XLMRXLClassifier("nano", callbacks=[])
    clf.callbacks.append(clf)
    again = pickle.loads(pickle.dumps(clf))
    assert again.callbacks[0] is again
    again = copy.deepcopy(clf)
    assert again.callbacks[0] is again


def test_weights_are_restored_under_another_default_dtype(fitted):
    data = pickle.dumps(fitted)
    torch.set_default_dtype(torch.float64)
    try:
        again = pickle.loads(data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in again._finetuned.parameters()} == {torch.float32}
    np.testing.assert_array_equal(again.predict(TEXTS), fitted.predict(TEXTS))


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("tuning"),
        lambda weights: weights["weights"].popitem(),
        lambda weights: weights["weights"].update(more=np.zeros(1)),
        lambda weights: weights.update(config=5),
        lambda weights: weights.update(tuning=LoRA(rank=3)),
    ],
)
def test_state_with_other_weights_raises(fitted, change):
    state = copy.deepcopy(fitted.__getstate__())
    change(state["_finetuned"])
    with pytest.raises(CheckpointError, match="The state of this XLMRXLClassifier is damaged"):
        XLMRXLClassifier().__setstate__(state)
