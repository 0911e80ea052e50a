"""Sentencepiece models that are read without sentencepiece, compared with what it reads itself."""

from __future__ import annotations

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.sentencepiece_file import (
    NORMALIZER,
    PIECE,
    delimited,
    is_unigram,
    read_content,
    rules_of,
    unigram_model,
)

REST = delimited(NORMALIZER, b"")


def test_read_content_equals_what_sentencepiece_reads():
    model = resolve("nano").tokenizer.read_bytes()
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    every = list(range(3, len(processor)))
    content = read_content(model)
    assert content.pieces == "\n".join(processor.id_to_piece(every)).encode()
    np.testing.assert_array_equal(content.scores, np.array(processor.get_score(every), np.float32))
    assert rules_of(content.rest) == rules_of(model)
    assert is_unigram(content.rest) == is_unigram(model)


def test_read_content_without_types_of_pieces_reads_their_texts_and_scores():
    without_type = delimited(PIECE, delimited(1, "é".encode()) + b"\x15" + np.float32(-2.5).tobytes())
    content = read_content(unigram_model([b"a"], [-1.5], b"") + without_type + REST)
    assert content.pieces == "a\né".encode()
    assert content.scores.tolist() == [-1.5, -2.5]
    assert content.rest == REST


@pytest.mark.parametrize(
    "model",
    [
        b"",
        unigram_model([b"a"], [0.0], b"")[:-4],
        unigram_model([], [], REST),
        unigram_model([b"x" * 200], [0.0], REST),
        unigram_model([b"\xff"], [0.0], REST),
        unigram_model([b""], [0.0], REST),
        unigram_model([b"a"], [0.0], delimited(PIECE, delimited(1, b"b"))),
        unigram_model([b"a"], [0.0], REST + delimited(PIECE, delimited(1, b"b"))),
        unigram_model([b"a"], [0.0], delimited(PIECE, b"") + REST),
        unigram_model([b"a"], [0.0], delimited(PIECE, b"\x12\x07" + b"a" * 7) + REST),
    ],
    ids=[
        "empty",
        "truncated",
        "no pieces",
        "long",
        "not UTF-8",
        "empty piece",
        "no score",
        "later",
        "empty field",
        "other field",
    ],
)
def test_read_content_of_unusual_pieces_is_none(model: bytes):
    assert read_content(model) is None
