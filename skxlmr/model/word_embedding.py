"""Word embeddings that stay on disk: a text uses only a few of a quarter of a million rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from skxlmr.checkpoints.cache import find_cached
from skxlmr.checkpoints.checkpoint import Checkpoint, open_checkpoint
from skxlmr.checkpoints.keymap import LoadPlan
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.cached_weights import assign, find_or_build

WORD_EMBEDDING = "roberta.embeddings.word.weight"
KIND = "words"
KINDS_WITH_WORDS = (KIND, "int8", "float8", "nf4")  # kinds of cached files that may contain a word embedding
WORTH_MAPPING = 2**26  # bytes


def map_words(holder: nn.Module, checkpoint: Checkpoint, plan: LoadPlan, files: CheckpointFiles) -> LoadPlan:
    """Map the word embedding from the cache, if it is large and in 16 bits, and return what remains to be loaded.

    No precision is lost: rows are converted to the dtype of the layers when they are looked up. `holder` is on the meta
    device and has the encoder as its attribute `roberta`.
    """
    (theirs,) = [theirs for theirs, ours in plan.assignments if ours == WORD_EMBEDDING]
    info = checkpoint.tensors[theirs]
    if info.dtype.itemsize != 2 or info.nbytes < WORTH_MAPPING:
        return plan
    cached = find_or_build(
        files,
        KIND,
        build=lambda: {WORD_EMBEDDING: checkpoint.read(theirs)},
        usable=lambda cached: WORD_EMBEDDING in cached and cached[WORD_EMBEDDING].shape == info.shape,
        otherwise=f"The word embedding of {files.name!r} is held in memory",
    )
    if cached is None:
        return plan
    assign(holder, WORD_EMBEDDING, cached[WORD_EMBEDDING])
    return replace(plan, assignments=[pair for pair in plan.assignments if pair[1] != WORD_EMBEDDING])


def read_words(files: CheckpointFiles, dtype: torch.dtype) -> torch.Tensor:
    """Read only the word embedding (V, H) of a checkpoint to the CPU; it is mapped if the cache contains it."""
    for kind in KINDS_WITH_WORDS:
        cached = find_cached(files.fingerprint, kind)
        words = None if cached is None else cached.get(WORD_EMBEDDING)
        if words is not None and words.dtype == dtype:
            return words
    with open_checkpoint(files) as checkpoint:
        (key,) = [key for key in checkpoint.tensors if key.endswith("embeddings.word_embeddings.weight")]
        return checkpoint.read(key).to(dtype)
