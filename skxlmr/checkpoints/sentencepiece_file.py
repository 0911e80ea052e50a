"""Conversion between sentencepiece models and tokenizer.json: pieces, scores and normaliser."""

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

# The protobuf fields of a sentencepiece model, and the values in them, that are used here.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
MODEL_TYPE = 3  # in TRAINER
UNIGRAM = 1  # a value of MODEL_TYPE
RULES = 2  # in NORMALIZER: the compiled rules
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of pieces
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # the first ids of XLM-RoBERTa; <mask> is the last
MAX_JSON_BYTES = 2**27  # that of XLM-RoBERTa has 17 MB

# Wire types of protobuf
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def unigram_model(pieces: Iterable[bytes], scores: Iterable[float], rest: bytes) -> bytes:
    """Build a unigram model of the special pieces, these pieces and the other fields `rest`."""
    special = [_piece(b"<unk>", 0.0, UNKNOWN), _piece(b"<s>", 0.0, CONTROL), _piece(b"</s>", 0.0, CONTROL)]
    normal = (_piece(piece, score, NORMAL) for piece, score in zip(pieces, scores, strict=True))
    return b"".join([*special, *normal, rest])


def is_unigram(model: bytes) -> bool:
    """Whether a sentencepiece model is of the unigram type, which is the default."""
    settings = (raw[start:] for number, raw, start in fields(model) if number == TRAINER)
    return all(value == UNIGRAM for part in settings for field, _, value in fields(part) if field == MODEL_TYPE)


def read_tokenizer_json(path: Path) -> bytes:
    """Read a tokenizer.json of transformers and convert it to a sentencepiece model.

    Raises CheckpointError if the file is damaged, or the tokenizer not like that of XLM-RoBERTa: a unigram model with
    the special ids of fairseq and a normaliser that sentencepiece has compiled.
    """
    content = read_json(path, MAX_JSON_BYTES)
    try:
        model = content["model"]
        if model.get("type") != "Unigram":
            raise CheckpointError(f"{path} is a tokenizer of type {model.get('type')!r}, not 'Unigram' as XLM-RoBERTa.")
        names, scores = zip(*model["vocab"], strict=True)
        if [*names[:4]] != SPECIAL or names[-1] != "<mask>":
            raise CheckpointError(f"{path} has other ids of special tokens than XLM-RoBERTa.")
        rules = base64.b64decode(_compiled_rules(content["normalizer"]), validate=True)
        normalizer = delimited(NORMALIZER, delimited(RULES, rules))
        return unigram_model([name.encode() for name in names[4:-1]], scores[4:-1], normalizer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error, binascii.Error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error!r}") from error


def as_tokenizer_json(pieces: Sequence[str], scores: Sequence[float], model: bytes) -> dict[str, Any]:
    """Return the content of a tokenizer.json for a sentencepiece unigram model, of which the normaliser is used.

    The pieces and scores are those of the model without the first three, which are special.
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
            {"id": i, "content": name, "lstrip": name == "<mask>", **flags}  # a mask includes the space before it
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
    """Return the normaliser of a sentencepiece model in the format of tokenizer.json; None if it has no rules."""
    settings = (raw[start:] for number, raw, start in fields(model) if number == NORMALIZER)
    rules = b"".join(raw[start:] for part in settings for field, raw, start in fields(part) if field == RULES)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules).decode()} if rules else None


def _compiled_rules(normalizer: dict[str, Any]) -> str:
    """Return the compiled rules of a normaliser, which may be one of a sequence."""
    parts: Sequence[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    (rules,) = (part["precompiled_charsmap"] for part in parts if part.get("type") == "Precompiled")
    return rules


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
