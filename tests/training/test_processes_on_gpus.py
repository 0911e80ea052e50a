"""Trainings on two processes, each on a GPU of its own; emulated, where gloo takes the place of NCCL."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from training_callbacks import FailOnce

from skxlmr import Full, LoRA, Processes, XLMRXLClassifier
from skxlmr.training import Callback

SUPPORT = Path(__file__).parents[1] / "support"
TEXTS = [("a good film, number %d. " if i % 3 else "a bad book, number %d. ") % i * (1 + i % 3) for i in range(10)]
LABELS = ["good" if i % 3 else "bad" for i in range(10)]
# A text is a micro-batch, however many processes there are, so dropout is the same.
SETTINGS = {"model": "nano", "dtype": "float32", "device": "cuda", "batch_size": 3, "batch_tokens": 1}
SETTINGS |= {
    "max_epochs": 2,
    "random_state": 0,
    "early_stopping": True,
    "validation_fraction": 0.2,
    "init": "random",
    "learning_rate": 1e-3,
}


class Devices(Callback):
    """Remembers on which device rank 0 trains, and how much memory is in use on the first two."""

    def on_step_end(self, trainer):
        self.device = str(trainer.device)
        self.allocated = [torch.cuda.memory_allocated(i) for i in range(2)]


@pytest.fixture
def two_gpus(emulate, monkeypatch):
    """Two A10, here and in processes that start."""
    paths = [SUPPORT / "emulated_at_start", SUPPORT, Path(__file__).parents[2]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setenv("EMULATED_GPUS", f"A10 2 {10**9}")
    return emulate("A10", None, 2)


def classifier(directory, *callbacks, **settings):
    settings = SETTINGS | {"checkpoint_dir": directory, "checkpoint_steps": 2, "callbacks": list(callbacks)} | settings
    return XLMRXLClassifier(**settings)


def assert_same(got, expected):
    np.testing.assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(got.validation_scores_, expected.validation_scores_, rtol=1e-4)
    weights = expected._finetuned.state_dict()
    for name, weight in got._finetuned.state_dict().items():
        np.testing.assert_allclose(weight.cpu(), weights[name].cpu(), atol=2e-4, rtol=0, err_msg=name)  # a step: 1e-3
    np.testing.assert_allclose(got.predict_proba(TEXTS), expected.predict_proba(TEXTS), atol=1e-4)


TRAININGS = {
    "ddp": ("ddp", LoRA(dropout=0.3), []),
    "fsdp of a frozen base": ("fsdp", LoRA(layers=None, dropout=0.3), [pytest.mark.slow]),
    "fsdp": ("fsdp", Full(), []),
}


def trainings(*names):
    """Parametrise a test by the strategy and the tuning of some trainings."""
    chosen = {name: TRAININGS[name] for name in names or TRAININGS}
    values = [pytest.param(*each[:2], marks=each[2]) for each in chosen.values()]
    return pytest.mark.parametrize(("strategy", "tuning"), values, ids=list(chosen))


@trainings()
def test_fit_on_two_gpus_is_that_of_one_gpu(strategy, tuning, two_gpus, tmp_path):
    epochs = {"max_epochs": 1 if strategy == "ddp" else 2}
    one = classifier(tmp_path / "one", tuning=tuning, **epochs).fit(TEXTS, LABELS)
    settings = epochs | {"tuning": tuning, "processes": Processes(2, strategy=strategy)}
    devices = Devices()
    before = two_gpus.memories[1].allocated
    two = classifier(tmp_path, devices, **settings).fit(TEXTS, LABELS)
    assert two_gpus.memories[1].allocated == before  # nothing of the training is in this process
    assert devices.device == "cuda:0"
    assert devices.allocated[0] > 0
    assert devices.allocated[1] == 0
    assert_same(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("n", [None, 2])
@trainings("ddp", "fsdp of a frozen base")
@pytest.mark.usefixtures("two_gpus")
def test_fit_on_two_gpus_that_fails_is_resumed_on_one_or_two(strategy, tuning, n, tmp_path):
    one = classifier(tmp_path / "one", tuning=tuning).fit(TEXTS, LABELS)
    two = Processes(2, strategy=strategy)
    with pytest.raises(ValueError, match="failed on purpose"):
        classifier(tmp_path, FailOnce(5, tmp_path / "failed"), tuning=tuning, processes=two).fit(TEXTS, LABELS)
    assert len(list(tmp_path.glob("fit-*/training.safetensors"))) == 1
    assert_same(classifier(tmp_path, tuning=tuning, processes=n and two).fit(TEXTS, LABELS), one)
