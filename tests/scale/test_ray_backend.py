"""Grids on a real Ray cluster of this machine; `make test-scale` runs them."""

from __future__ import annotations

import multiprocessing.pool
import os
import runpy
import sys
import time
import warnings
from pathlib import Path

import joblib.pool
import numpy as np
import pytest
import ray_workers
import torch
from joblib import Parallel, delayed
from loopback import loopback_only
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.hardware.free_memory import available_memory
from skxlmr.scale import grid_backend

pytestmark = pytest.mark.ray

WORDS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
TEXTS = [f"a {word} {thing}" for thing in ("film", "room", "meal", "book", "day") for word in WORDS]
LABELS = np.random.default_rng(0).permutation(["yes", "no"] * 30)  # no score is 0 or 1
CLASSIFIER = XLMRXLClassifier("nano", tuning=LoRA(rank=2), max_epochs=1, random_state=0, device="cpu")
EMBEDDER = make_pipeline(XLMRXLEmbedder("nano", device="cpu"), LogisticRegression())
N_CPUS, N_GPUS = 3, 2  # more CPUs than GPUs: there Ray's own backend waits for ever at n_jobs=-1
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A Ray cluster with GPUs by name only, in a network namespace where nobody else can reach it."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'skxlmr[scale]'")
    with loopback_only(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # nothing is written to the home directory
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # workers import ray_workers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own start
            ray.init(num_cpus=N_CPUS, num_gpus=N_GPUS, include_dashboard=False)
        yield ray
        ray.shutdown()


def scores(results):
    """The columns of `cv_results_` without the times."""
    return {name: list(column) for name, column in results.items() if not name.endswith("_time")}


@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (CLASSIFIER, {"learning_rate": [1e-3, 3e-2], "tuning__rank": [1, 2]}),
        (EMBEDDER, {"xlmrxlembedder__pooling": ["mean", "max"], "logisticregression__C": [0.1, 100]}),
    ],
    ids=["classifier", "embedder"],
)
def test_grid_search_equals_one_job(estimator, grid):
    want = scores(GridSearchCV(estimator, grid, cv=3, n_jobs=1).fit(TEXTS, LABELS).cv_results_)
    with grid_backend(estimator, n_workers=2) as workers:
        search = GridSearchCV(estimator, grid, cv=3, n_jobs=-1).fit(TEXTS, LABELS)
    assert workers.n_jobs == 2
    assert scores(search.cv_results_) == want
    assert len(set(want["mean_test_score"])) > 1


def test_worker_keeps_its_base_between_searches():
    with grid_backend(CLASSIFIER, n_workers=2):
        seen = [Parallel(n_jobs=-1)(delayed(ray_workers.process_and_base)(i) for i in range(8)) for _ in range(2)]
    assert set(seen[0]) == set(seen[1])
    assert len(set(seen[0])) == 2  # one base per process
    assert os.getpid() not in {process for process, _ in seen[0]}


def test_workers_share_eight_bit_cache(own_cache):
    eight_bit = XLMRXLEmbedder("nano", load_in_8bit=True, device="cpu")
    pipeline = make_pipeline(eight_bit, LogisticRegression())
    with grid_backend(pipeline, n_workers=2):
        cross_validate(pipeline, TEXTS, LABELS, cv=4, error_score="raise")
    assert len(list(own_cache.glob("*int8*.safetensors"))) == 1


def test_workers_share_free_memory_for_features():
    free = available_memory(torch.device("cpu"))
    with grid_backend(n_workers=2, gpus_per_worker=0):
        cached = Parallel()(delayed(ray_workers.feature_cache_bytes)(i) for i in range(2))
    with grid_backend(n_workers=2, gpus_per_worker=0, feature_cache=1_000):
        chosen = Parallel()(delayed(ray_workers.feature_cache_bytes)(i) for i in range(2))
    assert 0 < max(cached) < free / 5  # a quarter for both together, and the free memory changes meanwhile
    assert chosen == [1_000, 1_000]


def test_killed_worker_is_survived(tmp_path):
    killed = make_pipeline(ray_workers.KillsItsProcess(str(tmp_path), parent=os.getpid()), CLASSIFIER)
    grid = {"killsitsprocess__name": ["one", "two"]}
    with grid_backend(CLASSIFIER, n_workers=2):
        search = GridSearchCV(killed, grid, cv=3, error_score="raise").fit(TEXTS, LABELS)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    want = cross_validate(CLASSIFIER, TEXTS, LABELS, cv=3)["test_score"]
    for fold, score in enumerate(want):
        assert list(search.cv_results_[f"split{fold}_test_score"]) == [score, score]


