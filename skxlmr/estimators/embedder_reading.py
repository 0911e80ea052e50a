"""How an embedder reads texts: by its parameters, and by the files of its model where these are "auto"."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Integral
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.runtime.features import POOLING, POOLINGS
from skxlmr.runtime.reading import Reading
from skxlmr.runtime.sentence_settings import read_sentence_settings
from skxlmr.system.parameters import parameter, parameter_group
from skxlmr.system.schema import POSITIVE

# The types of the fitted attributes that say how texts are read.
OF_READING: dict[str, Any] = {
    "pooling_": POOLING,
    "normalize_": bool,
    "prompt_": str,
    "_n_dims": POSITIVE | None,
    "_separate": bool,
    "_after_pooling": tuple[Any, ...],
    "_include_prompt": bool,
}

# Those that estimators of earlier versions do not have, and what stands for them then.
FOUND_LATER: dict[str, Any] = {"_after_pooling": (), "_include_prompt": True, "max_length_": None}


@parameter_group
class ReadingParameters:
    """How an embedder reads texts.

    Parameters
    ----------
    pooling : {"auto", "mean", "cls", "max", "first_last_mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}
        How the tokens of a text become one vector: their mean or maximum, the first token alone, or the mean over the
        tokens of the first and the last layer; their sum divided by the square root of their number; the mean weighted
        by their positions; the last token alone. The special tokens count as tokens. "auto" is what a directory of
        sentence-transformers says, with its dense layers and its `truncate_dim`, and without the tokens of the prompt
        if it excludes them (`include_prompt`); otherwise the mean. Of a directory with a Router it is the default
        route, by which `SentenceTransformer.encode` reads texts.
    layer : int
        The layer to read: -1 is the last one, 0 the embeddings below the first, `num_hidden_layers` the last again.
        Layers above it are not run.
    normalize : bool or "auto"
        Scale each vector to length 1. "auto" does so for "e5-small", for other models if a directory of
        sentence-transformers says so.
    prompt : str or None
        What is put before each text (of two that are read together, the first), such as "query: " or "passage: "; None
        is nothing. "auto" is what a directory of sentence-transformers says, and otherwise "query: " for the
        multilingual-e5 models, which were trained so (but for "-instruct").
    n_dims : int or None
        Keep only this many of the first dimensions, before the vectors are scaled; None keeps all. Training learns
        vectors of this size, so that little is lost; for several sizes see `matryoshka_dims`.
    """

    pooling: str = parameter(default="auto", valid=[StrOptions({"auto", *POOLINGS})], order=10)
    layer: int = parameter(default=-1, valid=[Integral], order=10)
    normalize: bool | str = parameter(default="auto", valid=["boolean", StrOptions({"auto"})], order=10)
    prompt: str | None = parameter(default="auto", valid=[str, None], order=10)
    n_dims: int | None = parameter(default=None, valid=[Interval(Integral, 1, None, closed="left"), None], order=10)


def resolved_reading(given: ReadingParameters, model: str | os.PathLike, separate: bool) -> Reading:
    """Return how texts are read by the parameters of an embedder; "auto" is as the model's own files say."""
    is_own = given.pooling == "auto"
    own = read_sentence_settings(model, needs_pooling=is_own or given.normalize == "auto")
    return Reading(
        own.pooling if is_own else given.pooling,
        own.normalize if given.normalize == "auto" else bool(given.normalize),
        own.prompt if given.prompt == "auto" else given.prompt or "",
        own.truncate_dim if is_own and given.n_dims is None else given.n_dims,
        separate,
        own.layers if is_own else (),
        own.include_prompt or not is_own,
        own.max_length,
    )


def with_valid_n_dims(reading: Reading, hidden_size: int, n_dims: int | None, model: str | os.PathLike) -> Reading:
    """Return a reading with no more dimensions than there are, which a checkpoint may ask for, but no user."""
    whole = reading.whole_width(hidden_size)
    if n_dims is not None and n_dims > whole:
        raise ValueError(f"n_dims={n_dims}, but the vectors of {model!r} have {whole} dimensions.")
    return reading if reading.n_dims is None else replace(reading, n_dims=min(reading.n_dims, whole))


def check_layer(layer: int, depth: int, model: str | os.PathLike) -> None:
    """Raise a ValueError if a model has no such hidden state."""
    if not -depth - 1 <= layer <= depth:
        raise ValueError(f"layer={layer}, but {model!r} has layers 0 to {depth} (or -{depth + 1} to -1).")


def hidden_states(pooling: str, layer: int) -> tuple[int, ...]:
    """Return the hidden states that the pooling reads."""
    return (1, layer) if pooling == "first_last_mean" else (layer,)


def attributes_of_reading(reading: Reading) -> dict[str, Any]:
    """Return the fitted attributes of `OF_READING`."""
    return {
        "pooling_": reading.pooling,
        "normalize_": reading.normalize,
        "prompt_": reading.prompt,
        "_n_dims": reading.n_dims,
        "_after_pooling": reading.layers,
        "_include_prompt": reading.include_prompt,
        "_separate": reading.separate,
    }


def fitted_reading(embedder: Any) -> Reading:
    """Return how a fitted embedder reads texts."""
    return Reading(
        embedder.pooling_,
        embedder.normalize_,
        embedder.prompt_,
        embedder._n_dims,
        embedder._separate,
        *(getattr(embedder, name, default) for name, default in FOUND_LATER.items()),
    )


def check_continued(reading: Reading, earlier: Reading) -> None:
    """Raise a ValueError if the earlier fit, which training continues, read texts in another way."""
    for name in ("pooling", "prompt", "include_prompt"):
        now, before = getattr(reading, name), getattr(earlier, name)
        if now != before:
            raise ValueError(
                f"The earlier fit read texts with {name}={before!r}, now it is {now!r}: training can continue with "
                f"the same only. Set it back, or fit anew with warm_start=False."
            )
