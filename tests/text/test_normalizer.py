"""Normalisers of tokenizer.json, compared with the library tokenizers."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
import tokenizers
import transformers

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = [
    "HELLO World",
    "hello world",
    "İSTANBUL ΣΑΣ Straße ǅ",
    unicodedata.normalize("NFD", "Würde und Brüderlichkeit"),
    "  two  spaces\tand\nlines　full ",
    "ﬁne ½ Ｆｕｌｌ ㌔ ﷺ",
    "हिन्दी की 人人",
    "a_b__c ``quoted''",
    "",
    " ",
    "\u0301start",
]
COMPILED = "compiled"
NORMALIZERS = {
    "lowercase": [{"type": "Lowercase"}, COMPILED],
    "lowercase last": [COMPILED, {"type": "Lowercase"}],
    "accents": [{"type": "NFD"}, {"type": "StripAccents"}, COMPILED],
    "accents only": [{"type": "NFKD"}, {"type": "StripAccents"}],
    "nfc": [{"type": "NFC"}],
    "nfkc": [{"type": "NFKC"}, {"type": "Lowercase"}],
    "replace": [{"type": "Replace", "pattern": {"String": "``"}, "content": '"'}, COMPILED],
    "replace with nothing": [{"type": "Replace", "pattern": {"String": "_"}, "content": ""}, COMPILED],
    "strip": [COMPILED, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}],
    "prepend": [{"type": "Prepend", "prepend": "query: "}, COMPILED],
    "spaces": [COMPILED, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}],
    "nested": [{"type": "Sequence", "normalizers": [{"type": "Lowercase"}, COMPILED]}],
}


BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def with_normalizer(directory, tiny_spm, steps, tokens=()):
    """Write a tokenizer with another normaliser; return that of transformers."""
    tokenizer = transformers.XLMRobertaTokenizer.from_pretrained(tiny_spm)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    compiled = content["normalizer"]

    def filled(step):
        if step == COMPILED:
            return compiled
        return {**step, "normalizers": [*map(filled, step["normalizers"])]} if "normalizers" in step else step

    content["normalizer"] = {"type": "Sequence", "normalizers": [filled(step) for step in steps]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizer_equals_tokenizers(name, tiny_spm, tmp_path):
    token = tokenizers.AddedToken("Wür", normalized=True)
    theirs = with_normalizer(tmp_path, tiny_spm, NORMALIZERS[name], [token])
    ours = XLMRobertaXLTokenizer.from_directory(tmp_path)
    expected = [encoding.ids for encoding in theirs.encode_batch(TEXTS)]
    assert ours(TEXTS).input_ids == expected
    ours.save_pretrained(tmp_path / "again")
    again = XLMRobertaXLTokenizer.from_directory(tmp_path / "again")
    assert again(TEXTS).input_ids == expected
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert [encoding.ids for encoding in theirs.encode_batch(TEXTS)] == expected


@pytest.mark.parametrize("name", ["lowercase", "nfkc", "accents only", "replace with nothing"])
def test_normalizer_keeps_offsets_of_original(name, tiny_spm, tmp_path):
    with_normalizer(tmp_path, tiny_spm, NORMALIZERS[name])
    tokenizer = XLMRobertaXLTokenizer.from_directory(tmp_path)
    for text in TEXTS:
        ids, offsets = tokenizer.encode_with_offsets(text)
        np.testing.assert_array_equal(ids, tokenizer.encode_batch([text])[0])
        for token, (start, stop) in zip(tokenizer.convert_ids_to_tokens(ids), offsets, strict=True):
            assert 0 <= start <= stop <= len(text)
            assert (start < stop) == bool(token.strip("▁"))
    text = "  HELLO_ World"
    _, offsets = tokenizer.encode_with_offsets(text)
    spelled = "".join(text[start:stop] for start, stop in offsets)
    assert spelled == ("HELLOWorld" if name == "replace with nothing" else "HELLO_World")


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        (BERT, "the step 'BertNormalizer', which is not supported"),
        ({"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "0"}, r"regular expression '\[0-9\]'"),
        ({"type": "ByteLevel"}, "not supported"),
    ],
)
def test_from_directory_with_unsupported_normalizer_raises(normalizer, message, tiny_spm, tmp_path):
    with_normalizer(tmp_path, tiny_spm, [COMPILED, normalizer])
    with pytest.raises(CheckpointError, match=message):
        XLMRobertaXLTokenizer.from_directory(tmp_path)


def test_from_directory_with_sentencepiece_model_still_reads_normalizer(tiny_spm, tmp_path):
    theirs = with_normalizer(tmp_path, tiny_spm, NORMALIZERS["lowercase"])
    (tmp_path / "sentencepiece.bpe.model").write_bytes((tiny_spm / "sentencepiece.bpe.model").read_bytes())
    ours = XLMRobertaXLTokenizer.from_directory(tmp_path)
    assert ours(TEXTS).input_ids == [encoding.ids for encoding in theirs.encode_batch(TEXTS)]
