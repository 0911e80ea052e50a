import threading
import time

import numpy as np
import pytest
import torch

from skxlmr.runtime.devices import Queue, share
from skxlmr.runtime.run import run

# `share` asks nothing of devices but those that CUDA has.
TWO = [torch.device("cpu", 0), torch.device("cpu", 1)]


def test_share_gives_each_item_to_one_device():
    taken = {device: [] for device in TWO}
    both = threading.Barrier(2, timeout=60)

    def work(device, queue):
        for item in queue:
            if len(taken[device]) < 3:
                both.wait()  # both work at the same time
            taken[device].append(item)

    share(TWO, range(20), work)
    assert sorted(taken[TWO[0]] + taken[TWO[1]]) == list(range(20))
    assert min(map(len, taken.values())) >= 3


@pytest.mark.parametrize("failing", TWO, ids=["calling thread", "other thread"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_share_stops_all_devices_after_an_error_in_one(failing, error):
    taken, both = [], threading.Barrier(2, timeout=60)

    def work(device, queue):
        for item in queue:
            if item < 2:
                both.wait()
            if device == failing:
                raise error
            taken.append(item)
            time.sleep(0.01)  # so that all of them take more than ten seconds

    with pytest.raises(error):
        share(TWO, range(1000), work)
    assert len(taken) < 999
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skxlmr-gpu")]


def test_share_among_one_device_starts_no_thread():
    threads = []
    share(TWO[:1], "ab", lambda device, queue: threads.extend(threading.get_ident() for _ in queue))
    assert threads == [threading.get_ident()] * 2


def test_queue_after_an_error_of_its_items_ends():
    def items():
        yield 1
        raise ZeroDivisionError

    queue = Queue(items())
    assert next(queue) == 1
    with pytest.raises(ZeroDivisionError):
        next(queue)
    assert list(queue) == []


def test_run_on_two_devices_returns_results_in_the_given_order():
    lengths = np.random.RandomState(0).randint(1, 9, 50)
    of_device, both = {}, threading.Barrier(2, timeout=60)

    def compute(device, batch):
        if device not in of_device:
            of_device[device] = threading.get_ident()
            both.wait()  # so that one of them does not take all batches before the other begins
        assert torch.is_inference_mode_enabled()
        return torch.from_numpy(lengths[batch] * 100 + batch)[:, None]

    computes = {device: lambda batch, device=device: compute(device, batch) for device in TWO}
    results = run(computes, lambda batch: batch, lengths, batch_tokens=12)[:, 0]
    assert results.tolist() == (lengths * 100 + np.arange(50)).tolist()
    assert len(set(of_device.values())) == 2
    one_batch = run({TWO[0]: computes[TWO[0]], TWO[1]: None}, lambda batch: batch, lengths, batch_tokens=10**6)
    assert one_batch[:, 0].tolist() == results.tolist()
