import numpy as np
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import make_pair_plan, make_plan


@pytest.fixture(scope="module")
def tokenizer():
    return get_backbone("nano").tokenizer


def test_make_plan_of_pairs_distinguishes_their_parts(tokenizer):
    plan = make_plan(tokenizer, ["a b", "a"], ["c", "b c"], max_length=64, stride=8)
    assert len(plan.windows) == 2


def test_windows_of_rows_follow_the_order_of_the_rows(tokenizer):
    texts = ["word " * 100, "short", "word " * 100, "longer " * 40]
    plan = make_plan(tokenizer, texts, max_length=32, stride=8)
    windows, place = plan.windows_of_rows(np.array([3, 1, 2]))
    expected = [[w for w in range(len(plan.windows)) if plan.text_of_window[w] == t] for t in (2, 1, 0)]
    for i, of_text in enumerate(expected):
        assert windows[place == i].tolist() == of_text
    assert len(expected[0]) > 1


def test_make_plan_with_truncation_counts_and_warns_once(tokenizer):
    plan = make_plan(tokenizer, ["long " * 50, "short", "long " * 60], max_length=16, stride=4, truncation=True)
    with pytest.warns(UserWarning, match="2 of 3 distinct texts were cut at 16 tokens"):
        plan.warn_of_cut()
    assert plan.lengths.max() == 16
    assert len(plan.windows) == 3


def test_sides_of_pair_plan_are_single_texts_in_the_order_of_rows(tokenizer):
    texts, others = ["one", "two", "one"], ["long " * 60, "one", "long " * 60]
    sides = make_pair_plan(tokenizer, texts, others, max_length=32, stride=8).sides()
    single = make_plan(tokenizer, ["one", others[0], "two", "one", "one", others[2]], max_length=32, stride=8)
    (got, place), (expected, expected_place) = (plan.windows_of_rows(np.arange(6)) for plan in (sides, single))
    assert place.tolist() == expected_place.tolist()
    assert len(place) > 6
    assert [sides.windows[i].tolist() for i in got] == [single.windows[i].tolist() for i in expected]
