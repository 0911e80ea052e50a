"""Texts to the ids of their pieces and tokens: texts are split at tokens, and the rest is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Literal, NamedTuple

import numpy as np
from sentencepiece import SentencePieceProcessor

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.sentencepiece_file import without_rules
from skxlmr.checkpoints.tokenizer_json import SPLIT_AT_WHITESPACE, own_tokens
from skxlmr.text.added_tokens import TokenFinder
from skxlmr.text.normalizer import WHITESPACE, Aligned, Normalizer
from skxlmr.text.offsets import SPACE, piece_offsets
from skxlmr.text.vocabulary import Vocabulary, fairseq_ids, without_surrogates

# Which special tokens are found in texts: XLM-RoBERTa's own and those that were added, only the latter, or none.
SpecialTokens = Literal["all", "added", "none"]


class Pieces(NamedTuple):
    """The pieces of a text: ids (n,) and offsets (n, 2), both int32; offsets are zero if they are not requested."""

    ids: np.ndarray
    offsets: np.ndarray


class Segment(NamedTuple):
    """A part of a text: a token with its place, or a string to cut into pieces.

    The place of a string that is not normalised yet is where it begins, and of a normalised one its characters'.
    """

    token: AddedToken | None
    text: str
    start: int
    stop: int
    normalized: Aligned | None = None


class Segmenter:
    """Encodes texts, in which added tokens are found in the order of the library tokenizers.

    First those that are not `normalized`, in the text itself; what is between them is normalised, and then searched for
    the others. Each string between two tokens is cut into pieces as if it were a text of its own.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        added, own = vocabulary.added, own_tokens(vocabulary.mask_id)
        raw = [token for token in added if not token.normalized]
        self._raw = {
            "all": TokenFinder([*raw, *own]),
            "added": TokenFinder(raw),
            "none": TokenFinder(token for token in raw if not token.special),
        }
        self._normalizer: Normalizer | None = None
        if len(raw) < len(added) or vocabulary.steps:
            self._normalizer = normalizer = Normalizer(vocabulary.model, vocabulary.steps)
            normalized = [token for token in added if token.normalized]
            ordinary = [token for token in normalized if not token.special]
            of_all, of_ordinary = (
                TokenFinder(tokens, [normalizer(token.content).text for token in tokens])
                for tokens in (normalized, ordinary)
            )
            self._normalized = {"all": of_all, "added": of_all, "none": of_ordinary}
            self._of_normalized = SentencePieceProcessor()  # cuts texts that are normalised already
            self._of_normalized.LoadFromSerializedProto(without_rules(vocabulary.model))

    def encode(
        self,
        texts: Sequence[str],
        *,
        special_tokens: SpecialTokens = "added",
        with_offsets: bool = False,
        tight: bool = False,
        num_threads: int = 1,
    ) -> list[Pieces]:
        """Encode texts; with `special_tokens` "all", "</s>" and the other names of XLM-RoBERTa's are these in a text.

        Offsets of tokens include the white space that they take; if `tight` they do not, as those of pieces.
        """
        if not (with_offsets or self._raw[special_tokens] or self._normalizer):
            return list(self._pieces([_utf8(text) for text in texts], num_threads))
        split = [list(self._segments(without_surrogates(text), special_tokens)) for text in texts]
        if with_offsets and tight:
            split = [[_tight(segment, text) for segment in parts] for parts, text in zip(split, texts, strict=True)]
        strings = [segment for segments in split for segment in segments if segment.token is None]
        encoded = self._with_offsets(strings) if with_offsets else self._without_offsets(strings, num_threads)
        return [self._joined(segments, encoded) for segments in split]

    def tokens(self, text: str, special_tokens: SpecialTokens = "all") -> tuple[list[str], list[int]]:
        """Return the tokens of a text, unknown pieces as they are in the text, and the number of each one's word.

        Words are separated by white space and by tokens, each of which is a word.
        """
        tokens: list[str] = []
        words: list[int] = []
        word = -1
        for segment in self._segments(without_surrogates(text), special_tokens):
            is_token = segment.token is not None
            pieces = [segment.token.content] if segment.token else self._strings(segment)
            for position, piece in enumerate(pieces):
                word += is_token or position == 0 or piece.startswith(SPACE)
                words.append(word)
            tokens += pieces
        return tokens, words

    def _strings(self, segment: Segment) -> list[str]:
        return self._processor(segment).encode(segment.text, out_type=str)

    def _segments(self, text: str, special_tokens: SpecialTokens) -> Iterator[Segment]:
        for part in self._raw[special_tokens].split(text):
            string = text[part.start : part.stop]
            if part.token is not None and part.token.id in self.vocabulary.own_special_tokens:
                yield Segment(part.token, string, part.stop - len(part.token.content), part.stop)
            elif part.token is not None or self._normalizer is None:
                yield Segment(part.token, string, part.start, part.stop)
            else:
                yield from self._normalized_segments(string, part.start, self._normalizer, special_tokens)

    def _normalized_segments(
        self, string: str, begin: int, normalizer: Normalizer, special_tokens: SpecialTokens
    ) -> Iterator[Segment]:
        normalized = normalizer(string)
        parts = self._normalized[special_tokens].split(normalized.text)
        if not self.vocabulary.steps and all(part.token is None for part in parts):
            yield Segment(None, string, begin, begin + len(string))
            return
        for token, start, stop in parts:
            of_part = normalized.part(start, stop)
            if token is None:
                if SPLIT_AT_WHITESPACE in self.vocabulary.steps:
                    of_part = of_part.with_plain_spaces()
                yield Segment(None, of_part.text, begin, begin + len(string), of_part)
            else:
                yield Segment(token, of_part.text, begin + int(of_part.start[0]), begin + int(of_part.stop[-1]))

    def _processor(self, segment: Segment) -> SentencePieceProcessor:
        return self.vocabulary.processor if segment.normalized is None else self._of_normalized

    def _without_offsets(self, segments: list[Segment], num_threads: int) -> Iterator[Pieces]:
        if self._normalizer is None:
            return self._pieces([segment.text.encode() for segment in segments], num_threads)
        return _as_pieces([self._processor(segment).encode(segment.text.encode()) for segment in segments])

    def _pieces(self, strings: list[bytes], num_threads: int) -> Iterator[Pieces]:
        processor = self.vocabulary.processor
        if num_threads <= 1:
            return _as_pieces([processor.encode(string) for string in strings])
        return _as_pieces(processor.encode(strings, num_threads=num_threads))

    def _with_offsets(self, segments: list[Segment]) -> Iterator[Pieces]:
        for segment in segments:
            processor = self._processor(segment)
            ids = fairseq_ids(np.array(processor.encode(segment.text), dtype=np.int32))
            offsets = piece_offsets(processor, segment.text)
            if segment.normalized is not None:
                offsets = _original(offsets, segment.normalized)
            yield Pieces(ids, offsets + np.int32(segment.start))

    def _joined(self, segments: list[Segment], encoded: Iterator[Pieces]) -> Pieces:
        """Join the pieces of one text, those of its strings from `encoded`."""
        if len(segments) == 1 and segments[0].token is None:
            return next(encoded)
        ids, offsets = [np.empty(0, np.int32)], [np.empty((0, 2), np.int32)]
        for segment in segments:
            if segment.token is None:
                pieces = next(encoded)
            else:
                place = np.array([[segment.start, segment.stop]], np.int32)
                pieces = Pieces(np.array([segment.token.id], np.int32), place)
            ids.append(pieces.ids)
            offsets.append(pieces.offsets)
        return Pieces(np.concatenate(ids), np.concatenate(offsets))


