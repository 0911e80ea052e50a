"""Fewer pieces in a sentencepiece model."""

from __future__ import annotations

import numpy as np

from skxlmr.weights.protobuf import fields

# Fields of a sentencepiece model and of its trainer's settings, and the value that says how texts are cut.
PIECE, TRAINER = 1, 2
MODEL_TYPE, UNIGRAM = 3, 1


def without_pieces(model: bytes, keep: np.ndarray) -> bytes:
    """Leave pieces out; all that is kept stays as it was, in its order.

    Parameters
    ----------
    model : bytes
        A sentencepiece model.
    keep : ndarray of shape (n_pieces,), bool
        By sentencepiece's ids.

    Returns
    -------
    bytes
        A sentencepiece model.

    Raises
    ------
    ValueError
        If it is not a unigram model. Of the other kinds BPE puts pieces together from others, which then may not go.
    """
    kept, every = iter(keep), []
    for number, raw, value in fields(model):
        if number == TRAINER:
            types = [kind for field, _, kind in fields(raw[value:]) if field == MODEL_TYPE]
            if types not in ([], [UNIGRAM]):
                raise ValueError("this sentencepiece model is no unigram model; its pieces cannot be told apart.")
        if number != PIECE or next(kept):
            every.append(raw)
    return b"".join(every)
