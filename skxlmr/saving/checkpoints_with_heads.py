"""Checkpoints of transformers, as fitted estimators: what their config says they are, and their heads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.checkpoints.checkpoint import Checkpoint, open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.peft_adapter import CONFIG as ADAPTER
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_heads import HeadFile, outputs_of, read_head_file, split_head
from skxlmr.checkpoints.sentence_modules import Layer, read_modules
from skxlmr.checkpoints.sentence_transformers import (
    HEAD,
    MODULES,
    is_cross_encoder,
    is_sentence_model,
    read_activation,
    read_prompt,
    sentence_directory,
)
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.config import CONFIGS
from skxlmr.model.heads import PooledHead
from skxlmr.model.key_maps import THEIR_BASE, key_map
from skxlmr.model.opening import read_config
from skxlmr.model.pretrained_heads import read_head
from skxlmr.runtime.backbone import find_checkpoint
from skxlmr.saving.estimators import SavedWeights
from skxlmr.saving.sentence_transformers import head_of_layer
from skxlmr.saving.transformers import head_parts
from skxlmr.system.schema import shown
from skxlmr.tasks.exports import Export
from skxlmr.tuning import Head, Tuning

EMBEDDING = "embedding"  # what an encoder without a head does
SEQUENCES = "classification or regression"

# What a model was trained for, by the end of the name of its class in transformers, after the name of its family.
ARCHITECTURES = {
    "ForSequenceClassification": SEQUENCES,
    "ForTokenClassification": "tagging",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForMaskedLM": "masked language modeling",
    "ForPreTraining": "masked language modeling",
    "ForCausalLM": "causal language modeling",
    "LMHeadModel": "causal language modeling",
    "Model": EMBEDDING,
}
# The beginnings of keys of heads that are of one class of models each; all other heads may lie beside them, unused.
OWN_HEADS = ("classifier.", "qa_outputs.")


@dataclass(frozen=True)
class GivenLabels:
    """What a user says of the outputs of a head, in place of the files; None where the files are right.

    Attributes
    ----------
    problem_type : str or None
        As in a config of transformers.
    id2label : dict of int to str, list of str, or None
    """

    problem_type: str | None = None
    id2label: Mapping[int, str] | Sequence[str] | None = None

    def applied(self, config: XLMRobertaXLConfig, task: str) -> XLMRobertaXLConfig:
        """Return a config with these, for a model of a task, a value of `ARCHITECTURES`.

        Raises
        ------
        ValueError
            If they are not valid, or models of this task have no such thing.
        """
        if self.problem_type is not None and task != SEQUENCES:
            raise ValueError(
                f"problem_type={self.problem_type!r} is for models of sequences, not for {task}. Leave it."
            )
        if self.id2label is None:
            return config.changed({} if self.problem_type is None else {"problem_type": self.problem_type})
        if task not in (SEQUENCES, "tagging"):
            raise ValueError(f"id2label is for classifiers and taggers, not for {task}. Leave it.")
        names = self._names(self.id2label)
        if len(names) != config.num_labels:
            raise ValueError(f"id2label has {len(names)} names, but the model has {config.num_labels} outputs.")
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"id2label must have the numbers from 0 to {len(names) - 1}, got {list(names)[:5]}.")
        return config.changed({"id2label": names, "problem_type": self.problem_type or config.problem_type})

    @staticmethod
    def _names(id2label: Any) -> dict[int, str]:
        is_list = isinstance(id2label, Sequence) and not isinstance(id2label, str)
        if not is_list and not isinstance(id2label, Mapping):
            raise ValueError(f"id2label must be a dict or a list of names, got {id2label!r:.60}.")
        names = dict(enumerate(id2label) if is_list else id2label)
        for number, name in names.items():
            if not isinstance(name, str) or not isinstance(number, int):
                raise ValueError(f"id2label must map numbers to texts, and has {name!r:.60} for {number!r:.60}.")
        return names


@dataclass(frozen=True, eq=False)
class HeadOnVectors:
    """A head that is the last module of a directory of sentence-transformers.

    Attributes
    ----------
    layer : Layer
    normalize : bool
        Whether the vectors are scaled to length 1 before it.
    classes : list or None
        The labels of its outputs, of their own types; None for numbers, or if the config has the labels.
    """

    layer: Layer
    normalize: bool
    classes: list[Any] | None


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model that `skxlmr.load` has found: a base, a head on it, and perhaps an adapter.

    Attributes
    ----------
    task : str
        What it was trained for: "classification", "regression", or another value of `ARCHITECTURES`. The table
        `ESTIMATORS_OF_TASKS` of `skxlmr.estimators.loading` has the estimator of each.
    files : CheckpointFiles
        The checkpoint of the base.
    config : XLMRobertaXLConfig
        With the labels.
    where : str
        Where the head lies, for error messages.
    open_head : callable
        Opens the tensors of the head; their keys are those of transformers.
    activation : str or None
        What is done with the outputs of the head, as sentence-transformers says of a CrossEncoder, such as "Sigmoid".
    prompt : str or None
        What is put before each text, or before the first of two, as sentence-transformers says of a CrossEncoder.
    tuning : Tuning
        How it was trained: `Head()` if all other weights are those of `files`.
    vectors : HeadOnVectors or None
        The head, if it is on the vectors of texts; None if it is one of transformers, among the tensors.
    adapter : dict of str to Tensor
        Weights beside the head, float32, named as in `Finetuned.state_dict()`; that is "adapter..." for LoRA.
    """

    task: str
    files: CheckpointFiles
    config: XLMRobertaXLConfig
    where: str
    open_head: Callable[[], AbstractContextManager[Checkpoint]]
    activation: str | None = None
    prompt: str | None = None
    tuning: Tuning = field(default_factory=Head)
    adapter: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: HeadOnVectors | None = None

    def read_head(self, head: nn.Module, export: Export) -> None:
        """Load the weights of a head that is on the meta device.

        Raises
        ------
        CheckpointError
            If there are none, or those of another head.
        """
        if self.vectors is not None:
            assert isinstance(head, PooledHead)
            weight, bias = head_of_layer(self.vectors.layer, self.vectors.normalize)
            head.linear.weight, head.linear.bias = nn.Parameter(weight), nn.Parameter(bias)
            return
        model_class, parts = head_parts(export, self.config, head)
        with self.open_head() as checkpoint:
            keys = list(checkpoint.tensors)
            missing = read_head(checkpoint, self.config, parts)
        if missing:
            raise CheckpointError(self._lacks(missing, keys, model_class.__name__.rpartition("For")[2]))

    def _lacks(self, missing: list[str], keys: list[str], name: str) -> str:
        """Return the message about a head of a kind, by its name, whose tensors are not among those with these keys."""
        lack = (
            f"{self.where} says that it is a model for {self.task} (For{name}), but its weights lack the head of such "
            f"a model: {', '.join(missing[:4])}."
        )
        if (Path(self.where) / ADAPTER).is_file():
            return (
                f"{lack} Where neither an adapter nor its base has them, peft draws them at random. Name their module "
                f"in modules_to_save when you train, or use a base model that has them."
            )
        names, prefix = key_map(self.config.model_type), THEIR_BASE[self.config.model_type]
        if not any(names.to_ours(key) or names.to_ours(prefix + key) for key in keys):
            return (
                f"{lack} All of its tensors have other names, such as {min(keys, default='')!r:.80}. Rename them as "
                f"those of transformers are, such as {missing[0]!r}."
            )
        others = sorted(key for key in keys if key.startswith(OWN_HEADS))
        there = f" There are {', '.join(others[:4])}, which are those of another head." if others else ""
        return (
            f"{lack}{there} Correct the entry 'architectures' of its config.json; or, to train a head on it, give it "
            f"to an estimator as its `model`, and call fit."
        )

    def weights(self, head: nn.Module) -> SavedWeights:
        """Return the weights of a head that has been read, and of the adapter, as those of a saved estimator."""
        of_head = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        return SavedWeights(self.tuning, self.config, self.where, {**self.adapter, **of_head})


