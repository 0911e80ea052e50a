"""How many workers a grid search has room for on a cluster, and of which size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sklearn.base import BaseEstimator

from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.hardware.estimate import in_gigabytes
from skxlmr.runtime.base_choice import BaseChoice, estimate_memory

PROCESS_BYTES = 600 * 10**6  # a worker with torch, scikit-learn and this package, before it has a model


@dataclass(frozen=True)
class GridWorkers:
    """The workers of a `grid_backend`.

    Attributes
    ----------
    n_jobs : int
        Number of workers; what `n_jobs=-1` means in the context.
    cpus : int
        CPUs of each worker, which runs torch on as many threads.
    gpus : float
        GPUs of each worker.
    memory : int or None
        Bytes reserved for each worker; None if memory was not looked at.
    n_on_node : int
        The most workers on one node.
    """

    n_jobs: int
    cpus: int
    gpus: float
    memory: int | None
    n_on_node: int

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU(s)"]
        parts += [f"{self.gpus:g} GPU(s)"] if self.gpus else []
        parts += [f"{in_gigabytes(self.memory)} GB"] if self.memory else []
        return f"{self.n_jobs} worker(s) with {', '.join(parts)} each"


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of a worker, and those that the workers of a node have in common."""

    own: int
    shared: int = 0

    def of_each(self, n_workers: int) -> int:
        """Bytes of each of so many workers on a node, if they divide what they have in common."""
        return self.own + self.shared // n_workers


def _bases_of(estimator: BaseEstimator | None) -> list[BaseChoice]:
    """Return the estimators of this package in an estimator: itself, or steps of a pipeline."""
    if estimator is None:
        return []
    parts = [estimator, *estimator.get_params(deep=True).values()]
    return [part for part in parts if isinstance(part, BaseChoice)]


def gpus_of_worker(gpus: float | str, estimator: BaseEstimator | None, nodes: Sequence[Mapping[str, float]]) -> float:
    if not isinstance(gpus, str):
        return gpus
    bases = _bases_of(estimator)
    only_cpu = bool(bases) and all(base.device == "cpu" for base in bases)
    return 0 if only_cpu or not any(node.get("GPU") for node in nodes) else 1


def worker_memory(estimator: BaseEstimator | None, memory: int | str | None, *, on_cpu: bool) -> WorkerMemory | None:
    """Return the bytes of a worker; None if they are not known, or on a GPU, whose memory is another."""
    if isinstance(memory, int):
        return WorkerMemory(memory)
    bases = _bases_of(estimator)
    if memory is None or not bases or not on_cpu:
        return None
    own, weights = PROCESS_BYTES, {}
    for base in bases:
        estimate = estimate_memory(base, "cpu")
        own += estimate.total - estimate.weights
        weights[str(base.model), estimate.dtype, estimate.quantization] = estimate.weights  # one base for all of them
    shared = sum(nbytes for (_, _, quantization), nbytes in weights.items() if quantization is not None)
    return WorkerMemory(own + sum(weights.values()) - shared, shared)


def plan_workers(
    nodes: Sequence[Mapping[str, float]],
    memory: WorkerMemory | None = None,
    n_workers: int | None = None,
    cpus: int | str = "auto",
    gpus: float = 0,
) -> GridWorkers:
    """Return how many workers the nodes have room for, and of which size.

    Parameters
    ----------
    nodes : list of dict
        Resources of each node: "CPU", "GPU" and "memory" in bytes.
    memory : WorkerMemory or None
    n_workers : int or None
        None is as many as there is room for.
    cpus : int or "auto"
    gpus : float

    Returns
    -------
    GridWorkers

    Raises
    ------
    NotEnoughMemoryError
        If a node has the devices for a worker, but none has the memory.
    RuntimeError
        If no node has the devices.
    """
    least = 1 if isinstance(cpus, str) else cpus
    by_devices = [_room(node, {"CPU": least, "GPU": gpus}) for node in nodes]
    if not any(by_devices):
        asked = f"{least} CPU(s)" + (f" and {gpus:g} GPU(s)" if gpus else "")
        raise RuntimeError(f"No node of the Ray cluster has {asked} for a worker; its nodes: {listed_nodes(nodes)}.")
    room, nbytes = by_devices, None
    if memory is not None:
        room = [min(n, _room_for(memory, node)) for n, node in zip(by_devices, nodes, strict=True)]
        if not any(room):
            raise NotEnoughMemoryError(
                f"A worker needs {in_gigabytes(memory.of_each(1))} GB, which no node of the Ray cluster has; its "
                f"nodes: {listed_nodes(nodes)}. Choose a smaller model, load_in_8bit=True, tuning='head' or fewer "
                f"batch_tokens; if you know better, give memory_per_worker in bytes."
            )
        nbytes = memory.of_each(min(n for n in room if n))
        room = [min(n, _room(node, {"memory": nbytes})) for n, node in zip(by_devices, nodes, strict=True)]
    n_jobs = sum(room) if n_workers is None else n_workers
    if isinstance(cpus, str):
        per_node = [min(n, math.ceil(n_jobs / len([each for each in room if each]))) for n in room]
        cpus = 1 if gpus else max(1, min(int(node["CPU"]) // n for n, node in zip(per_node, nodes, strict=True) if n))
    return GridWorkers(n_jobs, cpus, gpus, nbytes, min(max(room), n_jobs))


def _room(node: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many workers that need so much a node has room for."""
    return min(int(node.get(name, 0) // amount) for name, amount in needed.items() if amount)


def _room_for(memory: WorkerMemory, node: Mapping[str, float]) -> int:
    return max(0, int((node.get("memory", 0) - memory.shared) // memory.own))


def listed_nodes(nodes: Sequence[Mapping[str, float]]) -> str:
    listed = [
        f"{node.get('CPU', 0):g} CPU(s), {node.get('GPU', 0):g} GPU(s), {in_gigabytes(int(node.get('memory', 0)))} GB"
        for node in nodes
    ]
    return "; ".join(f"{n} x {node}" for node, n in Counter(listed).items()) or "none"
