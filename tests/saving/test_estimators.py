"""Saving estimators to directories."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skxlmr
from skxlmr import (
    Bias,
    Full,
    Int8,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
)
from skxlmr.checkpoints.errors import ModelNotFoundError
from skxlmr.checkpoints.fingerprint import file_fingerprint_of
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.saving.estimators import NAME
from skxlmr.training import Callback

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, "max_epochs": 2, **parameters})


@pytest.fixture
def saved(tmp_path):
    clf = classifier().fit(TEXTS, LABELS)
    clf.save(tmp_path / "clf")
    return tmp_path / "clf"


@pytest.mark.parametrize(
    "tuning",
    ["head", "lora", "full", LoRA(rank=2, targets=["up", "key"], layers=1), Bias(layers=2), Full(layers=1)],
    ids=str,
)
def test_load_with_each_tuning_restores_classifier(tuning, tmp_path):
    clf = classifier(
        tuning=tuning, model=Path(skxlmr.__file__).parent / "bundled" / "nano", class_weight={"no": 2.0, "yes": 1}
    )
    clf.fit(pd.DataFrame({"review": TEXTS}), LABELS, X_val=pd.DataFrame({"review": TEXTS}), y_val=LABELS)
    clf.save(tmp_path)
    again = skxlmr.load(tmp_path)
    assert type(again) is XLMRXLClassifier
    assert repr(again.get_params()) == repr(clf.get_params())
    frame = pd.DataFrame({"review": [*TEXTS, "something new"]})
    np.testing.assert_array_equal(again.predict_proba(frame), clf.predict_proba(frame))
    np.testing.assert_array_equal(again.predict(frame), clf.predict(frame))
    pd.testing.assert_frame_equal(again.history_, clf.history_)
    fitted = [name for name in vars(clf) if name.endswith("_") and name != "history_"]
    for name in fitted:
        np.testing.assert_array_equal(getattr(again, name), getattr(clf, name))
    assert {"classes_", "n_iter_", "validation_scores_", "feature_names_in_"} <= set(fitted)
    clone(again).fit(frame, ["yes"] * 5 + ["no"] * 4)
    again.save(tmp_path / "again")  # a loaded estimator can be saved again


@pytest.mark.parametrize("n_components", [None, 3])
def test_load_restores_embedder(n_components, tmp_path):
    embedder = XLMRXLEmbedder("nano", n_components=n_components, layer=2, load_in_8bit=Int8(), normalize=True).fit(
        TEXTS
    )
    embedder.save(tmp_path)
    again = skxlmr.load(tmp_path)
    np.testing.assert_array_equal(again.transform(TEXTS), embedder.transform(TEXTS))
    assert again.get_feature_names_out().tolist() == embedder.get_feature_names_out().tolist()


@pytest.mark.parametrize(
    "labels",
    [[1, 0], [1.0, 2.0], [True, False], ["ja", "näé"], np.array(["a", "b"], object), np.array([3, 4], np.int8),
     np.array([3, 60_000], np.uint16), np.array([3, 2**32 - 1], np.uint32), np.array([3, 2**63], np.uint64),
     ["a", "\ud800"], np.array(["2020", "2021"], "datetime64[ns]"), np.array([1, 2], "timedelta64[D]")],
    ids=["int", "float", "bool", "str", "object", "int8", "uint16", "uint32", "uint64", "surrogate", "date", "days"],
)  # fmt: skip
def test_load_restores_classes_of_any_dtype(labels, tmp_path):
    clf = classifier().fit(TEXTS, np.tile(labels, 4))
    clf.save(tmp_path)
    classes = skxlmr.load(tmp_path).classes_
    np.testing.assert_array_equal(classes, clf.classes_)
    assert classes.dtype == clf.classes_.dtype


def test_load_defers_backbone_to_first_prediction(saved, monkeypatch):
    loaded = []
    get_backbone = skxlmr.runtime.base_choice.get_backbone
    monkeypatch.setattr(
        "skxlmr.runtime.base_choice.get_backbone", lambda *a, **k: loaded.append(a) or get_backbone(*a, **k)
    )
    clf = skxlmr.load(saved)
    assert not loaded
    clf.predict(TEXTS)
    assert loaded == [("nano",)]


def test_predict_with_other_checkpoint_than_saved_raises(saved):
    content = json.loads((saved / NAME).read_text())
    content["base"]["fingerprint"] = "0" * 64
    (saved / NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="fitted on another checkpoint than model='nano' is now"):
        skxlmr.load(saved).predict(TEXTS)


def test_predict_with_same_weights_in_other_files(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).save_pretrained(first)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(first)
    (first / "skxlmr.json").unlink()
    clf = XLMRXLClassifier(first, tuning="head", random_state=0).fit(TEXTS, LABELS)
    clf.save(tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / NAME).read_text())
    shutil.copytree(first, second)
    torch.save(load_file(second / "model.safetensors"), second / "pytorch_model.bin")
    (second / "model.safetensors").unlink()
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "transformers_version": "4.30.0"}))
    files = resolve(first)
    content["base"]["fingerprint"] = file_fingerprint_of([files.config, files.tokenizer], files.weights)
    (tmp_path / "saved" / NAME).write_text(json.dumps(content))
    of_earlier_version = skxlmr.load(tmp_path / "saved")
    assert of_earlier_version.predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
    clf.save(tmp_path / "saved")
    first.rename(tmp_path / "moved")
    loaded = skxlmr.load(tmp_path / "saved")
    with pytest.raises(ModelNotFoundError, match=r"was fitted on it.*set_params\(model=\.\.\.\) with its new place"):
        loaded.predict(TEXTS)
    np.testing.assert_array_equal(loaded.set_params(model=second).predict_proba(TEXTS), clf.predict_proba(TEXTS))


class XLMRXLShouter(XLMRXLClassifier):
    """A user's subclass with an inherited constructor."""

    def predict(self, X):
        return np.char.upper(super().predict(X))


