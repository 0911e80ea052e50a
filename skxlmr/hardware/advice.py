"""Suggestions for a model that does not fit into the memory of its device."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch

from skxlmr.hardware.device import choose_dtype
from skxlmr.hardware.estimate import MemoryEstimate, Together, in_gigabytes, memory_estimate, saved_in_8bit
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.tuning import Head, as_tuning

MOST_SUGGESTIONS = 4


class NotEnoughMemoryError(MemoryError):
    """A model does not fit into the memory of its device."""


def training_budget(config: XLMRobertaXLConfig, batch_tokens: int, **parameters: Any) -> tuple[int, bool]:
    """Return how many tokens there is memory to train with at once, at most `batch_tokens`, and whether to recompute
    layers.

    First the batch shrinks, down to a text of full length, which costs next to nothing; then gradient checkpointing,
    which takes a third more time. Other parameters are those of `memory_estimate`.
    """
    estimate = memory_estimate(config, batch_tokens=batch_tokens, **parameters)
    sizes = [batch_tokens, *_smaller_batches(estimate)]
    for gradient_checkpointing in (False, True):
        for n_tokens in sizes:
            parameters |= {"batch_tokens": n_tokens, "gradient_checkpointing": gradient_checkpointing}
            estimate = memory_estimate(config, **parameters)
            needed = estimate.sharing * (estimate.total - estimate.weights)
            if estimate.available is None or needed <= estimate.available:
                return n_tokens, gradient_checkpointing
    return sizes[-1], True


def check_memory(estimate: MemoryEstimate, *, model: str | os.PathLike) -> None:
    """Raise NotEnoughMemoryError if a model needs more than there is; it says which parameters would make it fit."""
    if estimate.available is None or estimate.fits:
        return
    parts = {
        name: getattr(estimate, name)
        for name in ("weights", "packed", "tokenizer", "learned", "optimizer", "activations")
    }
    listed = ", ".join(f"{name} {in_gigabytes(nbytes)} GB" for name, nbytes in parts.items() if nbytes)
    if estimate.sharing > 1:
        listed = f"{estimate.sharing} processes, each with {listed}"
    raise NotEnoughMemoryError(
        f"{os.fspath(model)!r} needs {in_gigabytes(estimate.needed)} GB on {estimate.device} ({listed}), of which "
        f"{in_gigabytes(estimate.available)} GB are available. {_advice(estimate)}"
    )


Changes = tuple[dict[str, Any], ...]  # parameters of `memory_estimate`, one dict per change


def _advice(estimate: MemoryEstimate) -> str:
    """Name the fewest changes with which the model fits, or else the changes that need the least memory."""
    axes = _ways_to_shrink(estimate)
    tried: list[tuple[Changes, MemoryEstimate]] = []
    for n_changes in range(1, len(axes) + 1):
        ways = [
            (changes, _changed(estimate, changes))
            for chosen in itertools.combinations(axes, n_changes)
            for changes in itertools.product(*chosen)
            if _can_be_combined(estimate, changes)
        ]
        fitting = [_with_largest_batch(estimate, changes) for changes, smaller in ways if smaller.fits]
        if fitting:
            return f"It fits with {'; or with '.join(_written(*way) for way in fitting[:MOST_SUGGESTIONS])}."
        tried += ways
    if not tried:
        return "No parameter makes it smaller."
    return f"No parameters make it fit; the smallest choice is {_written(*min(tried, key=lambda way: way[1].needed))}."


def _ways_to_shrink(estimate: MemoryEstimate) -> list[list[dict[str, Any]]]:
    """Return the possible changes: for each aspect of the model its alternatives."""
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
        # The value of "auto" depends on the dtype, which may change too.
        [{"batch_tokens": least}] if estimate.batch_tokens > least or parameters["batch_tokens"] == "auto" else [],
        tunings,
        [{"dtype": str(half).removeprefix("torch.")}] if estimate.dtype == "float32" else [],
        [{"device": "cpu"}] if device.type != "cpu" else [],
        [{"processes": None}] if estimate.sharing > 1 else _shards(estimate),
    ]
    return [axis for axis in axes if axis]


def _shards(estimate: MemoryEstimate) -> list[dict[str, Any]]:
    """Return the training with shards on all GPUs, if there are several and it is not that already."""
    tuning, n = estimate.parameters["tuning"], torch.cuda.device_count()
    is_trained = tuning is not None and not isinstance(as_tuning(tuning), Head)
    is_sharded = getattr(estimate.parameters["processes"], "strategy", None) == "fsdp"
    if torch.device(estimate.device).type != "cuda" or n == 1 or not is_trained or is_sharded:
        return []
    return [{"processes": Together(n, "fsdp")}]


def _smaller_batches(estimate: MemoryEstimate) -> list[int]:
    """Halve the batch repeatedly, down to one text of full length, which is never split."""
    least = estimate.parameters["model"].max_length
    halves = [estimate.batch_tokens >> n for n in range(1, estimate.batch_tokens.bit_length())]
    return [n for n in halves if n > least] + [least] * (estimate.batch_tokens > least)


def _with_largest_batch(estimate: MemoryEstimate, changes: Changes) -> tuple[Changes, MemoryEstimate]:
    """Choose the largest batch that fits, if the batch is one of the changes."""
    if any("batch_tokens" in change for change in changes):
        for n_tokens in _smaller_batches(estimate):
            larger = tuple({"batch_tokens": n_tokens} if "batch_tokens" in change else change for change in changes)
            if _changed(estimate, larger).fits:
                changes = larger
                break
    return changes, _changed(estimate, changes)


def _can_be_combined(estimate: MemoryEstimate, changes: Changes) -> bool:
    try:
        _changed(estimate, changes)
    except ValueError:  # quantised weights cannot be trained themselves
        return False
    return True


def _merged(estimate: MemoryEstimate, changes: Changes) -> dict[str, Any]:
    parameters = dict(estimate.parameters)
    for change in changes:
        parameters |= change
    return parameters


def _changed(estimate: MemoryEstimate, changes: Changes) -> MemoryEstimate:
    return memory_estimate(**_merged(estimate, changes))


def _written(changes: Changes, estimate: MemoryEstimate) -> str:
    """Format changes as arguments, with the memory needed."""
    written = ", ".join(f"{name}={value!r}" for change in changes for name, value in change.items())
    return f"{written} (needs {in_gigabytes(estimate.needed)} GB)"
