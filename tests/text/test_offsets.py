from __future__ import annotations

import csv
import random
import time
import unicodedata

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from skxlmr.text.offsets import piece_offsets

# Characters and sequences that the normaliser treats in different ways.
UNUSUAL = [
    *"abc é你好ﬁﬃ㌔Ｈ１ﷺ¨ﾊﾟ½™…ßİ\n\t\u3000\u00a0\u0301\u200b\u200d\u200e\ufeff\u00ad\ufffd▁\x00\x01\x7f\x85\u2028",
    *("e\u0301", "a\u0328\u0301", "👨‍👩‍👧", "🇩🇪", "مرحبا", "हिन्दी", "각", "</s>", "<mask>", "   ", "𓀀", "𓀁"),
]


def unusual_texts(n, seed=0):
    random_state = random.Random(seed)
    return ["".join(random_state.choices(UNUSUAL, k=random_state.randint(0, 14))) for _ in range(n)]


def processor_of(directory):
    return SentencePieceProcessor(model_file=str(directory / "sentencepiece.bpe.model"))


def sib200(shared_data, n_per_language):
    for path in sorted((shared_data / "sib200").glob("*/dev.tsv")):
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            yield from (row["text"] for row, _ in zip(rows, range(n_per_language), strict=False))


def check_offsets(processor, text):
    """Check that each range, and no shorter one, normalises to its piece, unless pieces share a character."""
    pieces = processor.encode(text, out_type=str)
    offsets = piece_offsets(processor, text).tolist()
    assert len(pieces) == len(offsets)
    for i, (piece, (start, stop)) in enumerate(zip(pieces, offsets, strict=True)):
        visible = piece.lstrip("▁")
        following = offsets[i + 1][0] if i + 1 < len(offsets) else stop
        if not visible:
            assert start == stop == following, (text, piece)
            continue
        spelled = processor.normalize(text[start:stop]).lstrip("▁")
        if following < stop or (i and offsets[i - 1][1] > start):
            assert visible in spelled, (text, piece)
        else:
            assert spelled == visible, (text, piece)
            assert processor.normalize(text[start : stop - 1]).lstrip("▁") != visible, (text, piece)
            assert processor.normalize(text[start + 1 : stop]).lstrip("▁") != visible, (text, piece)


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("", []),
        ("  \n ", []),
        ("Hello world!", [(0, 5), (6, 11), (11, 12)]),
        ("  Hello \t world! ", [(2, 7), (10, 15), (15, 16)]),
        ("ﬁsh ﬂy", [(0, 3), (4, 6)]),
        ("Ｈｅｌｌｏ", [(0, 5)]),
        ("e\u0301te\u0301 ", [(0, 5)]),
        ("a\x01b\x02", [(0, 3)]),
        ("a\x01 b", [(0, 1), (3, 4)]),
        ("\x01\x02Hello", [(2, 7)]),
        ("a\u200bb", [(0, 1), (2, 3)]),
        ("你好 世界", [(0, 0), (0, 2), (3, 3), (3, 5)]),
        ("㌔グラム", [(0, 0), (0, 1), (1, 3), (3, 4)]),
        ("👨\u200d👩 ok", [(0, 0), (0, 1), (2, 2), (2, 3), (4, 6)]),
        ("ﷺ", [(0, 1)] * 4),
        ("</s>", [(0, 0), (0, 2), (2, 3), (3, 4)]),
        ("a\ud800b \udc00c", [(0, 1), (2, 3), (5, 6)]),
    ],
)
def test_encode_with_offsets_known_text(xlmr, text, offsets):
    assert list(map(tuple, xlmr.encode_with_offsets(text)[1].tolist())) == offsets


def test_piece_offsets_pieces_of_one_character_share_it(tiny_spm):
    processor = processor_of(tiny_spm)
    pieces = processor.encode("oﬃx", out_type=str)
    assert len(pieces) > 3, "the small vocabulary must cut ffi"
    offsets = piece_offsets(processor, "oﬃx").tolist()
    assert [1, 2] in offsets
    assert offsets.count([1, 2]) > 1
    assert offsets[-1] == [2, 3]


def test_piece_offsets_unusual_characters_small_vocabulary(tiny_spm):
    processor = processor_of(tiny_spm)
    for text in unusual_texts(800):
        check_offsets(processor, text)


def test_piece_offsets_unusual_and_decomposed_text(xlmr_directory, shared_data):
    processor = processor_of(xlmr_directory)
    for text in [*unusual_texts(500, seed=1), *(unicodedata.normalize("NFD", t) for t in sib200(shared_data, 10))]:
        check_offsets(processor, text)


def test_encode_with_offsets_real_text_equals_reference(xlmr, xlmr_reference, shared_data):
    texts = list(sib200(shared_data, 40))
    assert len(texts) == 440
    encoded = xlmr_reference(texts, add_special_tokens=False, return_offsets_mapping=True)
    for text, ids, offsets in zip(texts, encoded.input_ids, encoded.offset_mapping, strict=True):
        got_ids, got_offsets = xlmr.encode_with_offsets(text)
        assert got_ids.tolist() == ids
        bare = xlmr.convert_tokens_to_ids("▁")  # the reference returns the first character of the next piece
        expected = [
            (start, start if index == bare else stop) for index, (start, stop) in zip(ids, offsets, strict=True)
        ]
        assert list(map(tuple, got_offsets.tolist())) == expected


@pytest.mark.parametrize(
    "text", ["a" + "\x01" * 300_000, "x\x01\x02" * 30_000, " " * 300_000 + "a", "e\u0301" * 20_000]
)
def test_piece_offsets_long_text_takes_subquadratic_time(tiny_spm, text):
    processor = processor_of(tiny_spm)
    start = time.process_time()
    offsets = piece_offsets(processor, text)
    assert time.process_time() - start < 5
    assert offsets.dtype == np.int32


def test_piece_offsets_byte_fallback_raises():
    class ByteFallback:
        def encode(self, text, out_type):
            return ["▁a", "<0xF0>", "<0x9F>"]

        def normalize(self, text, with_offsets):
            return "▁a😀", [0, 0, 1, 2]

    with pytest.raises(ValueError, match="do not spell"):
        piece_offsets(ByteFallback(), "a😀")
