"""Tokens that users add, compared with transformers."""

from __future__ import annotations

import copy
import types

import pytest
import tokenizers
import transformers

from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
TEXT = "the covid19 spreads, a <ent> [E1]x W Wa zz"


@pytest.fixture
def pair(tiny_spm, tmp_path):
    """Return our tokenizer and that of transformers, from the same files."""
    XLMRobertaXLTokenizer.from_directory(tiny_spm).save_pretrained(tmp_path)
    theirs = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    return XLMRobertaXLTokenizer.from_pretrained(tmp_path), theirs


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    assert ours(TEXT).input_ids == theirs(TEXT).input_ids
    assert ours.get_vocab() == ours.vocab == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert {i: (t.content, t.flags()) for i, t in ours.added_tokens_decoder.items()} == {
        i: (
            t.content,
            {name: getattr(t, name) for name in FLAGS},
        )
        for i, t in theirs.added_tokens_decoder.items()
    }
    ids = ours(TEXT).input_ids
    for skip in (False, True):
        assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_add_tokens_equals_transformers(pair):
    word = tokenizers.AddedToken("W", single_word=True, lstrip=True)
    steps = [
        (["covid19", "[E1]", "covid19", ""], False),
        ("zz", False),
        ([word], False),
        ([word], False),  # known already
        (tokenizers.AddedToken("W"), False),  # other flags
        (["the"], False),  # a piece or not, depending on the vocabulary
        (["▁the", "e"], True),  # pieces
        ([tokenizers.AddedToken("<ent>", normalized=True, special=True)], True),
        (["zz"], True),
        ([], False),
    ]
    for tokens, special in steps:
        counts = {tokenizer.add_tokens(tokens, special_tokens=special) for tokenizer in pair}
        assert len(counts) == 1, tokens
        assert_equal(*pair)


def test_add_special_tokens_equals_transformers(pair):
    ours, theirs = pair
    given = {"additional_special_tokens": ["<ent>", tokenizers.AddedToken("[E1]", lstrip=True)], "pad_token": "<pad>"}
    assert ours.add_special_tokens(dict(given)) == theirs.add_special_tokens(dict(given)) == 2
    assert_equal(ours, theirs)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.extra_special_tokens == ours.additional_special_tokens == theirs.extra_special_tokens
    assert ours.extra_special_tokens_ids == ours.additional_special_tokens_ids == [len(ours) - 2, len(ours) - 1]
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.add_special_tokens({"extra_special_tokens": ["<ent>", "zz"]}) == 1


def test_added_tokens_are_saved(pair, tmp_path):
    ours, theirs = pair
    for tokenizer in pair:
        tokenizer.add_tokens(["covid19", "▁the"])
        tokenizer.add_special_tokens({"extra_special_tokens": ["<ent>"]})
    ours.save_pretrained(tmp_path / "ours")
    assert_equal(ours, transformers.XLMRobertaTokenizer.from_pretrained(tmp_path / "ours"))
    theirs.save_pretrained(tmp_path / "theirs")
    assert_equal(XLMRobertaXLTokenizer.from_pretrained(tmp_path / "theirs"), theirs)


def test_add_tokens_to_a_copy_leaves_the_original(pair):
    ours, _ = pair
    other = copy.copy(ours)
    assert other.add_tokens("covid19") == 1
    assert len(other) == len(ours) + 1
    assert "covid19" in other.tokenize(TEXT)
    assert "covid19" not in ours.tokenize(TEXT)
    assert other.encode_batch(["covid19"])[0].tolist() == [len(ours)]
    assert ours.add_tokens(["<mask>", "<s>"]) == 0  # XLM-RoBERTa's own do not change


@pytest.mark.parametrize("token", [3, None, types.SimpleNamespace(content="x"), ["x"]])
def test_add_tokens_with_another_type_raises(pair, token):
    ours, _ = pair
    before = len(ours)
    with pytest.raises(TypeError, match=r"tokens\[1\] must be a string or an AddedToken"):
        ours.add_tokens(["new", token])
    assert len(ours) == before


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"bos_token": "[BOS]"}, "bos_token cannot be .*BOS.* the model was trained with '<s>'"),
        ({"mask": "<mask>"}, "'mask' is not the name of special tokens; names are bos_token"),
        ({"extra_special_tokens": "<ent>"}, "extra_special_tokens must be a list"),
    ],
)
def test_add_special_tokens_with_invalid_tokens_raises(pair, tokens, message):
    with pytest.raises(ValueError, match=message):
        pair[0].add_special_tokens(tokens)
