"""Pickles hold the learned weights and nothing of the backbone."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from skxlmr import Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.model import XLMRobertaXLModel
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
OVERHEAD = 20_000  # bytes, for names, history and the like


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "random_state": 0, "max_epochs": 1, **parameters})


def learned_bytes(clf):
    return sum(parameter.nbytes for parameter in clf._finetuned.parameters())


@pytest.mark.parametrize("tuning", ["head", "lora", "bias", "full", Full(layers=1), LoRA(rank=32)], ids=str)
@pytest.mark.parametrize("dumps", [pickle.dumps, None], ids=["pickle", "joblib"])
def test_pickle_with_each_tuning_holds_learned_weights_only(tuning, dumps, tmp_path):
    clf = classifier(tuning=tuning).fit(TEXTS, LABELS)
    if dumps is None:
        joblib.dump(clf, tmp_path / "clf.joblib")
        size, again = (tmp_path / "clf.joblib").stat().st_size, joblib.load(tmp_path / "clf.joblib")
    else:
        size, again = len(dumps(clf)), pickle.loads(dumps(clf))
    assert size <= 1.1 * learned_bytes(clf) + OVERHEAD
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert again.get_params()["tuning"].__class__ is clf.get_params()["tuning"].__class__


def test_pickle_after_partial_fit_holds_no_optimizer_state():
    clf = classifier(tuning="lora").partial_fit(TEXTS, LABELS, classes=["yes", "no"])
    assert len(pickle.dumps(clf)) <= 1.1 * learned_bytes(clf) + OVERHEAD


def test_pickle_of_grid_search_holds_no_backbone():
    grid = GridSearchCV(classifier(tuning="lora"), {"tuning": [LoRA(rank=2), LoRA(rank=4)]}, cv=2).fit(TEXTS, LABELS)
    assert len(pickle.dumps(grid)) <= 1.1 * learned_bytes(grid.best_estimator_) + OVERHEAD
    assert len(pickle.dumps(XLMRXLEmbedder("nano").fit(TEXTS))) < OVERHEAD


def test_unpickle_in_fresh_process_loads_backbone_at_first_prediction(tmp_path):
    clf = classifier(tuning=LoRA(rank=2)).fit(TEXTS, LABELS)
    (tmp_path / "clf.pkl").write_bytes(pickle.dumps(clf))
    program = (
        "import pickle, sys\n"
        "clf = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from skxlmr.runtime import backbone\n"
        "assert not backbone._pool\n"
        "print(clf.predict_proba(['good', 'bad']).tolist())\n"
        "assert len(backbone._pool) == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "clf.pkl")], capture_output=True, text=True, check=True
    )
    np.testing.assert_array_equal(np.array(eval(done.stdout), np.float32), clf.predict_proba(["good", "bad"]))


@pytest.mark.parametrize(
    "make", [lambda model: classifier(model=model, tuning="head"), XLMRXLEmbedder], ids=["classifier", "embedder"]
)
def test_unpickle_with_changed_checkpoint_raises_in_prediction(make, tmp_path):
    base = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    base.save_pretrained(tmp_path)
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    estimator = make(str(tmp_path)).fit(TEXTS, LABELS)
    dump = pickle.dumps(estimator)
    base.norm.weight.data.mul_(2)
    base.save_pretrained(tmp_path)
    again = pickle.loads(dump)
    with pytest.raises(ValueError, match=f"another checkpoint than model='{tmp_path}' is now"):
        getattr(again, "predict" if hasattr(again, "predict") else "transform")(TEXTS)
