"""Processes that are started for a function."""

import atexit
import os
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.utils.checkpoint
from training_callbacks import threads_of_the_group

from skxlmr.training.launch import ProcessDiedError, launch
from skxlmr.training.ranks import OutOfMemoryTogetherError, joined, leave_group


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


class AbortWhenDeleted:
    def __del__(self, abort=os.abort):  # a default, since globals are gone by then
        abort()


def end_badly(file):
    def after_the_main_thread():
        threading.main_thread().join()
        atexit.register(Path(file).write_text, "ran")

    sys.kept_until_the_interpreter_ends = AbortWhenDeleted()
    threading.Thread(target=after_the_main_thread).start()


def test_launch_ends_threads_and_processes_before_the_interpreter_deletes_objects(tmp_path):
    assert launch(end_badly, str(tmp_path / "atexit"), n=1) is None
    assert (tmp_path / "atexit").read_text() == "ran"


def leave_after_a_checkpointed_layer():
    layer = torch.nn.Linear(2, 2)
    torch.utils.checkpoint.checkpoint(layer, torch.ones(1, 2), use_reentrant=False).sum().backward()
    joined().sum_gradients([layer.weight])
    inside = threads_of_the_group()
    leave_group()
    return inside, threads_of_the_group()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_leave_group_ends_its_threads_though_modules_were_imported_in_between():
    inside, after = launch(leave_after_a_checkpointed_layer, n=2)
    assert inside
    assert after == []


def sum_although_memory_runs_out_once():
    """Sum gradients, first with a rank 1 that has no memory for the exchange."""
    ranks, parameter = joined(), torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), ranks.rank + 1.0)
    no_memory = mock.patch.object(torch, "empty", side_effect=torch.OutOfMemoryError("no memory"))
    caught = None
    with no_memory if ranks.rank == 1 else nullcontext():
        try:
            ranks.sum_gradients([parameter])
        except torch.OutOfMemoryError as error:
            caught = type(error)
    ranks.sum_gradients([parameter])
    return ranks.gather(caught), parameter.grad.tolist()


def test_memory_that_runs_out_in_one_process_is_told_to_all_before_they_exchange_gradients():
    caught, gradient = launch(sum_although_memory_runs_out_once, n=2)
    assert caught == [OutOfMemoryTogetherError] * 2
    assert gradient == [3.0] * 3
