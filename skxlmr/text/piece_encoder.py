"""Texts to piece ids, and these to inputs of the model; "</s>" in a text is not read as the special token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from skxlmr.text.samples import check_texts
from skxlmr.text.segments import Segmenter
from skxlmr.text.vocabulary import BOS, EOS, Vocabulary
from skxlmr.text.windows import Only, Range, Window, plan_truncation, plan_windows

CHARACTERS_PER_THREAD = 8192  # about a millisecond of work; below it a thread costs more than it saves


class PieceEncoder:
    """Encodes texts as arrays of piece ids, and builds inputs of the model from these.

    Several threads can encode at once. The tokenizer exposes these methods as its own.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.segmenter = Segmenter(vocabulary)

    def encode_batch(self, texts: Sequence[str], *, num_threads: int | None = None) -> list[np.ndarray]:
        """Encode texts to piece ids, without special tokens; "</s>" in a text is four characters of text.

        Tokens that the checkpoint has added beside XLM-RoBERTa's five, special or not, are found in the texts.

        Parameters
        ----------
        texts : sequence of str
            A lone surrogate, which UTF-8 cannot encode, is read as U+FFFD.
        num_threads : int, optional
            By default that of torch, so that workers of joblib share the cores, or fewer for short texts. The result
            does not depend on it.

        Returns
        -------
        list of ndarray of shape (n_pieces,), int32
            Views of one array with the ids of the whole batch.

        Raises
        ------
        TypeError
            If `texts` is a single string, or an element is not a string.
        """
        texts = check_texts(texts)
        if num_threads is None:
            worthwhile = sum(map(len, texts)) // CHARACTERS_PER_THREAD
            num_threads = min(worthwhile, torch.get_num_threads()) if worthwhile > 1 else 1
        elif num_threads < 1:
            raise ValueError(f"num_threads={num_threads} must be at least 1, or None")
        return [pieces.ids for pieces in self.segmenter.encode(texts, num_threads=num_threads)]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode a text to piece ids, without special tokens, with the characters that each piece comes from.

        Parameters
        ----------
        text : str
            Encoded as by `encode_batch`.

        Returns
        -------
        ids : ndarray of shape (n_pieces,), int32
            The same as from `encode_batch`.
        offsets : ndarray of shape (n_pieces, 2), int32
            ``text[start:stop]`` is the source of the piece, without leading whitespace and without characters that
            the normaliser drops around it. Pieces that share a character ("ﬁ" cut into "f" and "i") each have all of
            it. For the bare space "▁", as before Chinese words, ``start == stop``, where the next piece begins. White
            space that an added token takes is not part of its characters either.

        Notes
        -----
        The fast tokenizers of the reference return the same offsets for ordinary text, except that a bare space gets
        the first character of the next piece. They also leave the combining marks of decomposed text ("e" + "´") out,
        and are off by one if the text begins with a control character.
        """
        (text,) = check_texts([text])
        (pieces,) = self.segmenter.encode([text], with_offsets=True, tight=True)
        return pieces.ids, pieces.offsets

    def build_inputs(self, ids_a: np.ndarray, ids_b: np.ndarray | None = None) -> np.ndarray:
        """Add the special tokens: ``<s> A </s>`` or ``<s> A </s></s> B </s>``.

        Parameters
        ----------
        ids_a, ids_b : array-like of shape (n_pieces,)
            Piece ids of a text, or of both texts of a pair.

        Returns
        -------
        ndarray of shape (n,), int32
        """
        bos, eos = np.array([[BOS], [EOS]], dtype=np.int32)
        return join(_arrays(ids_a, ids_b), bos, eos)

    def windows(
        self,
        ids_a: np.ndarray,
        ids_b: np.ndarray | None = None,
        *,
        max_length: int,
        stride: int,
        only: Only = "longest",
    ) -> list[Window]:
        """Cut a text or a pair into overlapping windows that fit the model; no piece is left out.

        Parameters
        ----------
        ids_a, ids_b : array-like of shape (n_pieces,)
            Piece ids of a text, or of both texts of a pair.
        max_length : int
            Maximum number of ids of a window, special tokens included.
        stride : int
            Number of pieces that consecutive windows share. For a pair with `only` "longest" it must be less than half
            of a window.
        only : {"longest", "first", "second"}, default="longest"
            Which text of a pair is windowed while each window holds the whole of the other. "longest" windows the
            longer one if the shorter takes at most half of the room; otherwise both are windowed, each in its half,
            and windows at the same relative position are combined: each piece of both is seen, though not in all
            combinations. For questions about a context, use "second".

        Returns
        -------
        list of Window
            One if everything fits, also for an empty text.

        Raises
        ------
        ValueError
            If `max_length` leaves no room, `stride` is too large to advance, or the text that `only` keeps whole does
            not fit.
        """
        texts = _arrays(ids_a, ids_b)
        plan, sequence = plan_windows(tuple(map(len, texts)), self.room(max_length, len(texts)), stride, only)
        return [Window(self.build_inputs(*cut(texts, ranges)), ranges, sequence) for ranges in plan]

    def truncate(
        self, ids_a: np.ndarray, ids_b: np.ndarray | None = None, *, max_length: int, only: Only = "longest"
    ) -> tuple[np.ndarray, int]:
        """Keep the beginning of a text or a pair, and count the pieces that are dropped.

        Parameters
        ----------
        ids_a, ids_b : array-like of shape (n_pieces,)
            Piece ids of a text, or of both texts of a pair.
        max_length : int
            Maximum number of ids, special tokens included.
        only : {"longest", "first", "second"}, default="longest"
            Which text of a pair is cut; "longest" cuts the longer one until both are equally long, then both.

        Returns
        -------
        input_ids : ndarray of shape (n,), int32
            With special tokens.
        dropped : int
            Number of pieces left out.

        Raises
        ------
        ValueError
            If `max_length` leaves no room for the text that is cut.
        """
        texts = _arrays(ids_a, ids_b)
        kept = cut(texts, plan_truncation(tuple(map(len, texts)), self.room(max_length, len(texts)), only))
        return self.build_inputs(*kept), sum(map(len, texts)) - sum(map(len, kept))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of ids that `build_inputs` adds: 2 to a text, 4 to a pair."""
        return 4 if pair else 2

    def room(self, max_length: int, n_texts: int, add_special_tokens: bool = True) -> int:
        """Return the number of pieces that fit into an input, at least one of each text."""
        special = self.num_special_tokens_to_add(n_texts == 2) if add_special_tokens else 0
        if max_length < special + n_texts:
            what = "a pair of texts" if n_texts == 2 else "a text"
            raise ValueError(
                f"max_length={max_length} leaves no room for {what} beside {special} special tokens: "
                f"use at least {special + n_texts}"
            )
        return max_length - special


def _arrays(ids_a: np.ndarray, ids_b: np.ndarray | None) -> list[np.ndarray]:
    return [np.asarray(ids, dtype=np.int32) for ids in (ids_a, ids_b) if ids is not None]


def cut(arrays: list[np.ndarray], ranges: tuple[Range, ...]) -> list[np.ndarray]:
    return [array[start:stop] for array, (start, stop) in zip(arrays, ranges, strict=True)]


def join(arrays: list[np.ndarray], bos: np.ndarray, eos: np.ndarray) -> np.ndarray:
    """Concatenate A as (bos, A, eos), and A, B as (bos, A, eos, eos, B, eos)."""
    first, *rest = arrays
    return np.concatenate([bos, first, eos, *chain.from_iterable((eos, array, eos) for array in rest)])
