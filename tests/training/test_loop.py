"""The training loop: epochs, interruptions, errors, lack of memory, and the scaling of losses in float16."""

import numpy as np
import pytest
import torch

from skxlmr import XLMRXLClassifier
from skxlmr.runtime.plan import WindowPlan
from skxlmr.training import loop
from skxlmr.training.loop import Trainer
from skxlmr.training.schedule import Schedule

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, **parameters})


def train(losses, parameter, half=False, order=None, **settings):
    n_rows = 8
    plan = WindowPlan([np.arange(4, dtype=np.int32)] * n_rows, np.arange(n_rows), np.arange(n_rows))
    schedule = Schedule(**{"batch_size": 8, "batch_tokens": 100, "max_epochs": 3, "learning_rate": 0.1, **settings})
    module = torch.nn.ParameterList([parameter])
    trainer = Trainer(losses, module, plan, np.ones(n_rows), schedule, seed=0, order=order, half=half)
    return trainer, trainer.run()


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


def test_trainer_out_of_memory_halves_the_batch_and_repeats_the_step():
    def run(most):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
        failures, draws = [], []

        def losses(windows, rows, recompute):
            draws.append(torch.rand(1).item())
            if len(windows) > most:
                failures.append(len(windows))
                raise torch.OutOfMemoryError("injected")
            return (parameter[rows] - 3) ** 2

        _, history = train(losses, parameter, batch_tokens=32)
        return parameter.detach(), history, failures, draws

    whole, plain, none, _ = run(8)
    parts, retried, failures, draws = run(4)
    assert not none
    assert failures == [8]
    assert draws[1] == draws[0], "the second attempt draws the same numbers"
    assert len(set(draws)) == len(draws) - 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert retried.loss.tolist() == pytest.approx(plain.loss.tolist(), abs=1e-12)


def test_trainer_out_of_memory_with_one_text_raises():
    parameter = torch.nn.Parameter(torch.ones(1))

    def losses(windows, rows, recompute):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later.")

    with pytest.raises(
        torch.OutOfMemoryError, match=r"out of memory(.|\n)*smallest batches and gradient checkpointing"
    ):
        train(losses, parameter)


def test_trainer_out_of_memory_turns_checkpointing_on_last():
    asked = []

    def losses(parameter, windows, recompute):
        asked.append((len(windows), recompute))
        if len(windows) > 1 or not recompute:
            raise torch.OutOfMemoryError("injected")
        return parameter[windows] ** 2

    parameter = torch.nn.Parameter(torch.ones(8))
    train(lambda w, rows, recompute: losses(parameter, w, recompute), parameter, max_epochs=1, batch_tokens=8)
    assert asked == [(2, False), (1, False), *[(1, True)] * 8]


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
    clip, calls = loop.clip_gradients, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return clip(*arguments)

    monkeypatch.setattr(loop, "clip_gradients", interrupted)
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


def train_numbers(losses, half):
    parameter = torch.nn.Parameter(torch.full((8,), 0.5))
    settings = {"max_epochs": 4, "batch_tokens": 8}
    trainer, history = train(lambda windows, rows, _: losses(parameter, rows), parameter, half, **settings)
    return trainer, history, parameter.detach()


def test_loss_scale_shrinks_until_float16_fits():
    def losses(parameter, rows):
        return (parameter[rows].half() * 100).square().float() / 100

    trainer, history, scaled = train_numbers(losses, half=True)
    _, plain_history, plain = train_numbers(losses, half=False)
    assert 1 < trainer.position.loss_scale < 2.0**16, "it started too high, and no step was skipped"
    assert trainer.step == 4
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-4)
    assert history.loss.tolist() == pytest.approx(plain_history.loss.tolist(), rel=1e-3)


def test_loss_scale_keeps_small_float16_gradients():
    def losses(parameter, rows):
        return (parameter[rows].half() * 1e-4).float() * 1e-4  # a gradient of 1e-8, which is zero in float16

    _, _, scaled = train_numbers(losses, half=True)
    assert (scaled < 0.5).all()


def test_loss_scale_with_an_invalid_gradient_raises():
    with pytest.raises(FloatingPointError, match="gradient became"):
        train_numbers(lambda parameter, rows: (parameter[rows] - 0.5).abs().sqrt(), half=True)


def test_trainer_with_a_foreign_overflow_error_raises_it():
    def losses(parameter, rows):
        raise OverflowError("my own")

    with pytest.raises(OverflowError, match="my own"):
        train_numbers(losses, half=True)
