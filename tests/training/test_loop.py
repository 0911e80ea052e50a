import numpy as np
import pytest
import torch

from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.gradients import accumulate_gradients
from skxlmr.training.loop import Trainer
from skxlmr.training.schedule import Schedule


def make_plan(windows_per_row):
    owner = np.repeat(np.arange(len(windows_per_row)), windows_per_row)
    windows = [np.arange(3 + i % 4, dtype=np.int32) for i in range(len(owner))]
    return WindowPlan(windows, owner, np.arange(len(windows_per_row)))


def test_accumulate_gradients_in_micro_batches_gives_the_same_gradient():
    plan = make_plan([1, 3, 1, 2, 1])
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    targets = torch.randn(len(plan.windows), dtype=torch.float64)
    gradients = []
    for budget in (1, 7, 1000):
        parameter = torch.zeros(len(plan.windows), dtype=torch.float64, requires_grad=True)

        def losses(windows, rows, recompute, parameter=parameter):
            assert (plan.text_of_window[windows] == rows).all()
            return (parameter[windows] - targets[windows]) ** 2

        loss = accumulate_gradients(losses, plan, np.arange(5), weights, budget)
        gradients.append((parameter.grad, loss))
    of_row = np.array([targets.numpy()[plan.text_of_window == row].__pow__(2).mean() for row in range(5)])
    for gradient, loss in gradients:
        torch.testing.assert_close(gradient, gradients[0][0], rtol=0, atol=1e-12)
        assert loss == pytest.approx((of_row * weights).sum() / weights.sum(), abs=1e-12)


def test_schedule_rate_rises_and_falls():
    schedule = Schedule(batch_size=8, batch_tokens=100, max_epochs=1, learning_rate=1.0)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert max(rates) == 1
    assert all(np.diff(rates[6:]) < 0)
    assert 0 < rates[-1] < 0.02


def test_trainer_sees_every_row_once_per_epoch():
    plan, seen = make_plan([1] * 10), []
    parameter = torch.nn.Parameter(torch.zeros(1))

    def losses(windows, rows, recompute):
        seen.extend(rows)
        return parameter.expand(len(windows)) ** 2 + 1

    schedule = Schedule(batch_size=4, batch_tokens=100, max_epochs=3, learning_rate=0.1)
    history = Trainer(losses, torch.nn.ParameterList([parameter]), plan, np.ones(10), schedule, seed=0).run()
    assert sorted(seen) == sorted(list(range(10)) * 3)
    assert seen[:10] != seen[10:20]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.loss.tolist() == pytest.approx([1.0] * 3)
