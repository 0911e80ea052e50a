"""Export of a LoRA and its head as an adapter of peft."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from skxlmr.checkpoints.adapted import bare
from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.keymap import KeyMap
from skxlmr.checkpoints.peft_adapter import ADAPTER_WEIGHTS, CONFIG, LABELS, PEFT_PREFIX
from skxlmr.checkpoints.resolve import weights_file
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.checkpoints.sentence_transformers import PROMPTS
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.key_maps import key_map
from skxlmr.model.saving import their_class
from skxlmr.saving.cards import card_files
from skxlmr.saving.merged import BESIDE_ADAPTER
from skxlmr.saving.transformers import ExportedModel, cross_encoder_files
from skxlmr.system import atomic
from skxlmr.tuning import NORM_PATHS, OUTER_PATHS, PATHS, AddedBias, LayerAdapter, LoRA, LowRank


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
    exported.check_kind(directory, BESIDE_ADAPTER)
    if exported.files.adapter is not None:
        raise ValueError(
            f"model={exported.model!r} is itself an adapter of peft, which cannot be the base of another; use "
            f"export_pretrained, which writes the whole model."
        )
    names = key_map(finetuned.config.model_type)
    model_class, heads = exported.heads(exported.head())
    tensors = _of_encoder(exported, names)
    for name, module in heads.items():
        tensors |= {names.to_theirs(f"{name}.{key}"): value for key, value in module.state_dict().items()}
    base_model, revision = exported.model, ""
    if weights_file(base_model) is not None:  # peft knows directories
        base_model = os.path.dirname(base_model)
    elif not os.path.isdir(base_model):
        base_model, _, revision = exported.files.name.partition("@")
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": exported.export.peft_task,
        "base_model_name_or_path": base_model,
        "revision": revision or None,
        "inference_mode": True,
        "lora_dropout": tuning.dropout,
        **_of_terms(tuning, finetuned.config, names),
        "modules_to_save": [name.rpartition(".")[2] for name in heads],
        "bias": tuning.bias,
        "fan_in_fan_out": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    class_name = their_class(model_class, finetuned.config)
    if exported.export.peft_task is None:
        config["auto_mapping"] = {"base_model_class": class_name, "parent_library": "transformers"}
    labels = {name: exported.export.config.get(name) for name in ("id2label", "problem_type")}
    others = cross_encoder_files(exported.export) | card_files(directory, exported.facts, "peft")
    write_adapter(directory, {f"{PEFT_PREFIX}{key}": value for key, value in tensors.items()}, config, labels, others)


def _of_terms(tuning: LoRA, config: XLMRobertaXLConfig, names: KeyMap) -> dict[str, Any]:
    """Return the entries of adapter_config.json about low-rank terms, by the full names of the modules.

    "output.dense" alone would match two modules of each layer.
    """
    terms = tuning.terms(config)
    by_module = {_module(names, i, name): term for i, of_layer in enumerate(terms) for name, term in of_layer.items()}
    adapted = [i for i, of_layer in enumerate(terms) if of_layer]
    everywhere = len(adapted) == len(terms)
    return {
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "use_rslora": bool(tuning.rslora),
        "target_modules": list(by_module),
        "layers_to_transform": None if everywhere else adapted,
        "layers_pattern": None if everywhere else "layer",
        "rank_pattern": {module: term.rank for module, term in by_module.items() if term.rank != tuning.rank},
        "alpha_pattern": {module: term.alpha for module, term in by_module.items() if term.alpha != tuning.alpha},
    }


def _of_encoder(exported: ExportedModel, names: KeyMap) -> dict[str, Tensor]:
    """Return the tensors of the adapter; biases as a whole, as peft has them."""
    tensors: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}  # what is added to those of the base, by their keys in a checkpoint
    assert exported.finetuned.adapter is not None
    for i, deltas in enumerate(exported.finetuned.adapter):
        assert isinstance(deltas, LayerAdapter)
        for name, delta in deltas.items():
            module = _module(names, i, name)
            if isinstance(delta, LowRank):
                tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = delta.a, delta.b
            assert isinstance(delta, LowRank | AddedBias)
            if delta.bias is not None:
                biases[f"{module}.bias"] = delta.bias
    if not biases:
        return tensors
    with open_checkpoint(exported.files) as checkpoint:
        keys = {bare(key): key for key in checkpoint.tensors}
        for key, added in biases.items():
            whole = checkpoint.read(keys[bare(key)]).float() + added.detach().cpu().float()
            module = key.removesuffix(".bias")
            tensors[f"{module}.base_layer.bias" if f"{module}.lora_A.weight" in tensors else key] = whole
    return tensors


def _module(names: KeyMap, layer: int, name: str) -> str:
    """Return the name in transformers of the module that a delta is added to."""
    path = OUTER_PATHS.get(name) or f"layers.{layer}.{(PATHS | NORM_PATHS)[name]}"
    return names.to_theirs(f"roberta.{path}.weight").removesuffix(".weight")


def write_adapter(
    directory: str | os.PathLike,
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    labels: dict[str, Any],
    other_files: dict[str, bytes],
) -> None:
    """Write the files of an adapter, or replace them together; peft ignores those of the labels and the prompt."""
    # The default is for NumPy scalars, which a search may have set.
    files = {
        name: (json.dumps(content, indent=2, default=lambda number: number.item()) + "\n").encode()
        for name, content in ((CONFIG, config), (LABELS, labels))
    } | other_files
    content = SafetensorsContent(tensors, {"format": "pt"})
    size = content.nbytes + sum(map(len, files.values()))
    with atomic.replacing_whole(Path(directory).expanduser(), size=size, is_obsolete=PROMPTS.__eq__) as new:
        new.add(ADAPTER_WEIGHTS[0], content)
        for name, data in files.items():
            new.add(name, [data])