def read_trained_model(model: str | os.PathLike, labels: GivenLabels) -> TrainedModel:
    """Find a checkpoint, and what it was trained for.

    Parameters
    ----------
    model : str or path
        A directory, the id of a model on the hub, or a bundled model.
    labels : GivenLabels

    Raises
    ------
    ModelNotFoundError
        If there is no such model.
    CheckpointError
        If it is damaged, or a model of a class that no estimator runs.
    ValueError
        If the labels do not go with the model.
    """
    files = find_checkpoint(model)
    config = read_config(files)
    directory = sentence_directory(files.directory)
    if (head := read_head_file(directory)) is not None:
        if not is_sentence_model(directory):
            raise CheckpointError(f"{directory} has a {HEAD}, but no {MODULES}, which has the head. Export it again.")
        return _with_head_on_vectors(files, config, directory, head, labels)
    kind = _task(files, config)
    config = labels.applied(config, kind)
    task = task_of(kind, config)
    activation = read_activation(directory, config.extra)
    config = with_activation(config, task, activation)
    return TrainedModel(
        task,
        files,
        config,
        str(files.directory),
        partial(open_checkpoint, files),
        activation=activation,
        prompt=read_prompt(directory) or None if is_cross_encoder(directory) else None,
    )


def _with_head_on_vectors(
    files: CheckpointFiles, config: XLMRobertaXLConfig, directory: Path, stored: HeadFile, labels: GivenLabels
) -> TrainedModel:
    """Read the head of a classifier or regressor that was exported for sentence-transformers."""
    split = split_head(read_modules(directory))
    if split is None or (stored.classes is not None and len(stored.classes) != outputs_of(split[1])):
        raise CheckpointError(
            f"{directory / HEAD} says that the last module is a head"
            f"{'' if stored.classes is None else f' of {len(stored.classes)} classes'}, but {MODULES} has no such "
            f"module at the end. Export the model again; or delete {HEAD}, to load it as one of vectors."
        )
    modules, layer = split
    changes = {"num_labels": outputs_of(layer), "problem_type": stored.problem_type}
    config = labels.applied(config.changed(changes), SEQUENCES)
    task = task_of(SEQUENCES, config)
    classes = stored.classes if labels.id2label is None and task == "classification" else None
    return TrainedModel(
        task,
        files,
        config,
        str(directory),
        partial(open_checkpoint, files),
        vectors=HeadOnVectors(layer, modules.normalize, classes),
    )


