"""The training loop: epochs, interruptions and errors."""

import numpy as np
import pytest
import torch
from trainers import train

from skxlmr import XLMRXLClassifier
from skxlmr.training import steps

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, **parameters})


def test_trainer_sees_every_row_once_per_epoch():
    parameter, seen = torch.nn.Parameter(torch.zeros(1)), []

    def losses(windows, rows, recompute):
        seen.extend(rows)
        return parameter.expand(len(windows)) ** 2 + 1

    _, history = train(losses, parameter, batch_size=3)
    assert sorted(seen) == sorted(list(range(8)) * 3)
    assert seen[:8] != seen[8:16]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.loss.tolist() == pytest.approx([1.0] * 3)


def test_trainer_with_an_order_of_rows_takes_them_in_it():
    parameter, seen = torch.nn.Parameter(torch.zeros(1)), []

    def losses(windows, rows, recompute):
        seen.append(sorted(rows))
        return parameter.expand(len(windows)) ** 2

    def odd_ones_first(random):
        return np.argsort(np.arange(8) % 2 == 0, kind="stable")

    train(losses, parameter, batch_size=4, max_epochs=1, order=odd_ones_first)
    assert seen == [[1, 3, 5, 7], [0, 2, 4, 6]]


def test_trainer_with_an_invalid_loss_names_rows_and_keeps_parameters():
    parameter = torch.nn.Parameter(torch.ones(1))

    def losses(windows, rows, recompute):
        return parameter * torch.from_numpy(np.where(np.isin(rows, [3, 6]), np.nan, 1.0))

    with pytest.raises(FloatingPointError, match="loss became nan at rows 3, 6 of X in step 1 of epoch 1"):
        train(losses, parameter)
    assert parameter.item() == 1


def test_trainer_with_an_invalid_gradient_keeps_parameters():
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="gradient became"):
        train(lambda windows, rows, recompute: parameter.abs().sqrt().expand(len(rows)), parameter)
    assert parameter.item() == 0


@pytest.mark.parametrize("after", [0, 2])
def test_trainer_interrupted_after_a_step_keeps_the_model(after):
    parameter, calls = torch.nn.Parameter(torch.ones(1)), []

    def losses(windows, rows, recompute):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return (parameter**2).expand(len(rows))

    if not after:
        with pytest.raises(KeyboardInterrupt):
            train(losses, parameter)
    else:
        with pytest.warns(UserWarning, match="in epoch 3 of 3, after 2 of 3 steps"):
            train(losses, parameter)
        assert parameter.item() < 1


def test_fit_interrupted_is_fitted(monkeypatch):
    clip, calls = steps.clip_gradients, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return clip(*arguments)

    monkeypatch.setattr(steps, "clip_gradients", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 2 of 5, after 2 of 10 steps"):
        clf = classifier(max_epochs=5, batch_size=6).fit(TEXTS, LABELS)
    assert clf.n_iter_ == 1  # the second epoch completed no step
    assert set(clf.predict(TEXTS)) <= {"yes", "no"}


def test_fit_with_an_invalid_loss_names_the_rows_of_x(monkeypatch):
    clf = classifier(max_epochs=2, batch_size=12).fit(TEXTS, LABELS)
    before = clf.predict_proba(TEXTS)
    cross_entropy = torch.nn.functional.cross_entropy

    def broken(logits, targets, **settings):
        loss = cross_entropy(logits, targets, **settings)
        return torch.where(targets == 0, torch.nan, loss)  # "no", the odd rows

    monkeypatch.setattr("skxlmr.tasks.classification.F.cross_entropy", broken)
    weights = np.ones(12)
    weights[[0, 1]] = 0  # rows of weight 0 are dropped; the messages still count all rows
    with pytest.raises(FloatingPointError, match=r"at rows 3, 5, 7, 9, 11 of X in step 1"):
        clf.fit(TEXTS, LABELS, sample_weight=weights)
    assert np.array_equal(clf.predict_proba(TEXTS), before), "the earlier fit is still usable"
