"""Pieces and their ids: a sentencepiece model with the numbering of fairseq."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import is_lfs_pointer, lfs_message
from skxlmr.checkpoints.sentencepiece_file import is_unigram, without_pieces
from skxlmr.checkpoints.tokenizer_json import Steps, as_tokenizer_json, with_lowercase

BOS, PAD, EOS, UNK = 0, 1, 2, 3

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Vocabulary:
    """The tokens of a sentencepiece model and their ids.

    ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, any other piece its sentencepiece id + 1, and ``<mask>`` last.
    Tokens that a checkpoint has `added` follow, or are pieces that are read as one token wherever they stand. `steps`
    are those of a normaliser that does more than the model's rules. A vocabulary never changes.
    """

    def __init__(
        self, vocab_file: str | os.PathLike[str] | bytes, added: Iterable[AddedToken] = (), steps: Steps = ()
    ) -> None:
        if isinstance(vocab_file, bytes):
            self.model, source = vocab_file, "the bytes given"
        else:
            self.model, source = _read(Path(vocab_file)), str(vocab_file)
        self.processor = _load(self.model, source)
        self.added, self.steps = tuple(added), tuple(steps)
        self._check_added()

    def _check_added(self) -> None:
        """Check that added tokens have the id of the piece of the same name, or the ids from that of <mask> on."""
        following = self.n_pieces
        for token in self.added:
            (known,) = self.to_pieces([token.content])
            expected = following if known == UNK else known
            if token.id != expected:
                raise CheckpointError(
                    f"The added token {token.content!r} has the id {token.id}, where {expected} is expected: the ids "
                    f"of added tokens follow that of <mask> without gaps. Correct the files of the tokenizer."
                )
            following += known == UNK

    def __len__(self) -> int:
        return max([self.n_pieces, *(token.id + 1 for token in self.added)])

    @property
    def n_pieces(self) -> int:
        """Number of ids without those of added tokens."""
        return len(self.processor) + 2

    @property
    def mask_id(self) -> int:
        """Id of ``<mask>``, the last one before added tokens."""
        return self.n_pieces - 1

    @property
    def own_special_tokens(self) -> dict[int, str]:
        """The special tokens of XLM-RoBERTa by id, ascending."""
        return {BOS: "<s>", PAD: "<pad>", EOS: "</s>", UNK: "<unk>", self.mask_id: "<mask>"}

    @property
    def special_tokens(self) -> dict[int, str]:
        """The special tokens by id, ascending, with those that were added."""
        added = {token.id: token.content for token in self.added if token.special}
        return dict(sorted((self.own_special_tokens | added).items()))

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token, with those of XLM-RoBERTa and those that were added."""
        tokens = self.to_tokens(range(len(self)))
        return {token: index for index, token in enumerate(tokens)}

    def to_tokens(self, ids: Iterable[Any]) -> list[str]:
        """Return the token of each id; raise ValueError if one is not an integer of the vocabulary."""
        ids, special = list(ids), self.own_special_tokens | {token.id: token.content for token in self.added}
        for position, index in enumerate(ids):
            if not isinstance(index, int):
                hint = "; rows of ids go to batch_decode" if isinstance(index, list) else ""
                raise ValueError(f"ids[{position}] must be an integer, not {index!s:.60}{hint}")
            if not 0 <= index < len(self):
                raise ValueError(f"ids[{position}] = {index} is not in the vocabulary, which has {len(self)} ids")
        pieces = self.processor.id_to_piece([0 if index in special else index - 1 for index in ids])
        return [special.get(index, piece) for index, piece in zip(ids, pieces, strict=True)]

    def to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each token, that of ``<unk>`` for those that are not in the vocabulary."""
        tokens = list(tokens)
        special = {token: index for index, token in self.own_special_tokens.items()}
        special |= {token.content: token.id for token in self.added}
        return [special.get(token, index) for token, index in zip(tokens, self.to_pieces(tokens), strict=True)]

    def to_pieces(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each piece of the sentencepiece model, that of ``<unk>`` for any other token."""
        # sentencepiece cannot read lone surrogates, which are as unknown as "".
        pieces = ["" if LONE_SURROGATE.search(token) else token for token in tokens]
        return fairseq_ids(np.array(self.processor.piece_to_id(pieces), dtype=np.int32)).tolist()

    def trim(self, used: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
        """Return a vocabulary of the pieces with these ids, and the id here of each of its ids; see the tokenizer."""
        used = np.unique(used)
        if len(used) and not 0 <= used[0] <= used[-1] < len(self):
            raise ValueError(f"used has ids from {used[0]} to {used[-1]}, but the vocabulary has {len(self)} ids")
        every = list(range(len(self.processor)))
        pieces, scores = self.processor.id_to_piece(every), self.processor.get_score(every)
        keep = np.fromiter((len(piece) == 1 for piece in pieces), bool, len(every))  # by sentencepiece id
        keep[:3] = True
        keep[np.argmin(scores)] = True  # the lowest score determines the cost of an unknown character
        added = np.array([token.id for token in self.added], np.int64)  # where they stand, they split words
        used = np.concatenate([used, added])
        keep[used[(used > UNK) & (used < self.mask_id)] - 1] = True
        kept = np.flatnonzero(keep)[3:] + 1
        kept = np.concatenate([np.arange(4), kept, [self.mask_id], added[added > self.mask_id]])
        renumbered = [replace(token, id=int(np.searchsorted(kept, token.id))) for token in self.added]
        return Vocabulary(without_pieces(self.model, keep), renumbered, self.steps), kept

    def with_added(self, tokens: Iterable[AddedToken]) -> Vocabulary:
        """Return a vocabulary with these added tokens instead of those of this one."""
        other = object.__new__(Vocabulary)  # with the same processor, unlike a copy
        other.__dict__.update(self.__dict__)
        other.added = tuple(sorted(tokens, key=lambda token: token.id))
        other._check_added()
        return other

    def lowercased(self) -> Vocabulary:
        """Return a vocabulary whose normaliser begins by putting texts in lower case."""
        return Vocabulary(self.model, self.added, with_lowercase(self.steps))

    def as_tokenizer_json(self) -> dict[str, Any] | None:
        """Return the content of the tokenizer.json of transformers; None if the model is not a unigram model."""
        if not is_unigram(self.model):
            return None
        normal = list(range(3, len(self.processor)))
        pieces, scores = self.processor.id_to_piece(normal), self.processor.get_score(normal)
        return as_tokenizer_json(pieces, scores, self.model, self.added, self.steps)

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[bytes, tuple[AddedToken, ...], Steps]]:
        return Vocabulary, (self.model, self.added, self.steps)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vocabulary:
        return self


def fairseq_ids(ids: np.ndarray) -> np.ndarray:
    """Number sentencepiece's ids as fairseq does: 0, its unknown piece, becomes 3, and any other one more."""
    return np.where(ids == 0, UNK, ids + 1).astype(np.int32, copy=False)


def without_surrogates(text: str) -> str:
    """Replace each lone surrogate by U+FFFD."""
    return LONE_SURROGATE.sub("\ufffd", text)


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
        if is_lfs_pointer(model):
            raise CheckpointError(lfs_message(source)) from error
        raise CheckpointError(
            f"{source} ({len(model)} bytes) is not a sentencepiece model, or a damaged one: {error}"
        ) from error
    layout = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if layout != (0, 1, 2):
        raise CheckpointError(
            f"{source} is a sentencepiece model, but not of XLM-RoBERTa's layout: unknown, begin and end of sentence "
            f"have the ids {layout}, and must have (0, 1, 2)"
        )
    return processor