def task_of(task: str, config: XLMRobertaXLConfig) -> str:
    """Return a task, and of models of sequences whether they were trained for classification or regression."""
    if task != SEQUENCES:
        return task
    of_numbers = config.problem_type == "regression" or (
        config.num_labels == 1 and config.problem_type != "multi_label_classification"
    )
    return "regression" if of_numbers else "classification"


def with_activation(config: XLMRobertaXLConfig, task: str, activation: str | None) -> XLMRobertaXLConfig:
    """Return a config for several labels per row, if a sigmoid makes each output a probability of its own."""
    if activation == "Sigmoid" and task == "classification" and config.problem_type is None:
        return replace(config, problem_type="multi_label_classification")
    return config


def task_of_class(name: str) -> str | None:
    """Return what a class of transformers is for; None if it is of another model, or for what no estimator does."""
    families = [*(family.architecture for family in CONFIGS.values()), "Roberta"]  # of some XLM-RoBERTa models
    ends = [name.removeprefix(family) for family in families if name.startswith(family)]
    return next((ARCHITECTURES[end] for end in ends if end in ARCHITECTURES), None)


def _task(files: CheckpointFiles, config: XLMRobertaXLConfig) -> str:
    """Return what a checkpoint was trained for; raises CheckpointError if that is nothing that an estimator does."""
    directory = sentence_directory(files.directory)
    if is_sentence_model(directory) and not is_cross_encoder(directory):
        return EMBEDDING
    names = config.extra.get("architectures")
    with open_checkpoint(files) as checkpoint:
        heads = sorted(key for key in checkpoint.tensors if key.startswith(OWN_HEADS))
    if names is None and not heads:
        return EMBEDDING
    name = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else ""
    found = task_of_class(name)
    possible = f"one of {next(iter(CONFIGS.values())).architecture}{', ...'.join(ARCHITECTURES)}"
    if found is None:
        raise CheckpointError(
            f"{files.config}: 'architectures' is {shown(names)}, so it is not known what the model was trained for. "
            f"Set it to the class of transformers whose head it has, {possible}; or, to train a new head, give the "
            f"directory to an estimator as its `model`, and call fit."
        )
    if found == EMBEDDING and heads:
        raise CheckpointError(
            f"{files.config}: 'architectures' is {shown(names)}, a model without a head, but the weights have one: "
            f"{', '.join(heads[:4])}. Set it to the class of transformers with this head, {possible}; or, to use the "
            f"model without the head, give the directory to an estimator as its `model`, and call fit."
        )
    return found


def empty_head(make: Callable[[XLMRobertaXLConfig], nn.Module], config: XLMRobertaXLConfig) -> nn.Module:
    """Make a head on the meta device."""
    with torch.device("meta"):
        return make(config)
