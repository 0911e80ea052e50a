"""The learning rate of each step."""

import numpy as np
import pytest

from skxlmr.training.schedule import Schedule


def test_schedule_rate_rises_and_falls():
    schedule = Schedule(batch_size=8, batch_tokens=100, max_epochs=1, learning_rate=1.0)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert max(rates) == 1
    assert all(np.diff(rates[6:]) < 0)
    assert 0 < rates[-1] < 0.02


@pytest.mark.parametrize(("name", "half"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_schedule_rate_follows_its_shape(name, half):
    schedule = Schedule(8, 100, 1, learning_rate=1.0, lr_schedule=name, warmup=0.0)
    assert schedule.rate(0, 100) == 1
    assert schedule.rate(50, 100) == pytest.approx(half)
