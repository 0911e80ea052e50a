"""Checkpoints of a training that are damaged, or have a wrong content."""

import numpy as np
import pytest
import torch

from skxlmr import XLMRXLClassifier
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.training import Callback
from skxlmr.training.checkpointing import NAME, read_checkpoint, write_checkpoint

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"] * 2
LABELS = ["yes", "no"] * 12
SMALL = {"tuning": "lora", "max_epochs": 3, "batch_size": 4, "random_state": 0}


class KilledError(Exception):
    pass


class KilledAfterAnEpoch(Callback):
    def on_epoch_end(self, trainer):
        raise KilledError


def killed(directory, **parameters):
    """Fit until the end of the first epoch, and return the checkpoint that is left."""
    clf = XLMRXLClassifier("nano", **{**SMALL, **parameters}, checkpoint_dir=directory, checkpoint_steps=1)
    with pytest.raises(KilledError):
        clf.set_params(callbacks=[KilledAfterAnEpoch()]).fit(TEXTS, LABELS)
    return next(directory.rglob(NAME))


def resumed(directory, **parameters):
    return XLMRXLClassifier("nano", **{**SMALL, **parameters}, checkpoint_dir=directory).fit(TEXTS, LABELS)


@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_fit_with_a_flipped_bit_in_the_checkpoint_warns_and_equals_an_uninterrupted_one(place, tmp_path):
    expected = XLMRXLClassifier("nano", **SMALL).fit(TEXTS, LABELS).predict_proba(TEXTS)
    path = killed(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged.* training starts from the beginning"):
        again = resumed(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), expected)


def test_fit_without_random_state_warns_once_of_a_damaged_checkpoint(tmp_path):
    path = killed(tmp_path, random_state=None)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged") as caught:
        resumed(tmp_path, random_state=None)
    assert len([warning for warning in caught if "is damaged" in str(warning.message)]) == 1


def change_numbers(path, change):
    """Write a checkpoint again whose checksum is right, but whose content is not."""
    numbers, tensors = read_checkpoint(path.parent)
    change(numbers, tensors)
    write_checkpoint(path.parent, numbers, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, t: n.update(position=[]), "position must be an object, got"),
        (lambda n, t: n.pop("optimizer"), "has no 'optimizer', which must be an object"),
        (lambda n, t: n.update(callbacks={"0": {}}), "callbacks must be a list"),
        (lambda n, t: n["position"].update(epoch="1"), "position.epoch must be an integer"),
        (lambda n, t: n["position"].update(epoch=-1), "position.epoch must be an integer from 0"),
        (lambda n, t: n["position"].update(epoch=4), "cannot be at"),
        (lambda n, t: n["position"].update(rows_done=10**9), "cannot be at"),
        (lambda n, t: n["position"].update(history=[[]]), r"position.history\[0\] must be an object"),
        (lambda n, t: n["position"].update(batch_tokens=0), "batch_tokens must be an integer from 1"),
        (lambda n, t: n["optimizer"].update({"999.step": 3}), "its optimizer has '999.step'"),
        (lambda n, t: n["optimizer"].update({"": 3}), "its optimizer has ''"),
        (lambda n, t: t.pop("optimizer/0.exp_avg"), "state of its optimizer is not complete"),
        (lambda n, t: t.update({"optimizer/0.exp_avg": torch.zeros(1)}), r"'0.exp_avg' of shape \(1,\)"),
        (lambda n, t: t.update({"random/0": torch.zeros(3)}), "random states of this device"),
        (lambda n, t: t.pop("random/0"), "random states of this device"),
        (lambda n, t: t.update({"random/0": torch.zeros_like(t["random/0"])}), "its random state is not valid"),
        (lambda n, t: t.update({"learned/x": torch.zeros(3)}), "its tensors learned/'x' are not those"),
    ],
)  # fmt: skip
def test_fit_with_wrong_content_in_the_checkpoint_raises_and_names_it(change, message, tmp_path):
    path = killed(tmp_path)
    change_numbers(path, change)
    with pytest.raises(CheckpointError, match=message):
        resumed(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, t: n["callbacks"].append({}), "written with 2 callbacks"),
        (lambda n, t: n["callbacks"].__setitem__(0, {}), "has no 'scores'"),
        (lambda n, t: n["callbacks"][0].update(scores=["a"]), r"scores\[0\] must be a number"),
        (lambda n, t: n["callbacks"][0].update(n_without_improvement=None), "n_without_improvement must be an integer"),
        (lambda n, t: t.update({"callback0/x": torch.zeros(3)}), "best weights/'x'"),
    ],
)  # fmt: skip
def test_fit_with_wrong_scores_in_the_checkpoint_raises_and_names_it(change, message, tmp_path):
    stopping = {"early_stopping": True, "validation_fraction": 0.25}
    path = killed(tmp_path, **stopping)
    change_numbers(path, change)
    with pytest.raises(CheckpointError, match=message):
        resumed(tmp_path, **stopping)
