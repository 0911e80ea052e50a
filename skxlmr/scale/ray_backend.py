"""The backend of joblib that `skxlmr.scale.grid_backend` makes active: Ray's own, with workers that stay.

It imports Ray, so it is imported where a grid begins only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from joblib import Parallel
from joblib._parallel_backends import ParallelBackendBase, SequentialBackend
from ray.util.joblib.ray_backend import RayBackend
from ray.util.multiprocessing.pool import AsyncResult, Pool

from skxlmr.hardware.free_memory import available_memory
from skxlmr.runtime.feature_cache import SHARE_OF_FREE_MEMORY, set_feature_cache

MIN_SHARED_LENGTH = 100  # arguments of fewer rows travel with the call


class InWorker(SequentialBackend):
    """Backend of joblib inside a worker, where nested parallel calls run one after another.

    `has_own_gpu` says that a model there is not one of several on the same GPU.
    """

    def __init__(self, nesting_level: int | None = None, has_own_gpu: bool = False) -> None:
        super().__init__(nesting_level=nesting_level)
        self.has_own_gpu = has_own_gpu


class GridBackend(RayBackend):
    """Ray's backend of joblib with a fixed number of workers, which live as long as the context.

    Ray's own makes new processes for every parallel call, each of which would load the base model again; takes
    `n_jobs=-1` for the number of CPUs even where a worker needs a GPU, and then waits for ever; and copies X into every
    call if joblib is of version 1.3 or later.
    """

    _pool: Workers | None = None

    def __init__(self, n_workers: int, make_pool: Callable[[int], Workers], has_own_gpu: bool = False) -> None:
        super().__init__()
        self.n_workers = n_workers
        self._make_pool = make_pool
        self._has_own_gpu = has_own_gpu

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of workers for `n_jobs`: never more than there are; -1 is all of them."""
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning; use -1 for all workers, or 1 for none.")
        if n_jobs is None:
            return 1
        return min(n_jobs, self.n_workers) if n_jobs > 0 else max(self.n_workers + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Parallel | None = None, *_: Any, **__: Any) -> int:
        """Start the workers unless they run already, and return their number."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if self._pool is None or self._pool.n_workers != n_jobs:
            self.stop()
            self._pool = self._make_pool(n_jobs)
        self.parallel = parallel
        return n_jobs

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """Return the backend of parallel calls inside a worker."""
        return InWorker((self.nesting_level or 0) + 1, self._has_own_gpu), None

    def terminate(self) -> None:
        """Forget the arguments of a parallel call that has ended; its workers keep their base model."""
        if self._pool is not None:
            self._pool.forget()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs; the next parallel call starts new workers."""
        self.stop()

    def stop(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


class Workers(Pool):
    """Ray's pool of processes; long arguments are copied to each node once, not into every call."""

    def __init__(self, n_workers: int, initargs: Sequence[Any], ray_remote_args: dict[str, Any]) -> None:
        super().__init__(n_workers, prepare_worker, initargs, ray_remote_args=ray_remote_args)
        self.n_workers = n_workers
        # By id; the argument is kept, so that its id stays its own.
        self._shared: dict[int, tuple[Any, SharedArgument]] = {}

    def apply_async(
        self,
        func: Callable,
        args: tuple | None = None,
        kwargs: dict | None = None,
        callback: Callable[[Any], None] | None = None,
        error_callback: Callable[[Exception], None] | None = None,
    ) -> AsyncResult:
        """Run joblib's batch of calls in the next worker."""
        return super().apply_async(self._with_shared_arguments(func), args, kwargs, callback, error_callback)

    def _with_shared_arguments(self, func: Any) -> Callable:
        calls = getattr(func, "func", func)  # joblib wraps it to keep the traceback
        if not hasattr(calls, "items"):
            return func
        calls.items = [
            (each, [self._share(value) for value in args], {name: self._share(value) for name, value in kwargs.items()})
            for each, args, kwargs in calls.items
        ]
        return WithArguments(func)

    def _share(self, value: Any) -> Any:
        if isinstance(value, str | bytes | dict) or not hasattr(value, "__len__") or len_of(value) < MIN_SHARED_LENGTH:
            return value
        if id(value) not in self._shared:
            self._shared[id(value)] = value, SharedArgument(ray.put(value))
        return self._shared[id(value)][1]

    def terminate(self) -> None:
        """End the workers at once, also those that compute."""
        self._closed = True
        self.forget()
        for actor, _ in self._actor_pool:
            ray.kill(actor)

    def forget(self) -> None:
        """Remove the shared arguments from Ray's object store."""
        self._shared.clear()


def len_of(value: Any) -> int:
    """Return the length of an argument; 0 if it has none, as a fitted or unfitted pipeline of steps."""
    try:
        return len(value)
    except TypeError:
        return 0


class SharedArgument:
    """Stands for an argument in Ray's object store."""

    def __init__(self, ref: ray.ObjectRef) -> None:
        self.ref = ref

    @staticmethod
    def value_of(value: Any) -> Any:
        """Return the argument that `value` stands for, or `value` itself."""
        return ray.get(value.ref) if isinstance(value, SharedArgument) else value


class WithArguments:
    """Joblib's batch of calls, which gets its shared arguments where it is called."""

    def __init__(self, func: Any) -> None:
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls, value_of = getattr(self.func, "func", self.func), SharedArgument.value_of
        calls.items = [
            (each, [value_of(value) for value in args], {name: value_of(value) for name, value in kwargs.items()})
            for each, args, kwargs in calls.items
        ]
        return self.func(*args, **kwargs)


def prepare_worker(n_threads: int, has_gpu: bool, n_on_node: int, feature_cache: int | None, cache: str | None) -> None:
    """Set up a worker process: threads, devices, the size of its cache of features, and the folder of 8-bit weights."""
    torch.set_num_threads(n_threads)
    if not has_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # device="auto" is the CPU, also where the node has GPUs
    if cache is not None:
        os.environ["SKXLMR_CACHE"] = cache
    free = available_memory(torch.device("cpu"))
    if feature_cache is None and free is not None:
        feature_cache = free // SHARE_OF_FREE_MEMORY // n_on_node
    set_feature_cache(feature_cache)
