"""Calls with texts that a model is to generate, and tokens of texts, compared with transformers."""

import pytest
import torch


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (("Hello world",), {"text_target": "a b"}),
        ((), {"text_target": "a b"}),
        ((["Hello world", "a"],), {"text_target": ["a b", "c"], "padding": True, "return_tensors": "pt"}),
        (("Hello", "world"), {"text_target": "a", "text_pair_target": "b", "truncation": True, "max_length": 6}),
        ((["Hello", "world"],), {"text_target": ["a", "b"], "is_split_into_words": True}),
    ],
)
def test_call_with_targets_equals_transformers(our_tokenizer, their_tokenizer, texts, options):
    got, expected = our_tokenizer(*texts, **options), their_tokenizer(*texts, **options)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(torch.as_tensor(got[name]), torch.as_tensor(values))
    assert got.data is got  # the dict of model inputs, as the encodings of transformers have it
    assert list(got.data) == list(expected.data)


def test_tokenize_takes_options_of_the_call(our_tokenizer, their_tokenizer):
    for text, options in (
        (["Hello", "world"], {"is_split_into_words": True}),
        ("a <ent> b", {"split_special_tokens": True}),
    ):
        assert our_tokenizer.tokenize(text, **options) == their_tokenizer.tokenize(text, **options)
    options = {"truncation": True, "max_length": 4, "add_special_tokens": False}
    assert our_tokenizer.tokenize("A longer text", **options) == our_tokenizer("A longer text", **options).tokens()
