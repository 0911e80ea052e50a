"""Calls of the tokenizer and `pad`, compared with transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = ["Hello world", "a", "A longer text with many words."]
PARTS = [
    *("Hello", "world", " ", "  ", "a", "b c", "人人", "．", "ﬁ", "\t", "\n", "ü", "☃", "don't", ",", "1234"),
    *("covid19", "W", "LS", "[E1]", "<ent>", "the", "<mask>", "</s>", " <s> ", "<pad>", "\u00a0", "\u3000"),
]


@pytest.fixture(scope="module")
def ours(with_added_tokens: Path) -> XLMRobertaXLTokenizer:
    return XLMRobertaXLTokenizer.from_pretrained(with_added_tokens)


@pytest.fixture(scope="module")
def theirs(with_added_tokens: Path):
    return transformers.XLMRobertaTokenizer.from_pretrained(with_added_tokens)


@pytest.fixture(autouse=True)
def settings(request: pytest.FixtureRequest):
    """Restore what a test sets at the shared tokenizers."""
    yield
    for name in {"ours", "theirs"} & set(request.fixturenames):
        tokenizer = request.getfixturevalue(name)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        tokenizer.split_special_tokens = False


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
def test_random_calls_equal_transformers(ours, theirs, seed):
    choose = random.Random(seed)
    bare, mask = ours.convert_tokens_to_ids("▁"), ours.mask_token_id
    compared = 0
    for _ in range(60):
        texts, options, is_one = random_call(choose)
        for tokenizer, state in ((ours, choose.getstate()), (theirs, None)):
            if state is not None:
                sides = [choose.choice(["left", "right"]) for _ in range(2)]
            tokenizer.padding_side, tokenizer.truncation_side = sides
        mine, other = outcome(ours, texts, options), outcome(theirs, texts, options)
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


def test_call_with_list_of_pairs_equals_transformers(ours, theirs):
    pairs = [["Hello", "world"], ("a", "b c")]
    assert ours(pairs, padding=True) == theirs(pairs, padding=True).data
    assert ours.batch_encode_plus(pairs) == ours(["Hello", "a"], ["world", "b c"])
    with pytest.raises(TypeError, match=r"text\[1\] must be a pair of two strings like text\[0\], got 'a'"):
        ours([["Hello", "world"], "a"])


def test_call_with_split_special_tokens_reads_them_as_text(ours, theirs):
    text = "a <ent> covid19"
    expected = theirs(text, split_special_tokens=True).input_ids
    assert ours(text, split_special_tokens=True).input_ids == expected
    ours.split_special_tokens = True
    assert ours(text).input_ids == expected
    assert ours(text, split_special_tokens=False).input_ids != expected
    assert "</s>" not in ours.tokenize("a</s>")  # transformers finds its own special tokens in spite of it
    assert ours("covid19").input_ids[1] == ours.convert_tokens_to_ids("covid19")  # not a special token


def test_call_with_model_input_names_returns_these(ours, theirs):
    tokenizer = XLMRobertaXLTokenizer(ours.vocabulary.model, model_input_names=["input_ids", "token_type_ids"])
    assert list(tokenizer("a")) == ["input_ids", "token_type_ids"]
    assert list(tokenizer("a", return_token_type_ids=False, return_attention_mask=True)) == [
        "input_ids",
        "attention_mask",
    ]


def test_encode_and_tokenize_equal_transformers(ours, theirs):
    assert ours.encode("Hello", "b c") == theirs.encode("Hello", "b c")
    options = {"add_special_tokens": False, "truncation": True, "max_length": 3}
    assert ours.encode(TEXTS[2], **options) == theirs.encode(TEXTS[2], **options)
    assert torch.equal(ours.encode("a b", return_tensors="pt"), theirs.encode("a b", return_tensors="pt"))
    assert ours.encode_plus("Hello", "a") == ours("Hello", "a")
    assert ours.tokenize("Hello", "a", add_special_tokens=True) == theirs.tokenize(
        "Hello", "a", add_special_tokens=True
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'add_special_token'"):
        ours.encode("a", add_special_token=False)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ((["a", None],), TypeError, r"text\[1\] is NoneType, not a string"),
        (([["a", "b"], ["c"]],), TypeError, r"text\[1\] must be a pair"),
        ((3,), TypeError, "text must be a list of strings, not a single int"),
        (("a", ["b"]), TypeError, "both be strings or both be lists of strings"),
    ],
)
def test_call_with_invalid_texts_raises(ours, texts, error, message):
    with pytest.raises(error, match=message):
        ours(*texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("Hello world",), "text must be a list of words with is_split_into_words=True, not str"),
        (([["a"], ["b", 3]],), r"text\[1\]\[1\] is int, not a string"),
        ((["a", "b"], [["c"]]), "both be lists of words or both be lists of lists of words"),
    ],
)
def test_call_with_invalid_words_raises(ours, texts, message):
    with pytest.raises(TypeError, match=message):
        ours(*texts, is_split_into_words=True)


def test_call_truncating_to_other_multiple_raises(ours):
    with pytest.raises(ValueError, match="use a max_length that is a multiple of 8"):
        ours("a", truncation=True, padding=True, max_length=12, pad_to_multiple_of=8)


# --- pad


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": False},
        {"padding": "max_length", "max_length": 30, "return_tensors": "pt"},
        {"pad_to_multiple_of": 8, "return_tensors": "np"},
        {"return_attention_mask": False, "padding": "longest"},
    ],
)
def test_pad_equals_transformers(ours, theirs, side, options):
    rows = [
        {"input_ids": [0, 5, 2], "token_type_ids": [0, 0, 0], "special_tokens_mask": [1, 0, 1], "label": 1},
        {"input_ids": [0, 2], "token_type_ids": [0, 0], "special_tokens_mask": [1, 1], "label": 0},
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for given in (lambda: [dict(row) for row in rows], lambda: {name: list(v) for name, v in columns.items()}):
        ours.padding_side = theirs.padding_side = side
        got, expected = ours.pad(given(), **options), theirs.pad(given(), **options)
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            assert type(got[name]) is type(values)
            np.testing.assert_array_equal(got[name], values) if "return_tensors" in options else None
            assert options.get("return_tensors") or got[name] == values
    assert rows[1]["input_ids"] == [0, 2]  # the inputs do not change


@pytest.mark.parametrize("single", [{"input_ids": [0, 5, 2]}, {"input_ids": torch.tensor([0, 5, 2])}])
def test_pad_of_one_row_equals_transformers(ours, theirs, single):
    options = {"padding": "max_length", "max_length": 5}
    got, expected = ours.pad(dict(single), **options), theirs.pad(dict(single), **options)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(torch.as_tensor(got[name]), torch.as_tensor(values))


def test_pad_keeps_kind_of_tensors(ours):
    assert isinstance(ours.pad([{"input_ids": torch.tensor([0, 2])}]).input_ids, torch.Tensor)
    assert isinstance(ours.pad([{"input_ids": np.array([0, 2])}]).input_ids, np.ndarray)
    assert isinstance(ours.pad([{"input_ids": [0, 2]}]).input_ids, list)
    assert ours.pad({"input_ids": []}) == {"input_ids": [], "attention_mask": []}
    offsets = ours.pad([ours(text, return_offsets_mapping=True) for text in TEXTS], return_tensors="np")
    assert offsets.offset_mapping.shape == (*offsets.input_ids.shape, 2)


@pytest.mark.parametrize(
    ("encoded", "options", "error", "message"),
    [
        ("Hello", {}, TypeError, "pad takes encoded texts"),
        (["Hello"], {}, TypeError, "row 0 must be an encoded text"),
        ([], {}, ValueError, "the list is empty"),
        ([{"labels": [1]}], {}, ValueError, "encoded texts with input_ids; there are only labels"),
        ([{"input_ids": [1], "label": 1}, {"input_ids": [1]}], {}, ValueError, "row 1 has no label"),
        ([{"input_ids": ["a"]}], {}, ValueError, "input_ids of row 0 must be a list of integers"),
        ([{"input_ids": [1, 2], "attention_mask": [1]}], {}, ValueError, "attention_mask of row 0 must be a list of 2"),
        ({"input_ids": [[1], [2]], "label": [1]}, {}, ValueError, "input_ids has 2 rows, but label has 1 rows"),
        ([{"input_ids": [1]}], {"max_length": 4}, ValueError, "max_length=4 has no effect"),
        ([{"input_ids": [1]}], {"padding": "left"}, ValueError, "padding='left' must be one of"),
        ([{"input_ids": [1]}], {"return_tensors": "tf"}, ValueError, "return_tensors='tf' must be one of"),
        ([{"input_ids": [1], "text": "a"}], {"return_tensors": "pt"}, ValueError, "text cannot become a tensor"),
        ([{"input_ids": [1], "label": None}], {"return_tensors": "pt"}, ValueError, "label cannot become a tensor"),
        (
            [{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}],
            {"return_tensors": "pt"},
            ValueError,
            r"labels of 1 to 2 values \(rows 0 and 1\) .* DataCollatorForTokenClassification",
        ),
        (
            [{"input_ids": [1]}, {"input_ids": [1, 2]}],
            {"padding": False, "return_tensors": "pt"},
            ValueError,
            r"rows of 1 to 2 ids \(rows 0 and 1\) cannot become one tensor: pass padding=True",
        ),
    ],
)
def test_pad_of_invalid_input_raises(ours, encoded, options, error, message):
    with pytest.raises(error, match=message):
        ours.pad(encoded, **options)


# --- data collators of transformers


def labelled(tokenizer, text, labels):
    return {**tokenizer(text), "labels": labels}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("collator", "options", "features"),
    [
        ("WithPadding", {}, lambda t: [{**t(x), "label": i} for i, x in enumerate(TEXTS)]),
        (
            "WithPadding",
            {"padding": "max_length", "max_length": 42, "pad_to_multiple_of": 8},
            lambda t: [labelled(t, x, 0.5) for x in TEXTS],
        ),
        ("ForTokenClassification", {}, lambda t: [labelled(t, x, [1] * len(t(x)["input_ids"])) for x in TEXTS]),
        ("ForLanguageModeling", {}, lambda t: [t(x) for x in TEXTS]),
        ("ForLanguageModeling", {"mlm": False}, lambda t: [t(x, return_special_tokens_mask=True) for x in TEXTS]),
        ("ForLanguageModeling", {}, lambda t: [t(x)["input_ids"] for x in TEXTS]),
        ("ForMultipleChoice", {}, lambda t: [{**t(["a", "b"], [x, "c"]), "label": 1} for x in TEXTS]),
        ("ForSeq2Seq", {}, lambda t: [labelled(t, x, [1] * n) for n, x in enumerate(TEXTS)]),
    ],
)
def test_data_collators_equal_transformers(ours, theirs, side, collator, options, features):
    batches = []
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = side
        torch.manual_seed(0)
        batches.append(getattr(transformers, f"DataCollator{collator}")(tokenizer, **options)(features(tokenizer)))
    assert batches[0].keys() == batches[1].keys()
    for name, expected in batches[1].items():
        torch.testing.assert_close(batches[0][name], expected, rtol=0, atol=0)


def test_trainer_saves_tokenizer(ours, tmp_path):
    model = torch.nn.Linear(1, 1)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    collate = transformers.DataCollatorWithPadding(ours)
    trainer = transformers.Trainer(model, arguments, data_collator=collate, processing_class=ours)
    trainer.save_model()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "right"
    assert XLMRobertaXLTokenizer.from_pretrained(tmp_path)(TEXTS) == ours(TEXTS)
