"""Random numbers of a training, independent of other threads and of the global generators."""

import threading

import numpy as np
import torch

from skxlmr import LoRA, XLMRXLClassifier
from skxlmr.training.randomness import Randomness

TEXTS = ["good", "bad", "fine", "poor", "nice film", "awful", "lovely", "dull day", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    settings = {"model": "nano", "tuning": "lora", "random_state": 0, "batch_size": 4, "max_epochs": 3}
    return XLMRXLClassifier(**(settings | parameters))


def test_fit_in_two_threads_equals_fit_alone():
    estimators = [
        classifier(tuning=LoRA(rank=2, dropout=0.2), random_state=seed, learning_rate=1e-3 * (seed + 1))
        for seed in range(2)
    ]
    alone = [estimator.fit(TEXTS, LABELS).predict_proba(TEXTS) for estimator in estimators]
    together, errors = [None, None], []

    def work(i):
        try:
            for _ in range(2):
                together[i] = estimators[i].fit(TEXTS, LABELS).predict_proba(TEXTS)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not np.array_equal(*alone)
    for i in range(2):
        np.testing.assert_array_equal(together[i], alone[i])


def test_fit_does_not_change_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    classifier(max_epochs=1).fit(TEXTS, LABELS)
    assert torch.equal(torch.rand(2), expected)


def test_randomness_after_an_error_draws_the_same_again():
    randomness = Randomness(0, torch.device("cpu"))
    drawn = []
    for fails in (True, False, False):
        try:
            with randomness.drawing():
                drawn.append(torch.rand(1).item())
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert drawn[0] == drawn[1] != drawn[2]
