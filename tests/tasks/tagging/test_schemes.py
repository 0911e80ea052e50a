"""Tagging schemes: inference, transitions, decoding and scores."""

import itertools

import numpy as np
import pytest

import skxlmr
from skxlmr.metrics import entity_spans, strict_entity_spans
from skxlmr.tasks.tagging.schemes import (
    FORBIDDEN,
    check_scheme,
    decode,
    infer_scheme,
    log_softmax,
    spans_to_tags,
    tag_score,
    transitions,
)

BIO = ["O", "B-A", "I-A", "B-C", "I-C"]
BIOES = ["O", "B-A", "I-A", "E-A", "S-A", "S-C"]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (BIO, "BIO"), (["O", "B-A"], "BIO"), (BIOES, "BIOES"), (["O", "S-A"], "BIOES"), (["O", "I-A"], "IO"),
        (["NOUN", "VERB"], "plain"), (["O"], "plain"), (["O", "X-A"], "plain"), (["B-A", "NOUN"], "plain"),
        (["-LRB-", "O"], "plain"), (["BI-A", "O"], "plain"), (["O", "B", "I"], "BIO"), (["B", "S"], "plain"),
        (["I-A", "B-A", "I-C", "O"], "IO"), (["O", "I-A", "O", "B-A"], "BIO"), (["B-A", "B-A", "O"], "BIO"),
        (["B-A", "E-A", "I-A"], "BIOES"),
    ],
)  # fmt: skip
def test_infer_scheme_from_tags_returns_their_scheme(tags, scheme):
    assert infer_scheme([tags]) == scheme


def test_check_scheme_with_tags_of_other_scheme_raises():
    with pytest.raises(ValueError, match=r"BILOU.*Write E- and S-.*scheme='plain'"):
        infer_scheme([["B-A", "L-A", "O"], ["U-A"]])
    for scheme, bad in [("BIO", "E-A"), ("BIO", "NOUN"), ("BIOES", "-LRB-"), ("IO", "S-A")]:
        with pytest.raises(ValueError, match=f"the tag '{bad}', which scheme='{scheme}' does not have"):
            check_scheme(["O", "I-A", bad], scheme)
    check_scheme(["NOUN"], "plain")
    check_scheme(["O", "B-A", "I-A"], "IO")


@pytest.mark.parametrize(("tags", "scheme"), [(BIO, "BIO"), (BIOES, "BIOES")])
def test_transitions_allow_exactly_sequences_valid_under_strict_reading(tags, scheme):
    between, first, last = transitions(tags, scheme)
    for sequence in itertools.product(range(len(tags)), repeat=3):
        cost = first[sequence[0]] + sum(between[a, b] for a, b in itertools.pairwise(sequence)) + last[sequence[-1]]
        names = [tags[i] for i in sequence]
        covered = {i for start, end, _ in strict_entity_spans(names, scheme) for i in range(start, end)}
        assert (cost == 0) == (covered == {i for i, name in enumerate(names) if name != "O"}), names


@pytest.mark.parametrize(("tags", "scheme"), [(BIO, "BIO"), (BIOES, "BIOES")])
def test_decode_equals_exhaustive_search(tags, scheme):
    rng = np.random.RandomState(0)
    between, first, last = transitions(tags, scheme)
    logits = [rng.randn(n, len(tags)).astype(np.float32) * 2 for n in (4, 1, 3, 0, 4, 2)]
    for of_sentence, got in zip(logits, decode(logits, tags, scheme), strict=True):
        n = len(of_sentence)
        if not n:
            assert not len(got)
            continue
        scores = log_softmax(of_sentence)

        def value(path, scores=scores, n=n):
            steps = sum(between[a, b] for a, b in itertools.pairwise(path))
            return scores[np.arange(n), list(path)].sum() + first[path[0]] + last[path[-1]] + steps

        best = max(itertools.product(range(len(tags)), repeat=n), key=value)
        assert got.tolist() == list(best)
        assert value(tuple(got)) > FORBIDDEN / 2


def test_decode_in_chunks_equals_decode_at_once(monkeypatch):
    logits = list(np.random.RandomState(0).randn(23, 4, 3))
    whole = decode(logits, ["B-A", "I-A", "O"], "BIO")
    monkeypatch.setattr(skxlmr.tasks.tagging.schemes, "SENTENCES_AT_ONCE", 5)
    np.testing.assert_array_equal(decode(logits, ["B-A", "I-A", "O"], "BIO"), whole)


def test_decode_with_plain_scheme_returns_argmax():
    logits = [np.array([[0.0, 1.0], [2.0, 1.0]])]
    assert decode(logits, ["A", "B"], "plain")[0].tolist() == [1, 0]


def test_decode_without_valid_sequence_returns_best_remaining_tag():
    logits = [np.array([[0.0, 5.0]])]
    assert decode(logits, ["O", "B-A"], "BIOES")[0].tolist() == [0], "B-A would need an E-A"
    assert decode([np.ones((1, 1))], ["B-A"], "BIOES")[0].tolist() == [0], "it is the only tag"


def test_tag_score_of_plain_tags_weights_tokens_by_row():
    true, predicted = [["A", "B", "A"], ["B"], []], [["A", "B", "B"], ["A"], []]
    assert tag_score(true, predicted, "plain", np.array([1.0, 1.0, 1.0])) == 2 / 4
    assert tag_score(true, predicted, "plain", np.array([2.0, 1.0, 5.0])) == 4 / 7
    assert tag_score([[]], [[]], "plain", np.ones(1)) == 0.0


def test_spans_to_tags_inverts_entity_spans_and_rejects_invalid_spans():
    rng = np.random.RandomState(0)
    for _ in range(50):
        cuts = np.sort(rng.choice(np.arange(13), 6, replace=False)).tolist()
        spans = [(a, b, "XY"[i % 2]) for i, (a, b) in enumerate(zip(cuts[::2], cuts[1::2], strict=True))]
        assert entity_spans(spans_to_tags(spans, 12)) == spans
    for bad, message in [([(0, 0, "A")], "empty"), ([(1, 9, "A")], "beyond"), ([(0, 2, "A"), (1, 3, "A")], "overlaps")]:
        with pytest.raises(ValueError, match=message):
            spans_to_tags(bad, 5)
