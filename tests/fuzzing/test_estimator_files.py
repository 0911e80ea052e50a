"""Files of fitted estimators and of trainings, changed at random: they work, or are refused when they are read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fuzzing import as_bytes, mutated_bytes, mutated_json, reads
from hypothesis import given
from hypothesis import strategies as st

import skxlmr
from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.saving.estimators import NAME
from skxlmr.training import Callback
from skxlmr.training.checkpointing import NAME as TRAINING
from skxlmr.training.checkpointing import read_checkpoint, write_checkpoint

TEXTS = ["good", "bad", "fine", "poor"]
SETTINGS = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}
PAIRS = [[text, "film"] for text in TEXTS]
FITTED = {
    "classifier": (lambda: XLMRXLClassifier(**SETTINGS).fit(TEXTS, ["yes", "no"] * 2), TEXTS),
    "lora": (lambda: XLMRXLClassifier(**{**SETTINGS, "tuning": "lora"}).fit(TEXTS, [1, 0] * 2), TEXTS),
    "trimmed": (lambda: XLMRXLClassifier(**SETTINGS, vocabulary="trim").fit(TEXTS, [1, 0] * 2), TEXTS),
    "pairs": (lambda: XLMRXLClassifier(**SETTINGS).fit(PAIRS, [1, 0] * 2), PAIRS),
    "regressor": (lambda: XLMRXLRegressor(**SETTINGS).fit(TEXTS, np.arange(4.0)), TEXTS),
    "tagger": (lambda: XLMRXLTagger(**SETTINGS).fit([["a", "b"]] * 2, [["O", "B-X"]] * 2), [["a", "b"]]),
    "qa": (lambda: XLMRXLQA(**SETTINGS).fit([["who", "a b"]] * 2, ["a", "b"]), [["who", "a b"]]),
    "choice": (lambda: XLMRXLMultipleChoice(**SETTINGS).fit([["why", "a", "b"]] * 2, [0, 1]), [["why", "a", "b"]]),
    "language model": (lambda: XLMRXLMaskedLM("nano", tuning="lora", max_epochs=1).fit(TEXTS), ["a <mask>"]),
    "embedder": (lambda: XLMRXLEmbedder("nano", n_components=2, normalize=True).fit(TEXTS), TEXTS),
    "trained embedder": (
        lambda: XLMRXLEmbedder("nano", objective="classes", max_epochs=1, n_dims=8).fit(TEXTS * 2, [1, 0] * 4),
        TEXTS,
    ),
}


@pytest.fixture(scope="module", params=FITTED)
def saved(request, tmp_path_factory):
    """The folder of a fitted estimator, and X for it."""
    make, X = FITTED[request.param]
    folder = tmp_path_factory.mktemp("saved") / "estimator"
    make().save(folder)
    return folder, X


def use(estimator, X):
    """Run everything that predicts; for a right file it raises nothing."""
    for name in ("predict", "predict_proba", "transform", "fill_mask"):
        if hasattr(estimator, name):
            getattr(estimator, name)(X)


@given(data=st.data())
def test_estimator_with_changed_attributes_works_or_is_refused_by_load(saved, data):
    folder, X = saved
    whole = (folder / NAME).read_bytes()
    content = json.loads(whole)
    inside = data.draw(st.sampled_from([("fitted",), ("fitted",), ("base",), ("finetuned",)]))
    if inside == ("base",):
        content["base"].pop("fingerprint")  # of another model is right, too
    changed = data.draw(mutated_json(content, inside))
    if inside == ("base",) and isinstance(changed.get("base"), dict):
        changed["base"]["fingerprint"] = json.loads(whole)["base"]["fingerprint"]
    (folder / NAME).write_bytes(as_bytes(changed))
    try:
        estimator = reads(lambda: skxlmr.load(folder), errors=(CheckpointError,))
    finally:
        (folder / NAME).write_bytes(whole)
    if estimator is not None:
        reads(lambda: use(estimator, X), errors=())


@given(data=st.data())
def test_estimator_with_changed_file_works_or_is_refused(saved, data):
    folder, X = saved
    whole = (folder / NAME).read_bytes()
    changed = mutated_json(json.loads(whole)).map(as_bytes) | mutated_bytes(whole)
    (folder / NAME).write_bytes(data.draw(changed))
    try:
        reads(lambda: use(skxlmr.load(folder), X), warning="has no weights for")
    finally:
        (folder / NAME).write_bytes(whole)


@given(data=st.data())
def test_estimator_with_changed_tensors_works_or_is_refused_by_load(saved, data):
    folder, X = saved
    folder = shutil.copytree(folder, folder.with_name("copy"), dirs_exist_ok=True)
    content = json.loads((folder / NAME).read_bytes())
    path = folder / content["tensors"]["file"]
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = mutated_json(json.loads(whole[8 : 8 + size])).map(as_bytes)
    changed = data.draw(header.map(lambda h: len(h).to_bytes(8, "little") + h + whole[8 + size :]))
    content["tensors"].update(bytes=len(changed), sha256=hashlib.sha256(changed).hexdigest())
    path.write_bytes(changed)
    (folder / NAME).write_bytes(as_bytes(content))
    estimator = reads(lambda: skxlmr.load(folder), errors=(CheckpointError,))
    path.write_bytes(whole)
    if estimator is not None:
        reads(lambda: use(estimator, X), errors=())


class KilledError(Exception):
    pass


class Killed(Callback):
    def on_epoch_end(self, trainer):
        raise KilledError


FIT = {"model": "nano", "tuning": "lora", "max_epochs": 2, "batch_size": 2, "random_state": 0}


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The file of a training that was killed, and what it would have learned."""
    expected = XLMRXLClassifier(**FIT).fit(TEXTS, [1, 0] * 2).predict_proba(TEXTS)
    folder = tmp_path_factory.mktemp("training")
    with pytest.raises(KilledError):
        XLMRXLClassifier(**FIT, checkpoint_dir=folder, checkpoint_steps=1, callbacks=[Killed()]).fit(TEXTS, [1, 0] * 2)
    path = next(folder.rglob(TRAINING))
    return path, path.read_bytes(), expected


