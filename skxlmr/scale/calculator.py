"""Hours and memory of a run over many rows, from measured speeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType

from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skxlmr.hardware.estimate import MemoryEstimate, in_gigabytes, memory_estimate
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.training.auto_settings import auto_epochs
from skxlmr.training.settings import TrainingParameters
from skxlmr.tuning import Head, Tuning, as_tuning

XL, XXL = "facebook/xlm-roberta-xl", "facebook/xlm-roberta-xxl"
CPU = "2 threads of an x86 CPU with AVX-512 (VNNI and bfloat16)"


@dataclass(frozen=True)
class Speed:
    """A measured speed: tokens per second of one device, which device it was, and the file in benchmarks/results."""

    tokens_per_second: float
    device: str
    file: str


# By model, type of device, storage of the weights, and whether the base model is trained through.
MEASURED: Mapping[tuple[str, str, str, bool], Speed] = MappingProxyType(
    {
        ("nano", "cpu", "float32", False): Speed(25_087, CPU, "scale-nano-cpu.json"),
        ("e5-small", "cpu", "bfloat16", False): Speed(15_088, CPU, "embedding-e5-small-cpu.json"),
        ("e5-small", "cpu", "int8", False): Speed(24_591, CPU, "embedding-e5-small-cpu.json"),
        ("e5-small", "cpu", "float32", False): Speed(8_212, CPU, "embedding-e5-small-cpu.json"),
        (XL, "cpu", "int8", False): Speed(231.1, CPU, "full-size-xl-cpu.json"),
        (XL, "cpu", "bfloat16", False): Speed(54.9, CPU, "eight-bit-xl-cpu.json"),
        (XL, "cpu", "float32", False): Speed(26.0, CPU, "eight-bit-xl-cpu.json"),
        (XL, "cpu", "int8", True): Speed(87.2, CPU, "full-size-xl-cpu.json"),
        (XXL, "cpu", "int8", False): Speed(19.8, CPU, "eight-bit-xxl-cpu.json"),
    }
)


@dataclass(frozen=True)
class RunEstimate:
    """Time and memory of a run.

    Attributes
    ----------
    tokens : int
        Tokens that the base model processes, over all fits and epochs.
    devices : int
    tokens_per_second : float
        Of one device.
    overhead : float
        Share of the model's time that comes on top of it.
    source : str
        Where `tokens_per_second` is from.
    memory : MemoryEstimate
        Of one device.
    """

    tokens: int
    devices: int
    tokens_per_second: float
    overhead: float
    source: str
    memory: MemoryEstimate

    @property
    def hours(self) -> float:
        """Time from start to end, if the work is divided evenly among the devices."""
        return self.device_hours / self.devices

    @property
    def device_hours(self) -> float:
        """Sum of the hours of all devices, for which a cloud charges."""
        return self.tokens / self.tokens_per_second * (1 + self.overhead) / 3600

    def __str__(self) -> str:
        rows = [
            ("tokens", f"{self.tokens:,}", ""),
            ("tokens/s", f"{self.tokens_per_second:,.1f}", f"per device: {self.source}"),
            (
                "devices",
                f"{self.devices:,}",
                f"{self.overhead:.0%} of the time on top for reading, writing and scheduling",
            ),
            ("hours", f"{self.hours:,.3g}", f"{self.device_hours:,.3g} on all devices together"),
            ("memory", f"{in_gigabytes(self.memory.total)} GB", f"per device ({self.memory.device})"),
        ]
        return "\n".join(f"{name:<10}{value:>18}  {note}".rstrip() for name, value, note in rows)


PARAMETER_CONSTRAINTS: dict[str, list] = {
    "rows": [Interval(Integral, 1, None, closed="left")],
    "tokens_per_row": [Interval(Real, 0, None, closed="neither")],
    "epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "fits": [Interval(Integral, 1, None, closed="left")],
    "devices": [Interval(Integral, 1, None, closed="left")],
    "tokens_per_second": [Interval(Real, 0, None, closed="neither"), None],
    "overhead": [Interval(Real, 0, None, closed="left")],
}


def estimate_run(
    rows: int,
    tokens_per_row: float,
    *,
    model: str | os.PathLike | XLMRobertaXLConfig = XL,
    tuning: str | Tuning | None = None,
    epochs: int | str = "auto",
    fits: int = 1,
    devices: int = 1,
    tokens_per_second: float | None = None,
    overhead: float = 0.2,
    load_in_8bit: bool | str | Int8 | Float8 = "auto",
    load_in_4bit: bool = False,
    batch_tokens: int | str = "auto",
    gradient_checkpointing: bool = False,
    dtype: str = "auto",
    device: str = "auto",
) -> RunEstimate:
    """Estimate the hours and the memory of predictions, embeddings or fits; no model is loaded.

    Parameters
    ----------
    rows : int
        Number of texts, at least 1. Repeated texts in one call are computed once, so count different ones.
    tokens_per_row : float
        Mean number of tokens of a text, at most what `max_length` leaves of it.
    model : str, path or XLMRobertaXLConfig, default="facebook/xlm-roberta-xl"
        As for `skxlmr.memory_estimate`.
    tuning : {"lora", "bias", "head", "full"}, Tuning or None, default=None
        What is trained; None for prediction or embedding. With "head" the base model runs once per text, and the time
        of the head is not counted.
    epochs : int or "auto", default="auto"
        Epochs of a fit, as `max_epochs` of the estimators: "auto" is what they take for so many rows with their default
        `batch_size`. Without meaning if the base model is not trained.
    fits : int, default=1
        Number of fits, such as candidates times folds of a grid search. If the base model is not trained, all fits in a
        process use the same features.
    devices : int, default=1
        GPUs, or CPUs of the size of the measured one: pairs of threads.
    tokens_per_second : float or None, default=None
        Of one device, without the overhead; None takes what was measured in benchmarks/results, which has CPUs only.
        Measure it on a thousand rows of your own.
    overhead : float, default=0.2
        Share of the time that reading, writing and scheduling add to the model's. Ray Data added 0.19 in a trial with
        40,000 rows and a small model; larger models have less.
    load_in_8bit : "auto", bool, Int8 or Float8, default="auto"
    load_in_4bit : bool, default=False
    batch_tokens : int or "auto", default="auto"
    gradient_checkpointing : bool, default=False
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
    device : str, default="auto"
        These are as for `skxlmr.memory_estimate`.

    Returns
    -------
    RunEstimate
        Printed, it is a small table.

    Raises
    ------
    ValueError
        If a parameter is invalid, or the speed was not measured and `tokens_per_second` is not given.
    ModelNotFoundError, CheckpointError
        If there is no such model, or its config.json is invalid.

    Examples
    --------
    A hundred million texts of 40 tokens on eight GPUs that embed 50,000 tokens/s each:

    >>> from skxlmr.scale import estimate_run
    >>> run = estimate_run(100_000_000, 40, devices=8, tokens_per_second=50_000, device="cpu")
    >>> round(run.hours, 1), round(run.device_hours)
    (3.3, 27)
    """
    given = {name: value for name, value in locals().items() if name in PARAMETER_CONSTRAINTS}
    validate_parameter_constraints(PARAMETER_CONSTRAINTS, given, "estimate_run")
    memory = memory_estimate(
        model,
        load_in_8bit=load_in_8bit,
        load_in_4bit=load_in_4bit,
        tuning=tuning,
        batch_tokens=batch_tokens,
        gradient_checkpointing=gradient_checkpointing,
        dtype=dtype,
        device=device,
    )
    trained = tuning is not None and not isinstance(as_tuning(tuning), Head)
    if tokens_per_second is None:
        speed = _measured(model, memory, trained)
        tokens_per_second, source = speed.tokens_per_second, f"{speed.file}, {speed.device}"
    else:
        source = "given"
    n_epochs = auto_epochs(rows, TrainingParameters.batch_size) if isinstance(epochs, str) else epochs
    tokens = round(rows * tokens_per_row) * (n_epochs * fits if trained else 1)
    return RunEstimate(tokens, devices, tokens_per_second, overhead, source, memory)


def _measured(model: str | os.PathLike | XLMRobertaXLConfig, memory: MemoryEstimate, trained: bool) -> Speed:
    """Return the measured speed of a model, or raise a ValueError that names those that were measured."""
    device, storage = memory.device.partition(":")[0], memory.quantization or memory.dtype
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else "a config"
    speed = MEASURED.get((name, device, storage, trained))
    if speed is not None:
        return speed
    done = {True: "trained", False: "run"}
    listed = ", ".join(f"{each} ({kind}, {bits}, {done[learned]})" for each, kind, bits, learned in MEASURED)
    raise ValueError(
        f"The speed of model={name!r} ({device}, {storage}, {done[trained]}) was not measured; give tokens_per_second, "
        f"as you see it on a thousand rows. Measured: {listed}."
    )
