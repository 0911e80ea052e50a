"""Estimate of the bytes that a model needs, before it is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from skxlmr.checkpoints.resolve import resolve_config
from skxlmr.hardware.device import DTYPES, choose_devices, choose_dtype, choose_quantization
from skxlmr.hardware.footprint import FLOAT32, activation_bytes, default_batch_tokens, num_learned, weight_bytes
from skxlmr.hardware.free_memory import available_memory
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.model.int8 import Int8
from skxlmr.system.parameters import suggesting_values
from skxlmr.tuning import TUNINGS, Tuning, as_tuning

# Models of known shape: their estimates need no connection.
PRESETS = {
    "FacebookAI/xlm-roberta-base": XLMRobertaConfig.base,
    "FacebookAI/xlm-roberta-large": XLMRobertaConfig.large,
    "facebook/xlm-roberta-xl": XLMRobertaXLConfig.xl,
    "facebook/xlm-roberta-xxl": XLMRobertaXLConfig.xxl,
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model needs.

    Loading temporarily needs up to two more tensors, in the dtype of the checkpoint. By far the largest tensor is the
    word embedding: 1.3 GB for XL in 16 bits.

    Attributes
    ----------
    weights : int
        The frozen base model. In 8 or 4 bits the matrices of the layers are quantised, with their scales, the word
        embedding has 16 bits, and the rest has `dtype`. Processes that map the same cached file share most of it.
    learned : int
        Adapter and classification head, in float32; with `tuning="full"`, a copy of the trained weights.
    optimizer : int
        Gradients and the two moments of AdamW, in float32.
    activations : int
        Of one batch of texts of full length. If gradients flow through the base model, this includes what is kept for
        the backward pass.
    available : int or None
        Free bytes on the device; None if unknown.
    device, dtype : str
    quantization : {"int8", "nf4"} or None
    batch_tokens : int
        Tokens in a batch.
    parameters : dict
        The arguments of `memory_estimate`, with `model` as a config.
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
        """Sum of weights, learned, optimizer and activations, in bytes."""
        return self.weights + self.learned + self.optimizer + self.activations

    @property
    def fits(self) -> bool | None:
        """Whether the total is available; None if unknown."""
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
    """Estimate the memory that an estimator with these parameters needs; no weights are loaded or downloaded.

    Parameters
    ----------
    model : str, path or XLMRobertaXLConfig, default="facebook/xlm-roberta-xl"
        As for the estimators. Base, large, XL and XXL need no connection; for another model of the hub, config.json is
        downloaded.
    load_in_8bit : "auto", bool or Int8, default="auto"
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
    with suggesting_values(PARAMETER_CONSTRAINTS, parameters):
        validate_parameter_constraints(PARAMETER_CONSTRAINTS, parameters, "memory_estimate")
    tuning = None if tuning is None else as_tuning(tuning)
    torch_device = min(choose_devices(device), key=lambda each: available_memory(each) or 0)
    torch_dtype = choose_dtype(dtype, torch_device, config)
    settings = choose_quantization(load_in_8bit, load_in_4bit, torch_device, config, tuning)
    if saved_in_8bit(config):
        if load_in_4bit or (tuning is not None and tuning.trains_base):
            raise ValueError("This checkpoint holds 8-bit weights, which allow neither load_in_4bit nor tuning='full'.")
        settings = settings or Int8()
    if isinstance(batch_tokens, str):  # "auto"
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
