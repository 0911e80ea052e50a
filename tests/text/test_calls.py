"""Calls of the tokenizer, compared with transformers."""

from __future__ import annotations

import random

import pytest
import torch

from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = ["Hello world", "a", "A longer text with many words."]
PARTS = [
    *("Hello", "world", " ", "  ", "a", "b c", "人人", "．", "ﬁ", "\t", "\n", "ü", "☃", "don't", ",", "1234"),
    *("covid19", "W", "LS", "[E1]", "<ent>", "the", "<mask>", "</s>", " <s> ", "<pad>", "\u00a0", "\u3000"),
]


def random_call(choose: random.Random) -> tuple[tuple, dict, bool]:
    """Return the texts of a call, its options, and whether it is about one text or pair."""

    def text() -> str:
        return "".join(choose.choice(PARTS) for _ in range(choose.randint(0, 9)))

    in_words, is_pair, is_batch = (choose.random() < 0.4 for _ in range(3))

    def sample() -> str | list[str]:
        return [text() for _ in range(choose.randint(1, 5))] if in_words else text() + "a"

    columns = [[sample() for _ in range(choose.randint(1, 3) if not is_pair else 2)] for _ in range(1 + is_pair)]
    texts = tuple(column if is_batch else column[0] for column in columns)
    options: dict = {"is_split_into_words": in_words, "return_offsets_mapping": True}
    for name in ("return_special_tokens_mask", "return_length", "add_special_tokens"):
        options[name] = choose.random() < 0.6
    truncation = choose.choice([None, "max_length", True, "only_first", *(["only_second"] if is_pair else [])])
    if truncation is not None:
        options["max_length"] = choose.choice([8, 12, 24])
    if truncation not in (None, "max_length"):
        options["truncation"] = truncation
        if not (is_pair and truncation is True) and choose.random() < 0.5:
            options |= {"return_overflowing_tokens": True, "stride": choose.randint(0, 2)}
    if truncation != "max_length" and choose.random() < 0.6:
        options["padding"] = choose.choice([True, "longest", "max_length"])
        if options["padding"] == "max_length":
            options.setdefault("max_length", 40)
        options |= choose.choice([{}, {"pad_to_multiple_of": 4}, {"padding_side": choose.choice(["left", "right"])}])
    return texts, options, not is_batch and "stride" not in options


def outcome(tokenizer, texts: tuple, options: dict):
    """Return the result of a call, None if it raises."""
    try:
        return tokenizer(*texts, **options)
    except BaseException as error:  # also the panics of a library in Rust
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


@pytest.mark.parametrize("seed", range(6))
def test_random_calls_equal_transformers(our_tokenizer, their_tokenizer, seed):
    choose = random.Random(seed)
    bare, mask = our_tokenizer.convert_tokens_to_ids("▁"), our_tokenizer.mask_token_id
    compared = 0
    for _ in range(60):
        texts, options, is_one = random_call(choose)
        for tokenizer, state in ((our_tokenizer, choose.getstate()), (their_tokenizer, None)):
            if state is not None:
                sides = [choose.choice(["left", "right"]) for _ in range(2)]
            tokenizer.padding_side, tokenizer.truncation_side = sides
        mine, other = outcome(our_tokenizer, texts, options), outcome(their_tokenizer, texts, options)
        assert (mine is None) == (other is None), (texts, options)
        if mine is None:
            continue
        compared += 1
        expected = dict(other.data)
        rows = [mine.input_ids] if is_one else mine.input_ids
        found = [mine.offset_mapping] if is_one else mine.offset_mapping
        offsets = [expected.pop("offset_mapping")] if is_one else expected.pop("offset_mapping")
        got = {name: values for name, values in mine.items() if name != "offset_mapping"}
        assert got == expected, (texts, options)
        for row, (ids, places, their_places) in enumerate(zip(rows, found, offsets, strict=True)):
            # Ours do not include the character after a bare space, nor spaces before <mask>.
            same = [i for i, index in enumerate(ids) if index not in (bare, mask)]
            assert [places[i] for i in same] == [their_places[i] for i in same], (texts, options)
            assert_places_equal(mine, other, row, same, all_same=len(same) == len(ids))
    assert compared > 30


