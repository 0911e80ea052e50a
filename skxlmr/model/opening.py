"""Opening a checkpoint for a model: its weights, and the configs that belong to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from skxlmr.checkpoints.checkpoint import Checkpoint, open_checkpoint
from skxlmr.checkpoints.decoders import DECODER, WORDS
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.fingerprint import weight_facts
from skxlmr.checkpoints.resolve import READING_ATTEMPTS, CheckpointFiles, resolve
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.generation_config import GenerationConfig, read_generation_config


def open_model(
    model: str | os.PathLike | CheckpointFiles | None,
    config: XLMRobertaXLConfig | None,
    where: Mapping[str, Any],
    can_generate: bool,
) -> tuple[CheckpointFiles, XLMRobertaXLConfig, Checkpoint, GenerationConfig | None]:
    """Open the weights of a checkpoint, and read the configs that belong to them, also while it is being replaced."""
    if model is None:
        raise ValueError("model=None needs a config and a state_dict.")
    for _ in range(READING_ATTEMPTS):
        files = resolve(model, needs_config=config is None, **where)
        with ExitStack() as opened:
            try:
                found = config or read_config(files)
                generation_config = read_generation_config(files, found) if can_generate else None
                checkpoint = opened.enter_context(open_checkpoint(files))
            except CheckpointError:
                if files.is_unchanged():
                    raise
                continue
            if files.is_unchanged():
                opened.pop_all()
                return files, found, checkpoint, generation_config
    raise CheckpointError(f"{files.directory} was replaced while it was being read. Load it again.")


def config_for_state(
    model: str | os.PathLike | CheckpointFiles | None, config: XLMRobertaXLConfig | None, where: Mapping[str, Any]
) -> XLMRobertaXLConfig:
    """Return the config for a state dict, that of a model unless it is given."""
    if config is not None:
        return config
    if model is None:
        raise ValueError("A state_dict without a model needs a config.")
    if isinstance(model, CheckpointFiles):
        return read_config(model)
    return XLMRobertaXLConfig.from_pretrained(model, **where)


def name_of(model: str | os.PathLike | CheckpointFiles | None) -> str:
    """Return the `name_or_path` of a model that is loaded."""
    if model is None:
        return ""
    return model.name if isinstance(model, CheckpointFiles) else os.fspath(model)


def read_config(files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Read the config of a checkpoint.

    The head of an adapter may have other labels than its base model: a file beside it has their names.
    """
    config = _read_own_config(files)
    if files.adapter is None:
        return config
    config = _with_adapted_words(config, files)
    n_labels, labels = files.adapter.n_labels, files.adapter.labels
    changes: dict[str, Any] = {} if n_labels is None else {"num_labels": n_labels}
    if labels is not None and labels.id2label and n_labels in (None, len(labels.id2label)):
        changes = {"id2label": labels.id2label, "problem_type": labels.problem_type}
    elif labels is not None and not labels.id2label and labels.problem_type is not None:
        changes["problem_type"] = labels.problem_type
    try:
        return config.changed(changes)
    except ValueError as error:
        raise CheckpointError(f"{files.adapter.directory}, labels.json or config.json: {error}") from error


def _with_adapted_words(config: XLMRobertaXLConfig, files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Return the config of a base model whose word embedding, or decoder, an adapter may have replaced."""
    assert files.adapter is not None
    if not files.adapter.changes_words:
        return config
    with open_checkpoint(files) as checkpoint:
        words = next(key for key in checkpoint.tensors if key.endswith(WORDS))
        decoder = next((key for key in checkpoint.tensors if DECODER.fullmatch(key) and key.endswith("weight")), None)
        is_untied = decoder is not None and not _are_equal(checkpoint.read(decoder), checkpoint.read(words))
        changes = {"vocab_size": checkpoint.tensors[words].shape[0]}
    return config.changed(changes | ({"tie_word_embeddings": False} if is_untied else {}))


def _are_equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x.to(y.dtype), y)


def _read_own_config(files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Read the config.json of a checkpoint; the weights tell what some files lack.

    That is XL from the smaller models, by their names; and whether the decoder is tied to the word embedding.
    """
    if read_json(files.config).get("model_type") != "xlm-roberta":
        XLMRobertaXLConfig.from_file(files.config)  # a config of another architecture is the first to be told of
    facts = weight_facts(files.weights)
    config = XLMRobertaXLConfig.from_file(files.config, pre_layer_norm=facts.is_xl)
    return config.changed({"tie_word_embeddings": False}) if facts.is_untied else config
