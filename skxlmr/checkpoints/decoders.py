"""Decoders of language models in checkpoints: second names of the word embedding and the bias, or tensors of their own.

transformers writes a decoder that is tied to the word embedding under both names into some files. One that differs from
the word embedding is computed with, whatever the config says, as in transformers 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from skxlmr.checkpoints.formats import TensorInfo, WeightFile

HEADS = ("lm_head.", "cls.predictions.")  # prefixes of the heads of language models
DECODER = re.compile(r"(lm_head|cls\.predictions)\.decoder\.(weight|bias)")
WORDS = "embeddings.word_embeddings.weight"  # the end of the key of the word embedding

SAMPLE_BYTES = 8192  # at least one whole bias or layer norm of XXL in 16 bits
TENSOR_SAMPLES = 8  # of each larger tensor


def tied_to(name: str, names: Iterable[str]) -> str | None:
    """Return which of the names of tensors the one of a decoder is tied to; None if there is none.

    >>> tied_to("lm_head.decoder.bias", ["lm_head.bias", "lm_head.decoder.bias"])
    'lm_head.bias'
    """
    if name.endswith(".bias"):
        other = name.replace(".decoder.", ".")
        return other if other in names else None
    return next((other for other in names if other.endswith(WORDS)), None)


def own_decoders(files: Mapping[str, WeightFile]) -> list[str]:
    """Return the names of the tensors of a decoder that are not the same as those which they are tied to.

    `files` are those that hold the tensors, by the names of these. Only samples of large tensors are compared: a
    decoder of its own differs in every row as soon as it has been trained.
    """
    found = []
    for name in filter(DECODER.fullmatch, files):
        other = tied_to(name, files)
        if other is not None and not _are_same(files[name], name, files[other], other):
            found.append(name)
    return found


def bias_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of the biases that the logits have, by those that they usually have: the decoder's come first.

    >>> bias_names(["lm_head.bias", "lm_head.decoder.bias"])
    {'lm_head.bias': 'lm_head.decoder.bias'}
    """
    return {f"{head}bias": f"{head}decoder.bias" for head in HEADS if f"{head}decoder.bias" in names}


def samples(weights: WeightFile, name: str, nbytes: int, whole: bool = False) -> Iterable[bytes]:
    """Return the bytes of a tensor, row-major, or evenly spread samples of it if it is large."""
    if whole or nbytes <= SAMPLE_BYTES * TENSOR_SAMPLES:
        return [weights.read_bytes(name, 0, nbytes)]
    last = nbytes - SAMPLE_BYTES
    starts = [last * number // (TENSOR_SAMPLES - 1) for number in range(TENSOR_SAMPLES)]
    return [weights.read_bytes(name, start, start + SAMPLE_BYTES) for start in starts]


def _are_same(file: WeightFile, name: str, other_file: WeightFile, other: str) -> bool:
    info, other_info = file.tensors[name], other_file.tensors[other]
    if _kind(info) != _kind(other_info):
        return False
    return samples(file, name, info.nbytes) == samples(other_file, other, info.nbytes)


def _kind(info: TensorInfo) -> tuple[object, ...]:
    return tuple(info.shape), info.dtype
