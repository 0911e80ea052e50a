"""What memory a model will take, told before anything of it is loaded."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skxlmr.available import available_memory
from skxlmr.device import DTYPES, choose_device, choose_dtype, choose_quantization
from skxlmr.footprint import FLOAT32, activation_bytes, num_learned, weight_bytes
from skxlmr.inference import default_batch_tokens
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.training.adapters import TUNINGS, Head, Tuning, as_tuning
from skxlmr.weights.quantization import Int8
from skxlmr.weights.resolve import resolve_config

# Their shape is known: nobody needs a connection to be told what they take.
PRESETS = {
    "FacebookAI/xlm-roberta-base": XLMRobertaConfig.base,
    "FacebookAI/xlm-roberta-large": XLMRobertaConfig.large,
    "facebook/xlm-roberta-xl": XLMRobertaXLConfig.xl,
    "facebook/xlm-roberta-xxl": XLMRobertaXLConfig.xxl,
}
MOST_SUGGESTIONS = 4


class NotEnoughMemoryError(MemoryError):
    """A model does not fit into the memory of its device."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a model takes, in bytes.

    Loading needs up to two tensors more for a moment, as the checkpoint has them. The word embedding is by far the
    largest: 1.3 GB of XL in 16 bits.

    Attributes
    ----------
    weights : int
        The frozen base as it is held. In 8 or 4 bits these are the layers' matrices with their scales, the word
        embedding in 16 bits and the rest in `dtype`; processes that map the same cached file share most of it.
    learned : int
        Adapter and classification head, in float32; with `tuning="full"` a copy of the weights that learn.
    optimizer : int
        Gradients and AdamW's two moments of what is learned, float32.
    activations : int
        Of one batch of texts of full length; where gradients flow through the base, with all that is kept for them.
    available : int or None
        On the device, now; None where it cannot be told.
    device, dtype : str
    quantization : {"int8", "nf4"} or None
    batch_tokens : int
        Tokens in a batch.
    parameters : dict
        What `memory_estimate` was asked, its `model` as a config.
    """

    weights: int
    learned: int
    optimizer: int
    activations: int
    available: int | None
    device: str
    dtype: str
    quantization: str | None
    batch_tokens: int
    parameters: dict[str, Any] = field(repr=False, compare=False)

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.learned + self.optimizer + self.activations

    @property
    def fits(self) -> bool | None:
        """Whether that is available; None where this cannot be told."""
        return None if self.available is None else self.total <= self.available

    def __str__(self) -> str:
        storage = {None: self.dtype, "int8": "8-bit", "nf4": "4-bit"}[self.quantization]
        rows = [
            ("weights", self.weights, storage),
            ("learned", self.learned, "float32"),
            ("optimizer", self.optimizer, "gradients and moments"),
            ("activations", self.activations, f"{self.batch_tokens} tokens at once"),
            ("total", self.total, ""),
            ("available", self.available, f"on {self.device}"),
        ]
        lines = [f"{name:<12}{in_gigabytes(nbytes):>8} GB  {note}" for name, nbytes, note in rows if nbytes]
        return "\n".join(line.rstrip() for line in lines)


PARAMETER_CONSTRAINTS = {
    "model": [str, os.PathLike, XLMRobertaXLConfig],
    "load_in_8bit": ["boolean", StrOptions({"auto"}), Int8],
    "load_in_4bit": ["boolean"],
    "tuning": [StrOptions(set(TUNINGS)), Tuning, None],
    "batch_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "gradient_checkpointing": ["boolean"],
    "dtype": [StrOptions({"auto", *DTYPES})],
    "device": [str],
}


def memory_estimate(
    model: str | os.PathLike | XLMRobertaXLConfig = "facebook/xlm-roberta-xl",
    *,
    load_in_8bit: bool | str | Int8 = "auto",
    load_in_4bit: bool = False,
    tuning: str | Tuning | None = None,
    batch_tokens: int | str = "auto",
    gradient_checkpointing: bool = False,
    dtype: str = "auto",
    device: str = "auto",
) -> MemoryEstimate:
    """Tell what memory an estimator with these parameters will need; no weights are loaded or downloaded.

    Parameters
    ----------
    model : str, path or XLMRobertaXLConfig, default="facebook/xlm-roberta-xl"
        As for the estimators. Base, large, XL and XXL need no connection; of another hub model config.json is fetched.
    load_in_8bit : "auto", bool or Int8, default="auto"
    load_in_4bit : bool, default=False
    tuning : {"lora", "bias", "head", "full"}, Tuning or None, default=None
        What will be learned; None is prediction or embedding.
    batch_tokens : int or "auto", default="auto"
        Tokens that are run at once. A text that has more is a batch alone.
    gradient_checkpointing : bool, default=False
        In training, run each layer again in the backward pass, and keep only its input until then. The estimators
        do so where there is not enough memory without.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
    device : str, default="auto"

    Returns
    -------
    MemoryEstimate
        Printed, it is a small table in GB (10^9 bytes).

    Raises
    ------
    ValueError
        If a parameter is none of its choices, or some exclude each other.
    ModelNotFoundError, CheckpointError
        If there is no such model, or its config.json is not sound.

    Examples
    --------
    >>> from skxlmr import memory_estimate
    >>> estimate = memory_estimate("facebook/xlm-roberta-xl", load_in_8bit=True, device="cpu")
    >>> round(estimate.weights / 1e9, 1)
    4.1
    """
    config = model if isinstance(model, XLMRobertaXLConfig) else find_config(model)
    parameters = {
        "model": config,
        "load_in_8bit": load_in_8bit,
        "load_in_4bit": load_in_4bit,
        "tuning": tuning,
        "batch_tokens": batch_tokens,
        "gradient_checkpointing": gradient_checkpointing,
        "dtype": dtype,
        "device": device,
    }
    validate_parameter_constraints(PARAMETER_CONSTRAINTS, parameters, "memory_estimate")
    tuning = None if tuning is None else as_tuning(tuning)
    if tuning is not None and tuning.trains_base:
        if load_in_4bit or load_in_8bit not in ("auto", False):
            raise ValueError(
                "tuning='full' trains every weight, which 8-bit and 4-bit weights do not allow; use load_in_8bit=False."
            )
        load_in_8bit = False
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device, config)
    settings = choose_quantization(load_in_8bit, load_in_4bit, torch_device, config)
    if saved_in_8bit(config):
        if load_in_4bit or (tuning is not None and tuning.trains_base):
            raise ValueError(
                "This checkpoint holds 8-bit weights: there is no load_in_4bit and no tuning='full' of it."
            )
        settings = settings or Int8()
    if batch_tokens == "auto":
        batch_tokens = default_batch_tokens(config, torch_dtype, torch_device)
    learned = FLOAT32 * num_learned(config, tuning)
    return MemoryEstimate(
        weights=weight_bytes(config, settings, torch_dtype),
        learned=learned,
        optimizer=3 * learned,
        activations=activation_bytes(
            config, batch_tokens, torch_dtype, settings, tuning, torch_device, gradient_checkpointing
        ),
        available=available_memory(torch_device),
        device=str(torch_device),
        dtype=str(torch_dtype).removeprefix("torch."),
        quantization="int8" if isinstance(settings, Int8) else settings,
        batch_tokens=batch_tokens,
        parameters=parameters,
    )


def training_budget(config: XLMRobertaXLConfig, batch_tokens: int, **parameters: Any) -> tuple[int, bool]:
    """What there is memory to train with: tokens of a batch, and whether layers are to be run twice to keep less.

    First there are fewer tokens, down to a text of full length, which costs next to nothing; then gradient
    checkpointing, which costs a third more time.

    Parameters
    ----------
    config : XLMRobertaXLConfig
    batch_tokens : int
        The most.
    **parameters
        Further ones of `memory_estimate`.
    """
    estimate = memory_estimate(config, batch_tokens=batch_tokens, **parameters)
    sizes = [batch_tokens, *_smaller_batches(estimate)]
    for gradient_checkpointing in (False, True):
        for n_tokens in sizes:
            parameters |= {"batch_tokens": n_tokens, "gradient_checkpointing": gradient_checkpointing}
            estimate = memory_estimate(config, **parameters)
            if estimate.available is None or estimate.total - estimate.weights <= estimate.available:
                return n_tokens, gradient_checkpointing
    return sizes[-1], True


def find_config(model: str | os.PathLike) -> XLMRobertaXLConfig:
    """Find the shape of a model, downloading no weights."""
    if model in PRESETS and not os.path.isdir(model):
        return PRESETS[model]()
    return XLMRobertaXLConfig.from_file(resolve_config(model))


def saved_in_8bit(config: XLMRobertaXLConfig) -> bool:
    """Whether a checkpoint's config says that its weights are in 8 bits already."""
    quantization = config.extra.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("load_in_8bit") is True


