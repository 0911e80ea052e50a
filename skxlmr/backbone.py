"""The process-wide pool of frozen bases: one copy of the weights for all estimators, clones and folds."""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch

from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.weights.resolve import BUNDLED, CheckpointFiles, resolve

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(eq=False)
class Backbone:
    """A frozen base and its tokenizer; never changed, so any number of threads may run it.

    Attributes
    ----------
    name : str
        As the user gave it.
    fingerprint : str
        Of the checkpoint's content.
    model : XLMRobertaXLModel
        In evaluation mode, without gradients.
    tokenizer : XLMRobertaXLTokenizer
    """

    name: str
    fingerprint: str
    model: XLMRobertaXLModel
    tokenizer: XLMRobertaXLTokenizer


_lock = threading.Lock()
_pool: WeakValueDictionary[tuple, Backbone] = WeakValueDictionary()
# The latest base stays although no estimator holds it: between two folds of a cross-validation none does.
_latest: list[Backbone] = []


def get_backbone(model: str | os.PathLike, *, dtype: str = "auto", device: str = "auto") -> Backbone:
    """Return the base of that name from the pool, loading it if it is not there.

    Parameters
    ----------
    model : str or path
        "nano", a local directory or a hub id.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
    device : str, default="auto"

    Raises
    ------
    ModelNotFoundError, CheckpointError
        If the checkpoint is not there or not sound.
    ValueError
        If the device is not there.
    """
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    files = _find(model)
    key = (files.fingerprint, torch_dtype, torch_device)
    with _lock:
        backbone = _pool.get(key)
        if backbone is None:
            tokenizer = XLMRobertaXLTokenizer.from_directory(files.directory)
            base = XLMRobertaXLModel.from_pretrained(
                files.directory, dtype=torch_dtype, device=torch_device, add_pooling_layer=False
            ).requires_grad_(False)
            backbone = _pool[key] = Backbone(files.name, files.fingerprint, base, tokenizer)
        _latest[:] = [backbone]
        return backbone


def _find(model: str | os.PathLike) -> CheckpointFiles:
    """Find the files; what is on this machine is looked at each time, the hub is asked once in a process."""
    if model in BUNDLED or os.path.isdir(model):
        return resolve(model)
    return _find_on_hub(model)


_find_on_hub = functools.cache(resolve)


def release_models() -> None:
    """Let go of the base that the pool keeps for the next fit; its memory is free once no estimator holds it."""
    with _lock:
        _latest.clear()


def choose_device(device: str) -> torch.device:
    """Turn the parameter `device` into a torch device; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is no torch device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from None
    there = {
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, chosen.type == "cpu"):
        raise ValueError(f"device={device!r} is not on this machine; use device='auto' to take what is there.")
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Turn the parameter `dtype` into a torch dtype; "auto" is half precision on CUDA and float32 elsewhere."""
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32
