"""Sentencepiece models and tokenizer.json, each put together from what the other holds: pieces, scores, normaliser."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json

# Fields of a model, of its trainer's settings the one that says how texts are cut, and of its normaliser the one that
# has the compiled rules.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
MODEL_TYPE, RULES = 3, 2
UNIGRAM = 1
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of pieces
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # the first ids of XLM-RoBERTa; <mask> is the last
MAX_JSON_BYTES = 2**27  # XLM-RoBERTa's own file has 17 MB

# Wire types of protobuf.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def unigram_model(pieces: Iterable[bytes], scores: Iterable[float], rest: bytes) -> bytes:
    """A unigram model of these pieces, beside the special ones, and the other parts of a model."""
    special = [_piece(b"<unk>", 0.0, UNKNOWN), _piece(b"<s>", 0.0, CONTROL), _piece(b"</s>", 0.0, CONTROL)]
    normal = (_piece(piece, score, NORMAL) for piece, score in zip(pieces, scores, strict=True))
    return b"".join([*special, *normal, rest])


def is_unigram(model: bytes) -> bool:
    """Whether a sentencepiece model cuts texts by the scores of its pieces alone, which is what it does by default."""
    settings = (raw[start:] for number, raw, start in fields(model) if number == TRAINER)
    return all(value == UNIGRAM for part in settings for field, _, value in fields(part) if field == MODEL_TYPE)


def read_tokenizer_json(path: Path) -> bytes:
    """Read the file in which transformers keeps a tokenizer today, as a sentencepiece model.

    Parameters
    ----------
    path : Path
        A tokenizer.json.

    Returns
    -------
    bytes

    Raises
    ------
    CheckpointError
        If the file is damaged, or the tokenizer none of XLM-RoBERTa's kind: unigrams under fairseq's ids, and a
        normaliser that was compiled by sentencepiece.
    """
    content = read_json(path, MAX_JSON_BYTES)
    try:
        model = content["model"]
        if model.get("type") != "Unigram":
            raise CheckpointError(f"{path} is a tokenizer of kind {model.get('type')!r}; XLM-RoBERTa's is 'Unigram'.")
        names, scores = zip(*model["vocab"], strict=True)
        if [*names[:4]] != SPECIAL or names[-1] != "<mask>":
            raise CheckpointError(f"{path} numbers its special tokens otherwise than XLM-RoBERTa.")
        rules = base64.b64decode(_compiled_rules(content["normalizer"]), validate=True)
        normalizer = delimited(NORMALIZER, delimited(RULES, rules))
        return unigram_model([name.encode() for name in names[4:-1]], scores[4:-1], normalizer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error, binascii.Error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error!r}") from error


def as_tokenizer_json(pieces: Sequence[str], scores: Sequence[float], model: bytes) -> dict[str, Any]:
    """The content of the file in which transformers keeps a tokenizer today.

    Parameters
    ----------
    pieces : sequence of str
        Those of a unigram model, without its first three, which are special.
    scores : sequence of float
    model : bytes
        The sentencepiece model itself, for its normaliser.

    Returns
    -------
    dict
        For `json.dumps`.
    """
    vocabulary = [*((name, 0.0) for name in SPECIAL), *zip(pieces, scores, strict=True), ("<mask>", 0.0)]
    ids = {name: i for i, name in enumerate(SPECIAL)} | {"<mask>": len(vocabulary) - 1}
    spaces = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "lstrip": name == "<mask>", **flags}  # the space before a mask belongs to it
            for name, i in ids.items()
        ],
        "normalizer": _precompiled(model),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", **spaces}],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<s>", "</s>")},
        },
        "decoder": {"type": "Metaspace", **spaces},
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocabulary, "byte_fallback": False},
    }


def _precompiled(model: bytes) -> dict[str, str] | None:
    """The normaliser of a sentencepiece model, as tokenizer.json has it; None where nothing is rewritten."""
    settings = (raw[start:] for number, raw, start in fields(model) if number == NORMALIZER)
    rules = b"".join(raw[start:] for part in settings for field, raw, start in fields(part) if field == RULES)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules).decode()} if rules else None


def _compiled_rules(normalizer: dict[str, Any]) -> str:
    """The rules of a normaliser, or of the one among several that has such."""
    parts: Sequence[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    (rules,) = (part["precompiled_charsmap"] for part in parts if part.get("type") == "Precompiled")
    return rules


def _piece(text: bytes, score: float, kind: int) -> bytes:
    """A piece as protobuf has it: field 1 of the model, with text, score and kind."""
    return delimited(PIECE, delimited(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


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