def assert_places_equal(mine, other, row: int, same: list[int], *, all_same: bool) -> None:
    assert mine.word_ids(row) == other.word_ids(row)
    assert mine.sequence_ids(row) == other.sequence_ids(row)
    # transformers has spaces in the names of tokens that take them
    assert mine.tokens(row) == [t.strip() if t.strip() in ("LS", "<mask>") else t for t in other.tokens(row)]
    assert mine[row].special_tokens_mask == other[row].special_tokens_mask
    assert mine[row].attention_mask == other[row].attention_mask
    assert mine.n_sequences == other.n_sequences
    for token in same:
        assert mine.token_to_chars(row, token) == other.token_to_chars(row, token)
        assert mine.token_to_word(row, token) == other.token_to_word(row, token)
        assert mine.token_to_sequence(row, token) == other.token_to_sequence(row, token)
    for sequence in range(other.n_sequences):
        for index in range(6):
            assert mine.word_to_tokens(row, index, sequence) == other.word_to_tokens(row, index, sequence)
            if all_same:
                assert mine.char_to_token(row, index, sequence) == other.char_to_token(row, index, sequence)
                if other.char_to_token(row, index, sequence) is not None:
                    assert mine.char_to_word(row, index, sequence) == other.char_to_word(row, index, sequence)
                if other.word_to_tokens(row, index, sequence) is not None:
                    assert mine.word_to_chars(row, index, sequence) == other.word_to_chars(row, index, sequence)


def test_call_with_list_of_pairs_equals_transformers(our_tokenizer, their_tokenizer):
    pairs = [["Hello", "world"], ("a", "b c")]
    assert our_tokenizer(pairs, padding=True) == their_tokenizer(pairs, padding=True).data
    assert our_tokenizer.batch_encode_plus(pairs) == our_tokenizer(["Hello", "a"], ["world", "b c"])
    with pytest.raises(TypeError, match=r"text\[1\] must be a pair of two strings, since text\[0\] is a list, got 'a'"):
        our_tokenizer([["Hello", "world"], "a"])


def test_call_with_split_special_tokens_reads_them_as_text(our_tokenizer, their_tokenizer):
    text = "a <ent> covid19"
    expected = their_tokenizer(text, split_special_tokens=True).input_ids
    assert our_tokenizer(text, split_special_tokens=True).input_ids == expected
    our_tokenizer.split_special_tokens = True
    assert our_tokenizer(text).input_ids == expected
    assert our_tokenizer(text, split_special_tokens=False).input_ids != expected
    assert "</s>" not in our_tokenizer.tokenize("a</s>")  # transformers finds its own special tokens in spite of it
    ids = our_tokenizer("covid19").input_ids
    assert ids[1] == our_tokenizer.convert_tokens_to_ids("covid19")  # which is not special


def test_call_with_model_input_names_returns_these(our_tokenizer, their_tokenizer):
    tokenizer = XLMRobertaXLTokenizer(our_tokenizer.vocabulary.model, model_input_names=["input_ids", "token_type_ids"])
    assert list(tokenizer("a")) == ["input_ids", "token_type_ids"]
    assert list(tokenizer("a", return_token_type_ids=False, return_attention_mask=True)) == [
        "input_ids",
        "attention_mask",
    ]


def test_encode_and_tokenize_equal_transformers(our_tokenizer, their_tokenizer):
    assert our_tokenizer.encode("Hello", "b c") == their_tokenizer.encode("Hello", "b c")
    options = {"add_special_tokens": False, "truncation": True, "max_length": 3}
    assert our_tokenizer.encode(TEXTS[2], **options) == their_tokenizer.encode(TEXTS[2], **options)
    assert torch.equal(
        our_tokenizer.encode("a b", return_tensors="pt"), their_tokenizer.encode("a b", return_tensors="pt")
    )
    assert our_tokenizer.encode_plus("Hello", "a") == our_tokenizer("Hello", "a")
    assert our_tokenizer.tokenize("Hello", "a", add_special_tokens=True) == their_tokenizer.tokenize(
        "Hello", "a", add_special_tokens=True
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'add_special_token'"):
        our_tokenizer.encode("a", add_special_token=False)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ((["a", None],), TypeError, r"text\[1\] is NoneType, not a string"),
        (([["a", "b"], ["c"]],), TypeError, r"text\[1\] must be a pair"),
        ((3,), TypeError, "text must consist of strings, got 3"),
        (("a", ["b"]), TypeError, "both be strings or both be lists of strings"),
    ],
)
def test_call_with_invalid_texts_raises(our_tokenizer, texts, error, message):
    with pytest.raises(error, match=message):
        our_tokenizer(*texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("Hello world",), "text must be a list of words with is_split_into_words=True, not str"),
        (([["a"], ["b", 3]],), r"text\[1\]\[1\] is int, not a string"),
        ((["a", "b"], [["c"]]), "both be lists of words or both be lists of lists of words"),
    ],
)
def test_call_with_invalid_words_raises(our_tokenizer, texts, message):
    with pytest.raises(TypeError, match=message):
        our_tokenizer(*texts, is_split_into_words=True)


def test_call_truncating_to_other_multiple_raises(our_tokenizer):
    with pytest.raises(ValueError, match="use a max_length that is a multiple of 8"):
        our_tokenizer("a", truncation=True, padding=True, max_length=12, pad_to_multiple_of=8)
