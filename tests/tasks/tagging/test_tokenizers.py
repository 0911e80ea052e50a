"""Tokenizers that users pass."""

import re
from functools import partial

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from skxlmr.tasks.tagging.sentences import check_token_column
from skxlmr.tasks.tagging.tokenizers import token_offsets, tokenizer_name


def spans_of_words(text):
    return [match.span() for match in re.finditer(r"\w+", text)]


@pytest.mark.parametrize(
    "tokenizer",
    [
        spans_of_words, re.compile(r"\w+").findall, lambda text: np.array(spans_of_words(text)),
        lambda text: map(list, spans_of_words(text)),
    ],
)  # fmt: skip
def test_token_offsets_of_each_form_returns_the_same(tokenizer):
    assert token_offsets(tokenizer, "no no, no", "X").tolist() == [[0, 2], [3, 5], [7, 9]]
    assert token_offsets(tokenizer, "?!", "X").shape == (0, 2)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (["no", "yes"], ValueError, "X, row 1: the tokenizer returned 'yes', which is not .* after character 2"),
        (["b", "a"], ValueError, "returned 'b'"), ([""], ValueError, "returned ''"),
        ([(0, 2), (1, 3)], ValueError, r"returned the token \(1, 3\) after one that ends at 2"),
        ([(0, 0)], ValueError, r"\(0, 0\)"), ([(0, 99)], ValueError, "of a text of 5 characters"),
        ("no no", TypeError, "X, row 1: the tokenizer returned 'no no', a str. It must"),
        (None, TypeError, "a NoneType"),
        ([0, 1], TypeError, "returned 0, a int. It must return a list of str, or of pairs"),
        ([(0, 1, 2)], TypeError, "a tuple"), ([("no", 1)], TypeError, "a tuple"),
    ],
)  # fmt: skip
def test_token_offsets_with_other_result_raises_and_names_row(result, error, message):
    results = iter([["no"], result])
    with pytest.raises(error, match=message):
        check_token_column(["no no", "no no"], tokenizer=lambda text: next(results))


def test_tokenizer_name_names_functions_and_objects():
    assert tokenizer_name(None) == "skxlmr.text.words.split_words"
    assert tokenizer_name(spans_of_words) == f"{__name__}.spans_of_words"
    assert tokenizer_name(partial(spans_of_words)) == f"{__name__}.spans_of_words"
    assert tokenizer_name(str.split) == "str.split"
    assert tokenizer_name(CountVectorizer()) == "sklearn.feature_extraction.text.CountVectorizer"
