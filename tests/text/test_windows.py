from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from skxlmr.text.windows import plan_truncation, plan_windows, window_ranges


def covered(plan, text):
    return {piece for ranges in plan for piece in range(*ranges[text])}


@pytest.mark.parametrize(("room", "stride"), [(1, 0), (4, 0), (4, 1), (4, 3), (7, 1), (7, 3)])
@pytest.mark.parametrize("length", [0, 1, 3, 7, 8, 9, 50])
def test_window_ranges_cover_text_and_overlap_by_stride(length, room, stride):
    ranges = window_ranges(length, room, stride)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == length
    assert all(stop - start <= room for start, stop in ranges)
    assert all(stop - start == room for start, stop in ranges[:-1])
    assert all(a[1] - b[0] == stride for a, b in pairwise(ranges))
    if length:
        assert all(start < stop for start, stop in ranges)
    if length > room:
        assert ranges[-1][1] - ranges[-1][0] > stride  # the last window has new pieces
    else:
        assert ranges == [(0, length)]


def test_plan_windows_one_text():
    assert plan_windows((10,), 6, 2) == ([((0, 6),), ((4, 10),)], 0)


def test_plan_windows_pair_that_fits_is_one_window():
    assert plan_windows((3, 4), 7, 1) == ([((0, 3), (0, 4))], 1)
    assert plan_windows((4, 3), 7, 1) == ([((0, 4), (0, 3))], 0)
    assert plan_windows((0, 0), 7, 1) == ([((0, 0), (0, 0))], 0)


def test_plan_windows_longest_keeps_short_text_whole():
    plan, sequence = plan_windows((3, 20), 10, 2)
    assert sequence == 1
    assert plan == [((0, 3), second) for second in window_ranges(20, 7, 2)]
    mirrored, sequence = plan_windows((20, 3), 10, 2)
    assert sequence == 0
    assert mirrored == [ranges[::-1] for ranges in plan]


@pytest.mark.parametrize("lengths", [(6, 50), (50, 6), (9, 9), (31, 30), (100, 41), (8, 11)])
def test_plan_windows_longest_windows_both_long_texts(lengths):
    plan, sequence = plan_windows(lengths, 11, 2)
    assert lengths[sequence] == max(lengths)
    for text in (0, 1):
        assert covered(plan, text) == set(range(lengths[text]))
        starts = [ranges[text][0] for ranges in plan]
        assert starts == sorted(starts)
    assert all(sum(stop - start for start, stop in ranges) <= 11 for ranges in plan)
    n_windows = [len(window_ranges(max(lengths), 6, 2)), len(window_ranges(min(lengths), 5, 2))]
    assert len(plan) == max(n_windows), "not the product"


@pytest.mark.parametrize("only", ["first", "second"])
def test_plan_windows_only_windows_named_text(only):
    lengths = (12, 4) if only == "first" else (4, 12)
    plan, sequence = plan_windows(lengths, 9, 2, only)
    assert sequence == ("first", "second").index(only)
    assert {ranges[1 - sequence] for ranges in plan} == {(0, 4)}
    assert [ranges[sequence] for ranges in plan] == window_ranges(12, 5, 2)


def test_plan_invalid_arguments_raises():
    with pytest.raises(ValueError, match=r"first text of the pair has 8 pieces.*raise max_length, lower stride"):
        plan_windows((8, 20), 10, 2, "second")
    with pytest.raises(ValueError, match=r"second text of the pair has 30 pieces.*leaves 0 of 10 places"):
        plan_windows((8, 30), 10, 2, "first")
    with pytest.raises(ValueError, match=r"stride=6 leaves no way to advance.*below 6"):
        plan_windows((3,), 6, 6)
    with pytest.raises(ValueError, match="half a window of a pair holds 5"):
        plan_windows((3, 3), 10, 5)
    with pytest.raises(ValueError, match="must not be negative"):
        plan_windows((3,), 6, -1)
    with pytest.raises(ValueError, match="only='second' for a single text"):
        plan_windows((3,), 6, 1, "second")
    with pytest.raises(ValueError, match="only='both' for a pair must be one of 'longest', 'first', 'second'"):
        plan_truncation((3, 3), 5, "both")
    with pytest.raises(ValueError, match="leaves nothing of it: the other has 6 pieces"):
        plan_truncation((3, 6), 5, "first")


@pytest.mark.parametrize("only", ["longest", "first", "second"])
def test_plan_truncation_equals_reference(only, reference):
    strategy = {"longest": "longest_first", "first": "only_first", "second": "only_second"}[only]
    for a, b, room in product((1, 2, 3, 5, 9), (1, 2, 3, 5, 9), (2, 3, 4, 5, 6, 11)):
        texts = " ".join("a" * a), " ".join("b" * b)
        counts = [len(reference(text, add_special_tokens=False).input_ids) for text in texts]
        if only != "longest" and counts[only == "first"] >= room:
            continue
        expected = reference(*texts, truncation=strategy, max_length=room, add_special_tokens=False).input_ids
        parts = [reference(text, add_special_tokens=False).input_ids for text in texts]
        kept = plan_truncation(tuple(counts), room, only)
        assert parts[0][slice(*kept[0])] + parts[1][slice(*kept[1])] == expected, (a, b, room)


def test_window_position_is_start_of_windowed_text(tokenizer):
    first, second = np.arange(10, 14), np.arange(20, 60)
    for window in tokenizer.windows(first, second, max_length=20, stride=3, only="second"):
        assert window.input_ids[window.position] == second[window.start]
        assert window.input_ids[window.position + window.stop - window.start] == tokenizer.eos_token_id
    for window in tokenizer.windows(second, first, max_length=20, stride=3, only="first"):
        assert window.input_ids[window.position] == second[window.start]
