"""Estimate of the bytes that a model needs, before it is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skxlmr.checkpoints.resolve import resolve_config
from skxlmr.hardware.device import ALL_GPUS, DTYPES, choose_devices, choose_dtype, choose_quantization, n_processes
from skxlmr.hardware.footprint import (
    FLOAT32,
    LANGUAGE_MODELS,
    TOKENIZER_BYTES,
    activation_bytes,
    default_batch_tokens,
    exchange_bytes,
    gathered_bytes,
    graph_bytes,
    heap_bytes,
    maps_words,
    num_learned,
    num_sharded,
    packed_bytes,
    weight_bytes,
)
from skxlmr.hardware.free_memory import available_memory
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.model.storage import kind_of
from skxlmr.system.parameters import suggesting_values
from skxlmr.tuning import TUNINGS, Head, Tuning, as_tuning

# Models of known shape: their estimates need no connection.
PRESETS = {
    "FacebookAI/xlm-roberta-base": XLMRobertaConfig.base,
    "FacebookAI/xlm-roberta-large": XLMRobertaConfig.large,
    "facebook/xlm-roberta-xl": XLMRobertaXLConfig.xl,
    "facebook/xlm-roberta-xxl": XLMRobertaXLConfig.xxl,
}


@runtime_checkable
class SeveralProcesses(Protocol):
    """The part of `skxlmr.Processes` that the memory depends on."""

    n: int | Literal["auto"]
    strategy: str


@dataclass(frozen=True)
class Together:
    """The number of processes that train together, and how; written as the user would."""

    n: int
    strategy: str = "ddp"

    def __repr__(self) -> str:
        return f"Processes(n={self.n}, strategy={self.strategy!r})"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model needs; with several processes, that each of them needs.

    Loading temporarily needs up to two more tensors, in the dtype of the checkpoint. By far the largest tensor is the
    word embedding: 1.3 GB for XL in 16 bits.

    Attributes
    ----------
    weights : int
        The frozen base model. In 8 or 4 bits the matrices of the layers are quantised, with their scales, the word
        embedding has 16 bits, and the rest has `dtype`. Processes that map the same cached file share most of it.
    learned : int
        Adapter and head, in float32; with `tuning="full"`, a copy of the trained weights.
    optimizer : int
        Gradients and the two moments of AdamW, in float32.
    activations : int
        Of one batch of texts of full length; on a CPU with what the C library keeps between them. If gradients flow
        through the base model, this includes what is kept for the backward pass. With several processes this is the
        buffer of exchanged gradients where that is larger. With strategy="fsdp" it includes the layer that is
        gathered, and is at least what the whole model needs beyond its shards: each process loads the model before it
        is sharded.
    available : int or None
        Free bytes on the device; None if unknown.
    device, dtype : str
    quantization : {"int8", "float8", "nf4"} or None
    batch_tokens : int
        Tokens in a batch.
    parameters : dict
        The arguments of `memory_estimate`, with `model` as a config.
    processes : int
        Number of processes that train together.
    packed : int
        A second copy of 8-bit weights, in the order in which the kernels for x86 CPUs multiply them. Only small models
        have it, up to 128 MiB; each process has its own.
    tokenizer : int
        The vocabulary, on a CPU; on other devices the tokenizer is not in their memory.
    graphs : int
        The most that CUDA graphs of small batches hold (`skxlmr.set_cuda_graphs`). They are captured in memory that is
        free, and freed when it runs out, so this is not part of `total`.
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
    processes: int = 1
    packed: int = 0
    tokenizer: int = 0
    graphs: int = 0

    @property
    def total(self) -> int:
        """Sum of the parts in bytes, without `graphs`; with several processes, of one of them."""
        parts = (self.weights, self.packed, self.tokenizer, self.learned, self.optimizer, self.activations)
        return sum(parts)

    @property
    def sharing(self) -> int:
        """Number of processes that share the memory of the device: all of them on a CPU, one on a GPU."""
        return self.processes if self.device == "cpu" else 1

    @property
    def needed(self) -> int:
        """Bytes that all processes on the device need together.

        Processes on a CPU share 8-bit and 4-bit weights, which they map from one cached file.
        """
        copies = 1 if self.quantization is not None else self.sharing
        return copies * self.weights + self.sharing * (self.total - self.weights)

    @property
    def fits(self) -> bool | None:
        """Whether the bytes needed are available; None if unknown."""
        return None if self.available is None else self.needed <= self.available

    def __str__(self) -> str:
        storage = {None: self.dtype, "int8": "8-bit", "float8": "8-bit float", "nf4": "4-bit"}[self.quantization]
        rows = [
            ("weights", self.weights, storage),
            ("packed", self.packed, "second copy for fast products"),
            ("tokenizer", self.tokenizer, "vocabulary"),
            ("learned", self.learned, "float32"),
            ("optimizer", self.optimizer, "gradients and moments"),
            ("activations", self.activations, f"{self.batch_tokens} tokens at once"),
            ("total", self.total, f"each of {self.processes} processes" if self.processes > 1 else ""),
            ("needed", self.needed if self.sharing > 1 else 0, f"all {self.processes} processes"),
            ("available", self.available, f"on {self.device}"),
            ("graphs", self.graphs, "at most, beside the total where there is room: CUDA graphs of small batches"),
        ]
        lines = [f"{name:<12}{in_gigabytes(nbytes):>8} GB  {note}" for name, nbytes, note in rows if nbytes]
        return "\n".join(line.rstrip() for line in lines)


PARAMETER_CONSTRAINTS = {
    "model": [str, os.PathLike, XLMRobertaXLConfig],
    "load_in_8bit": ["boolean", StrOptions({"auto"}), Int8, Float8],
    "load_in_4bit": ["boolean"],
    "tuning": [StrOptions(set(TUNINGS)), Tuning, None],
    "batch_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "gradient_checkpointing": ["boolean"],
    "dtype": [StrOptions({"auto", *DTYPES})],
    "device": [str],
    "processes": [Interval(Integral, 1, None, closed="left"), SeveralProcesses, None],
    "language_model": [StrOptions(set(LANGUAGE_MODELS)), None],
}


def memory_estimate(
    model: str | os.PathLike | XLMRobertaXLConfig = "facebook/xlm-roberta-xl",
    *,
    load_in_8bit: bool | str | Int8 | Float8 = "auto",
    load_in_4bit: bool = False,
    tuning: str | Tuning | None = None,
    batch_tokens: int | str = "auto",
    gradient_checkpointing: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    processes: int | SeveralProcesses | None = None,
    language_model: str | None = None,
) -> MemoryEstimate:
    """Estimate the memory that an estimator with these parameters needs; no weights are loaded or downloaded.

    Parameters
    ----------
    model : str, path or XLMRobertaXLConfig, default="facebook/xlm-roberta-xl"
        As for the estimators. Base, large, XL and XXL need no connection; for another model of the hub, config.json is
        downloaded.
    load_in_8bit : "auto", bool, Int8 or Float8, default="auto"
    load_in_4bit : bool, default=False
    tuning : {"lora", "bias", "head", "full"}, Tuning or None, default=None
        What is trained; None for prediction or embedding.
    batch_tokens : int or "auto", default="auto"
        Tokens per batch. A longer text is a batch by itself.
    gradient_checkpointing : bool, default=False
        In training, keep only the input of each layer, and run the layer again in the backward pass. The estimators
        do so if there is not enough memory otherwise.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
    device : str, default="auto"
        With "cuda:all" the estimate is for the GPU with the least free memory: each holds a copy of the base model.
    processes : int, Processes or None, default=None
        As for the estimators, or the number of processes that train together; None is one. Each holds the whole model,
        its gradients and the state of its optimizer; with strategy="fsdp" a part of them. On a CPU all of them share
        the available memory; on GPUs each has one, and the estimate is for that with the least free memory.
        `batch_tokens` are those of one process.
    language_model : {"masked", "causal"} or None, default=None
        Whether words are predicted in training: masked ones, as by `XLMRXLMaskedLM`, or each next one, as by
        `XLMRXLGenerator`. Their head is as large as the vocabulary, and tied to the word embedding. None stands for a
        head with few outputs.

    Returns
    -------
    MemoryEstimate
        Printed, it is a small table in GB (10^9 bytes).

    Raises
    ------
    ValueError
        If a parameter is invalid, or parameters exclude each other.
    ModelNotFoundError, CheckpointError
        If there is no such model, or its config.json is invalid.

    Examples
    --------
    >>> from skxlmr import memory_estimate
    >>> estimate = memory_estimate("facebook/xlm-roberta-xl", load_in_8bit=True, device="cpu")
    >>> round(estimate.weights / 1e9, 1)
    4.1

    Each of several processes has its own copy of what is trained:

    >>> from skxlmr import Processes
    >>> four = memory_estimate("nano", tuning="full", device="cpu", processes=Processes(4))
    >>> four.needed == 4 * four.total
    True
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
        "processes": processes,
        "language_model": language_model,
    }
    with suggesting_values(PARAMETER_CONSTRAINTS, parameters):
        validate_parameter_constraints(PARAMETER_CONSTRAINTS, parameters, "memory_estimate")
    tuning = None if tuning is None else as_tuning(tuning)
    n = _number(processes)
    torch_device = min(_devices(device, n), key=lambda each: available_memory(each) or 0)
    torch_dtype = choose_dtype(dtype, torch_device, config)
    settings = choose_quantization(load_in_8bit, load_in_4bit, torch_device, config, tuning)
    if saved_in_8bit(config):
        if load_in_4bit or (tuning is not None and tuning.trains_base):
            raise ValueError("This checkpoint holds 8-bit weights, which allow neither load_in_4bit nor tuning='full'.")
        if isinstance(settings, Float8):
            raise ValueError("This checkpoint holds 8-bit integers, which cannot be loaded as Float8().")
        settings = settings or Int8()
    if isinstance(batch_tokens, str):  # "auto"
        batch_tokens = default_batch_tokens(config, torch_dtype, torch_device)
    learned = FLOAT32 * num_learned(config, tuning, language_model)
    activations = activation_bytes(
        config, batch_tokens, torch_dtype, settings, tuning, torch_device, gradient_checkpointing, language_model
    )
    if torch_device.type == "cpu":
        activations = heap_bytes(config, batch_tokens, activations, tuning, gradient_checkpointing)
    if n > 1:  # gradients are exchanged after the backward pass, when the activations are gone
        activations = max(activations, exchange_bytes(config, tuning))
    weights = weight_bytes(config, settings, torch_dtype, maps_words(config, torch_device))
    if n > 1 and getattr(processes, "strategy", None) == "fsdp" and not (tuning is None or isinstance(tuning, Head)):
        whole = weights + learned + activation_bytes(config, batch_tokens, torch_dtype, settings, None, torch_device)
        sharded = num_sharded(config, tuning, language_model)
        weights, learned = _sharded(config, tuning, weights, learned, sharded, n)
        of_layer, of_words = gathered_bytes(config, tuning, language_model)
        activations = max(activations + of_layer, of_words, whole - weights - 4 * learned)
    return MemoryEstimate(
        weights=weights,
        learned=learned,
        optimizer=3 * learned,
        activations=activations,
        available=available_memory(torch_device),
        device=str(torch_device),
        dtype=str(torch_dtype).removeprefix("torch."),
        quantization=kind_of(settings),
        batch_tokens=batch_tokens,
        parameters=parameters,
        processes=n,
        packed=packed_bytes(config, settings, torch_device),
        tokenizer=TOKENIZER_BYTES * config.vocab_size if torch_device.type == "cpu" else 0,
        graphs=graph_bytes(config, torch_dtype, settings, torch_device),
    )


