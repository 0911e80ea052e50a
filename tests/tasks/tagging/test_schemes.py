"""Decoding of tags, and their score."""

import itertools

import numpy as np
import pytest

import skxlmr
from skxlmr.metrics import strict_entity_spans
from skxlmr.tasks.tagging.schemes import FORBIDDEN, decode, log_softmax, tag_score, transitions

BIO = ["O", "B-A", "I-A", "B-C", "I-C"]
BIOES = ["O", "B-A", "I-A", "E-A", "S-A", "S-C"]
OF_SCHEMES = [
    (BIO, "BIO"), (["O", "I-A", "B-A", "I-C", "B-C"], "IOB1"), (["O", "I-A", "E-A", "I-C", "E-C"], "IOE2"),
    (BIOES, "BIOES"), (["O", "B-A", "I-A", "L-A", "U-A", "U-C"], "BILOU"), (["O", "B-A", "M-A", "E-A", "S-C"], "BMES"),
    (["O", "I-A", "I-C"], "IO"),
]  # fmt: skip


@pytest.mark.parametrize(("tags", "scheme"), OF_SCHEMES)
def test_transitions_allow_exactly_sequences_valid_under_strict_reading(tags, scheme):
    between, first, last = transitions(tags, scheme)
    for sequence in itertools.product(range(len(tags)), repeat=3):
        cost = first[sequence[0]] + sum(between[a, b] for a, b in itertools.pairwise(sequence)) + last[sequence[-1]]
        names = [tags[i] for i in sequence]
        covered = {i for start, end, _ in strict_entity_spans(names, scheme) for i in range(start, end)}
        assert (cost == 0) == (covered == {i for i, name in enumerate(names) if name != "O"}), names


def test_transitions_of_ioe1_allow_e_only_before_an_entity_of_its_type():
    between, first, last = transitions(["O", "I-A", "E-A", "I-C"], "IOE1")
    assert (between == 0).tolist() == [[True] * 4, [True] * 4, [False, True, True, False], [True] * 4]
    assert (last == 0).tolist() == [True, True, False, True]
    assert not first.any()


@pytest.mark.parametrize(("tags", "scheme"), OF_SCHEMES)
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
