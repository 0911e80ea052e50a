"""How many actors of Ray a run takes, and what each of them gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.hardware.estimate import memory_estimate

PROCESS_BYTES = 10**9  # of Python, torch and the rows, beside the model
ROUNDING = 1e-6
CPUS_LEFT = 1  # for the tasks of Ray Data, which otherwise wait for ever


@dataclass(frozen=True)
class Workers:
    """The number of actors, and the CPUs and GPUs of each; None for what is to be found."""

    count: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"workers must be an integer of at least 1, or None, got {self.count!r}.")
        if self.cpus is not None and self.cpus <= 0:
            raise ValueError(f"cpus_per_worker must be more than 0, or None, got {self.cpus!r}.")
        if self.gpus is not None and self.gpus < 0:
            raise ValueError(f"gpus_per_worker must not be negative, got {self.gpus!r}.")

    def found(self, resources: dict[str, float], bytes_per_worker: int, n_parts: int) -> Workers:
        """Fill in what is not given.

        Parameters
        ----------
        resources : dict
            The CPUs, GPUs and bytes of memory of the cluster, as `ray.cluster_resources` names them.
        bytes_per_worker : int
            Memory of a worker that predicts on CPUs.
        n_parts : int
            More workers than parts are of no use.

        Raises
        ------
        ValueError
            If the cluster has not what is asked for.
        """
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        free = max(cpus - CPUS_LEFT, cpus / 2)
        per_gpu = float(gpus >= 1) if self.gpus is None else self.gpus
        if self.count is not None:
            most = self.count
        elif per_gpu:
            most = int(gpus / per_gpu)
        else:
            in_memory = int(resources["memory"] // bytes_per_worker) if "memory" in resources else n_parts
            most = min(int(free / (self.cpus or 1.0)), in_memory)
        count = max(1, min(most, n_parts))
        share = free / count
        per_cpu = self.cpus or (float(int(share)) if share >= 1 else share)
        if count * per_cpu > free + ROUNDING or count * per_gpu > gpus:
            raise ValueError(
                f"{count} workers with {per_cpu:g} CPUs and {per_gpu:g} GPUs each do not fit: the cluster has {cpus:g} "
                f"CPUs, of which {cpus - free:g} must be left for Ray Data, and {gpus:g} GPUs. Take fewer, or less of "
                f"each."
            )
        return Workers(count, per_cpu, per_gpu)


def bytes_of_worker(estimator: XLMRXLEstimator) -> int:
    """Return the memory of a process that predicts on CPUs."""
    names = ("load_in_8bit", "load_in_4bit", "dtype")
    precision: dict[str, Any] = {name: getattr(estimator, name) for name in names}
    return memory_estimate(estimator.model, device="cpu", **precision).total + PROCESS_BYTES
