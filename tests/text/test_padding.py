"""Encoded texts that are filled to one length, compared with transformers, and its data collators."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = ["Hello world", "a", "A longer text with many words."]


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
def test_pad_equals_transformers(our_tokenizer, their_tokenizer, side, options):
    rows = [
        {"input_ids": [0, 5, 2], "token_type_ids": [0, 0, 0], "special_tokens_mask": [1, 0, 1], "label": 1},
        {"input_ids": [0, 2], "token_type_ids": [0, 0], "special_tokens_mask": [1, 1], "label": 0},
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for given in (lambda: [dict(row) for row in rows], lambda: {name: list(v) for name, v in columns.items()}):
        our_tokenizer.padding_side = their_tokenizer.padding_side = side
        got, expected = our_tokenizer.pad(given(), **options), their_tokenizer.pad(given(), **options)
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            assert type(got[name]) is type(values)
            np.testing.assert_array_equal(got[name], values) if "return_tensors" in options else None
            assert options.get("return_tensors") or got[name] == values
    assert rows[1]["input_ids"] == [0, 2]  # the inputs do not change


@pytest.mark.parametrize("single", [{"input_ids": [0, 5, 2]}, {"input_ids": torch.tensor([0, 5, 2])}])
def test_pad_of_one_row_equals_transformers(our_tokenizer, their_tokenizer, single):
    options = {"padding": "max_length", "max_length": 5}
    got, expected = our_tokenizer.pad(dict(single), **options), their_tokenizer.pad(dict(single), **options)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(torch.as_tensor(got[name]), torch.as_tensor(values))


def test_pad_keeps_kind_of_tensors(our_tokenizer):
    assert isinstance(our_tokenizer.pad([{"input_ids": torch.tensor([0, 2])}]).input_ids, torch.Tensor)
    assert isinstance(our_tokenizer.pad([{"input_ids": np.array([0, 2])}]).input_ids, np.ndarray)
    assert isinstance(our_tokenizer.pad([{"input_ids": [0, 2]}]).input_ids, list)
    assert our_tokenizer.pad({"input_ids": []}) == {"input_ids": [], "attention_mask": []}
    offsets = our_tokenizer.pad(
        [our_tokenizer(text, return_offsets_mapping=True) for text in TEXTS], return_tensors="np"
    )
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
def test_pad_of_invalid_input_raises(our_tokenizer, encoded, options, error, message):
    with pytest.raises(error, match=message):
        our_tokenizer.pad(encoded, **options)


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
def test_data_collators_equal_transformers(our_tokenizer, their_tokenizer, side, collator, options, features):
    batches = []
    for tokenizer in (our_tokenizer, their_tokenizer):
        tokenizer.padding_side = side
        torch.manual_seed(0)
        batches.append(getattr(transformers, f"DataCollator{collator}")(tokenizer, **options)(features(tokenizer)))
    assert batches[0].keys() == batches[1].keys()
    for name, expected in batches[1].items():
        torch.testing.assert_close(batches[0][name], expected, rtol=0, atol=0)


def test_trainer_saves_tokenizer(our_tokenizer, tmp_path):
    model = torch.nn.Linear(1, 1)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    collate = transformers.DataCollatorWithPadding(our_tokenizer)
    trainer = transformers.Trainer(model, arguments, data_collator=collate, processing_class=our_tokenizer)
    trainer.save_model()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "right"
    assert XLMRobertaXLTokenizer.from_pretrained(tmp_path)(TEXTS) == our_tokenizer(TEXTS)
