"""Export of a LoRA and its head as an adapter of peft."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.model.key_maps import key_map
from skxlmr.saving.transformers import ExportedModel
from skxlmr.system import atomic
from skxlmr.tuning import PATHS, LayerAdapter, LoRA, LowRank

PEFT_PREFIX = "base_model.model."


def export_adapter(exported: ExportedModel, directory: str | os.PathLike) -> None:
    """Write an adapter for peft; see `XLMRXLLearner.export_adapter`."""
    finetuned, tuning = exported.finetuned, exported.finetuned.tuning
    if not exported.export.has_adapter:
        # peft saves whole modules, and that of a language model would include all word embeddings.
        raise NotImplementedError(
            "peft has no format for this head; use export_pretrained. A classifier or regressor with pooling='cls' has "
            "the head of transformers' ...ForSequenceClassification, which peft can save."
        )
    if not isinstance(tuning, LoRA):
        raise ValueError(
            f"peft has no format for {type(tuning).__name__}(); use export_pretrained, which writes the whole model."
        )
    exported.check_destination(directory)
    names = key_map(finetuned.config.model_type)
    tensors: dict[str, Tensor] = {}
    targets = []
    assert finetuned.adapter is not None
    for i, deltas in enumerate(finetuned.adapter):
        assert isinstance(deltas, LayerAdapter)
        for name, delta in deltas.items():
            assert isinstance(delta, LowRank)
            target = names.to_theirs(f"roberta.layers.{i}.{PATHS[name]}.weight").removesuffix(".weight")
            targets.append(target)
            tensors[f"{PEFT_PREFIX}{target}.lora_A.weight"] = delta.a
            tensors[f"{PEFT_PREFIX}{target}.lora_B.weight"] = delta.b
    _, heads = exported.heads(finetuned.head)
    for name, module in heads.items():
        of_head = {names.to_theirs(f"{name}.{key}"): value for key, value in module.state_dict().items()}
        tensors |= {f"{PEFT_PREFIX}{key}": value for key, value in of_head.items()}
    base_model, revision = exported.model, ""
    if not os.path.isdir(base_model):
        base_model, _, revision = exported.files.name.partition("@")
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": exported.export.peft_task,
        "base_model_name_or_path": base_model,
        "revision": revision or None,
        "inference_mode": True,
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": tuning.dropout,
        "target_modules": targets,  # full names: "output.dense" alone would match two layers
        "modules_to_save": [name.rpartition(".")[2] for name in heads],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    write_adapter(directory, tensors, config)


def write_adapter(directory: str | os.PathLike, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write the two files of an adapter, or replace them together."""
    # The default is for NumPy scalars, which a search may have set.
    config_json = (json.dumps(config, indent=2, default=lambda number: number.item()) + "\n").encode()
    content = SafetensorsContent(tensors, {"format": "pt"})
    with atomic.replacing_whole(Path(directory).expanduser(), size=content.nbytes + len(config_json)) as new:
        new.add("adapter_model.safetensors", content)
        new.add("adapter_config.json", [config_json])