def resume(path: Path) -> np.ndarray:
    clf = XLMRXLClassifier(**FIT, checkpoint_dir=path.parent.parent, checkpoint_steps=1000)
    return clf.fit(TEXTS, [1, 0] * 2).predict_proba(TEXTS)


@given(data=st.data())
def test_training_with_changed_file_gives_the_result_without_it(training, data):
    path, whole, expected = training
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(mutated_bytes(whole)))
    found = reads(lambda: resume(path), errors=(), warning=".* is damaged")
    np.testing.assert_array_equal(found, expected)


@given(data=st.data())
def test_training_with_changed_content_and_right_checksum_resumes_or_is_refused(training, data):
    path, whole, _ = training
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(whole)
    numbers, tensors = read_checkpoint(path.parent)
    numbers = data.draw(mutated_json(numbers))
    others = [torch.zeros(0), torch.zeros(3), torch.zeros(1, 1, dtype=torch.int8)]
    if data.draw(st.booleans()):
        tensors[data.draw(st.sampled_from(sorted(tensors)))] = data.draw(st.sampled_from(others))
    write_checkpoint(path.parent, numbers, tensors)
    errors, warning = (CheckpointError, FloatingPointError), ".*(is damaged|did not learn|worse)"
    reads(lambda: resume(path), errors=errors, warning=warning)
    path.unlink(missing_ok=True)


def test_files_begin_right(saved, training):
    """What the examples change works before."""
    folder, X = saved
    use(skxlmr.load(folder), X)
    path, whole, expected = training
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(whole)
    np.testing.assert_array_equal(resume(path), expected)
    assert safetensors.torch.load(whole)
