"""How many workers of a grid the nodes of a cluster have room for."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, memory_estimate
from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.scale.grid_workers import PROCESS_BYTES, WorkerMemory, plan_workers, worker_memory

GB = 10**9
XL = "facebook/xlm-roberta-xl"


def node(cpus=8.0, gpus=0.0, memory=64 * GB):
    return {"CPU": cpus, "GPU": gpus, "memory": float(memory)}


def test_without_memory_there_is_a_worker_per_cpu():
    workers = plan_workers([node(8), node(4), {"memory": 1e9}])
    assert (workers.n_jobs, workers.cpus, workers.gpus, workers.memory, workers.n_on_node) == (12, 1, 0, None, 8)


def test_with_gpus_there_is_a_worker_per_gpu():
    workers = plan_workers([node(8, 2), node(1, 4), node(16)], gpus=1)
    assert (workers.n_jobs, workers.cpus, workers.gpus, workers.n_on_node) == (3, 1, 1, 2)


def test_half_gpus_make_two_workers_each():
    assert plan_workers([node(8, 2)], gpus=0.5).n_jobs == 4


def test_memory_limits_workers_and_leaves_them_more_cpus():
    workers = plan_workers([node(8, memory=10 * GB)], WorkerMemory(own=3 * GB))
    assert (workers.n_jobs, workers.cpus, workers.memory) == (3, 2, 3 * GB)


def test_shared_memory_is_counted_once_per_node():
    workers = plan_workers([node(8, memory=10 * GB), node(8, memory=10 * GB)], WorkerMemory(own=2 * GB, shared=4 * GB))
    assert workers.n_jobs == 6
    assert 3 * workers.memory <= 10 * GB
    assert workers.memory >= 2 * GB + 4 * GB // 3


def test_node_of_any_size_has_the_memory_reserved_there():
    nodes = [node(64, memory=nbytes * GB) for nbytes in (7, 23, 40)]
    workers = plan_workers(nodes, WorkerMemory(own=2 * GB, shared=5 * GB))
    assert workers.memory == 7 * GB  # the smallest node has one worker only
    assert workers.n_jobs == 1 + 3 + 5


def test_chosen_number_of_workers_shares_cpus():
    assert plan_workers([node(8)], n_workers=2).cpus == 4
    assert plan_workers([node(8), node(8)], n_workers=2).cpus == 8
    assert plan_workers([node(8)], n_workers=2, cpus=3).cpus == 3
    assert plan_workers([node(2)], n_workers=5).cpus == 1


@pytest.mark.parametrize("nodes", [[], [node(0)], [node(8)]])
def test_no_node_with_the_devices_raises(nodes):
    with pytest.raises(RuntimeError, match=r"No node of the Ray cluster has 1 CPU\(s\) and 1 GPU\(s\) for a worker"):
        plan_workers(nodes, gpus=1)


def test_no_node_with_the_memory_raises():
    with pytest.raises(NotEnoughMemoryError, match=r"A worker needs 70.0 GB, which no node .* 2 x 8 CPU\(s\)"):
        plan_workers([node(), node()], WorkerMemory(own=60 * GB, shared=10 * GB))


def test_memory_of_quantised_base_is_shared():
    clf = XLMRXLClassifier(XL, load_in_8bit=True, tuning="lora", batch_tokens=1024, device="cpu")
    estimate = memory_estimate(XL, load_in_8bit=True, tuning="lora", batch_tokens=1024, device="cpu")
    memory = worker_memory(clf, "auto", on_cpu=True)
    assert memory.shared == estimate.weights
    assert memory.own == estimate.total - estimate.weights + PROCESS_BYTES


def test_memory_of_pipeline_counts_one_base_once():
    embedder = XLMRXLEmbedder("nano", dtype="float32", device="cpu")
    single = worker_memory(make_pipeline(embedder, LogisticRegression()), "auto", on_cpu=True)
    both = worker_memory(
        make_pipeline(embedder, XLMRXLClassifier("nano", tuning="head", device="cpu")), "auto", on_cpu=True
    )
    weights = memory_estimate("nano", dtype="float32", device="cpu").weights
    assert single.shared == both.shared == 0
    assert single.own > weights
    assert single.own < both.own < single.own + weights + memory_estimate("nano", tuning="head", device="cpu").total


@pytest.mark.parametrize(
    ("estimator", "memory", "on_cpu"), [(None, "auto", True), (XLMRXLClassifier("nano"), None, True),
                                        (XLMRXLClassifier("nano"), "auto", False), (LogisticRegression(), "auto", True)]
)  # fmt: skip
def test_memory_is_not_counted_without_cause(estimator, memory, on_cpu):
    assert worker_memory(estimator, memory, on_cpu=on_cpu) is None


def test_memory_in_bytes_is_taken():
    assert worker_memory(None, 5 * GB, on_cpu=False) == WorkerMemory(5 * GB)
