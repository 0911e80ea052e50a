"""Rows to train on, and what identifies a training on them."""

from dataclasses import replace

import numpy as np

from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.checkpointing import training_directory
from skxlmr.training.rows import Rows


def make_rows(targets):
    windows = [np.arange(length, dtype=np.int32) for length in (3, 4, 5)]
    plan = WindowPlan(windows, np.array([0, 0, 1]), np.array([1, 0, 1]))
    return Rows(plan, targets, np.array([1.0, 2.0, 3.0]), np.array([10, 11, 12]))


def test_take_returns_chosen_rows_in_order():
    rows = make_rows(np.array([5, 6, 7])).take(np.array([2, 0]))
    assert (rows.targets.tolist(), rows.weights.tolist(), rows.numbers.tolist()) == ([7, 5], [3.0, 1.0], [12, 10])
    assert rows.plan.text_of_row.tolist() == [1, 1]
    assert rows.plan.windows_of_rows(np.arange(2))[0].tolist() == [2, 2]


def test_identity_depends_on_content_but_not_on_numbers(tmp_path):
    rows = make_rows(np.array([5, 6, 7]))
    directory = training_directory(tmp_path, rows.identity())
    assert training_directory(tmp_path, replace(rows, numbers=rows.numbers + 1).identity()) == directory
    others = [
        replace(rows, targets=rows.targets[::-1]),
        replace(rows, weights=rows.weights[::-1]),
        replace(rows, plan=replace(rows.plan, windows=[window + 1 for window in rows.plan.windows])),
        replace(rows, plan=replace(rows.plan, windows=[*rows.plan.windows[:0:-1], rows.plan.windows[0]])),
        replace(rows, plan=replace(rows.plan, text_of_row=np.array([0, 0, 1]))),
        replace(rows, plan=replace(rows.plan, text_of_window=np.array([0, 1, 1]))),
    ]
    directories = {training_directory(tmp_path, other.identity()) for other in others}
    assert len(directories | {directory}) == 1 + len(others)


def test_identity_of_targets_per_token_depends_on_their_rows(tmp_path):
    def directory(*targets):
        of_rows = np.empty(3, object)
        of_rows[:] = [np.array(target) for target in targets]
        return training_directory(tmp_path, make_rows(of_rows).identity())

    assert directory([1, 2], [3], [4]) == directory([1, 2], [3], [4])
    assert len({directory([1, 2], [3], [4]), directory([1], [2, 3], [4]), directory([1, 2], [3], [5])}) == 3
