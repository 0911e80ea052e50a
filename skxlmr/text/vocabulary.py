"""Pieces and their ids: a sentencepiece model under fairseq's numbering."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from skxlmr.checkpoints.sentencepiece_file import as_tokenizer_json, is_unigram, without_pieces
from skxlmr.text.offsets import SPACE

if TYPE_CHECKING:
    from typing_extensions import Self


class Vocabulary:
    """What is known without any text: special tokens, ids and pieces, and the way back from ids to text.

    ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, any other piece its sentencepiece id + 1, and ``<mask>`` last.
    It can be pickled (by the model's bytes); copies share the sentencepiece processor, which nothing changes.

    Parameters
    ----------
    vocab_file : str, path or bytes
        The sentencepiece model: a file, or the content of one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a sentencepiece model, or one whose first three pieces are not ``<unk>``, ``<s>``, ``</s>``.
    """

    bos_token, bos_token_id = "<s>", 0
    cls_token, cls_token_id = "<s>", 0
    pad_token, pad_token_id = "<pad>", 1
    eos_token, eos_token_id = "</s>", 2
    sep_token, sep_token_id = "</s>", 2
    unk_token, unk_token_id = "<unk>", 3
    mask_token = "<mask>"

    def __init__(self, vocab_file: str | os.PathLike[str] | bytes) -> None:
        in_memory = isinstance(vocab_file, bytes)
        self._model = vocab_file if in_memory else _read(Path(vocab_file))
        self._processor = _load(self._model, "the bytes given" if in_memory else str(vocab_file))

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included (250002 for XLM-R; a checkpoint may have more rows than that)."""
        return len(self._processor) + 2

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def mask_token_id(self) -> int:
        """Id of ``<mask>``, the last of the vocabulary."""
        return len(self._processor) + 1

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, in the order of their ids."""
        return [self.bos_token, self.pad_token, self.eos_token, self.unk_token, self.mask_token]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self.bos_token_id, self.pad_token_id, self.eos_token_id, self.unk_token_id, self.mask_token_id]

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """Name the token of each id.

        Parameters
        ----------
        ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave the special ones out (of a list).

        Returns
        -------
        str or list of str
            One token for a single id.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        ids = _as_list(ids)
        if isinstance(ids, int):
            return self.convert_ids_to_tokens([ids])[0]
        special = dict(zip(self.all_special_ids, self.all_special_tokens, strict=True))
        for position, index in enumerate(ids):
            if not isinstance(index, int):
                hint = "; rows of ids go to batch_decode" if isinstance(index, list) else ""
                raise ValueError(f"ids[{position}] must be an integer, not {index!s:.60}{hint}")
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"ids[{position}] = {index} is not in the vocabulary, which has {self.vocab_size} ids")
        if skip_special_tokens:
            ids = [index for index in ids if index not in special]
        pieces = self._processor.id_to_piece([0 if index in special else index - 1 for index in ids])
        return [special.get(index, piece) for index, piece in zip(ids, pieces, strict=True)]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Give the id of each token; that of ``<unk>`` for what is not in the vocabulary.

        Parameters
        ----------
        tokens : str or iterable of str
            Tokens as from `tokenize`: "▁Hello", "<mask>".

        Returns
        -------
        int or list of int
            One id for a single token.
        """
        if isinstance(tokens, str):
            return self.convert_tokens_to_ids([tokens])[0]
        tokens = list(tokens)
        special = dict(zip(self.all_special_tokens, self.all_special_ids, strict=True))
        pieces = [token.encode(errors="surrogatepass") for token in tokens]  # a lone surrogate is in no vocabulary
        ids = fairseq_ids(np.array(self._processor.piece_to_id(pieces), dtype=np.int32)).tolist()
        return [special.get(token, index) for token, index in zip(tokens, ids, strict=True)]

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Join the tokens of ids to text.

        The text is the normalised one: what the normaliser has changed (full-width letters, repeated spaces) or the
        vocabulary lacks does not come back.

        Parameters
        ----------
        ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave special tokens out.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        ids = _as_list(ids)
        tokens = self.convert_ids_to_tokens([ids] if isinstance(ids, int) else ids, skip_special_tokens)
        return "".join(tokens).replace(SPACE, " ").removeprefix(" ")

    def batch_decode(self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Apply `decode` to each row.

        Parameters
        ----------
        ids : iterable of 1-D array-like, or 2-D array or tensor
            A row for each text.
        skip_special_tokens : bool, default=False
            Leave special tokens out.

        Returns
        -------
        list of str
        """
        return [self.decode(row, skip_special_tokens) for row in ids]

    def get_special_tokens_mask(self, ids: Iterable[int]) -> list[int]:
        """Mark special tokens, padding and ``<unk>`` and ``<mask>`` among them.

        Parameters
        ----------
        ids : array-like of int
            Of any shape.

        Returns
        -------
        list of int
            1 where the id is that of a special token, else 0; nested as `ids` is.
        """
        return np.isin(_as_list(ids), self.all_special_ids).astype(int).tolist()

    def trim(self, used: Iterable[int]) -> tuple[Self, np.ndarray]:
        """Leave only the pieces that are used, all single characters, and the special tokens.

        A text whose pieces are all kept is cut as before: of the ways to cut it only worse ones are gone. A piece that
        is gone is cut into smaller ones, down to characters.

        Parameters
        ----------
        used : array-like of int
            Ids, in any order; they may repeat.

        Returns
        -------
        tokenizer : Vocabulary
            Of the class of this one. Its ids have no gaps, and the special tokens are where XLM-R has them.
        kept : ndarray of shape (vocab_size of the new one,), int64
            What each of its ids was here, ascending.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary, or if the sentencepiece model is none of unigrams.

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
        used = np.unique(np.asarray(_as_list(used), np.int64))
        if len(used) and not 0 <= used[0] <= used[-1] < self.vocab_size:
            raise ValueError(f"ids from {used[0]} to {used[-1]} are asked for; there are {self.vocab_size}")
        every = range(len(self._processor))
        pieces, scores = self._processor.id_to_piece(every), self._processor.get_score(every)
        keep = np.fromiter((len(piece) == 1 for piece in pieces), bool, len(every))  # by sentencepiece's ids
        keep[:3] = True
        keep[np.argmin(scores)] = True  # by its score is told what a character costs that is no piece
        keep[used[(used > self.unk_token_id) & (used < self.mask_token_id)] - 1] = True
        new = copy.copy(self)
        new._model = without_pieces(self._model, keep)
        new._processor = _load(new._model, "the trimmed vocabulary")
        kept = np.flatnonzero(keep)[3:] + 1
        return new, np.concatenate([np.arange(4), kept, [self.mask_token_id]])

    def as_tokenizer_json(self) -> dict[str, Any] | None:
        """The content of the tokenizer.json of transformers; None for a model that is not one of unigrams."""
        if not is_unigram(self._model):
            return None
        normal = range(3, len(self._processor))
        return as_tokenizer_json(self._processor.id_to_piece(normal), self._processor.get_score(normal), self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_processor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._processor = _load(self._model, "the pickled bytes")

    def __copy__(self) -> Vocabulary:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Vocabulary:
        return copy.copy(self)


def fairseq_ids(ids: np.ndarray) -> np.ndarray:
    """Number sentencepiece's ids as fairseq does: 0, its unknown piece, is 3, and any other is one more."""
    return np.where(ids == 0, Vocabulary.unk_token_id, ids + 1).astype(np.int32, copy=False)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a directory, not a sentencepiece model: use from_directory")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no sentencepiece model at {path}") from None


def _load(model: bytes, source: str) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(
            f"{source} ({len(model)} bytes) is not a sentencepiece model, or a damaged one: {error}"
        ) from error
    layout = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if layout != (0, 1, 2):
        raise ValueError(
            f"{source} is a sentencepiece model, but not of XLM-RoBERTa's layout: unknown, begin and end of sentence "
            f"have the ids {layout}, and must have (0, 1, 2)"
        )
    return processor


def _as_list(ids: Any) -> Any:
    """Turn arrays, tensors and other iterables into nested lists of Python numbers; leave a number as it is."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    is_nested = isinstance(ids, Iterable) and not isinstance(ids, str)
    return [_as_list(row) for row in ids] if is_nested else ids
