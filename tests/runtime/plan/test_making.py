import pytest

from skxlmr.runtime.plan.making import make_plan


def test_make_plan_of_pairs_distinguishes_their_parts(tokenizer):
    plan = make_plan(tokenizer, ["a b", "a"], ["c", "b c"], max_length=64, stride=8)
    assert len(plan.windows) == 2


def test_make_plan_with_truncation_counts_and_warns_once(tokenizer):
    plan = make_plan(tokenizer, ["long " * 50, "short", "long " * 60], max_length=16, stride=4, truncation=True)
    with pytest.warns(UserWarning, match="2 of 3 distinct texts were cut at 16 tokens"):
        plan.warn_of_cut()
    assert plan.lengths.max() == 16
    assert len(plan.windows) == 3
