"""As much of protobuf's format as sentencepiece models need: top-level fields in, the same fields out."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Go through the fields of a message.

    Parameters
    ----------
    message : bytes

    Yields
    ------
    number : int
    raw : bytes
        The whole field, as it stands in the message.
    value : int
        Of a field that is a varint; of one with a length, where its content begins in `raw`; 0 of all others.

    Raises
    ------
    ValueError
        If the message ends in the middle of a field, or is none.

    Examples
    --------
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
            raise ValueError(f"no protobuf message: a field of kind {kind} at byte {start}")
        if at > len(message):
            raise ValueError(f"the protobuf message ends in the field that begins at byte {start}")
        yield key >> 3, message[start:at], value


def delimited(number: int, content: bytes) -> bytes:
    """A field with a length: a string, bytes or a message.

    Examples
    --------
    >>> delimited(1, b"ab")
    b'\\n\\x02ab'
    """
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """An integer in groups of seven bits.

    Examples
    --------
    >>> list(varint(300))
    [172, 2]
    """
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
