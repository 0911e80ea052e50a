"""Directories of saved estimators that are damaged or hostile: they are refused."""

import json

import joblib
import numpy as np
import pytest

import skxlmr
from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.saving.estimators import NAME

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
SETTINGS = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}


@pytest.fixture
def saved(tmp_path):
    XLMRXLClassifier(**SETTINGS).fit(TEXTS, LABELS).save(tmp_path / "clf")
    return tmp_path / "clf"


LORA = {"kind": "object", "class": "LoRA", "parameters": {}, "fitted": {}}


def nested(depth):
    return [nested(depth - 1)] if depth else []


def damage(directory, change):
    content = json.loads((directory / NAME).read_text())
    change(content)
    (directory / NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=4), "in format 4; this version reads format 3"),
        (lambda c: c.update({"class": "Popen"}), "is not one of .*XLMRXLClassifier, "),
        (lambda c: c["parameters"].update(tuning={"kind": "object", "class": "Popen", "parameters": {}}), "damaged"),
        (lambda c: c["parameters"].update(shell="rm"), "damaged"),
        (lambda c: c["fitted"].update(predict="mine"), "attribute 'predict'"),
        (lambda c: c["fitted"].update(__class__="mine"), "attribute '__class__'"),
        (lambda c: c["tensors"].update(file="../other.safetensors"), "plain names"),
        (lambda c: c["tensors"].update(sha256="0" * 64), "missing or damaged"),
        (lambda c: c["fitted"].update(x_=nested(100)), rf"{NAME} is not valid JSON: it is nested deeper than 100"),
        (lambda c: c["fitted"].update(x_=nested(600)), rf"{NAME} is not valid JSON: it is nested deeper than 100"),
        (lambda c: c["fitted"].update(x_={"kind": "strings", "dtype": "<U9999999", "items": ["a"] * 99}), "too large"),
        (lambda c: c["finetuned"]["config"].update(hidden_size=96), "its tensors are not those"),
        (lambda c: c["finetuned"].update(tuning=LORA), "its tensors are not those of its tuning"),
        (lambda c: c.pop("finetuned"), "has no trained weights"),
        (lambda c: c.pop("base"), "damaged.*base"),
        (lambda c: c["base"].pop("fingerprint"), "damaged.*fingerprint"),
        (lambda c: c["base"].update(fingerprint=5), r"base.fingerprint must be a string, got 5"),
        (lambda c: c["fitted"].pop("n_features_in_"), "pairs_=None, but n_features_in_=None"),
        (lambda c: c["fitted"].pop("classes_"), "has no attribute 'classes_'"),
        (lambda c: c["fitted"].update(classes_=["no", "yes", "perhaps"]), "classes_ must be an array, got"),
        (lambda c: c["fitted"]["classes_"]["items"].append("z"), "its tensors are not those of its tuning"),
        (lambda c: c["fitted"].update(classes_=5), "damaged"),
        (lambda c: c.pop("fitted"), "damaged"),
    ],
)  # fmt: skip
def test_load_of_damaged_file_raises(saved, change, message):
    damage(saved, change)
    with pytest.raises(CheckpointError, match=message):
        skxlmr.load(saved)


FITTED = {
    "embedder": lambda: XLMRXLEmbedder("nano").fit(TEXTS),
    "regressor": lambda: XLMRXLRegressor(**SETTINGS).fit(TEXTS, np.arange(8.0)),
    "tagger": lambda: XLMRXLTagger(**SETTINGS).fit([["a", "b"]] * 2, [["O", "B-X"]] * 2),
    "qa": lambda: XLMRXLQA(**SETTINGS).fit([["who", "a b"]] * 2, ["a", "b"]),
    "choice": lambda: XLMRXLMultipleChoice(**SETTINGS).fit([["why", "a", "b"]] * 2, [0, 1]),
}


@pytest.mark.parametrize("name", FITTED)
def test_load_without_needed_attribute_raises_and_names_it(name, tmp_path):
    """Without any one attribute the file is refused, or the loaded estimator still predicts."""
    fitted = FITTED[name]()
    X = {"tagger": [["a", "b"]], "qa": [["who", "a b"]], "choice": [["why", "a", "b"]]}.get(name, TEXTS)
    fitted.save(tmp_path)
    whole = (tmp_path / NAME).read_text()
    refused = {}
    for attribute in json.loads(whole)["fitted"]:
        damage(tmp_path, lambda content, attribute=attribute: content["fitted"].pop(attribute))
        try:
            loaded = skxlmr.load(tmp_path)
        except CheckpointError as error:
            refused[attribute] = str(error)
        else:
            (loaded.transform if name == "embedder" else loaded.predict)(X)
        (tmp_path / NAME).write_text(whole)
    refused.pop("n_features_in_", None)  # which only models of transformers may lack, since they take texts and pairs
    assert refused.keys() == set(fitted._fitted_names())
    assert all(f"has no attribute {attribute!r}" in message for attribute, message in refused.items())


def test_load_with_truncated_tensor_file_raises(saved):
    (tensors,) = saved.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        skxlmr.load(saved)


def test_load_ignores_joblib_memory_of_file(saved, tmp_path):
    clf = XLMRXLClassifier(**SETTINGS, memory=joblib.Memory(tmp_path / "cache", verbose=0)).fit(TEXTS, LABELS)
    clf.save(tmp_path / "again")
    assert skxlmr.load(tmp_path / "again").memory is None
    damage(saved, lambda c: c["parameters"].update(memory=str(tmp_path / "evil")))
    skxlmr.load(saved).predict(TEXTS)
    assert not (tmp_path / "evil").exists()
