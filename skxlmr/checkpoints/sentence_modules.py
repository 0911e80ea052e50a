"""The modules of a sentence-transformers directory after the transformer: poolings, dense layers, normalisation."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.formats import all_finite, open_weights
from skxlmr.checkpoints.layout import PICKLE, SAFETENSORS
from skxlmr.checkpoints.sentence_transformers import MODULES, PROMPTS, ROUTERS, read_module_list

# In the order in which old directories, which have a flag for each, concatenate them.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid")
EMBEDDING = "sentence_embedding"

Layer = dict[str, Any]  # its "kind", and its settings and arrays, as `skxlmr.model.sentence_layers` runs them


@dataclass(frozen=True)
class SentenceModules:
    """How a model turns the tokens of a text into its vector."""

    pooling: str  # modes that are concatenated are joined by "+"
    layers: tuple[Layer, ...] = ()
    normalize: bool = False  # at the end
    include_prompt: bool = True  # whether the pooling takes the tokens of the prompt
    truncate_dim: int | None = None  # the first dimensions of the result that are kept


def read_modules(root: Path) -> SentenceModules:
    """Read the modules of a directory of sentence-transformers.

    Raises CheckpointError if a file is damaged, or a module not supported.
    """
    layers: list[Layer] = []
    pooling, include_prompt = "mean", True
    for i, (kind, folder) in enumerate(read_module_list(root)):
        if i == 0 and kind == "Transformer":
            continue
        if kind == "Pooling" and not layers:
            pooling, include_prompt = _pooling(folder / "config.json")
        elif kind == "Dense":
            layers.append(_dense(folder))
        elif kind == "LayerNorm":
            weights = _arrays(folder, "norm.weight", "norm.bias")
            layers.append({"kind": kind, "weight": weights["norm.weight"], "bias": weights["norm.bias"]})
        elif kind == "Normalize":
            _check_input(folder / "config.json", kind)
            layers.append({"kind": kind})
        elif kind in ROUTERS:
            raise CheckpointError(
                f"{root / MODULES} has a module {kind!r} without a default route, which is not supported. Give the "
                f"folder of one of its transformers as the model, and set pooling and normalize."
            )
        elif kind != "Dropout" or i == 0:  # which does nothing but in training
            raise CheckpointError(
                f"{root / MODULES} has a module {kind!r}, which is not supported. Set pooling and normalize to use the "
                f"model without it."
            )
    truncate_dim = _truncate_dim(root / PROMPTS)
    normalize = bool(layers) and layers[-1]["kind"] == "Normalize" and truncate_dim is None
    return SentenceModules(
        pooling, tuple(layers[:-1] if normalize else layers), normalize, include_prompt, truncate_dim
    )


def _pooling(path: Path) -> tuple[str, bool]:
    config = read_json(path)
    modes = config.get("pooling_mode", [mode for flag, mode in MODES.items() if config.get(flag) is True] or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not set(map(str, modes)) <= set(MODES.values()):
        raise CheckpointError(
            f"{path} asks for the pooling {modes!r}, which is not supported. Set pooling and normalize yourself."
        )
    return "+".join(modes), config.get("include_prompt") is not False


def _dense(folder: Path) -> Layer:
    path = folder / "config.json"
    config = _check_input(path, "Dense")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{path}: a module 'Dense' with activation_function={config['activation_function']!r} is not supported; "
            f"supported are {', '.join(ACTIVATIONS)}. Set pooling and normalize to use the model without it."
        )
    names = ["linear.weight", *(["linear.bias"] if config.get("bias", True) else [])]
    residual = config.get("use_residual") is True
    projected = residual and config.get("in_features") != config.get("out_features")
    weights = _arrays(folder, *names, *(["residual.weight"] if projected else []))
    return {
        "kind": "Dense",
        "activation": activation,
        "weight": weights["linear.weight"],
        "bias": weights.get("linear.bias"),
        "residual": weights["residual.weight"] if projected else residual,
    }


def _check_input(path: Path, kind: str) -> dict[str, Any]:
    """Return the config of a module, {} without a file; raise CheckpointError if it does not change the vector."""
    config = read_json(path) if path.is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, EMBEDDING):
            raise CheckpointError(
                f"{path}: a module {kind!r} with {name}={config[name]!r} is not supported. Set pooling and normalize "
                f"to use the model without it."
            )
    return config


def _arrays(folder: Path, *names: str) -> dict[str, np.ndarray]:
    """Read float32 arrays from the weights of a module."""
    path = next((folder / name for name in (SAFETENSORS, PICKLE) if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has neither {SAFETENSORS} nor {PICKLE}.")
    with closing(open_weights(path)) as weights:
        missing = [name for name in names if name not in weights.tensors]
        if missing:
            raise CheckpointError(f"{path} has no tensor {missing[0]!r}.")
        arrays = {name: weights.read(name).to(torch.float32) for name in names}
    for name, array in arrays.items():
        if not all_finite(array):
            raise CheckpointError(f"{path}: tensor {name!r} contains NaN or infinity.")
    return {name: array.numpy() for name, array in arrays.items()}


def _truncate_dim(path: Path) -> int | None:
    value = read_json(path).get("truncate_dim") if path.is_file() else None
    if value is None or (type(value) is int and value > 0):
        return value
    raise CheckpointError(f"{path}: truncate_dim must be a positive integer or null, got {value!r}.")
