"""Reading and changing sentencepiece models: their pieces, scores and normaliser."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# The protobuf fields of a sentencepiece model, and the values in them, that are used here.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
MODEL_TYPE = 3  # in TRAINER
UNIGRAM = 1  # a value of MODEL_TYPE
RULES, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 2, 3, 4, 5  # in NORMALIZER
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of pieces

SHORTEST_PIECE = 8  # bytes of a text of one byte and a score

# Wire types of protobuf
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def unigram_model(pieces: Iterable[bytes], scores: Iterable[float], rest: bytes) -> bytes:
    """Build a unigram model of the special pieces, these pieces and the other fields `rest`."""
    special = [_piece(b"<unk>", 0.0, UNKNOWN), _piece(b"<s>", 0.0, CONTROL), _piece(b"</s>", 0.0, CONTROL)]
    normal = (_piece(piece, score, NORMAL) for piece, score in zip(pieces, scores, strict=True))
    return b"".join([*special, *normal, rest])


class Content(NamedTuple):
    """What a sentencepiece model has: its pieces after the first three, and its other fields."""

    pieces: bytes  # with line feeds between them
    scores: np.ndarray  # (n_pieces,), float32
    rest: bytes  # a model without pieces


def read_content(model: bytes) -> Content | None:
    """Read a sentencepiece model; None if its pieces are not written as usual.

    Sentencepiece takes five times as long, since it builds a tree of the pieces. Usual are pieces of at most 127 bytes
    before all other fields, each with a text and a score, with or without a type.
    """
    starts, end = _plain_pieces(model)
    begin, data = np.array(starts[3:], np.int64), np.frombuffer(model, np.uint8)
    if not len(begin) or end > len(model) or (data[begin + 1] < SHORTEST_PIECE).any():
        return None
    if any(number == PIECE for number, _, _ in fields(model[end:])):
        return None
    lengths = data[begin + 3].astype(np.int64)  # of the texts, which begin at the byte after
    scores = begin + 4 + lengths
    left = begin + 2 + data[begin + 1] - scores  # bytes from the score on: 5 and, for the type, 2
    usual = (data[begin + 2] == 1 << 3 | LENGTH) & (lengths > 0) & (lengths < 0x80) & ((left == 5) | (left == 7))
    if not usual.all() or (data[scores] != 2 << 3 | FIXED32).any():
        return None
    if (data[scores[left == 7] + 5] != 3 << 3 | VARINT).any():
        return None
    ends = np.cumsum(lengths + 1)  # in the joined texts, after the line feeds
    texts = data[np.repeat(begin + 4 - (ends - lengths - 1), lengths + 1) + np.arange(ends[-1])]
    texts[ends - 1] = ord("\n")
    try:
        pieces = texts[:-1].tobytes()
        pieces.decode()
    except UnicodeDecodeError:
        return None
    values = data[scores[:, None] + np.arange(1, 5)].view("<f4").ravel().astype(np.float32)
    return Content(pieces, values, model[end:])


def is_unigram(model: bytes) -> bool:
    """Whether a sentencepiece model is of the unigram type, which is the default."""
    settings = (raw[start:] for number, raw, start in _settings(model) if number == TRAINER)
    return all(value == UNIGRAM for part in settings for field, _, value in fields(part) if field == MODEL_TYPE)


def _piece(text: bytes, score: float, piece_type: int) -> bytes:
    return delimited(PIECE, delimited(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(piece_type))


def without_pieces(model: bytes, keep: np.ndarray) -> bytes:
    """Remove pieces from a sentencepiece model; the others keep their order, text and scores.

    `keep` is a bool array (n_pieces,) by sentencepiece id. Raises ValueError if it is not a unigram model: a BPE model,
    for example, needs the pieces that its other pieces are merged from.
    """
    if not is_unigram(model):
        raise ValueError("this sentencepiece model is not a unigram model; its pieces depend on each other.")
    kept = iter(keep)
    return b"".join(raw for number, raw, _ in fields(model) if number != PIECE or next(kept))


def rules_of(model: bytes) -> bytes:
    """Return the compiled rules of the normaliser of a sentencepiece model; empty if it has none."""
    return b"".join(raw[start:] for number, raw, start in _normalizer_fields(model) if number == RULES)


def without_rules(model: bytes) -> bytes:
    """Return a sentencepiece model whose normaliser only removes repeated spaces."""
    settings = b"".join(raw for number, raw, _ in _normalizer_fields(model) if number != RULES)
    rest = b"".join(raw for number, raw, _ in fields(model) if number != NORMALIZER)
    return rest + delimited(NORMALIZER, settings)


def rules_only(rules: bytes) -> bytes:
    """Return a sentencepiece model of one piece whose normaliser applies these rules, and leaves spaces alone."""
    keeps_spaces = b"".join(
        varint(number << 3 | VARINT) + b"\0" for number in (DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES)
    )
    settings = (delimited(RULES, rules) if rules else b"") + keeps_spaces
    return unigram_model([b"a"], [0.0], delimited(NORMALIZER, settings))


def _normalizer_fields(model: bytes) -> Iterator[tuple[int, bytes, int]]:
    for number, raw, start in _settings(model):
        if number == NORMALIZER:
            yield from fields(raw[start:])


def _settings(model: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Iterate over the fields of a model after its pieces, which come first; these are skipped as fast as possible."""
    return (field for field in fields(model[_plain_pieces(model)[1] :]) if field[0] != PIECE)


def _plain_pieces(model: bytes) -> tuple[list[int], int]:
    """Return where the pieces begin that a model begins with, of at most 127 bytes each, and where they end."""
    at, end, key, starts = 0, len(model), PIECE << 3 | LENGTH, []
    while at + 1 < end and model[at] == key and model[at + 1] < 0x80:
        starts.append(at)
        at += 2 + model[at + 1]
    return starts, at


def fields(message: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Iterate over the fields of a protobuf message: number, whole field including its key, and value.

    The value is that of a varint; where the content begins in the field, if it has a length; 0 for others. Raises
    ValueError if the message ends inside a field, or is not a protobuf message.

    >>> message = delimited(1, b"text") + bytes([3 << 3 | VARINT, 2])
    >>> [(number, raw[value:] if number == 1 else value) for number, raw, value in fields(message)]
    [(1, b'text'), (3, 2)]
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind, value = key & 7, 0
        if kind in (VARINT, LENGTH):
            value, at = _read_varint(message, at)
        if kind == LENGTH:
            begin, at = at, at + value
            value = begin - start
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        elif kind != VARINT:
            raise ValueError(f"not a protobuf message: a field of wire type {kind} at byte {start}")
        if at > len(message):
            raise ValueError(f"the protobuf message ends in the field that begins at byte {start}")
        yield key >> 3, message[start:at], value


def delimited(number: int, content: bytes) -> bytes:
    """Encode a field with a length: a string, bytes or a message."""
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits: 300 as 172 and 2."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at == len(message):
            raise ValueError("the protobuf message ends in a number")
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
