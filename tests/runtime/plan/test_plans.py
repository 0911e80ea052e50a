import contextlib

import numpy as np
import pytest
import torch

from skxlmr.model.transfer import upload
from skxlmr.runtime.plan.making import make_pair_plan, make_plan
from skxlmr.runtime.plan.plans import WordPlan


def test_windows_of_rows_follow_the_order_of_the_rows(tokenizer):
    texts = ["word " * 100, "short", "word " * 100, "longer " * 40]
    plan = make_plan(tokenizer, texts, max_length=32, stride=8)
    windows, place = plan.windows_of_rows(np.array([3, 1, 2]))
    expected = [[w for w in range(len(plan.windows)) if plan.text_of_window[w] == t] for t in (2, 1, 0)]
    for i, of_text in enumerate(expected):
        assert windows[place == i].tolist() == of_text
    assert len(expected[0]) > 1


def test_sides_of_pair_plan_are_single_texts_in_the_order_of_rows(tokenizer):
    texts, others = ["one", "two", "one"], ["long " * 60, "one", "long " * 60]
    sides = make_pair_plan(tokenizer, texts, others, max_length=32, stride=8).sides()
    single = make_plan(tokenizer, ["one", others[0], "two", "one", "one", others[2]], max_length=32, stride=8)
    (got, place), (expected, expected_place) = (plan.windows_of_rows(np.arange(6)) for plan in (sides, single))
    assert place.tolist() == expected_place.tolist()
    assert len(place) > 6
    assert [sides.windows[i].tolist() for i in got] == [single.windows[i].tolist() for i in expected]


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_word_plan_combines_the_features_of_pieces(aggregation):
    n_pieces = [np.array([2, 1]), np.empty(0, np.int64), np.array([3])]
    positions = [np.array([1, 2, 3]), np.empty(0, np.int64), np.array([1, 2, 3])]
    windows = [np.zeros(5, np.int32), np.zeros(2, np.int32), np.zeros(6, np.int32)]
    plan = WordPlan(
        windows, np.arange(3), np.arange(3), positions=positions, n_pieces=n_pieces, aggregation=aggregation
    )
    assert plan.counts.tolist() == [3, 0, 3]
    assert plan.counts_of_units.tolist() == [2, 0, 1]
    # The windows 2, 1 and 0: a word of three pieces, then words of two and of one.
    features = torch.tensor([[1.0, 5.0], [2.0, 4.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 8.0], [4.0, 1.0]])
    expected = {"mean": [[2, 3], [-2, 4], [4, 1]], "max": [[3, 5], [-1, 8], [4, 1]]}[aggregation]
    combined = plan.combine(features.requires_grad_(), upload(plan.combination(np.array([2, 1, 0])), features.device))
    np.testing.assert_allclose(combined.detach(), expected)
    combined.sum().backward()
    assert features.grad.sum() == combined.numel(), "each word passes on its whole gradient"


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_word_plan_combines_on_cuda_in_a_fixed_order(gpu, aggregation):
    n_pieces, windows = [np.array([1, 3]), np.array([2])], [np.arange(6), np.arange(4)]
    positions = [np.arange(1, 5), np.arange(1, 3)]
    plan = WordPlan(
        windows, np.array([0, 1]), np.array([0, 1]), positions=positions, n_pieces=n_pieces, aggregation=aggregation
    )
    features = torch.randn(6, 8)
    combination = plan.combination(np.array([0, 1]))
    expected = plan.combine(features, upload(combination, features.device))
    with contextlib.nullcontext() if gpu is None else gpu.counting() as counts:
        features = features.cuda().requires_grad_()
        combined = plan.combine(features, upload(combination, features.device))
        combined.sum().backward()
    torch.testing.assert_close(combined.detach().cpu(), expected)
    assert gpu is None or not counts.unordered
