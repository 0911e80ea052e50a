"""Tokens that checkpoints add, compared with the library tokenizers."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
import tokenizers
import transformers

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = [
    "covid19 spreads",
    "x[E1] [E2] Paris [E1] [E1]W W Wa aW",
    "a  LS  b LS LS\tLS",
    "Straße fin ﬁn ﬁne <ent> x Ｃovid19 <ent",
    " [E1]",
    "covid19covid19 covid1 covid199",
    "W W-W ²W W² \u0301W _W ⒶW",
    "R  R xR\n R",
    "L  L xL\n L",
    "",
    "   ",
    "[E1]人人 the 생and the",
]

TOKENS = [
    "covid19",
    "[E1]",
    tokenizers.AddedToken("W", single_word=True),
    tokenizers.AddedToken("LS", lstrip=True, rstrip=True),
    tokenizers.AddedToken("L", lstrip=True, normalized=False),
    tokenizers.AddedToken("R", rstrip=True, normalized=False, single_word=True),
    tokenizers.AddedToken("Straße", normalized=False),
    tokenizers.AddedToken("ﬁn", normalized=True),
    tokenizers.AddedToken("covid1", normalized=False),
    "the",
]


@pytest.fixture(scope="module")
def theirs(tiny_spm, tmp_path_factory):
    """Return a tokenizer of transformers with added tokens, and the directory where it is saved."""
    directory = tmp_path_factory.mktemp("added")
    tokenizer = transformers.XLMRobertaTokenizer.from_pretrained(tiny_spm)
    tokenizer.add_tokens(TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<ent>"]})
    tokenizer.save_pretrained(directory)
    return tokenizer, directory


@pytest.fixture(scope="module")
def ours(theirs):
    return XLMRobertaXLTokenizer.from_pretrained(theirs[1])


def encodings(tokenizer, texts=TEXTS):
    return [tokenizer(text, return_offsets_mapping=True) for text in texts]


def assert_equal(ours, theirs, texts=TEXTS):
    bare = ours.convert_tokens_to_ids("▁")
    for text, mine, other in zip(texts, encodings(ours, texts), encodings(theirs, texts), strict=True):
        assert mine["input_ids"] == other["input_ids"], text
        expected = [
            (a, a if i == bare else b) for i, (a, b) in zip(mine["input_ids"], other["offset_mapping"], strict=True)
        ]
        assert [*map(tuple, mine["offset_mapping"])] == expected, text


def test_call_with_added_tokens_equals_transformers(ours, theirs):
    assert_equal(ours, theirs[0])
    assert len(ours) == len(theirs[0])
    assert ours.vocab_size == theirs[0].vocab_size
    for text in TEXTS:
        tokens = [unicodedata.normalize("NFKC", token) for token in ours.tokenize(text)]
        assert tokens == [token.strip() for token in theirs[0].tokenize(text)]
        ids = ours(text).input_ids
        for skip in (False, True):  # the library decodes the normalised content of a token
            decoded = unicodedata.normalize("NFKC", ours.decode(ids, skip))
            assert decoded == theirs[0].decode(ids, skip_special_tokens=skip)
    assert sorted(ours.all_special_ids) == sorted(theirs[0].all_special_ids)


@pytest.mark.parametrize("flags", [*itertools.product([False, True], repeat=5)])
def test_call_with_any_flags_equals_tokenizers(flags, tiny_spm, tmp_path):
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    tokenizer = transformers.XLMRobertaTokenizer.from_pretrained(tiny_spm)
    tokenizer.add_tokens([tokenizers.AddedToken("ﬁx", **dict(zip(names, flags, strict=True)))])
    tokenizer.save_pretrained(tmp_path)
    texts = ["a  ﬁx  b", "fixﬁx", "fixﬁx ﬁx", "ﬁx\n\tﬁxed fix", "ﬁx", "</s>ﬁx <mask>ﬁx"]
    ids = XLMRobertaXLTokenizer.from_directory(tmp_path)(texts).input_ids
    assert ids == tokenizer(texts).input_ids


def test_encode_batch_finds_added_tokens_but_not_own_special_tokens(ours):
    (ids,) = ours.encode_batch(["<ent> [E1]</s>"])
    tokens = ours.convert_ids_to_tokens(ids)
    assert tokens[:2] == ["<ent>", "[E1]"]
    assert "</s>" not in tokens
    for text in TEXTS:
        ids, offsets = ours.encode_with_offsets(text)
        np.testing.assert_array_equal(ids, ours.encode_batch([text])[0])
        assert ids.tolist() == ours(text, add_special_tokens=False).input_ids
        assert ids.dtype == offsets.dtype == np.int32
    np.testing.assert_array_equal(
        np.concatenate(ours.encode_batch(TEXTS, num_threads=2)), np.concatenate(ours.encode_batch(TEXTS))
    )


def test_encode_with_offsets_leaves_white_space_out(ours):
    text = "a  L  b R\n "
    ids, offsets = ours.encode_with_offsets(text)
    spelled = [text[start:stop] for start, stop in offsets]
    assert spelled == ["a", "L", "b", "R"]
    assert ours.convert_ids_to_tokens(ids)[1::2] == ["L", "R"]


def test_save_pretrained_keeps_added_tokens(ours, theirs, tmp_path):
    ours.save_pretrained(tmp_path)
    assert_equal(XLMRobertaXLTokenizer.from_directory(tmp_path), theirs[0])
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_equal(ours, again)
    assert "<ent>" in again.all_special_tokens
    (tmp_path / "tokenizer.json").unlink()  # old files hold the same tokens
    assert_equal(XLMRobertaXLTokenizer.from_directory(tmp_path), theirs[0])
    assert_equal(pickle.loads(pickle.dumps(ours)), theirs[0])


def test_from_directory_reads_added_tokens_of_old_files(tiny_spm, tmp_path):
    shutil.copy(tiny_spm / "sentencepiece.bpe.model", tmp_path)
    size = len(XLMRobertaXLTokenizer.from_directory(tmp_path))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<ent>": size + 1, "[E1]": size}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<ent>"]}))
    tokenizer = XLMRobertaXLTokenizer.from_directory(tmp_path)
    assert tokenizer("[E1]<ent>", add_special_tokens=False).input_ids == [size, size + 1]
    assert tokenizer.all_special_ids[-1] == size + 1
    assert len(tokenizer) == size + 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"[E1]": 10**6}, r"'\[E1\]' has the id 1000000, where \d+ is expected"),
        ({"[E1]": "7"}, "wrong type"),
        ({"▁the": 10**6}, "is expected"),
    ],
)
def test_from_directory_with_impossible_added_tokens_raises(content, message, tiny_spm, tmp_path):
    shutil.copy(tiny_spm / "sentencepiece.bpe.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        XLMRobertaXLTokenizer.from_directory(tmp_path)


def test_trim_keeps_added_tokens(ours):
    small, kept = ours.trim(ours.encode_batch(TEXTS[:2])[0])
    assert len(small) == len(kept) < len(ours)
    for whole, text in zip(ours.encode_batch(TEXTS), TEXTS, strict=True):
        trimmed = kept[small.encode_batch([text])[0]]
        if set(whole) <= set(kept):
            np.testing.assert_array_equal(trimmed, whole)
        np.testing.assert_array_equal(trimmed[trimmed > ours.mask_token_id], whole[whole > ours.mask_token_id])
    assert small.convert_ids_to_tokens(range(len(small))) == ours.convert_ids_to_tokens(kept)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([("ab", {"single_word": True}), ("b", {})], "xab ab abc"),
        ([(" ", {"lstrip": True, "rstrip": True, "special": True})], "a \u3000 b"),  # takes the next one, too
        ([("a", {}), ("aab", {}), ("ab", {})], "aaabab"),
    ],
    ids=range(3),
)
def test_tokens_that_overlap_equal_tokenizers(tokens, text, tiny_spm, tmp_path):
    tokenizer = transformers.XLMRobertaTokenizer.from_pretrained(tiny_spm)
    tokenizer.add_tokens(
        [tokenizers.AddedToken(content, **{"normalized": False, **flags}) for content, flags in tokens]
    )
    tokenizer.save_pretrained(tmp_path)
    ours = XLMRobertaXLTokenizer.from_directory(tmp_path)
    assert ours(text).input_ids == tokenizer(text).input_ids


def test_save_pretrained_removes_added_tokens_of_another_tokenizer(tiny_spm, tmp_path):
    (tmp_path / "added_tokens.json").write_text('{"[E1]": 400}')
    (tmp_path / "notes.txt").write_text("kept")
    XLMRobertaXLTokenizer.from_pretrained(tiny_spm).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} > {"notes.txt", "sentencepiece.bpe.model"}
    assert not (tmp_path / "added_tokens.json").exists()
