"""Training on several processes: the settings, and how an estimator's fit runs on them."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from torch import Tensor, nn

from skxlmr.hardware.device import ALL_GPUS, choose_device, n_processes
from skxlmr.system.parameters import DeclaredParameters, declare_parameters, parameter
from skxlmr.system.warn import warn
from skxlmr.training.launch import by_value, launch
from skxlmr.training.ranks import joined, joining


@declare_parameters
class Processes(DeclaredParameters, BaseEstimator):
    """Train on several processes, each of which runs some of the micro-batches of a step.

    `batch_size` is the number of rows that all processes together learn from in a step, so the losses, and what is
    learned, are those of one process up to rounding; with dropout its draws differ if the rows are cut into other
    micro-batches. A checkpoint (`checkpoint_dir`) resumes with another number of processes, too. Rank 0 validates,
    writes files and calls callbacks; after `fit`, callbacks have the attributes that they got there.

    On GPUs each process trains on one, and they exchange gradients by NCCL; on a CPU they share its cores, by gloo.

    Parameters
    ----------
    n : int or "auto"
        Number of processes. "auto" is one for each GPU that is visible (`CUDA_VISIBLE_DEVICES`), or with
        `start="torchrun"` the number that torchrun started.
    strategy : {"ddp", "fsdp"}
        "ddp": each process holds the whole model. "fsdp": each holds a part of its layers and of the word embedding,
        of their gradients, and of the state of the optimizer, and gathers a layer while it runs it, so that models
        fit which do not fit on one GPU. It validates on all processes, has no `scoring`, and does not train what
        compares the rows of a step with each other; callbacks that run the model wait forever.
    start : {"local", "torchrun"}
        "local" starts the processes on this machine for each `fit`; it needs neither a script of its own nor
        `if __name__ == "__main__"`. "torchrun" is for a script that torchrun has started, perhaps on several machines:
        all processes call `fit` with the same parameters and data, and all of them are fitted.
    max_restarts : int
        With `start="local"`, how often the processes are started again after one of them was killed; training then
        goes on from the latest checkpoint, if there is a `checkpoint_dir`.

    Examples
    --------
    >>> from skxlmr import Processes, XLMRXLClassifier
    >>> clf = XLMRXLClassifier(processes=Processes(n=4, max_restarts=2), checkpoint_dir="checkpoints")
    >>> clf.set_params(processes__n=2).processes
    Processes(max_restarts=2, n=2)
    """

    n: int | Literal["auto"] = parameter(
        default="auto", valid=[Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})], kw_only=False, order=1
    )
    strategy: str = parameter(default="ddp", valid=[StrOptions({"ddp", "fsdp"})], order=2)
    start: str = parameter(default="local", valid=[StrOptions({"local", "torchrun"})], order=3)
    max_restarts: int = parameter(default=0, valid=[Interval(Integral, 0, None, closed="left")], order=4)

    def check(self) -> None:
        """Raise a ValueError if a parameter is not valid."""
        parameters = self.get_params(deep=False)
        validate_parameter_constraints(self._parameter_constraints, parameters, type(self).__name__)
        if self.start == "torchrun" and self.max_restarts:
            raise ValueError("Processes(max_restarts=...) is for start='local'; torchrun has --max-restarts.")


def run_on_processes(estimator: Any, method: str, *arguments: Any) -> Any:
    """Call a method of an estimator in all its processes; return the result of rank 0, on the CPU.

    Without `estimator.processes`, or inside of one of them, it is called here.
    """
    processes: Processes | None = estimator.processes
    if processes is None or joined() is not None:
        return getattr(estimator, method)(*arguments)
    processes.check()
    if get_active_backend()[0].nesting_level:
        raise ValueError(
            "processes cannot be used inside of parallel workers, each of which would start its own. Use n_jobs=1 in "
            "what calls fit, or processes=None."
        )
    if processes.start == "torchrun":
        return _run_with_torchrun(processes, estimator, method, arguments)
    return _run_locally(processes, estimator, method, arguments)


def _run_with_torchrun(processes: Processes, estimator: Any, method: str, arguments: Sequence[Any]) -> Any:
    try:
        size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
        n_local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except KeyError as error:
        raise ValueError(
            f"Processes(start='torchrun') is for a script that torchrun has started, but the environment variable "
            f"{error} is not set. Start it by: torchrun --nproc-per-node 4 script.py"
        ) from None
    if processes.n not in ("auto", size):
        raise ValueError(f"Processes(n={processes.n}), but torchrun has started {size}. Use n='auto'.")
    device = torch.device("cpu")
    if device_type(estimator.device, n_local) == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    with joining(device) as ranks:
        result = _on_cpu(getattr(_on_device(estimator, device), method)(*arguments))
        return ranks.broadcast(result)


def _run_locally(processes: Processes, estimator: Any, method: str, arguments: Sequence[Any]) -> Any:
    n = n_processes(processes.n)
    done = launch(
        _of_rank,
        estimator,
        getattr(estimator, "_optimizer_state", None),
        check_random_state(None).get_state(),  # that of NumPy, which random_state=None draws from
        method,
        arguments,
        n=n,
        device_type=device_type(estimator.device, n),
        max_restarts=processes.max_restarts,
    )
    result, warned, random_state, global_state, callbacks = done
    for category, message in warned:
        warn(message, category)
    check_random_state(None).set_state(global_state)
    if isinstance(estimator.random_state, np.random.RandomState):
        estimator.random_state.set_state(random_state)
    for callback, attributes in zip(estimator.callbacks or (), callbacks, strict=True):
        if attributes is not None:
            vars(callback).update(pickle.loads(attributes))  # nosec B301: written by our own process
    return result


def _of_rank(estimator: Any, optimizer_state: Any, global_state: Any, method: str, arguments: Sequence[Any]) -> Any:
    """What each process does: call the method. Returns its result, and all that it changed beside."""
    ranks = joined()
    assert ranks is not None
    if optimizer_state is not None:  # which is not pickled with an estimator
        estimator._optimizer_state = optimizer_state
    check_random_state(None).set_state(global_state)
    with _recorded(ranks.is_first) as warned:
        result = getattr(_on_device(estimator, ranks.device), method)(*arguments)
        if not ranks.is_first:
            return None
        callbacks = [_attributes(callback) for callback in estimator.callbacks or ()]
    is_state = isinstance(estimator.random_state, np.random.RandomState)
    random_state = estimator.random_state.get_state() if is_state else None
    return _on_cpu(result), warned, random_state, check_random_state(None).get_state(), callbacks


@contextmanager
def _recorded(shows: bool) -> Iterator[list[tuple[type[Warning], str]]]:
    """Record the warnings in a `with` statement, each once; or ignore them."""
    found: list[tuple[type[Warning], str]] = []
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always" if shows else "ignore")
        yield found
    assert recorded is not None
    found += dict.fromkeys((each.category, str(each.message)) for each in recorded)


def _attributes(callback: Any) -> bytes | None:
    """Pickle the attributes of a callback; None, with a warning, if that is not possible."""
    try:
        return by_value(vars(callback))
    except Exception as error:
        warn(f"The attributes of {type(callback).__name__} stay those from before the fit: {error!r:.200}")
        return None


def device_type(device: str, n: int) -> str:
    """Return the type of the devices of `n` processes on this machine.

    Raises a ValueError if there is not one for each. CUDA is not initialised here, since it takes memory of a GPU.
    """
    if device in ("auto", "cuda", ALL_GPUS) and torch.cuda.is_available():
        n_devices = torch.cuda.device_count()
        if n > n_devices:
            raise ValueError(
                f"There are {n_devices} GPUs, but processes has n={n}: each process trains on a GPU of its own. Use "
                f"Processes(n={n_devices}), or device='cpu'."
            )
        return "cuda"
    chosen = choose_device(device)
    if chosen.type != "cpu":
        raise ValueError(
            f"processes cannot train on device={device!r}. Use device='cuda' or 'auto' for one GPU per process, or "
            f"'cpu'; CUDA_VISIBLE_DEVICES chooses the GPUs."
        )
    return "cpu"


def _on_device(estimator: Any, device: torch.device) -> Any:
    """Return the estimator, or a shallow copy of it, on the device of this process."""
    if estimator.device == str(device):
        return estimator
    copied = estimator._snapshot()
    copied.device = str(device)
    return copied


def _on_cpu(result: Any) -> Any:
    """Return a result with all tensors and modules on the CPU."""
    if isinstance(result, nn.Module | Tensor):
        return result.cpu()
    if isinstance(result, dict):
        return {name: _on_cpu(value) for name, value in result.items()}
    if isinstance(result, tuple):
        return tuple(map(_on_cpu, result))
    return result
