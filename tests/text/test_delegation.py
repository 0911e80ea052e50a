"""Methods and properties of the tokenizer that are those of its parts."""

import inspect

import pytest

from skxlmr.text.calls import Calls
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer


def test_methods_have_signatures_and_documentation_of_the_parts():
    assert inspect.signature(XLMRobertaXLTokenizer.pad) == inspect.signature(Calls.pad)
    assert XLMRobertaXLTokenizer.pad.__doc__ == Calls.pad.__doc__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t("a", pad_to_max_length=True), r"Tokenizer.__call__ got an .* \(did you mean padding='max_length'"),
        (lambda t: t.encode("a", add_special_token=True), r"Tokenizer.encode got .* \(did you mean add_special_tokens"),
        (lambda t: t.tokenize("a", truncate=True), r"Tokenizer.tokenize got .* \(did you mean truncation"),
        (lambda t: t.decode([0], skip_special_token=True), r"decode got .* \(did you mean skip_special_tokens"),
        (lambda t: t.batch_decode([[0]], foo=1), r"batch_decode got an unexpected keyword argument 'foo'$"),
        (lambda t: t(), "text must consist of strings, got None"),
        (lambda t: t.from_pretrained("nano", use_fast=True), r"'use_fast' \(leave it out"),
        (lambda t: t.from_pretrained("nano", use_auth_token="x"), r"'use_auth_token' \(its name is 'token'\)"),
    ],
)
def test_options_that_do_not_exist_are_named(our_tokenizer, call, message):
    with pytest.raises(TypeError, match=message):
        call(our_tokenizer)


def test_properties_of_the_vocabulary_cannot_be_set(our_tokenizer):
    with pytest.raises(AttributeError, match="all_special_ids of XLMRobertaXLTokenizer cannot be set"):
        our_tokenizer.all_special_ids = []
    assert XLMRobertaXLTokenizer.all_special_ids.__doc__ == "The ids of `all_special_tokens`."
