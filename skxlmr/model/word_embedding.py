"""Word embeddings that stay on disk: of a quarter of a million rows a text uses a few."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from skxlmr.checkpoints.cache import building, find_cached, write_cached
from skxlmr.checkpoints.checkpoint import Checkpoint, LoadPlan, open_checkpoint
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.system.warn import warn

WORD_EMBEDDING = "roberta.embeddings.word.weight"
KIND = "words"
CACHED_IN = (KIND, "int8", "nf4")  # the kinds of cached files that may have a word embedding
WORTH_MAPPING = 2**26  # bytes


def map_words(holder: nn.Module, checkpoint: Checkpoint, plan: LoadPlan, files: CheckpointFiles) -> LoadPlan:
    """Let a model hold its word embedding in a mapped file of the cache, where the checkpoint has it in 16 bits.

    Nothing is lost: its rows become what the layers run in when they are looked up.

    Parameters
    ----------
    holder : nn.Module
        On the meta device; has the base as its attribute `roberta`.
    checkpoint : Checkpoint
    plan : LoadPlan
    files : CheckpointFiles

    Returns
    -------
    LoadPlan
        What is left to load.

    Warns
    -----
    UserWarning
        If the cache cannot be written; the embedding is loaded with all the rest then.
    """
    (theirs,) = [theirs for theirs, ours in plan.assignments if ours == WORD_EMBEDDING]
    info = checkpoint.tensors[theirs]
    if info.dtype.itemsize != 2 or info.nbytes < WORTH_MAPPING:
        return plan
    cached = find_cached(files.fingerprint, KIND)
    if cached is None:
        with building(files.fingerprint, KIND):
            cached = find_cached(files.fingerprint, KIND)  # another process may have made it meanwhile
            if cached is None:
                try:
                    write_cached(files.fingerprint, KIND, {WORD_EMBEDDING: checkpoint.read(theirs)}, model=files.name)
                except OSError as error:
                    warn(
                        f"The word embedding of {files.name!r} is held in memory: {error}. The environment variable "
                        f"SKXLMR_CACHE chooses another folder for it."
                    )
                    return plan
                cached = find_cached(files.fingerprint, KIND)
    words: torch.Tensor | None = None if cached is None else cached.get(WORD_EMBEDDING)
    if words is None or words.shape != info.shape:
        return plan
    holder.roberta.embeddings.word.weight = nn.Parameter(words, requires_grad=False)
    return replace(plan, assignments=[pair for pair in plan.assignments if pair[1] != WORD_EMBEDDING])


def read_words(files: CheckpointFiles, dtype: torch.dtype) -> torch.Tensor:
    """Read the word embedding alone, as a model has it that is loaded whole.

    Parameters
    ----------
    files : CheckpointFiles
    dtype : torch.dtype
        Of that model's word embedding.

    Returns
    -------
    Tensor of shape (V, H)
        On the CPU; mapped where the cache has it.
    """
    for kind in CACHED_IN:
        cached = find_cached(files.fingerprint, kind)
        words = None if cached is None else cached.get(WORD_EMBEDDING)
        if words is not None and words.dtype == dtype:
            return words
    with open_checkpoint(files) as checkpoint:
        (key,) = [key for key in checkpoint.tensors if key.endswith("embeddings.word_embeddings.weight")]
        return checkpoint.read(key).to(dtype)
