"""What was learned, in the formats of transformers and peft."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.hardware.device import DTYPES
from skxlmr.model import (
    BertForSequenceClassification,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLModel,
    XLMRobertaXLTokenizer,
)
from skxlmr.model.key_maps import key_map
from skxlmr.model.layers import Pooler
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.quantized import quantized_layers
from skxlmr.runtime.backbone import find_checkpoint
from skxlmr.runtime.finetuned import Learned
from skxlmr.system import atomic
from skxlmr.tuning import PATHS, LoRA

if TYPE_CHECKING:
    from skxlmr.estimators.learner import TrainableXLMRXL

PEFT_PREFIX = "base_model.model."


def export_pretrained(estimator: TrainableXLMRXL, directory: str | os.PathLike, dtype: str) -> None:
    """Write a whole model; see `TrainableXLMRXL.export_pretrained`."""
    check_is_fitted(estimator, "_learned")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    files = _files(estimator)
    _check_destination(directory, files)
    learned: Learned = estimator._learned
    if learned.own is not None and dtype != "float32":
        learned = copy.deepcopy(learned)  # `to` converts modules in place, and these are the estimator's
    # Read again, whatever the estimator runs: 8 bits would not give the checkpoint's weights back.
    base = XLMRobertaXLModel.from_pretrained(files, dtype=torch.float32, add_pooling_layer=False)
    if quantized_layers(base):
        raise ValueError(f"{files.name!r} holds 8-bit weights, into which nothing can be merged. Use export_adapter.")
    tokenizer = XLMRobertaXLTokenizer.from_directory(files.directory)
    pieces = estimator._pieces_of_fit()
    if pieces is not None:
        tokenizer, kept = tokenizer.trim(pieces)
        base = base.with_words(base.embeddings.word.weight[torch.from_numpy(kept)])
    merged = merge(learned, base).to(DTYPES[dtype])
    exported_class, heads = _exported(estimator, copy.deepcopy(learned.head).to(DTYPES[dtype]))
    with torch.device("meta"):
        # A checkpoint of a generator is one of a decoder; whoever learned on it may have read both ways.
        config = replace(base.config, is_decoder=learned.causal, **estimator._exported_config())
        model = exported_class(config)
    model.roberta = merged
    for name, module in heads.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@torch.no_grad()
def merge(learned: Learned, base: XLMRobertaXLModel) -> XLMRobertaXLModel:
    """A base with what was learned in its own weights; of the base that is given nothing remains as it was."""
    for layer, deltas in zip(base.layers, learned.adapter or (), strict=False):
        for name, delta in deltas.items():
            delta.merge_into(layer.get_submodule(PATHS[name]))
    return learned.model(base)


def export_adapter(estimator: TrainableXLMRXL, directory: str | os.PathLike) -> None:
    """Write an adapter for peft; see `TrainableXLMRXL.export_adapter`."""
    check_is_fitted(estimator, "_learned")
    learned: Learned = estimator._learned
    tuning = learned.tuning
    if not isinstance(tuning, LoRA):
        raise ValueError(
            f"peft has no format for {type(tuning).__name__}(); use export_pretrained, which writes the whole model."
        )
    files = _files(estimator)
    _check_destination(directory, files)
    names = key_map(learned.config)
    tensors, targets = {}, []
    for i, deltas in enumerate(learned.adapter):
        for name, delta in deltas.items():
            target = names.to_theirs(f"roberta.layers.{i}.{PATHS[name]}.weight").removesuffix(".weight")
            targets.append(target)
            tensors[f"{PEFT_PREFIX}{target}.lora_A.weight"] = delta.a
            tensors[f"{PEFT_PREFIX}{target}.lora_B.weight"] = delta.b
    _, heads = _exported(estimator, learned.head)
    for name, module in heads.items():
        of_head = {names.to_theirs(f"{name}.{key}"): value for key, value in module.state_dict().items()}
        tensors |= {f"{PEFT_PREFIX}{key}": value for key, value in of_head.items()}
    config = {
        "peft_type": "LORA",
        "task_type": estimator._peft_task,
        "base_model_name_or_path": str(estimator.model) if os.path.isdir(estimator.model) else files.name,
        "inference_mode": True,
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": tuning.dropout,
        "target_modules": targets,  # whole names: "output.dense" alone would be two layers
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
    # The default is for NumPy's numbers, which a grid may have given.
    config_json = json.dumps(config, indent=2, default=lambda number: number.item()) + "\n"
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata={"format": "pt"}
    )
    atomic.write_bytes(directory / "adapter_model.safetensors", data)
    atomic.write_bytes(directory / "adapter_config.json", config_json.encode())


def _exported(estimator: TrainableXLMRXL, head: nn.Module) -> tuple[type[PretrainedModel], dict[str, nn.Module]]:
    """The class that a head goes to transformers in, and its parts by their names there.

    BERT's head on texts is of the same two layers as the others', but the first of them is its pooler.
    """
    config, cls, heads = estimator._learned.config, estimator._exported_class, estimator._exported_heads(head)
    if config.model_type == "bert" and cls is XLMRobertaXLForSequenceClassification:
        pooler = Pooler(config)
        pooler.dense = head.dense
        return BertForSequenceClassification, {"roberta.pooler": pooler, "classifier": head.out_proj}
    return cls, heads


def _files(estimator: TrainableXLMRXL) -> CheckpointFiles:
    """The checkpoint that the estimator was fitted on."""
    files = find_checkpoint(estimator.model)
    estimator._check_fingerprint(files.fingerprint)
    return files


def _check_destination(directory: str | os.PathLike, files: CheckpointFiles) -> None:
    """Refuse to write over the base: nothing that was fitted on it could be used any more."""
    if Path(directory).expanduser().resolve() == files.directory.resolve():
        raise ValueError(
            f"{str(directory)!r} holds the checkpoint that this estimator was fitted on, which it needs to predict. "
            f"Export to another directory."
        )
