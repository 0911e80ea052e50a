"""Fewer pieces in a sentencepiece model."""

from __future__ import annotations

import numpy as np

from skxlmr.weights.protobuf import fields
from skxlmr.weights.sentencepiece_models import PIECE, is_unigram


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
    if not is_unigram(model):
        raise ValueError("this sentencepiece model is no unigram model; its pieces cannot be told apart.")
    kept = iter(keep)
    return b"".join(raw for number, raw, _ in fields(model) if number != PIECE or next(kept))
