"""Copies of a tokenizer with another vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import numpy as np

from skxlmr.text.padding import as_list
from skxlmr.text.piece_encoder import PieceEncoder
from skxlmr.text.vocabulary import Vocabulary


class WithPieces(Protocol):
    """What is used of a tokenizer."""

    piece_encoder: PieceEncoder

    @property
    def vocabulary(self) -> Vocabulary:
        """The pieces and their ids."""


Tokenizer = TypeVar("Tokenizer", bound=WithPieces)


class Copies(Generic[Tokenizer]):
    """Makes copies of a tokenizer, which exposes these methods as its own."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def lowercased(self) -> Tokenizer:
        """Return a tokenizer that puts texts in lower case before all else.

        Returns
        -------
        XLMRobertaXLTokenizer
            With the same ids. Offsets are those of the original text.
        """
        lower = copy.copy(self.tokenizer)
        lower.piece_encoder = PieceEncoder(self.tokenizer.vocabulary.lowercased())
        return lower

    def trim(self, used: Iterable[int]) -> tuple[Tokenizer, np.ndarray]:
        """Return a tokenizer with only the pieces that are used, single characters, special and added tokens.

        A text is encoded as before if all its pieces are kept: the better segmentations are still there. A piece that
        is dropped is encoded as smaller ones, down to characters.

        Parameters
        ----------
        used : array-like of int
            Ids, in any order; they may repeat.

        Returns
        -------
        tokenizer : XLMRobertaXLTokenizer
            Its ids are contiguous, with the special tokens where XLM-R has them.
        kept : ndarray of shape (len(tokenizer),), int64
            The id here of each of its ids, ascending.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary, or if the sentencepiece model is not a unigram model.

        Examples
        --------
        >>> from skxlmr.text.tokenizer import XLMRobertaXLTokenizer
        >>> whole = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> small, kept = whole.trim(whole.encode_batch(["good morning"])[0])
        >>> small.decode(small.encode_batch(["good morning"])[0])
        'good morning'
        >>> len(small) < len(whole) / 2
        True
        """
        small = copy.copy(self.tokenizer)
        vocabulary, kept = self.tokenizer.vocabulary.trim(np.asarray(as_list(used), np.int64))
        small.piece_encoder = PieceEncoder(vocabulary)
        return small, kept