def test_load_restores_user_subclass(tmp_path):
    clf = XLMRXLShouter("nano", tuning="head", max_epochs=1).fit(TEXTS, LABELS)
    clf.save(tmp_path)
    again = skxlmr.load(tmp_path)
    assert type(again) is XLMRXLShouter
    assert set(again.predict(TEXTS)) <= {"YES", "NO"}


def test_save_of_class_with_taken_name_raises(saved, tmp_path):
    mine = type("XLMRXLClassifier", (XLMRXLClassifier,), {"__module__": "mine"})
    with pytest.raises(TypeError, match="another class has that name"):
        mine("nano", tuning="head", max_epochs=1).fit(TEXTS, LABELS).save(tmp_path / "mine")
    assert type(skxlmr.load(saved)) is XLMRXLClassifier


def test_save_with_metadata_requests_restores_predictions(tmp_path):
    with config_context(enable_metadata_routing=True):
        clf = classifier().set_fit_request(sample_weight=True).fit(TEXTS, LABELS)
        clf.save(tmp_path)
        np.testing.assert_array_equal(skxlmr.load(tmp_path).predict(TEXTS), clf.predict(TEXTS))


def test_save_after_killed_save_removes_its_leftovers(tmp_path):
    names = ("tensors-0123456789abcdef.safetensors", f".{NAME}.0123456789abcdef.tmp", ".incomplete-1", ".tmpA1b2C3")
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    clf = classifier().fit(TEXTS, LABELS)
    clf.save(tmp_path)
    assert skxlmr.load(tmp_path).n_iter_ == clf.n_iter_
    assert len(os.listdir(tmp_path)) == 3, "leftovers are removed"


def test_save_of_unfitted_estimator_raises(tmp_path):
    with pytest.raises(NotFittedError):
        classifier().save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


