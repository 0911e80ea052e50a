from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from skxlmr.scale import ids as module
from skxlmr.scale.ids import RepeatedIds, as_ids, digest_of


@pytest.mark.parametrize("values", [[1, 2], np.array([1, 2], np.uint8), pa.chunked_array([[1], [2]])])
def test_as_ids_of_integers(values):
    assert as_ids(values, "here").equals(pa.array([1, 2], pa.int64()))


@pytest.mark.parametrize(
    "values", [["a", "b"], pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"], pa.large_string())]
)
def test_as_ids_of_strings(values):
    assert as_ids(values, "here").equals(pa.array(["a", "b"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, None], "row 1 .* is missing"), ([1.5], "not double"), ([1, "a"], "one type"), ([2**63], "one type|64 bits")],
)
def test_as_ids_refuses_what_is_missing_or_of_other_types(values, message):
    with pytest.raises(ValueError, match=f"here.*{message}"):
        as_ids(values, "here")


def test_digest_depends_on_values_order_type_and_bounds():
    digests = {
        digest_of(pa.array(values)) for values in ([1, 2], [2, 1], ["1", "2"], ["12", ""], ["1", "2", ""], ["", "12"])
    }
    assert len(digests) == 6


def test_repeated_ids_are_found_among_many():
    blocks = [pa.array(range(start, start + 500)) for start in range(0, 5000, 500)]
    with RepeatedIds() as repeated:
        for block in [*blocks, pa.array([4711, 5000])]:
            repeated.add(block)
        with pytest.raises(ValueError, match="1 ids are there several times: 4711"):
            repeated.check(lambda: [*blocks, pa.array([4711, 5000])])


def test_different_ids_of_the_same_hash_are_no_repetition(monkeypatch):
    monkeypatch.setattr(module, "_hashes", lambda ids: np.zeros(len(ids), np.uint64))
    block = pa.array(["a", "b", "c"])
    with RepeatedIds() as repeated:
        repeated.add(block)
        repeated.check(lambda: [block])
