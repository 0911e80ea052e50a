"""Directories of sentence-transformers: a base model, the pooling, and the layers on the vectors of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from skxlmr.checkpoints.sentence_modules import MODES, Layer, SentenceModules
from skxlmr.checkpoints.sentence_transformers import HEAD, MODULES, POOLING, PROMPTS, SETTINGS
from skxlmr.model import BertModel, XLMRobertaXLModel
from skxlmr.model.heads import PooledHead
from skxlmr.model.sentence_layers import check_layers

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


DEFAULT_PROMPT = "fitted"  # the name of the prompt of `encode`


def one_prompt(prompt: str) -> dict[str, str]:
    """Return the prompts of a model that reads all texts with one, also those of `encode_query`, `encode_document`."""
    return dict.fromkeys((DEFAULT_PROMPT, "query", "document"), prompt) if prompt else {}


def write_sentence_model(
    directory: str | os.PathLike,
    base: XLMRobertaXLModel,
    modules: SentenceModules,
    *,
    prompts: Mapping[str, str],
    max_length: int | None,
    config: Mapping[str, Any],
    other_files: Mapping[str, bytes],
) -> None:
    """Write a model whose `SentenceTransformer.encode` returns the vectors that the modules make.

    The base model itself lies in the directory, so that transformers' AutoModel loads it. `encode` puts the prompt of
    the name DEFAULT_PROMPT before each text, if there is one. Of texts of more than `max_length` tokens the beginning
    is read; None means all that the model can. `other_files` are those of
    the tokenizer, and more, by their names.
    """
    model_class = BertModel if base.config.model_type == "bert" else XLMRobertaXLModel
    with torch.device("meta"):
        model = model_class(base.config.changed({"is_decoder": False, **config}), add_pooling_layer=False)
    for name, module in base.named_children():
        setattr(model, name, module)
    width = base.config.hidden_size
    listed = [("", "Transformer"), (Path(POOLING).parent.name, "Pooling")]
    files: dict[str, Any] = {
        POOLING: _pooling_config(modules, width),
        SETTINGS: {"max_seq_length": max_length or base.config.max_length, "do_lower_case": False},
        PROMPTS: {
            "prompts": dict(prompts),
            "default_prompt_name": DEFAULT_PROMPT if DEFAULT_PROMPT in prompts else None,
            "similarity_fn_name": None,
        },
    }
    weights: dict[str, bytes] = {}
    width *= len(modules.pooling.split("+"))
    for i, layer in enumerate((*modules.layers, *([{"kind": "Normalize"}] if modules.normalize else [])), start=2):
        layer, width = _as_dense(layer, width), check_layers([layer], width)
        folder = f"{i}_{layer['kind']}"
        listed.append((folder, layer["kind"]))
        settings, tensors = _of_layer(layer)
        if tensors:
            files[f"{folder}/config.json"] = settings
            weights[f"{folder}/model.safetensors"] = safetensors.torch.save(tensors)
    files[MODULES] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(listed)
    ]
    written = {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in files.items()}
    model.write(directory, {**other_files, **written, **weights}, obsolete={HEAD})  # of an earlier export


def _pooling_config(modules: SentenceModules, width: int) -> dict[str, Any]:
    """Return the settings of the pooling: flags, which all versions read; a list if their order is another one."""
    modes = modules.pooling.split("+")
    if modes != [mode for mode in MODES.values() if mode in modes]:
        return {"embedding_dimension": width, "pooling_mode": modes, "include_prompt": modules.include_prompt}
    flags = {flag: mode in modes for flag, mode in MODES.items()}
    return {"word_embedding_dimension": width, **flags, "include_prompt": modules.include_prompt}


def _as_dense(layer: Layer, width: int) -> Layer:
    """Return a truncation as a dense layer that selects the first dimensions, which can be between other layers."""
    if layer["kind"] != "Truncate":
        return layer
    return dense_layer(np.eye(min(layer["width"], width), width))


def _of_layer(layer: Layer) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings and the tensors of a layer, as its module in sentence-transformers has them."""
    prefix = {"LayerNorm": "norm.", "Dense": "linear."}.get(layer["kind"], "")
    names = {"weight": f"{prefix}weight", "bias": f"{prefix}bias", "residual": "residual.weight"}
    arrays = {theirs: layer[name] for name, theirs in names.items() if isinstance(layer.get(name), np.ndarray)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if layer["kind"] != "Dense":
        return {"dimension": len(layer["weight"])} if tensors else {}, tensors
    n_out, n_in = layer["weight"].shape
    settings = {
        "in_features": n_in,
        "out_features": n_out,
        "bias": layer["bias"] is not None,
        "activation_function": class_path(layer["activation"]),
    }
    return settings | ({} if layer["residual"] is False else {"use_residual": True}), tensors


def class_path(activation: str) -> str:
    """Return the full name of a class of torch.nn, as sentence-transformers writes it.

    >>> class_path("Sigmoid")
    'torch.nn.modules.activation.Sigmoid'
    """
    cls = getattr(nn, activation)
    return f"{cls.__module__}.{cls.__name__}"


def dense_layer(weight: np.ndarray, bias: np.ndarray | None = None) -> Layer:
    """Return a dense layer without activation: x (n, d) to x @ weight.T + bias."""
    return {
        "kind": "Dense",
        "activation": "Identity",
        "weight": np.asarray(weight, np.float32),
        "bias": None if bias is None else np.asarray(bias, np.float32),
        "residual": False,
    }


def modules_of_head(head: PooledHead, pooling: str, include_prompt: bool) -> SentenceModules:
    """Return the modules whose vectors are the outputs of a head."""
    layers: list[Layer] = list(head.layers.layers)
    scale = 1.0
    if head.normalize:
        layers.append({"kind": "Normalize"})
        scale = head.linear.in_features**0.5  # of a vector of length 1, see PooledHead
    weight, bias = (parameter.detach().numpy() for parameter in (head.linear.weight, head.linear.bias))
    return SentenceModules(pooling, (*layers, dense_layer(weight * scale, bias)), False, include_prompt)


def head_of_layer(layer: Layer, normalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of a head from the layer that `modules_of_head` made of it."""
    weight = layer["weight"] / (layer["weight"].shape[1] ** 0.5 if normalize else 1.0)
    bias = np.zeros(len(weight), np.float32) if layer["bias"] is None else layer["bias"]
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias)


def modules_of_vectors(modules: SentenceModules, pca: PCA | None) -> SentenceModules:
    """Return the modules of an embedder's vectors: truncation and PCA are layers, before the scaling."""
    layers: Sequence[Layer] = modules.layers
    if modules.truncate_dim is not None:
        layers = (*layers, {"kind": "Truncate", "width": modules.truncate_dim})
    if pca is not None:
        weight = pca.components_
        if pca.whiten:
            weight = weight / np.sqrt(pca.explained_variance_)[:, None]
        layers = (*layers, dense_layer(weight, -weight @ pca.mean_))
    return replace(modules, layers=tuple(layers), truncate_dim=None)
