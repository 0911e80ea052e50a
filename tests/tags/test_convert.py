"""Conversion of tags between schemes."""

import itertools

import numpy as np
import pytest

from skxlmr.metrics import entity_spans, strict_entity_spans
from skxlmr.tags import convert_tags, infer_scheme
from skxlmr.tags.schemes import SCHEMES

ROWS = [
    ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC"], [], ["O"], ["B-LOC", "B-PER"],
    ["B-PER", "I-PER", "B-PER", "O"], ["B-PER", "B-PER", "B-PER"],
]  # fmt: skip
LOSSLESS = sorted(SCHEMES.keys() - {"IO"})


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(LOSSLESS, 2)))
def test_convert_tags_there_and_back_returns_the_same(first, second):
    there = convert_tags(convert_tags(ROWS, first, scheme="BIO"), second, scheme=first)
    assert convert_tags(there, "BIO", scheme=second) == ROWS


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"IO", "IOE1"}))
def test_convert_tags_of_random_entities_writes_them_well_formed(scheme):
    rng = np.random.RandomState(0)
    kinds = ["O", "B-A", "I-A", "B-C", "I-C"]
    rows = [[kinds[i] for i in rng.randint(0, 5, 9)] for _ in range(300)]
    converted = convert_tags(rows, scheme, scheme="BIO")
    assert infer_scheme(converted) == scheme
    for row, before in zip(converted, rows, strict=True):
        assert strict_entity_spans(row, scheme) == entity_spans(row) == entity_spans(before)


def test_convert_tags_to_each_scheme_writes_its_prefixes():
    row = ["B-A", "I-A", "I-A", "B-A", "O", "B-A", "I-A"]
    expected = {
        "IOB1": ["I-A", "I-A", "I-A", "B-A", "O", "I-A", "I-A"],
        "IOE1": ["I-A", "I-A", "E-A", "I-A", "O", "I-A", "I-A"],
        "IOE2": ["I-A", "I-A", "E-A", "E-A", "O", "I-A", "E-A"],
        "IOBES": ["B-A", "I-A", "E-A", "S-A", "O", "B-A", "E-A"],
        "BILOU": ["B-A", "I-A", "L-A", "U-A", "O", "B-A", "L-A"],
        "BMES": ["B-A", "M-A", "E-A", "S-A", "O", "B-A", "E-A"],
        "IO": ["I-A", "I-A", "I-A", "I-A", "O", "I-A", "I-A"],
        "IOB2": row,
    }
    assert {to: convert_tags([row], to)[0] for to in expected} == expected


def test_convert_tags_reads_other_forms():
    assert convert_tags([["PERSON", "PERSON", "O"]], scheme="IO") == [["B-PERSON", "I-PERSON", "O"]]
    assert convert_tags([("I-A", "O")]) == [["B-A", "O"]]
    assert convert_tags([["B|A-B", "I|A-B"]], "BIOES", separator="|") == [["B-A-B", "E-A-B"]]
    assert convert_tags([["B", "I", "O"]], "BILOU") == [["B", "L", "O"]]
    assert convert_tags([["O", "O"], []], "BILOU") == [["O", "O"], []]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([["B-A"]], "IOB3"), ValueError, "scheme='IOB3' is not a scheme"),
        (([["NOUN", "VERB"]],), ValueError, "tags have no scheme: they are 'NOUN'"),
        (([["PERSON", "O"]],), ValueError, "set scheme='IO'"),
        ((["B-A"],), TypeError, "tags, row 0 is a str"),
        (([["B-A"], ["O", "0"]],), ValueError, "tags, row 1: tag 1 is '0'"),
    ],
)
def test_convert_tags_with_invalid_input_raises(arguments, error, message):
    with pytest.raises(error, match=message):
        convert_tags(*arguments)
    with pytest.raises(ValueError, match="tags, row 0: tag 0 is 'E-A', a tag that scheme='BIO' does not have"):
        convert_tags([["E-A"]], scheme="BIO")
