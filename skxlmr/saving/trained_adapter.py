"""Adapters of peft as fitted estimators: the tuning that makes them, and their tensors by the names that it has.

An adapter that no tuning makes, such as DoRA, is merged into a base model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from skxlmr.checkpoints.adapted import bare
from skxlmr.checkpoints.checkpoint import Checkpoint, open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.formats import open_weights
from skxlmr.checkpoints.peft_adapter import CONFIG, LABELS, LowRankTensors, PeftAdapter
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_transformers import is_cross_encoder, read_activation, read_prompt
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.config_labels import default_labels
from skxlmr.model.key_maps import THEIR_BASE, key_map
from skxlmr.model.opening import read_config
from skxlmr.saving.checkpoints_with_heads import (
    EMBEDDING,
    SEQUENCES,
    GivenLabels,
    TrainedModel,
    task_of,
    task_of_class,
    with_activation,
)
from skxlmr.system.warn import warn
from skxlmr.tuning import LINEAR_LAYERS, NORM_PATHS, OUTER_PATHS, PATHS, Head, LoRA, Tuning

# What an adapter was trained for, by its task_type.
TASKS = {
    "SEQ_CLS": SEQUENCES,
    "TOKEN_CLS": "tagging",
    "QUESTION_ANS": "question answering",
    "CAUSAL_LM": "causal language modeling",
    "FEATURE_EXTRACTION": EMBEDDING,
}
# The beginnings of our names of the parameters of a head, by task; a pooler may lie beside all of them.
HEADS = {
    "classification": ("classifier.",),
    "regression": ("classifier.",),
    "tagging": ("classifier.",),
    "question answering": ("qa_outputs.",),
    "multiple choice": ("classifier.",),
    "masked language modeling": ("lm_head.",),
    "causal language modeling": ("lm_head.",),
    EMBEDDING: (),
}
POOLER = "roberta.pooler."

Value = TypeVar("Value", int, float)
Place = tuple[int, str]  # number of a layer and name of a delta in its `LayerAdapter`


@dataclass(frozen=True)
class TrainedAdapter:
    """The tuning, and the tensors of `Finetuned.adapter`, float32, with their names in its `state_dict`."""

    tuning: Tuning
    tensors: dict[str, Tensor]


def read_adapted_model(files: CheckpointFiles, labels: GivenLabels) -> TrainedModel:
    """Find what an adapter was trained for.

    If a `LoRA` makes it, that is the tuning, and the files are those of the base model alone. Otherwise the files are
    those of the base model with the adapter, as which it is read merged.

    Raises CheckpointError if that is not known, or it has tensors that the estimator for it does not use. Warns if
    nothing says what the outputs of a classifier are.
    """
    assert files.adapter is not None
    kind = _task(files.adapter)
    config = labels.applied(read_config(files), kind)
    task = task_of(kind, config)
    directory = files.adapter.directory
    activation = read_activation(directory, {})
    config = with_activation(config, task, activation)
    for name, tensor in _outside(files.adapter):
        ours = key_map(config.model_type).to_ours(name) or key_map(config.model_type).to_ours(
            THEIR_BASE[config.model_type] + name
        )
        tied = key_map(config.model_type).is_ignored(name) and "lm_head." in HEADS[task]
        if not tied and not (ours or "").startswith((POOLER, *HEADS[task])):
            raise CheckpointMismatchError(
                f"{files.adapter.weights}: the tensor {tensor!r} is of no part of a {task} model"
            )
    found = read_trained_adapter(files, config)
    if task == "classification" and config.problem_type is None and files.adapter.labels is None:
        _warn_of_unknown_labels(config, directory)
    return TrainedModel(
        task,
        files if found is None else files.base,
        config,
        str(directory),
        partial(open_checkpoint, files),
        activation=activation,
        prompt=read_prompt(directory) or None if is_cross_encoder(directory) else None,
        tuning=Head() if found is None else found.tuning,
        adapter={} if found is None else found.tensors,
    )


def _warn_of_unknown_labels(config: XLMRobertaXLConfig, directory: Path) -> None:
    """Warn that one label per row is a guess, if the labels have no names, either."""
    if config.id2label == default_labels(config.num_labels):
        warn(
            f"{directory}: peft stores neither the names of labels nor whether a row may have several labels, and the "
            f"base model does not say so, either. The adapter is loaded for one label per row, with the names LABEL_0, "
            f"LABEL_1, ... If that is right, pass problem_type='single_label_classification' to skxlmr.load, or else "
            f"'multi_label_classification', and the names as id2label=[...]; or write both to a {LABELS} beside it."
        )


def _task(adapter: PeftAdapter) -> str:
    """Return what an adapter was trained for, by its task_type, or else by the class of its base model."""
    config, where = adapter.config, adapter.directory / CONFIG
    if config.task_type is not None:
        if config.task_type not in TASKS:
            raise CheckpointError(
                f"{where}: task_type is {config.task_type!r:.60}, which no estimator is for; those are "
                f"{', '.join(TASKS)}."
            )
        return TASKS[config.task_type]
    name = (config.auto_mapping or {}).get("base_model_class")
    task = None if not isinstance(name, str) else task_of_class(name)
    if task is None:
        raise CheckpointError(
            f"{where}: task_type is null, and auto_mapping names no class of transformers that an estimator is for, so "
            f"it is not known what the adapter was trained for. Set task_type to one of {', '.join(TASKS)}."
        )
    return task


def _outside(adapter: PeftAdapter) -> list[tuple[str, str]]:
    """Return the parameters of an adapter outside of the encoder, and the names of their tensors."""
    names = [(f"{module}.weight", term.a) for module, term in adapter.terms.items()] + list(adapter.replaced.items())
    return [(name, tensor) for name, tensor in names if not _is_inside(name)]


def read_trained_adapter(files: CheckpointFiles, config: XLMRobertaXLConfig) -> TrainedAdapter | None:
    """Read the part of an adapter of peft that is in the encoder, unmerged; None if no `LoRA` makes it.

    Raises CheckpointError if it does not fit its base model.
    """
    adapter = files.adapter
    assert adapter is not None
    open_checkpoint(files).close()  # compares the adapter with its base
    if adapter.rows or files.tokenizer_directory != files.directory or _unties(files, config):
        return None
    terms: dict[Place, LowRankTensors] = {}
    for module, term in adapter.terms.items():
        place = _place(f"{module}.weight", config)
        if place is not None and place[1] in LINEAR_LAYERS:
            terms[place] = term
        elif _is_inside(module):
            return None
    biases: dict[Place, str] = {}
    for name, tensor in adapter.replaced.items():
        place = _place(name, config)
        if place is not None and name.endswith(".bias") and adapter.config.bias != "none":
            biases[place] = tensor
        elif _is_inside(name):
            return None
    if not terms and not biases:  # only parts of the head are adapted, which are merged
        return TrainedAdapter(Head(), {})
    if not terms or adapter.config.use_dora:
        return None
    tuning = _tuning(adapter, terms, config)
    tensors = _tensors(files, adapter, tuning, terms, biases, config)
    return None if tensors is None else TrainedAdapter(tuning, tensors)


def _unties(files: CheckpointFiles, config: XLMRobertaXLConfig) -> bool:
    """Whether an adapter has a decoder of its own, and its base model one that is tied to the word embedding."""
    return config.tie_word_embeddings is False and read_config(files.base).tie_word_embeddings is not False


def _tuning(adapter: PeftAdapter, terms: Mapping[Place, LowRankTensors], config: XLMRobertaXLConfig) -> LoRA:
    """Return the LoRA with these terms, written as short as possible."""
    depth, settings = config.num_hidden_layers, adapter.config
    names = {i: [name for name in LINEAR_LAYERS if (i, name) in terms] for i in range(depth)}
    adapted = [i for i in names if names[i]]
    layers: int | list[int] | None = None
    if all(names[i] == names[adapted[0]] for i in adapted):
        targets = tuple(names[adapted[0]])
        if adapted == list(range(depth - len(adapted), depth)):
            layers = None if len(adapted) == depth else len(adapted)
        else:
            layers = adapted
    else:
        targets = tuple(f"layers.{i}.{name}" for i, name in sorted(terms))
    bias = settings.bias
    if bias == "none" and any(term.bias is not None for term in terms.values()):
        bias = "lora_only"
    return LoRA(
        rank=settings.r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=targets,
        layers=layers,
        rslora=settings.use_rslora,
        rank_pattern=_pattern({place: term.rank for place, term in terms.items()}, settings.r),
        alpha_pattern=_pattern({place: term.alpha for place, term in terms.items()}, settings.lora_alpha),
        bias=bias,
    )


def _pattern(values: dict[Place, Value], default: Value) -> dict[str, Value] | None:
    """Return the pattern with these values: by name where all layers have the same, or else by layer and name."""
    pattern: dict[str, Value] = {}
    for (i, name), value in sorted(values.items()):
        if len({other for (_, same), other in values.items() if same == name}) == 1:
            pattern[name] = value
        else:
            pattern[f"layers.{i}.{name}"] = value
    return {name: value for name, value in pattern.items() if value != default} or None


def _tensors(
    files: CheckpointFiles,
    adapter: PeftAdapter,
    tuning: LoRA,
    terms: Mapping[Place, LowRankTensors],
    biases: Mapping[Place, str],
    config: XLMRobertaXLConfig,
) -> dict[str, Tensor] | None:
    """Read the tensors, biases as what is added to those of the base; None if the tuning trains fewer of them."""
    with torch.device("meta"):
        expected = {name: p.shape for name, p in tuning.build(config).named_parameters()}
    source = Checkpoint(str(adapter.directory), [open_weights(adapter.weights)])
    with source, open_checkpoint(files.base) as base:
        keys = {_place(key, config): key for key in base.tensors if key.endswith(".bias")}
        found: dict[str, Tensor] = {}
        for (i, name), term in terms.items():
            found |= {f"{i}.{name}.a": source.read(term.a), f"{i}.{name}.b": source.read(term.b)}
            if term.bias is not None:
                found[f"{i}.{name}.bias"] = source.read(term.bias).float() * term.scale
        for (i, name), tensor in biases.items():
            added = source.read(tensor).float() - base.read(keys[i, name]).float()
            found[f"{i}.{name}.bias"] = added + found.get(f"{i}.{name}.bias", 0)
            if f"{i}.{name}.bias" not in expected:
                return None
    found |= {name: torch.zeros(shape) for name, shape in expected.items() if name not in found}  # biases
    return {f"adapter.{name}": tensor.float() for name, tensor in found.items()}


def _place(key: str, config: XLMRobertaXLConfig) -> Place | None:
    """Return where the delta of a parameter of a checkpoint is, None if it has none."""
    prefix = THEIR_BASE[config.model_type]
    ours = key_map(config.model_type).to_ours(prefix + bare(key))
    if ours is None:
        return None
    path = ours.removeprefix("roberta.").rpartition(".")[0]
    outer = {path: name for name, path in OUTER_PATHS.items()}
    if path in outer:
        return (0 if outer[path] == "embeddings_norm" else config.num_hidden_layers - 1), outer[path]
    inside = {path: name for name, path in (PATHS | NORM_PATHS).items()}
    _, number, *rest = [*path.split(".", 2), "", ""]
    name = inside.get(rest[0])
    return None if name is None else (int(number), name)


def _is_inside(name: str) -> bool:
    """Whether a module or parameter is one of the encoder, or of its embeddings."""
    return bare(name).startswith(("encoder.", "embeddings."))