def check_memory(estimate: MemoryEstimate, *, model: str | os.PathLike) -> None:
    """Raise NotEnoughMemoryError if more is needed than there is.

    Parameters
    ----------
    estimate : MemoryEstimate
    model : str or path
        Its name, for the message.

    Raises
    ------
    NotEnoughMemoryError
        Says what is needed, what there is, and which parameters would make it fit.
    """
    if estimate.fits is not False:
        return
    parts = {name: getattr(estimate, name) for name in ("weights", "learned", "optimizer", "activations")}
    listed = ", ".join(f"{name} {in_gigabytes(nbytes)} GB" for name, nbytes in parts.items() if nbytes)
    raise NotEnoughMemoryError(
        f"{os.fspath(model)!r} needs {in_gigabytes(estimate.total)} GB on {estimate.device} ({listed}), of which "
        f"{in_gigabytes(estimate.available)} GB are available. {_advice(estimate)}"
    )


Changes = tuple[dict[str, Any], ...]  # parameters of `memory_estimate`, by what is changed


def _advice(estimate: MemoryEstimate) -> str:
    """Name the fewest changes with which the model fits, or else the least that it can do with."""
    axes = _ways_to_shrink(estimate)
    tried: list[tuple[Changes, MemoryEstimate]] = []
    for n_changes in range(1, len(axes) + 1):
        ways = [
            (changes, _changed(estimate, changes))
            for chosen in itertools.combinations(axes, n_changes)
            for changes in itertools.product(*chosen)
            if _are_possible(estimate, changes)
        ]
        fitting = [_with_largest_batch(estimate, changes) for changes, smaller in ways if smaller.fits]
        if fitting:
            return f"It fits with {'; or with '.join(_written(*way) for way in fitting[:MOST_SUGGESTIONS])}."
        tried += ways
    if not tried:
        return "There is nothing to switch on that makes it smaller."
    return f"Nothing makes it fit: the least is with {_written(*min(tried, key=lambda way: way[1].total))}."