def test_fit_that_always_kills_its_worker_raises():
    poison = make_pipeline(ray_workers.KillsItsProcess(), CLASSIFIER)
    begun = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=r"killed 2 times \(max_restarts=1\), mostly for want of memory"),
        grid_backend(n_workers=2, gpus_per_worker=0, max_restarts=1),
    ):
        cross_validate(poison, TEXTS, LABELS, cv=2)
    assert time.monotonic() - begun < SECONDS


def test_error_of_worker_is_raised_and_the_next_call_works():
    with grid_backend(n_workers=2, gpus_per_worker=0):
        with pytest.raises(KeyError, match="refused in the worker"):
            Parallel()(delayed(ray_workers.refuse)(i) for i in range(2))
        assert len(Parallel()(delayed(ray_workers.devices)(i) for i in range(2))) == 2


def test_all_jobs_are_the_gpus_where_there_are_fewer_than_cpus():
    with grid_backend() as workers:
        seen = Parallel(n_jobs=-1)(delayed(ray_workers.devices)(i) for i in range(12))
    assert (workers.n_jobs, workers.gpus) == (N_GPUS, 1)
    assert {gpu for _, gpu in seen} == {"0", "1"}


def test_workers_without_gpus_see_none():
    with grid_backend(CLASSIFIER) as workers:
        seen = Parallel(n_jobs=2)(delayed(ray_workers.devices)(i) for i in range(12))
    assert (workers.n_jobs, workers.gpus) == (N_CPUS, 0)
    assert {gpu for _, gpu in seen} == {""}
    assert len({process for process, _ in seen}) == 2  # n_jobs=2 of three workers


def test_long_arguments_are_copied_once(monkeypatch, cluster):
    put, copied = cluster.put, []
    monkeypatch.setattr(cluster, "put", lambda value: copied.append(value) or put(value))
    with grid_backend(CLASSIFIER, n_workers=2):
        GridSearchCV(EMBEDDER, {"logisticregression__C": [1, 10, 100]}, cv=2).fit(TEXTS * 5, list(LABELS) * 5)
    assert sum(len(value) == len(TEXTS) * 5 and value[0] == TEXTS[0] for value in copied) == 1


def test_search_inside_cross_validation_equals_one_job():
    search = GridSearchCV(EMBEDDER, {"logisticregression__C": [0.1, 100]}, cv=2, n_jobs=2)
    want = cross_validate(search, TEXTS, LABELS, cv=2, n_jobs=1)["test_score"]
    with grid_backend(EMBEDDER, n_workers=2):
        got = cross_validate(search, TEXTS, LABELS, cv=2, n_jobs=-1, error_score="raise")["test_score"]
    assert list(got) == list(want)


def test_cluster_without_room_raises():
    with (
        pytest.raises(
            RuntimeError, match=r"did not give room for 9 worker\(s\) with 1 CPU\(s\) each within timeout=0.5"
        ),
        grid_backend(n_workers=9, gpus_per_worker=0, timeout=0.5),
    ):
        pass


def test_room_for_one_worker_warns_and_runs_here():
    with (
        pytest.warns(UserWarning, match="room for one worker only"),
        grid_backend(cpus_per_worker=2, gpus_per_worker=0) as workers,
    ):
        assert Parallel()(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
    assert workers.n_jobs == 1


def test_address_raises_if_connected():
    with pytest.raises(ValueError, match="connected to Ray already; leave address out"), grid_backend(address="auto"):
        pass


@pytest.mark.parametrize("place", ["argument", "environment"])
def test_client_address_is_refused(place, monkeypatch):
    address = "ray://head:10001"
    if place == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(ValueError, match=r"does not work through a Ray client .* address='auto', or by `ray job submit"),
        grid_backend(address=address if place == "argument" else None),
    ):
        pass


def test_multiprocessing_of_joblib_stays_as_it_was():
    with grid_backend(n_workers=2, gpus_per_worker=0):
        Parallel()(delayed(ray_workers.devices)(i) for i in range(2))
    assert joblib.pool.PicklingPool.__bases__ == (multiprocessing.pool.Pool,)  # which Ray's own backend replaces


def test_example_runs(monkeypatch, capsys):
    example = Path(__file__).resolve().parents[2] / "examples" / "grid_on_ray.py"
    monkeypatch.setattr(sys, "argv", [example.name, "--rows", "12"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith("2 worker(s) with 1 CPU(s), 1 GPU(s)")
    assert "mean_test_score" in printed
