"""Forms of tags and spans."""

import numpy as np
import pytest
from tagged_sentences import SENTENCES, TAGS

from skxlmr.metrics import entity_spans
from skxlmr.tasks.tagging.sentences import check_token_column
from skxlmr.tasks.tagging.targets import check_tags, refuse_swapped


def test_check_tags_with_tags_or_spans_of_any_library_returns_tags(make_column):
    column = check_token_column(SENTENCES)
    assert check_tags(make_column(TAGS), column) == TAGS
    spans = [[{"start": a, "end": b, "label": k} for a, b, k in entity_spans(tags)] for tags in TAGS]
    assert check_tags(make_column(spans), column) == TAGS


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([["O", "O"], ["O", None]], "y, row 1: tag 1 is None, a NoneType, not a text"),
        ([["O", "O"], ["O", np.nan]], "y, row 1: tag 1 is nan, a float, not a text"),
        ([[0, 3], [1, 0]], r"(?s)y, row 0: tag 0 is 0, a int, not a text.*names\[number\]"),
        ([(0, 3, "A"), (0, 1, "B")], r"(?s)y, row 0: tag 0 is 0, a int.*list: \[\(start, end, label\)\]"),
        (["O O", "O B"], r"(?s)y, row 0: 'O O' is not a list of tags.*\[tags\.split\(\) for tags in y\]"),
        (["O", "B-X"], r"(?s)y, row 1: 'B-X' is not a list of tags.*groupby\('sentence'\).*agg\(list\)"),
        ([["O", "O"], None], "y, row 1: None is not a list of tags or spans"),
        ([[(0, 1, "A")], [(0, 1, None)]], r"y, row 1: the label of the span \(0, 1, None\) is a NoneType"),
        ([[(0, 1, "A")], ["O", "O"]], "y, row 1: 'O' is not a span"),
        ([[{"start": 0, "end": 1, "label": "A"}], [{"start": 0}]], r"y, row 1: \{'start': 0\} is not a span"),
    ],
)
def test_check_tags_with_invalid_tags_raises_and_names_row(y, message):
    with pytest.raises(TypeError, match=message):
        check_tags(y, check_token_column([["Ada", "left"], ["who", "left"]]))


def test_swapped_tokens_and_tags_are_refused():
    column = check_token_column([["B-PER", "O"], ["O"]])
    with pytest.raises(ValueError, match=r"X has tags such as 'B-PER'.* such as 'Ada'.*fit\(tokens, tags\)"):
        refuse_swapped(column, [["Ada", "lives"], ["here"]])
    refuse_swapped(column, [["B-PER", "O"], ["O"]])
    refuse_swapped(check_token_column([["O"], ["O"]]), [["NOUN"], ["VERB"]])
    refuse_swapped(check_token_column([["B-PER", "is"], ["O"]]), [["NOUN", "VERB"], ["NOUN"]])
