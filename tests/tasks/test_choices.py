"""The plan of the windows of choices, and what is found of them."""

import numpy as np
import pytest
from choice_questions import X

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.choice_columns import check_choices
from skxlmr.tasks.choices import Choosing, padded, plan_choices


def test_choice_plan_shortest_counts_all_choices_of_row():
    plan = plan_choices(get_backbone("nano").tokenizer, check_choices(X), max_length=512, stride=64)
    tokens = [sum(len(plan.windows[i]) for i in plan.windows_of_rows(np.array([row]))[0]) for row in range(6)]
    assert plan.shortest(np.arange(6)) == min(tokens)
    assert plan.shortest(np.array([1, 4])) == min(tokens[1], tokens[4])


def test_padded_fills_missing_choices_with_minus_infinity():
    np.testing.assert_array_equal(padded(np.arange(4.0), np.array([3, 1]), 3), [[0, 1, 2], [3, -np.inf, -np.inf]])


def test_choosing_continued_with_other_form_of_y_raises():
    column, weights = check_choices([["a", "b", "c"]] * 2), np.ones(2)
    earlier, _ = Choosing().find([0, 1], column, weights)
    later, _ = Choosing().find(["b", "c"], column, weights)
    assert earlier.continued(earlier).form == "index"
    with pytest.raises(ValueError, match="target_form_='choice', but the earlier fit found 'index'"):
        later.continued(earlier)
