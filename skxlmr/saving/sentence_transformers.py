"""Export of a linear head on pooled vectors as a model of sentence-transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from skxlmr.checkpoints.sentence_transformers import MODULES, POOLING, POOLING_MODES, PROMPTS, SETTINGS
from skxlmr.model import BertModel, XLMRobertaXLModel
from skxlmr.model.heads import PooledHead

DENSE = "2_Dense"
NORMALIZE = "3_Normalize"
PROMPT_NAME = "fitted"


def write_sentence_model(
    directory: str | os.PathLike,
    base: XLMRobertaXLModel,
    head: PooledHead,
    *,
    pooling: str,
    prompt: str,
    config: dict[str, Any],
    tokenizer_files: Mapping[str, bytes],
) -> None:
    """Write a model whose `SentenceTransformer.encode` returns the outputs of the head.

    Its modules are the base, the pooling, where vectors are scaled to length 1 that scaling, and a dense layer without
    activation. The base model itself lies in the directory, so that transformers' AutoModel loads it. Texts get the
    prompt by themselves.
    """
    model_class = BertModel if base.config.model_type == "bert" else XLMRobertaXLModel
    with torch.device("meta"):
        model = model_class(replace(base.config, is_decoder=False, **config), add_pooling_layer=False)
    for name, module in base.named_children():
        setattr(model, name, module)
    width, n_outputs = head.linear.in_features, head.linear.out_features
    scale = width**0.5 if head.normalize else 1.0  # of a vector of length 1, see PooledHead
    weights = {"linear.weight": head.linear.weight.detach() * scale, "linear.bias": head.linear.bias.detach()}
    modules = [("", "Transformer"), (Path(POOLING).parent.name, "Pooling")]
    modules += [(NORMALIZE, "Normalize")] if head.normalize else []
    modules += [(DENSE, "Dense")]
    files: dict[str, Any] = {
        MODULES: [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        POOLING: {
            "word_embedding_dimension": width,
            **{name: mode == pooling for name, mode in POOLING_MODES.items()},
            "include_prompt": True,
        },
        f"{DENSE}/config.json": {
            "in_features": width,
            "out_features": n_outputs,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
        SETTINGS: {"max_seq_length": base.config.max_length, "do_lower_case": False},
        PROMPTS: {
            "prompts": {PROMPT_NAME: prompt} if prompt else {},
            "default_prompt_name": PROMPT_NAME if prompt else None,
            "similarity_fn_name": None,
        },
    }
    written = {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in files.items()}
    written[f"{DENSE}/model.safetensors"] = safetensors.torch.save(weights)
    model.write(directory, {**tokenizer_files, **written})
