"""Trainings on two processes that have the parameters in shards."""

import sys

import numpy as np
import pytest
from float64_fits import fit_in_float64
from training_callbacks import FailOnce, threads_of_the_group

from skxlmr import Float8, Full, LoRA, Processes, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLMaskedLM, XLMRXLTagger
from skxlmr.training.launch import launch
from skxlmr.training.ranks import leave_group

FSDP = Processes(2, strategy="fsdp")
TEXTS = [("a good film, number %d. " if i % 3 else "a bad book, number %d. ") % i * (1 + i % 5) for i in range(29)]
LABELS = ["good" if i % 3 else "bad" for i in range(29)]
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-X" if word == "film," else "O" for word in words] for words in WORDS]
SETTINGS = {"model": "nano", "device": "cpu", "batch_size": 7, "batch_tokens": 64, "max_epochs": 2, "random_state": 0}


def assert_same(got, expected, tolerance):
    (losses, weights), (expected_losses, expected_weights) = got, expected
    assert np.abs(np.subtract(losses, expected_losses)).max() < tolerance
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, expected_weights[name], atol=tolerance, rtol=0, err_msg=name)


def classifier(**settings):
    return XLMRXLClassifier(**SETTINGS | {"init": "random", "tuning": LoRA(rank=2)} | settings)


def resumed(directory, processes, *callbacks, **settings):
    """A training with early stopping, of 4 steps in each of 2 epochs, that a checkpoint resumes."""
    settings = SETTINGS | {"dtype": "float32", "learning_rate": 1e-3, "init": "random", "tuning": Full()} | settings
    settings |= {"checkpoint_dir": directory, "checkpoint_steps": 2, "early_stopping": True}
    settings |= {"batch_tokens": 1}  # a text is a micro-batch, however many processes there are: dropout is the same
    return XLMRXLClassifier(**settings, callbacks=list(callbacks), processes=processes)


def _fit_resumed(directory, processes, tuning, *callbacks):
    return fit_in_float64([(resumed(directory, processes, *callbacks, tuning=tuning), (TEXTS, LABELS))])


def fit_resumed(directory, processes, tuning, *callbacks):
    """Fit in float64, on as many processes as given; return the losses of the epochs and the weights."""
    if processes is None:
        (fitted,) = _fit_resumed(directory, None, tuning, *callbacks)
    else:
        (fitted,) = launch(_fit_resumed, directory, processes, tuning, *callbacks, n=2)
    return fitted


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [Full(), LoRA()], ids=["full", "lora"])
@pytest.mark.parametrize(("first", "second"), [(FSDP, None), (None, FSDP), (FSDP, Processes(2)), (Processes(2), FSDP)])
def test_fit_with_shards_resumes_what_others_have_begun_and_the_other_way_round(first, second, tuning, tmp_path):
    undisturbed = fit_resumed(tmp_path / "undisturbed", None, tuning)
    with pytest.raises(ValueError, match="failed on purpose"):
        fit_resumed(tmp_path, first, tuning, FailOnce(6, tmp_path / "failed"))
    assert len(list(tmp_path.glob("fit-*/training.safetensors"))) == 1
    assert_same(fit_resumed(tmp_path, second, tuning), undisturbed, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_8bit": True, "tuning": LoRA()},
        {"load_in_8bit": Float8(), "tuning": LoRA()},
        {"tuning": LoRA(layers=None)},
    ],
)
def test_fit_with_shards_of_a_frozen_base_is_that_of_one_process(settings):
    settings = {"dtype": "float32", "batch_tokens": 1} | settings
    one, two = (classifier(processes=n, **settings).fit(TEXTS, LABELS) for n in (None, FSDP))
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=1e-3)
    np.testing.assert_allclose(two.predict_proba(TEXTS), one.predict_proba(TEXTS), atol=1e-3)


@pytest.mark.slow
def test_partial_fit_with_shards_goes_on_with_the_state_of_the_optimizer():
    settings = {"tuning": Full(), "learning_rate": 1e-3, "batch_tokens": 1}
    one, two = (classifier(processes=processes, **settings) for processes in (None, FSDP))
    for estimator in (one, two):
        for _ in range(2):
            estimator.partial_fit(TEXTS, LABELS, classes=["bad", "good"])
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=1e-3)


@pytest.mark.parametrize(
    ("estimator", "error"),
    [
        (XLMRXLEmbedder(**SETTINGS, objective="classes", processes=FSDP), "what compares the rows of a step"),
        (classifier(scoring="accuracy", early_stopping=True, processes=FSDP), "has no scoring"),
    ],
)
@pytest.mark.slow
def test_fit_with_shards_refuses(estimator, error):
    with pytest.raises(ValueError, match=error):
        estimator.fit(TEXTS, LABELS)


def sharded_fits(processes):
    """Trainings of frozen and of trained layers, with steps of which a process has no micro-batch."""
    settings = SETTINGS | {"max_epochs": 1, "dtype": "float32", "processes": processes}
    return [
        (XLMRXLClassifier(**settings, tuning=Full(), init="random", early_stopping=True), (TEXTS, LABELS)),
        (XLMRXLTagger(**settings, tuning=LoRA(layers=None)), (WORDS, TAGS)),
    ]


def more_sharded_fits(processes):
    """Others, of the upper layers and of the word embedding as the matrix of a head."""
    settings = SETTINGS | {"max_epochs": 1, "dtype": "float32", "processes": processes}
    return [
        (XLMRXLClassifier(**settings, tuning=Full(layers=1)), (TEXTS, LABELS)),
        (XLMRXLMaskedLM(**settings, tuning=Full()), (TEXTS, None)),
    ]


def _fit_with_shards(fits):
    """Fit; return the losses and weights, and the threads of the group while there is one and afterwards."""
    fitted, inside = fit_in_float64(fits(FSDP)), threads_of_the_group()
    leave_group()
    return fitted, inside, threads_of_the_group()


def test_fit_with_shards_gives_the_losses_and_weights_of_one():
    _check_shards(sharded_fits)


@pytest.mark.slow
def test_more_fits_with_shards_give_the_losses_and_weights_of_one():
    _check_shards(more_sharded_fits)


def _check_shards(fits):
    got, inside, after = launch(_fit_with_shards, fits, n=2)
    assert after == [], "a thread of a group that is never deleted can abort when the interpreter ends"
    assert inside or sys.platform != "linux"
    for sharded, on_one in zip(got, fit_in_float64(fits(None)), strict=True):
        assert_same(sharded, on_one, 1e-9)