def _number(processes: int | SeveralProcesses | None) -> int:
    """Return the number of processes; raise a ValueError if it is not one."""
    n = processes.n if isinstance(processes, SeveralProcesses) else 1 if processes is None else processes
    if n != "auto" and (not isinstance(n, Integral) or n < 1):
        raise ValueError(f"processes must have a number n >= 1, or n='auto', got n={n!r}.")
    return n_processes(n)


def _sharded(
    config: XLMRobertaXLConfig, tuning: Tuning, weights: int, learned: int, sharded: int, n: int
) -> tuple[int, int]:
    """Return the bytes of weights and of what is learned in one of `n` processes, each of which has a shard.

    `sharded` is the number of parameters of the base that are in shards.
    """
    whole = weights * sharded // config.num_parameters  # as if all weights had the same number of bits
    weights += whole // n - whole
    if tuning.trains_base:
        learned += FLOAT32 * (sharded // n - sharded)
    return weights, learned


def _devices(device: str, n: int) -> list[torch.device]:
    """Return the devices that hold the model, of which `n` processes have one each if they are GPUs."""
    chosen = choose_devices(device)
    if n > 1 and device in ("auto", "cuda") and chosen[0].type == "cuda":
        return choose_devices(ALL_GPUS)[:n]
    return chosen


def find_config(model: str | os.PathLike) -> XLMRobertaXLConfig:
    """Return the config of a model without downloading weights."""
    if model in PRESETS and not os.path.isdir(model):
        return PRESETS[model]()
    return XLMRobertaXLConfig.from_file(resolve_config(model))


def saved_in_8bit(config: XLMRobertaXLConfig) -> bool:
    """Whether the config of a checkpoint says that its weights are stored in 8 bits."""
    quantization = config.extra.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("load_in_8bit") is True


def in_gigabytes(nbytes: int) -> str:
    """Return bytes as GB (10^9 bytes), rounded for printing."""
    size = nbytes / 10**9
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}" if size >= 0.1 else f"{size:.2g}"
