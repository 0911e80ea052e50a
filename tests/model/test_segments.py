from __future__ import annotations

import pytest
import torch

from skxlmr.model.segments import segment_logsumexp, segment_max, segment_mean, segment_sum

LENGTHS = [3, 1, 4]
STARTS = torch.tensor([0, 3, 4])


@pytest.mark.parametrize(
    ("of_segments", "argument", "of_rows"),
    [
        (segment_sum, STARTS, lambda rows: rows.sum(0)),
        (segment_mean, STARTS, lambda rows: rows.mean(0)),
        (segment_max, torch.tensor(LENGTHS), lambda rows: rows.amax(0)),
        (segment_logsumexp, torch.tensor(LENGTHS), lambda rows: rows.logsumexp(0)),
    ],
    ids=["sum", "mean", "max", "logsumexp"],
)
def test_segments_equal_loop_and_have_its_gradients(of_segments, argument, of_rows):
    x = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([of_rows(rows) for rows in x.split(LENGTHS)])
    torch.testing.assert_close(of_segments(x, argument), expected)
    torch.autograd.gradcheck(lambda rows: of_segments(rows, argument), x)


def test_segment_sum_of_empty_segments_is_zero():
    x = torch.ones(3, 1)
    assert segment_sum(x, torch.tensor([0, 0, 3, 3])).tolist() == [[0], [3], [0], [0]]
    assert segment_sum(x[:0], torch.tensor([0, 0])).tolist() == [[0], [0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_segment_sum_in_16_bits_adds_in_float32(dtype):
    x = torch.ones(4096, 1, dtype=dtype)
    assert segment_sum(x, torch.tensor([0])).item() == 4096  # in 16 bits 2048 + 1 is 2048


def test_segments_on_cuda_add_in_a_fixed_order(gpu):
    x = torch.randn(8, 5, device="cuda", requires_grad=True)
    starts, lengths = STARTS.cuda(), torch.tensor(LENGTHS).cuda()
    expected = [f(x, at).detach().cpu() for f, at in ((segment_sum, starts), (segment_mean, starts))]
    if gpu is None:
        for _ in range(20):
            assert all(
                torch.equal(f(x, starts).cpu(), e) for f, e in zip((segment_sum, segment_mean), expected, strict=True)
            )
        return
    with gpu.counting() as counts:
        for y in (segment_sum(x, starts), segment_mean(x, starts), segment_logsumexp(x, lengths)):
            y.sum().backward()
    assert not counts.unordered
    assert not counts.waits
