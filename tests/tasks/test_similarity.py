"""Losses of similarity learning, against the formulas of the papers and against sentence-transformers."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skxlmr.columns import check_text_column
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import Windows
from skxlmr.tasks.similarity import (
    CLASS_TEMPERATURE,
    TEMPERATURE,
    SimilarityLearning,
    class_losses,
    order_by_twos,
    pair_losses,
    similarity_losses,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of its own imports
    from sentence_transformers.sentence_transformer import losses as oracle

PAIRS = [["where", "here"], ["when", "now"], ["who", "me"], ["where", "there"]]


def unit_vectors(*shape, seed=0):
    vectors = np.random.RandomState(seed).standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_task(goal, **fields):
    return SimilarityLearning(Windows(), goal=goal, pooling="mean", dims=(192,), **fields)


def test_class_losses_equal_formula_of_paper():
    z, classes = unit_vectors(7, 5), np.array([0, 1, 0, 2, 1, 0, 3])
    expected = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        positives = [p for p in others if classes[p] == classes[i]]
        total = sum(np.exp(z[i] @ z[a] / CLASS_TEMPERATURE) for a in others)
        if positives:
            terms = [np.log(np.exp(z[i] @ z[p] / CLASS_TEMPERATURE) / total) for p in positives]
            expected.append(-np.mean(terms))
    got = class_losses(torch.from_numpy(z), torch.from_numpy(classes))
    assert got[3] == got[6] == 0  # alone in their classes
    np.testing.assert_allclose(got.mean(), np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("classes", [[0], [0, 1, 2]])
def test_class_losses_without_positives_are_zero_with_finite_gradient(classes):
    vectors = torch.from_numpy(unit_vectors(len(classes), 4)).requires_grad_()
    losses = class_losses(vectors, torch.tensor(classes))
    losses.mean().backward()
    assert losses.tolist() == [0] * len(classes)
    assert not vectors.grad.any()


def test_pair_losses_equal_formula_in_both_directions():
    vectors = unit_vectors(4, 2, 6)
    scores = vectors[:, 0] @ vectors[:, 1].T / TEMPERATURE
    there = [-np.log(np.exp(scores[i, i]) / np.exp(scores[i]).sum()) for i in range(4)]
    back = [-np.log(np.exp(scores[i, i]) / np.exp(scores[:, i]).sum()) for i in range(4)]
    got = pair_losses(torch.from_numpy(vectors), torch.arange(8).view(4, 2))
    np.testing.assert_allclose(got, (np.array(there) + back) / 2, rtol=1e-12)


def test_pair_losses_of_pairs_with_a_common_text_do_not_compare_them():
    vectors = torch.from_numpy(unit_vectors(3, 2, 6))
    texts = torch.tensor([[0, 1], [2, 3], [0, 4]])  # the first and the last have one question
    got = pair_losses(vectors, texts)
    np.testing.assert_allclose(got[0], pair_losses(vectors[:2], texts[:2])[0], rtol=1e-12)
    np.testing.assert_allclose(got[2], pair_losses(vectors[1:], texts[1:])[1], rtol=1e-12)


def test_similarity_losses_equal_formula():
    vectors, y = unit_vectors(5, 2, 6), np.array([0.1, 3.0, -2.0, 3.0, 0.5])
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1)
    wrong = [np.exp((cosines[i] - cosines[j]) / TEMPERATURE) for i in range(5) for j in range(5) if y[i] < y[j]]
    got = similarity_losses(torch.from_numpy(vectors), torch.from_numpy(y))
    np.testing.assert_allclose(got, np.full(5, np.log(1 + np.sum(wrong))), rtol=1e-12)


def test_similarity_losses_on_cuda_equal_cpu(gpu):
    vectors, y = torch.from_numpy(unit_vectors(5, 2, 6)), torch.tensor([0.1, 3.0, -2.0, 3.0, 0.5])
    found = []
    for device in ("cpu", "cuda"):
        x = vectors.clone().to(device).requires_grad_()
        losses = similarity_losses(x, y.to(device))
        losses.sum().backward()
        found.append((losses.detach().cpu(), x.grad.cpu()))
    for on_cpu, on_cuda in zip(*found, strict=True):
        torch.testing.assert_close(on_cuda, on_cpu)


def test_similarity_losses_of_one_pair_are_zero():
    vectors = torch.from_numpy(unit_vectors(1, 2, 6)).requires_grad_()
    losses = similarity_losses(vectors, torch.tensor([1.0]))
    losses.mean().backward()
    assert losses.tolist() == [0]
    assert not vectors.grad.any()


def test_losses_equal_those_of_sentence_transformers():
    vectors = torch.from_numpy(unit_vectors(6, 2, 8) * np.arange(1, 7)[:, None, None])
    sides, scaled, y = list(vectors.unbind(1)), F.normalize(vectors, dim=-1), torch.rand(6, dtype=torch.float64)
    directions = ("query_to_doc", "doc_to_query")
    ranking = oracle.MultipleNegativesRankingLoss(None, directions=directions, partition_mode="per_direction")
    expected = ranking.compute_loss_from_embeddings(sides, None)
    torch.testing.assert_close(pair_losses(scaled, torch.arange(12).view(6, 2)).mean(), expected)
    cosent = oracle.CoSENTLoss(None).compute_loss_from_embeddings(sides, y)
    torch.testing.assert_close(similarity_losses(scaled, y).mean(), cosent)


def test_compare_averages_losses_over_truncations():
    vectors = torch.from_numpy(np.random.RandomState(0).standard_normal((6, 8)))
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    task = replace(make_task("classes"), dims=(2, 5, 8))
    expected = [class_losses(F.normalize(vectors[:, :n], dim=1), classes) for n in (2, 5, 8)]
    torch.testing.assert_close(task.compare(vectors, classes), sum(expected) / 3)


def test_order_by_twos_is_permutation_with_positives_in_even_batches():
    classes = np.repeat(np.arange(40), 3)
    order = order_by_twos(classes, np.random.RandomState(0))
    assert sorted(order) == list(range(120))
    twos = classes[order].reshape(-1, 2)
    assert (twos[:, 0] == twos[:, 1]).sum() == 40
    assert (order != order_by_twos(classes, np.random.RandomState(1))).any()
    assert sorted(order_by_twos(np.array([2, 0, 2]), np.random.RandomState(0))) == [0, 1, 2]


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("goal", ["classes", "pairs"])
def test_pool_of_windows_equals_pooling_of_embedder(goal, pooling):
    backbone, texts = get_backbone("nano", device="cpu"), ["one " * n for n in (40, 1, 90, 40)]
    column = check_text_column(texts if goal == "classes" else list(zip(texts, texts[::-1], strict=True)))
    task = replace(make_task(goal), pooling=pooling, windows=Windows(max_length=16, stride=2))
    plan = task.plan(backbone, column)
    rows = np.arange(4)
    windows, place = plan.windows_of_rows(rows)
    features = torch.randn(len(windows), 5, dtype=torch.float64)
    got = task.pool(features, plan, windows, place)
    sides = 2 * place + plan.is_second[windows] if goal == "pairs" else place
    for side in np.unique(sides):
        some = features[torch.from_numpy(sides == side)].numpy()
        tokens = plan.lengths[windows][sides == side]
        weights = tokens if pooling == "mean" else None
        expected = some.max(0) if pooling == "max" else np.average(some, axis=0, weights=weights)
        np.testing.assert_allclose(got.view(-1, 5)[side], expected, rtol=1e-12)


def test_find_numbers_the_texts_of_pairs():
    task, targets = make_task("pairs").find(None, check_text_column(PAIRS), np.ones(4))
    assert task.goal == "pairs"
    assert targets[0, 0] == targets[3, 0]
    assert len(np.unique(targets)) == 7
    task, targets = make_task("pairs").find([1, 0, 0.5, 2], check_text_column(PAIRS), np.ones(4))
    assert (task.goal, targets.tolist()) == ("similarities", [2, 0, 1, 3])


@pytest.mark.parametrize(
    ("goal", "X", "y", "message"),
    [
        ("classes", ["a", "b"], None, "requires y to be passed"),
        ("classes", ["a", "b"], ["x", None], "y, row 1: None is not a label"),
        ("classes", ["a", "b"], ["x", "x"], "needs at least 2 classes"),
        ("classes", ["a", "b"], ["x", "y"], "a class of its own"),
        ("pairs", ["a", "b"], None, "needs two columns of texts"),
        ("pairs", PAIRS[:1], None, "needs two pairs"),
        ("pairs", PAIRS, [1, 2, "high", 3], "y, row 2: 'high' is not a number"),
        ("pairs", PAIRS, [1, 2, np.nan, 3], "y, row 2: nan is NaN"),
        ("pairs", PAIRS, np.ones((4, 2)), "y has 2 columns"),
        ("pairs", PAIRS, np.ones(4), "the same number for all pairs"),
    ],
)
def test_find_with_wrong_targets_raises(goal, X, y, message):
    with pytest.raises(ValueError, match=message):
        make_task(goal).find(y, check_text_column(X), np.ones(len(X)))
