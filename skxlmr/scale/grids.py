"""Grid searches on a cluster: scikit-learn's `n_jobs` as workers of Ray, and how many of them there is room for."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from joblib import parallel_config
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skxlmr.hardware.advice import NotEnoughMemoryError
from skxlmr.hardware.estimate import in_gigabytes, memory_estimate
from skxlmr.runtime.base_choice import BaseChoice
from skxlmr.system.warn import warn

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


PARAMETER_CONSTRAINTS: dict[str, list] = {
    "estimator": [BaseEstimator, None],
    "address": [str, None],
    "n_workers": [Interval(Integral, 1, None, closed="left"), None],
    "cpus_per_worker": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "gpus_per_worker": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "memory_per_worker": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
    "feature_cache": [Interval(Integral, 0, None, closed="left"), None],
    "max_restarts": [Interval(Integral, 0, None, closed="left")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
}


@contextmanager
def grid_backend(
    estimator: BaseEstimator | None = None,
    *,
    address: str | None = None,
    n_workers: int | None = None,
    cpus_per_worker: int | str = "auto",
    gpus_per_worker: float | str = "auto",
    memory_per_worker: int | str | None = "auto",
    feature_cache: int | None = None,
    max_restarts: int = 3,
    timeout: float = 60,
) -> Iterator[GridWorkers]:
    """Run the fits of `GridSearchCV`, `cross_validate` and all else that takes `n_jobs` on a Ray cluster.

    A context in which Ray's backend of joblib is active. The number of workers follows from the CPUs or GPUs of the
    cluster and the memory that the estimator needs. The workers stay until the context ends, and each loads the base
    model once, whatever the number of fits. Workers on one node share the folder of quantised weights, so that one of
    them quantises and the others map its file. The scores are those of `n_jobs=1` if `random_state` is set.

    The final fit of the best candidate (`refit=True`) runs in the calling process, on its devices.

    Parameters
    ----------
    estimator : estimator or None, default=None
        What will be fitted, an estimator of this package or a pipeline with some: its memory limits the number of
        workers on a node. Give the largest candidate. Without it, workers are counted by CPUs or GPUs only.
    address : str or None, default=None
        Address of the cluster, as of `ray.init`; "auto" is the one that runs on this machine. With None this is the
        cluster that the process is connected to, or else that of the environment variable RAY_ADDRESS, or the one that
        runs on this machine, or a new one on this machine. A connection that is made here is closed at the end. The
        processes of a new cluster listen on all network interfaces.
    n_workers : int or None, default=None
        Number of workers; None is as many as the nodes have room for.
    cpus_per_worker : int or "auto", default="auto"
        CPUs, and threads of torch, of a worker. "auto" is 1, or more where memory leaves CPUs over.
    gpus_per_worker : float or "auto", default="auto"
        GPUs of a worker. "auto" is 1 if a node of the cluster has one and the estimator does not ask for the CPU, else
        0. Workers that share a GPU take turns on it.
    memory_per_worker : int, "auto" or None, default="auto"
        Bytes of a worker. "auto" is what `memory_estimate` gives for the estimator on a CPU, where weights in 8 or 4
        bits are counted once per node, since the workers map one file; on GPUs it is None. With None, workers are not
        counted by memory.
    feature_cache : int or None, default=None
        Bytes of the cache of text features in each worker; see `skxlmr.set_feature_cache`. None is a quarter of the
        free memory of the node, divided among its workers.
    max_restarts : int, default=3
        How often a worker that was killed is started again, and how often a fit is repeated whose worker was killed.
    timeout : float, default=60
        Seconds to wait for the cluster to reserve the workers, as while it adds nodes, or while others use it.

    Yields
    ------
    GridWorkers
        Number and size of the workers.

    Raises
    ------
    ImportError
        If Ray is not installed.
    ValueError
        If a parameter is invalid, or the address is that of a Ray client ("ray://...").
    NotEnoughMemoryError
        If no node has the memory for one worker.
    RuntimeError
        If the cluster has no room for the workers, or the worker of one fit was killed more than `max_restarts` times.

    Warns
    -----
    UserWarning
        If there is room for one worker only: fits then run in the calling process.

    See Also
    --------
    skxlmr.memory_estimate : The memory of one estimator.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.scale import grid_backend
    >>> clf = XLMRXLClassifier(random_state=0)
    >>> search = GridSearchCV(clf, {"tuning__rank": [4, 8, 16]}, cv=5)
    >>> with grid_backend(clf) as workers:  # doctest: +SKIP
    ...     print(workers)
    ...     search.fit(df.text, df.label)
    """
    parameters = {name: value for name, value in locals().items() if name in PARAMETER_CONSTRAINTS}
    validate_parameter_constraints(PARAMETER_CONSTRAINTS, parameters, "grid_backend")
    with _connected(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = _gpus_per_worker(gpus_per_worker, estimator, nodes)
        memory = worker_memory(estimator, memory_per_worker, on_cpu=gpus == 0)
        workers = plan_workers(nodes, memory, n_workers, cpus_per_worker, gpus)
        if workers.n_jobs == 1:
            warn(
                "The Ray cluster has room for one worker only, so that all fits run in this process, one after "
                "another, on its devices. Connect to a larger cluster (address=...), or leave grid_backend out."
            )
            with parallel_config(n_jobs=1):
                yield workers
            return
        with _reserved(workers, timeout) as options, _running(workers, options, max_restarts, feature_cache):
            yield workers


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, unless the process is connected, and yield the module ray."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("grid_backend needs Ray: pip install 'skxlmr[scale]'") from error
    chosen = address or os.environ.get("RAY_ADDRESS") or ""
    if chosen.startswith("ray://") or ray.util.client.ray.is_connected():
        raise ValueError(
            "grid_backend does not work through a Ray client ('ray://...'), by which joblib's Ray backend fails. Run "
            "the program on a node of the cluster, with address='auto', or by `ray job submit -- python program.py`."
        )
    if ray.is_initialized():
        if address is not None:
            raise ValueError(f"address={address!r}, but this process is connected to Ray already; leave address out.")
        yield ray
        return
    ray.init(address)
    try:
        yield ray
    finally:
        ray.shutdown()


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


def _gpus_per_worker(gpus: float | str, estimator: BaseEstimator | None, nodes: Sequence[Mapping[str, float]]) -> float:
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
        estimate = memory_estimate(
            base.model,
            load_in_8bit=base.load_in_8bit,
            load_in_4bit=base.load_in_4bit,
            tuning=base._trained_by,
            batch_tokens=base.batch_tokens,
            dtype=base.dtype,
            device="cpu",
            language_model=base._language_model,
        )
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
        raise RuntimeError(f"No node of the Ray cluster has {asked} for a worker; its nodes: {_listed(nodes)}.")
    room, nbytes = by_devices, None
    if memory is not None:
        room = [min(n, _room_for(memory, node)) for n, node in zip(by_devices, nodes, strict=True)]
        if not any(room):
            raise NotEnoughMemoryError(
                f"A worker needs {in_gigabytes(memory.of_each(1))} GB, which no node of the Ray cluster has; its "
                f"nodes: {_listed(nodes)}. Choose a smaller model, load_in_8bit=True, tuning='head' or fewer "
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


def _listed(nodes: Sequence[Mapping[str, float]]) -> str:
    listed = [
        f"{node.get('CPU', 0):g} CPU(s), {node.get('GPU', 0):g} GPU(s), {in_gigabytes(int(node.get('memory', 0)))} GB"
        for node in nodes
    ]
    return "; ".join(f"{n} x {node}" for node, n in Counter(listed).items()) or "none"


@contextmanager
def _reserved(workers: GridWorkers, timeout: float) -> Iterator[dict[str, Any]]:
    """Reserve the resources of the workers, and yield the options by which Ray's actors run in them.

    Actors for which there is no room would wait without a message; a reservation tells.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = {"CPU": workers.cpus, "GPU": workers.gpus, "memory": workers.memory}
    group = ray.util.placement_group([{k: v for k, v in needs.items() if v}] * workers.n_jobs, strategy="SPREAD")
    try:
        if not group.wait(timeout):
            free = ray.available_resources()
            raise RuntimeError(
                f"The Ray cluster did not give room for {workers} within timeout={timeout:g} s; it has free: "
                f"{_listed([free])}. Wait until others are done, or choose fewer or smaller workers with n_workers, "
                f"cpus_per_worker, gpus_per_worker or memory_per_worker."
            )
        yield {
            "num_cpus": workers.cpus,
            "num_gpus": workers.gpus,
            "memory": workers.memory,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
        }
    finally:
        ray.util.remove_placement_group(group)


@contextmanager
def _running(
    workers: GridWorkers, options: dict[str, Any], max_restarts: int, feature_cache: int | None
) -> Iterator[None]:
    """Make the backend active, and end its workers afterwards."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    from skxlmr.scale.ray_backend import GridBackend, Workers

    cache = os.environ.get("SKXLMR_CACHE")
    initargs = (workers.cpus, workers.gpus > 0, workers.n_on_node, feature_cache, cache)
    options = {**options, "max_restarts": max_restarts, "max_task_retries": max_restarts}
    backend = GridBackend(workers.n_jobs, lambda n_jobs: Workers(n_jobs, initargs, options), workers.gpus >= 1)
    try:
        with parallel_config(backend=backend, n_jobs=workers.n_jobs):
            yield
    except (RayActorError, OutOfMemoryError) as error:
        raise RuntimeError(
            f"The worker of one fit was killed {max_restarts + 1} times (max_restarts={max_restarts}), mostly for want "
            f"of memory: use fewer workers (n_workers), or a smaller batch_tokens, or leave out the candidate. {error}"
        ) from error
    finally:
        backend.stop()
