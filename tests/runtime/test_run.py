import numpy as np
import pytest
import torch

from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import make_plan
from skxlmr.runtime.run import pool_windows, run


@pytest.fixture(scope="module")
def nano():
    return get_backbone("nano")


def test_each_distinct_text_is_run_once(nano):
    texts = ["one", "two", "one", "three", "two"]
    work = make_plan(nano.tokenizer, texts, max_length=64, stride=8)
    assert work.text_of_row.tolist() == [0, 1, 0, 2, 1]
    assert len(work.windows) == 3
    calls = []
    run(lambda batch: calls.append(len(batch)) or torch.zeros(len(batch), 1), work.lengths, batch_tokens=1000)
    assert sum(calls) == 3


def test_a_pair_is_told_from_its_parts(nano):
    work = make_plan(nano.tokenizer, ["a b", "a"], ["c", "b c"], max_length=64, stride=8)
    assert len(work.windows) == 2


def test_windows_of_rows_follow_the_rows(nano):
    texts = ["word " * 100, "short", "word " * 100, "longer " * 40]
    work = make_plan(nano.tokenizer, texts, max_length=32, stride=8)
    windows, place = work.windows_of_rows(np.array([3, 1, 2]))
    expected = [[w for w in range(len(work.windows)) if work.text_of_window[w] == t] for t in (2, 1, 0)]
    for i, of_text in enumerate(expected):
        assert windows[place == i].tolist() == of_text
    assert len(expected[0]) > 1


def test_results_come_in_the_order_given(nano):
    work = make_plan(
        nano.tokenizer, [f"text number {i} " + "and more " * (i % 7) for i in range(50)], max_length=64, stride=8
    )

    def length(batch):
        return torch.tensor([[len(work.windows[i])] for i in batch])

    lengths = run(length, work.lengths, batch_tokens=40)[:, 0]
    assert lengths.tolist() == work.lengths.tolist()


def test_windows_may_have_several_rows_or_none():
    counts, lengths = np.array([2, 0, 1, 3]), np.array([5, 3, 9, 5])

    def compute(batch):
        return torch.cat([torch.full((counts[i], 2), float(i)) for i in batch])

    result = run(compute, lengths, batch_tokens=10, counts=counts)
    assert result[:, 0].tolist() == [0, 0, 2, 3, 3, 3]


def test_out_of_memory_halves_the_batch():
    lengths, sizes = np.full(8, 4), []

    def compute(batch, most=3):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("injected")
        return torch.from_numpy(batch)[:, None]

    assert run(compute, lengths, batch_tokens=100)[:, 0].tolist() == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        run(lambda batch: compute(batch, most=0), lengths, batch_tokens=100)


def test_truncation_is_counted_and_told_once(nano):
    work = make_plan(nano.tokenizer, ["long " * 50, "short", "long " * 60], max_length=16, stride=4, truncation=True)
    with pytest.warns(UserWarning, match="2 of 3 distinct texts were cut at 16 tokens"):
        work.warn_of_cut()
    assert work.lengths.max() == 16
    assert len(work.windows) == 3


def test_windows_are_pooled_by_text():
    values = np.array([[1.0, 5.0], [3.0, 1.0], [7.0, 7.0]], np.float32)
    groups = np.array([0, 0, 1])
    np.testing.assert_allclose(pool_windows(values, groups, "mean"), [[2, 3], [7, 7]])
    np.testing.assert_allclose(pool_windows(values, groups, "max"), [[3, 5], [7, 7]])
    np.testing.assert_allclose(pool_windows(values, groups, "mean", np.array([3, 1, 9])), [[1.5, 4], [7, 7]])
    assert pool_windows(values, groups, "mean", np.array([3, 1, 9])).dtype == np.float32


def test_the_budget_shrinks_as_the_model_grows(nano):
    of_wide, of_nano = (
        default_batch_tokens(config, torch.float32, torch.device("cpu"))
        for config in (XLMRobertaXLConfig.xl(), nano.model.config)
    )
    assert 512 <= of_wide < of_nano