def _as_pieces(pieces: list[list[int]]) -> Iterator[Pieces]:
    """Renumber the ids of texts; the results are views of one array."""
    lengths = [len(ids) for ids in pieces]
    ids = fairseq_ids(np.fromiter(chain.from_iterable(pieces), dtype=np.int32, count=sum(lengths)))
    nowhere = np.zeros((max(lengths, default=0), 2), np.int32)
    for start, stop in pairwise(accumulate(lengths, initial=0)):
        yield Pieces(ids[start:stop], nowhere[: stop - start])


def _utf8(text: str) -> bytes:
    # Bytes, because with a string Python would keep a UTF-8 copy inside the caller's object.
    try:
        return text.encode()
    except UnicodeEncodeError:
        return without_surrogates(text).encode()


def _tight(segment: Segment, text: str) -> Segment:
    """Leave the white space at the ends of a token out of its place."""
    start, stop = segment.start, segment.stop
    if segment.token is None or not set(text[start:stop]) - WHITESPACE:
        return segment
    while text[start] in WHITESPACE:
        start += 1
    while text[stop - 1] in WHITESPACE:
        stop -= 1
    return segment._replace(start=start, stop=stop)


def _original(offsets: np.ndarray, normalized: Aligned) -> np.ndarray:
    """Convert offsets in a normalised text to offsets in its original."""
    start, stop = offsets[:, 0], offsets[:, 1]
    ends = np.append(normalized.start, normalized.stop[-1:])  # where a piece begins that comes after the last character
    first = ends[start] if len(ends) else start
    last = normalized.stop[np.maximum(stop - 1, 0)] if len(normalized.stop) else stop
    return np.stack([first, np.where(stop > start, last, first)], axis=1).astype(np.int32)
