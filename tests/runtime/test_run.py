import numpy as np
import pytest
import torch

from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import make_plan
from skxlmr.runtime.run import pool_windows, run


@pytest.fixture(scope="module")
def nano():
    return get_backbone("nano")


def run_here(compute, lengths, **settings):
    """Run `compute`, which takes the indices of windows, on the CPU."""
    return run({torch.device("cpu"): compute}, lambda batch: batch, lengths, **settings)


def test_run_of_repeated_texts_computes_each_once(nano):
    texts = ["one", "two", "one", "three", "two"]
    plan = make_plan(nano.tokenizer, texts, max_length=64, stride=8)
    assert plan.text_of_row.tolist() == [0, 1, 0, 2, 1]
    assert len(plan.windows) == 3
    calls = []
    run_here(lambda batch: calls.append(len(batch)) or torch.zeros(len(batch), 1), plan.lengths, batch_tokens=1000)
    assert sum(calls) == 3


def test_run_returns_results_in_the_given_order(nano):
    plan = make_plan(
        nano.tokenizer, [f"text number {i} " + "and more " * (i % 7) for i in range(50)], max_length=64, stride=8
    )

    def length(batch):
        return torch.tensor([[len(plan.windows[i])] for i in batch])

    lengths = run_here(length, plan.lengths, batch_tokens=40)[:, 0]
    assert lengths.tolist() == plan.lengths.tolist()


def test_run_with_counts_returns_several_rows_per_window():
    counts, lengths = np.array([2, 0, 1, 3]), np.array([5, 3, 9, 5])

    def compute(batch):
        return torch.cat([torch.full((counts[i], 2), float(i)) for i in batch])

    result = run_here(compute, lengths, batch_tokens=10, counts=counts)
    assert result[:, 0].tolist() == [0, 0, 2, 3, 3, 3]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_run_of_numbers_that_are_not_finite_raises(value):
    counts, lengths = np.array([2, 0, 1, 3]), np.array([5, 3, 9, 7])

    def compute(batch):
        return torch.cat([torch.full((counts[i], 2), value if i in (2, 3) else float(i)) for i in batch])

    with pytest.raises(
        FloatingPointError, match=r"for 2 of 4 texts of a batch, the first of \d tokens.*dtype='float32'"
    ):
        run_here(compute, lengths, batch_tokens=100, counts=counts)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("injected"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
    ids=lambda error: str(error).split()[0],
)
def test_run_out_of_memory_halves_the_batch(error):
    lengths, sizes = np.full(8, 4), []

    def compute(batch, most=3):
        sizes.append(len(batch))
        if len(batch) > most:
            raise error
        return torch.from_numpy(batch)[:, None]

    assert run_here(compute, lengths, batch_tokens=100)[:, 0].tolist() == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    with pytest.raises(torch.OutOfMemoryError, match=r"\nBatches were halved.*a single text.*release_models"):
        run_here(lambda batch: compute(batch, most=0), lengths, batch_tokens=100)


def test_pool_windows_combines_the_windows_of_each_text():
    values = np.array([[1.0, 5.0], [3.0, 1.0], [7.0, 7.0]], np.float32)
    groups = np.array([0, 0, 1])
    np.testing.assert_allclose(pool_windows(values, groups, "mean"), [[2, 3], [7, 7]])
    np.testing.assert_allclose(pool_windows(values, groups, "max"), [[3, 5], [7, 7]])
    np.testing.assert_allclose(pool_windows(values, groups, "mean", np.array([3, 1, 9])), [[1.5, 4], [7, 7]])
    assert pool_windows(values, groups, "mean", np.array([3, 1, 9])).dtype == np.float32