def _ways_to_shrink(estimate: MemoryEstimate) -> list[list[dict[str, Any]]]:
    """What can be changed: for each thing its choices."""
    parameters, device = estimate.parameters, torch.device(estimate.device)
    least = parameters["model"].max_length
    storage: dict[str | None, list[dict[str, Any]]] = {
        None: [{"load_in_8bit": True}, {"load_in_4bit": True}],
        "int8": [{"load_in_8bit": False, "load_in_4bit": True}],
        "nf4": [],
    }
    tuning = None if parameters["tuning"] is None else as_tuning(parameters["tuning"])
    tunings = [{"tuning": "lora"}] if tuning is not None and tuning.trains_base else []
    if tuning is not None and not isinstance(tuning, Head):
        tunings.append({"tuning": "head"})
    half = choose_dtype("auto", device, parameters["model"]) if device.type == "cuda" else torch.bfloat16
    axes = [
        [] if saved_in_8bit(parameters["model"]) else storage[estimate.quantization],
        # What "auto" takes depends on the dtype, which may be changed, too.
        [{"batch_tokens": least}] if estimate.batch_tokens > least or parameters["batch_tokens"] == "auto" else [],
        tunings,
        [{"dtype": str(half).removeprefix("torch.")}] if estimate.dtype == "float32" else [],
        [{"device": "cpu"}] if device.type != "cpu" else [],
    ]
    return [axis for axis in axes if axis]


def _smaller_batches(estimate: MemoryEstimate) -> list[int]:
    """Tokens in a batch, half and half again; not below a text of full length, which is a batch whatever is allowed."""
    least = estimate.parameters["model"].max_length
    halves = [estimate.batch_tokens >> n for n in range(1, estimate.batch_tokens.bit_length())]
    return [n for n in halves if n > least] + [least] * (estimate.batch_tokens > least)


def _are_possible(estimate: MemoryEstimate, changes: Changes) -> bool:
    """Whether the changes go together: what learns as a whole cannot be quantised."""
    parameters = _merged(estimate, changes)
    tuning = parameters["tuning"]
    quantized = parameters["load_in_8bit"] not in ("auto", False) or parameters["load_in_4bit"]
    return tuning is None or not (quantized and as_tuning(tuning).trains_base)


def _with_largest_batch(estimate: MemoryEstimate, changes: Changes) -> tuple[Changes, MemoryEstimate]:
    """Where the batch is one of the changes, make it no smaller than it has to be."""
    if any("batch_tokens" in change for change in changes):
        for n_tokens in _smaller_batches(estimate):
            larger = tuple({"batch_tokens": n_tokens} if "batch_tokens" in change else change for change in changes)
            if _changed(estimate, larger).fits:
                changes = larger
                break
    return changes, _changed(estimate, changes)


def _merged(estimate: MemoryEstimate, changes: Changes) -> dict[str, Any]:
    parameters = dict(estimate.parameters)
    for change in changes:
        parameters |= change
    return parameters


def _changed(estimate: MemoryEstimate, changes: Changes) -> MemoryEstimate:
    return memory_estimate(**_merged(estimate, changes))


def _written(changes: Changes, estimate: MemoryEstimate) -> str:
    """Changes as a user writes them, and what is needed then."""
    written = ", ".join(f"{name}={value!r}" for change in changes for name, value in change.items())
    return f"{written} (needs {in_gigabytes(estimate.total)} GB)"


def in_gigabytes(nbytes: int) -> str:
    """Bytes as a number of GB (10^9) that people can read."""
    size = nbytes / 10**9
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}" if size >= 0.1 else f"{size:.2g}"
