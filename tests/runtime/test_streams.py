import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config

from skxlmr import Int8, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.runtime import run as run_module
from skxlmr.runtime import streams
from skxlmr.runtime.feature_cache import clear_features
from skxlmr.runtime.run import run
from skxlmr.runtime.streams import divide, most_workers, several_workers, share_threads

CPU = torch.device("cpu")
TEXTS = [f"text number {i}" + " and more words" * (i % 9) for i in range(60)]


@pytest.fixture
def threads():
    """Return the function that sets the number of torch's threads; it is set back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch, threads):
    """Let small batches have several workers, and return the list of how many each run had."""
    numbers = []

    def share(n_workers, items, work):
        numbers.append(n_workers)
        share_threads(n_workers, items, work)

    monkeypatch.setattr(streams, "LEAST_TOKENS", 32)
    monkeypatch.setattr(run_module, "share_threads", share)
    threads(3)
    clear_features()
    return numbers


def here(config=None, dtype=torch.float32, storage=None, device=CPU):
    return most_workers(config or XLMRobertaConfig.base(), dtype, storage, device)


# How many workers


@pytest.mark.parametrize(("n_threads", "most"), [(1, 1), (2, 2), (3, 2)])
def test_most_workers_is_bounded_by_the_threads_of_torch_and_by_the_size_of_batches(threads, n_threads, most):
    threads(n_threads)
    assert here(dtype=torch.float32) == most  # batches of 1,365 tokens: two of at least 512
    assert here(dtype=torch.bfloat16) == n_threads


def test_most_workers_of_large_models_is_one(threads):
    threads(8)
    assert here(XLMRobertaXLConfig.xl(), torch.bfloat16, Int8()) == 1
    assert here(XLMRobertaXLConfig.xl()) == 1


@pytest.mark.parametrize(
    ("storage", "several"),
    [
        (None, True),
        (Int8(), True),
        (Int8(engine="int_mm"), True),
        (Int8(engine="dequantize"), False),
        (Int8(outliers="dynamic"), False),
        ("nf4", False),
    ],
    ids=repr,
)
def test_most_workers_is_one_for_weights_that_are_converted_and_for_dynamic_outliers(
    threads, monkeypatch, storage, several
):
    monkeypatch.setattr("skxlmr.model.int8_engines.cpu_has_int8", lambda: True)
    threads(2)
    assert here(storage=storage) == 1 + several
    assert here(storage=storage, device=torch.device("meta")) == 1


def test_most_workers_in_threads_of_joblib_is_one(threads):
    threads(2)
    assert Parallel(n_jobs=2, backend="threading")(delayed(here)() for _ in range(2)) == [1, 1]
    assert here() == 2


def test_most_workers_in_processes_of_joblib_is_what_joblib_allows():
    with parallel_config(backend="loky", inner_max_num_threads=2):
        found = Parallel(n_jobs=2)(delayed(_in_process)() for _ in range(2))
    assert found == [(2, 2)] * 2


def _in_process():
    return torch.get_num_threads(), here(dtype=torch.bfloat16)


def test_several_workers_are_given_to_one_run_at_a_time():
    with several_workers(3) as first, several_workers(3) as second:
        assert (first, second) == (3, 1)
    with several_workers(3) as third:
        assert third == 3


@pytest.mark.parametrize("most", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_tokens", [100, 512, 1024, 5461])
@pytest.mark.parametrize("n_windows", [0, 1, 30, 300])
def test_divide_holds_no_more_tokens_than_one_batch(most, batch_tokens, n_windows):
    lengths = np.random.RandomState(0).randint(2, 200, n_windows)
    n_workers, budget = divide(lengths, batch_tokens, most)
    assert 1 <= n_workers <= most
    assert n_workers * budget <= batch_tokens
    if n_workers > 1:
        assert budget >= max(lengths.max(), 512)
        assert -(-lengths.sum() // budget) >= n_workers
    else:
        assert budget == batch_tokens


def test_divide_of_texts_longer_than_a_share_has_fewer_workers():
    lengths = np.array([900] + [40] * 400)
    assert divide(lengths, 2048, 4)[0] == 2
    assert divide(lengths, 1024, 4) == (1, 1024)


# Threads


def test_share_threads_divides_the_threads_of_torch_and_leaves_those_of_others(threads):
    threads(5)
    everyone, seen = threading.Barrier(2, timeout=30), []

    def work(queue):
        for _ in queue:
            everyone.wait()
            mkl = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
            seen.append((threading.get_ident(), torch.get_num_threads(), mkl and int(mkl[1])))
            assert in_new_thread(torch.get_num_threads) == 5
            everyone.wait()

    share_threads(2, range(2), work)
    assert len({ident for ident, *_ in seen} - {threading.get_ident()}) == 2
    assert sorted(number for _, number, _ in seen) == [2, 3]
    assert all(of_mkl in (number, None) for _, number, of_mkl in seen)
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 5


def in_new_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_share_threads_after_an_error_in_one_stops_the_others(threads, error):
    threads(2)
    taken, both = [], threading.Barrier(2, timeout=30)

    def work(queue):
        for item in queue:
            if item < 2:
                both.wait()
            if item == 1:
                raise error
            taken.append(item)
            time.sleep(0.01)

    with pytest.raises(error):
        share_threads(2, range(1000), work)
    assert len(taken) < 100
    check_no_workers()


def test_share_threads_is_interrupted_while_it_waits(threads):
    threads(2)
    taken = []

    def work(queue):
        for item in queue:
            if item == 3:
                signal.raise_signal(signal.SIGINT)  # Python interrupts its main thread
            taken.append(item)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        share_threads(2, range(1000), work)
    assert len(taken) < 500
    check_no_workers()


def check_no_workers():
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skxlmr-cpu")]
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2


# Runs


def test_run_with_workers_holds_at_most_the_tokens_of_a_batch_and_returns_results_in_order(used):
    lengths = np.random.RandomState(0).randint(1, 20, 200)
    lock, held, most, idents = threading.Lock(), [0], [0], set()

    def compute(batch):
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        with lock:
            idents.add(threading.get_ident())
            held[0] += lengths[batch].sum()
            most[0] = max(most[0], held[0])
        time.sleep(0.001)
        with lock:
            held[0] -= lengths[batch].sum()
        return torch.from_numpy(lengths[batch] * 1000 + batch)[:, None]

    results = run({CPU: compute}, lambda batch: batch, lengths, batch_tokens=120, most_workers=3)
    assert results[:, 0].tolist() == (lengths * 1000 + np.arange(200)).tolist()
    assert used == [3]
    assert len(idents) > 1
    assert most[0] <= 120


def test_run_with_workers_raises_what_a_batch_raises(used):
    def compute(batch):
        return torch.tensor([[np.nan if i == 7 else 0.0] for i in batch])

    with pytest.raises(FloatingPointError, match="for 1 of"):
        run({CPU: compute}, lambda batch: batch, np.full(100, 10), batch_tokens=100, most_workers=3)
    assert used == [3]
    with several_workers(2) as most:
        assert most == 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"load_in_8bit": True},
        {"load_in_8bit": True, "dtype": "bfloat16"},
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_embedder_with_workers_gives_the_vectors_of_one(used, threads, parameters):
    embedder = XLMRXLEmbedder("nano", device="cpu", batch_tokens=400, **parameters).fit(TEXTS[:3])
    clear_features()
    several = embedder.transform(TEXTS)
    assert used == [3]
    threads(1)
    clear_features()
    np.testing.assert_array_equal(embedder.transform(TEXTS), several)
    assert used == [3]


@pytest.mark.parametrize("tuning", ["head", "lora", "full"])
def test_predictions_with_workers_are_those_of_one(used, threads, tuning):
    labels = ["even", "odd"] * (len(TEXTS) // 2)
    classifier = XLMRXLClassifier(
        "nano", tuning=tuning, device="cpu", max_epochs=1, batch_tokens=400, random_state=0, init="random"
    ).fit(TEXTS, labels)
    used.clear()
    clear_features()
    several = classifier.predict_proba(TEXTS)
    assert used == [3]
    threads(1)
    clear_features()
    np.testing.assert_array_equal(classifier.predict_proba(TEXTS), several)
    assert used == [3]


def test_run_with_workers_at_the_end_of_the_interpreter_works_in_the_calling_thread():
    program = (
        "import atexit\n"
        "import numpy as np, torch\n"
        "from skxlmr.runtime import streams\n"
        "from skxlmr.runtime.run import run\n"
        "import concurrent.futures.thread\n"
        "torch.set_num_threads(2)\n"
        "def last():\n"
        "    compute = {torch.device('cpu'): lambda batch: torch.from_numpy(batch)[:, None]}\n"
        "    lengths = np.full(100, 100)\n"
        "    print(run(compute, lambda batch: batch, lengths, batch_tokens=2000, most_workers=2)[:, 0].tolist())\n"
        "atexit.register(last)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[float(i) for i in range(100)]}\n"
