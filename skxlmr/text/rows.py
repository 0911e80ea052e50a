"""The rows of a call: which pieces of the texts are in each, and on request the place of each token in the texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np

from skxlmr.text.call_options import CallOptions
from skxlmr.text.encoding import Encoding
from skxlmr.text.piece_encoder import PieceEncoder, cut, join
from skxlmr.text.samples import Samples, Text
from skxlmr.text.segments import Pieces, Segmenter, SpecialTokens
from skxlmr.text.vocabulary import BOS, EOS, PAD
from skxlmr.text.windows import Range, plan_truncation, plan_windows


class Row(NamedTuple):
    """A row: the index of the text or pair that it belongs to, the ranges of its pieces, and the pieces."""

    sample: int
    ranges: tuple[Range, ...]
    pieces: tuple[Pieces, ...]

    def ids(self, add_special_tokens: bool) -> list[int]:
        """Return the ids of the row."""
        bos, eos = np.array([[BOS], [EOS]], dtype=np.int32)[:, : int(add_special_tokens)]
        return join(cut([pieces.ids for pieces in self.pieces], self.ranges), bos, eos).tolist()

    def offsets(self, add_special_tokens: bool) -> list[tuple[int, int]]:
        """Return the offsets of the ids, (0, 0) for special tokens that are added."""
        nowhere = np.zeros((int(add_special_tokens), 2), dtype=np.int32)
        offsets = join(cut([pieces.offsets for pieces in self.pieces], self.ranges), nowhere, nowhere)
        return [(start, stop) for start, stop in offsets.tolist()]

    def is_special(self, add_special_tokens: bool) -> list[int]:
        """Return 1 for special tokens that are added, otherwise 0."""
        one = np.ones(int(add_special_tokens), dtype=np.int32)
        return join([np.zeros(stop - start, np.int32) for start, stop in self.ranges], one, one).tolist()


def plan_rows(
    encoder: PieceEncoder,
    samples: Samples,
    options: CallOptions,
    *,
    limit: int,
    truncation_side: str,
    special_tokens: SpecialTokens,
    with_offsets: bool,
) -> Iterator[Row]:
    """Encode the texts of a call, and cut them into rows of at most `limit` ids if the options say so."""
    for index, pieces in enumerate(samples.pieces(encoder.segmenter, special_tokens, with_offsets)):
        lengths = tuple(len(of_text.ids) for of_text in pieces)
        for ranges in _ranges(encoder, lengths, options, limit):
            if truncation_side == "left":
                ranges = tuple((n - stop, n - start) for n, (start, stop) in zip(lengths, ranges, strict=True))
            yield Row(index, ranges, pieces)


def _ranges(
    encoder: PieceEncoder, lengths: tuple[int, ...], options: CallOptions, limit: int
) -> list[tuple[Range, ...]]:
    """Return the ranges of pieces that become rows: all pieces, those left by truncation, or all windows."""
    only = options.only
    if only is None:
        return [tuple((0, length) for length in lengths)]
    room = encoder.room(limit, len(lengths), options.add_special_tokens)
    if options.return_overflowing_tokens:
        return plan_windows(lengths, room, options.stride, only)[0]
    return [plan_truncation(lengths, room, only)]


class TextTokens(NamedTuple):
    """The tokens of a text, their places, and the number of the word of each."""

    tokens: list[str]
    offsets: list[list[int]]
    words: list[int]


@dataclass
class RowEncodings(Sequence[Encoding]):
    """The encodings of the rows of a call, each computed when it is first asked for."""

    segmenter: Segmenter
    samples: Samples
    special_tokens: SpecialTokens
    add_special_tokens: bool
    rows: list[Row]
    lengths: list[int]  # with padding
    side: str  # of padding
    _known: dict[tuple[int, int], TextTokens] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Encoding: ...

    @overload
    def __getitem__(self, row: slice) -> list[Encoding]: ...

    def __getitem__(self, row: int | slice) -> Encoding | list[Encoding]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self._encoding(self.rows[row], self.lengths[row])

    def _encoding(self, row: Row, length: int) -> Encoding:
        texts = [self._tokens(row.sample, number) for number in range(len(row.ranges))]
        ids, special = row.ids(self.add_special_tokens), row.is_special(self.add_special_tokens)
        padding = length - len(ids)

        def padded(values: list[Any], pad: Any) -> list[Any]:
            return [pad] * padding + values if self.side == "left" else values + [pad] * padding

        def joined(of_texts: list[list[Any]], bos: Any, eos: Any, pad: Any) -> list[Any]:
            first, *rest = [values[a:b] for values, (a, b) in zip(of_texts, row.ranges, strict=True)]
            begin, end = ([bos], [eos]) if self.add_special_tokens else ([], [])
            return padded([*begin, *first, *end, *chain.from_iterable([*end, *part, *end] for part in rest)], pad)

        return Encoding(
            ids=padded(ids, PAD),
            tokens=joined([text.tokens for text in texts], "<s>", "</s>", "<pad>"),
            offsets=joined([[(a, b) for a, b in text.offsets] for text in texts], (0, 0), (0, 0), (0, 0)),
            word_ids=joined([text.words for text in texts], None, None, None),
            sequence_ids=joined([[i] * len(text.tokens) for i, text in enumerate(texts)], None, None, None),
            special_tokens_mask=padded(special, 1),
            attention_mask=padded([1] * len(ids), 0),
            n_sequences=len(texts),
        )

    def _tokens(self, sample: int, number: int) -> TextTokens:
        """Return the tokens of a text, which several rows may share."""
        if (sample, number) not in self._known:
            text: Text = self.samples.columns[number][sample]
            parts = [text] if isinstance(text, str) else text
            strings = [self.segmenter.tokens(part, self.special_tokens) for part in parts]
            if self.samples.in_words:
                words = [word for word, (tokens, _) in enumerate(strings) for _ in tokens]
            else:
                words = strings[0][1]
            tokens = [token for tokens, _ in strings for token in tokens]
            one = Samples([[text]], is_batch=True, in_words=self.samples.in_words)
            ((pieces,),) = one.pieces(self.segmenter, self.special_tokens, with_offsets=True)
            self._known[sample, number] = TextTokens(tokens, pieces.offsets.tolist(), words)
        return self._known[sample, number]