class Saver(Callback):
    """Save the estimator after each step of its own fit; a callback itself is not saved."""

    def __init__(self, clf, directory):
        self.clf, self.directory, self.n_saved = clf, directory, 0

    def on_step_end(self, trainer):
        self.clf.set_params(callbacks=None).save(self.directory)
        self.n_saved += 1


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("tuning", ["head", "lora", "full"])
def test_save_by_callback_of_next_fit_writes_earlier_fit(tuning, warm_start, tmp_path):
    clf = classifier(tuning=tuning, warm_start=warm_start).fit(TEXTS, LABELS)
    before = clf.predict_proba(TEXTS)
    saver = Saver(clf, tmp_path)
    clf.set_params(callbacks=[saver], learning_rate=1e-2).fit(TEXTS, LABELS)
    assert saver.n_saved == 2
    assert not np.allclose(clf.predict_proba(TEXTS), before, atol=1e-4), "the next fit has changed nothing"
    np.testing.assert_allclose(skxlmr.load(tmp_path).predict_proba(TEXTS), before, atol=1e-6)


def test_save_by_callback_of_first_fit_raises(tmp_path):
    clf = classifier()
    with pytest.raises(NotFittedError):
        clf.set_params(callbacks=[Saver(clf, tmp_path)]).fit(TEXTS, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_save_while_another_thread_fits_writes_one_whole_fit(tmp_path):
    targets = {2: LABELS, 4: ["a", "b", "c", "d"] * 2}
    expected = {n: classifier(max_epochs=1).fit(TEXTS, y).predict_proba(TEXTS) for n, y in targets.items()}
    clf = classifier(max_epochs=1).fit(TEXTS, LABELS)
    done = threading.Event()

    def fit():
        while not done.is_set():
            for y in targets.values():
                clf.fit(TEXTS, y)

    thread = threading.Thread(target=fit)
    thread.start()
    try:
        for _ in range(30):
            clf.save(tmp_path)
            again = skxlmr.load(tmp_path)
            n = len(again.classes_)
            np.testing.assert_allclose(again.predict_proba(TEXTS), expected[n], atol=1e-5)
    finally:
        done.set()
        thread.join(60)
    assert not thread.is_alive()


def test_set_fitted_is_seen_whole_by_other_threads():
    """The attributes of two fits are never there together, nor neither of them."""
    clf, done, seen = classifier(), threading.Event(), set()
    clf._set_fitted({"a_": 1, "only_a_": 1, "_finetuned": 1})

    def look():
        while not done.is_set():
            state = vars(clf).copy()
            seen.add(tuple(name for name in ("a_", "only_a_", "_finetuned", "b_") if name in state))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20_000):
        clf._set_fitted({"a_": 2, "b_": 2})
        clf._set_fitted({"a_": 1, "only_a_": 1, "_finetuned": 1})
    done.set()
    thread.join(60)
    assert seen <= {("a_", "b_"), ("a_", "only_a_", "_finetuned")}
    assert clf.get_params()["max_epochs"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("random_state", np.random.RandomState(0)), ("callbacks", [Callback()])],
    ids=["random_state", "callbacks"],
)
def test_save_with_unsupported_parameter_raises_and_names_it(name, value, tmp_path):
    clf = classifier(**{name: value}).fit(TEXTS, LABELS)
    with pytest.raises(TypeError, match=rf"the parameter {name}.*set_params\({name}="):
        clf.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_save_over_saved_estimator_is_atomic(saved, monkeypatch):
    first = skxlmr.load(saved)
    second = classifier(max_epochs=3).fit(TEXTS, LABELS[::-1])
    for step in ("os.replace", "os.write", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(step, lambda *args: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                second.save(saved)
        np.testing.assert_array_equal(skxlmr.load(saved).predict_proba(TEXTS), first.predict_proba(TEXTS))
        assert len(os.listdir(saved)) == 3
    second.save(saved)
    assert skxlmr.load(saved).n_iter_ == 3
    assert len(os.listdir(saved)) == 3
    XLMRXLEmbedder("nano").fit(TEXTS).save(saved)
    assert isinstance(skxlmr.load(saved), XLMRXLEmbedder)


def test_save_into_directory_with_other_files_raises(saved, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        skxlmr.load(saved).save(tmp_path)
    with pytest.raises(FileExistsError, match=r"notes\.txt is a file; an estimator is saved as a directory"):
        skxlmr.load(saved).save(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="holds no saved estimator"):
        skxlmr.load(tmp_path)
