"""Entities of tags, and tags of entities."""

from itertools import pairwise

import numpy as np
import pytest

from skxlmr.tags import entity_spans, spans_to_tags, strict_entity_spans
from skxlmr.tags.schemes import SCHEMES


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"IO"}))
def test_spans_to_tags_inverts_entity_spans(scheme):
    rng = np.random.RandomState(0)
    for _ in range(50):
        cuts = np.sort(rng.choice(np.arange(13), 6, replace=False)).tolist()
        spans = [(a, b, "XY"[i % 2]) for i, (a, b) in enumerate(zip(cuts[::2], cuts[1::2], strict=True))]
        touching = [(a, b, "X") for a, b in pairwise(cuts)]
        assert entity_spans(spans_to_tags(spans, 12, scheme), scheme) == spans
        assert entity_spans(spans_to_tags(touching[::-1], 12, scheme), scheme) == touching


@pytest.mark.parametrize(
    ("spans", "message"),
    [([(0, 0, "A")], "empty"), ([(1, 9, "A")], "beyond"), ([(0, 2, "A"), (1, 3, "A")], "overlaps")],
)
def test_spans_to_tags_with_invalid_spans_raises(spans, message):
    with pytest.raises(ValueError, match=message):
        spans_to_tags(spans, 5)


def test_entity_spans_of_types_without_prefix_needs_the_scheme():
    tags = ["PERSON", "PERSON", "O", "B-cell", "LOC"]
    assert entity_spans(tags, "IO") == strict_entity_spans(tags, "IO")
    assert entity_spans(tags, "IO") == [(0, 2, "PERSON"), (3, 4, "B-cell"), (4, 5, "LOC")]
    with pytest.raises(ValueError, match="need scheme='IO'"):
        entity_spans(tags)
    with pytest.raises(ValueError, match="tag 0 is 'B-PER', a tag that scheme='IO' does not have"):
        entity_spans(["B-PER", "O"], "IO")
    with pytest.raises(ValueError, match="tag 1 is '0'"):
        entity_spans(["PERSON", "0"], "IO")
    with pytest.raises(ValueError, match="tag 1 is 'PERSON', a tag that scheme='IO' does not have"):
        entity_spans(["I-PERSON", "PERSON"], "IO")
