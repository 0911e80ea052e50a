import numpy as np
import pytest

from skxlmr.text.batching import deduplicate, token_batches


def test_deduplicate_returns_each_key_once():
    keys = list("abracadabra")
    first, inverse = deduplicate(keys)
    assert [keys[i] for i in first] == list("abrcd")
    assert [keys[first[i]] for i in inverse] == keys
    assert first == sorted(first)


def test_deduplicate_empty():
    first, inverse = deduplicate([])
    assert first == []
    assert len(inverse) == 0


@pytest.mark.parametrize("budget", [1, 10, 64, 10_000])
def test_token_batches_hold_every_item_once_within_budget(budget):
    lengths = np.random.RandomState(0).randint(1, 40, 100)
    batches = token_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(100))
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].sum() <= budget
    in_order = lengths[np.concatenate(batches)]
    assert (np.diff(in_order) <= 0).all()


def test_token_batches_empty():
    assert token_batches([], 10) == []
