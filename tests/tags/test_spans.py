"""Forms of one span."""

import numpy as np
import pytest

from skxlmr.tags.spans import read_span


@pytest.mark.parametrize(
    "item",
    [
        (0, 2, "ORG"), [0, 2, "ORG"], np.array([0, 2, "ORG"], object), {"start": 0, "end": 2, "label": "ORG"},
        {"id": 1, "label": "ORG", "start_offset": 0, "end_offset": 2, "Comments": []},
        {"start": np.int64(0), "end": 2, "labels": ["ORG"], "globalOffsets": {"start": 0, "end": 2}},
        {"id": "a", "type": "labels", "value": {"start": 0, "end": 2, "labels": ["ORG"]}},
        {"entity_group": "ORG", "score": 0.9, "word": "EU", "start": 0, "end": 2},
    ],
)  # fmt: skip
def test_read_span_of_each_form_returns_the_same(item):
    assert read_span(item) == (0, 2, "ORG", None)


def test_read_span_with_text_keeps_it():
    assert read_span({"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}).text == "EU"


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ((0, 2), TypeError, r"\(0, 2\) is not a span"), ("ORG", TypeError, "'ORG' is not a span"),
        ({"start": 0, "end": 2}, TypeError, "is not a span: a dict needs start, end and label"),
        (("0", 2, "A"), TypeError, "start and end of the span .* must be integers"),
        ((0.0, 2.0, "A"), TypeError, "must be integers"), ((True, 2, "A"), TypeError, "must be integers"),
        ((0, 2, None), TypeError, "the label of the span .* is a NoneType"),
        ({"start": 0, "end": 2, "labels": ["A", "B"]}, ValueError, "has 2 labels; a token has one tag"),
        ({"start": 0, "end": 2, "labels": []}, ValueError, "has 0 labels"),
    ],
)  # fmt: skip
def test_read_span_of_other_values_raises(item, error, message):
    with pytest.raises(error, match=message):
        read_span(item)
