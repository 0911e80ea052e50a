"""Processes that are started for a function."""

import os
import signal

import pytest

from skxlmr.training.launch import ProcessDiedError, launch
from skxlmr.training.ranks import joined


def exchange(value):
    ranks = joined()
    return value, ranks.gather(ranks.rank), ranks.sum(ranks.rank + 1.0), ranks.any([ranks.rank == 1, False])


@pytest.mark.slow
def test_launch_returns_what_the_first_process_returns_and_keeps_signals():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert launch(exchange, "value", n=2) == ("value", [0, 1], 3.0, [True, False])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.slow
def test_launch_reports_an_exit_without_an_exception():
    with pytest.raises(ProcessDiedError, match="rank 0 ended with exit code 3"):
        launch(os._exit, 3, n=1)
