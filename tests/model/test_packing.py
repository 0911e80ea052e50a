import pytest
import torch

from skxlmr.model.packing import Packing, few_sizes


@pytest.mark.parametrize("lengths", [[3, 1, 4], [2, 2], [5], [1]])
def test_packing_unpad_inverts_pad(lengths):
    packing = Packing.from_lengths(lengths)
    x = torch.randn(sum(lengths), 2)
    padded = packing.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(packing.unpad(padded), x)
    for row, text in enumerate(x.split(lengths)):
        assert torch.equal(padded[row, : len(text)], text)
        assert not padded[row, len(text) :].any()
    if packing.mask() is not None:
        assert packing.mask().sum(1).tolist() == lengths


def test_packing_pooling_is_within_each_text():
    lengths = [3, 1, 4]
    packing = Packing.from_lengths(lengths)
    x = torch.randn(8, 5)
    torch.testing.assert_close(packing.mean(x), torch.stack([t.mean(0) for t in x.split(lengths)]))
    torch.testing.assert_close(packing.max(x), torch.stack([t.amax(0) for t in x.split(lengths)]))
    assert packing.first.tolist() == [0, 3, 4]
    for half in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(packing.mean(x.to(half)), packing.mean(x).to(half), rtol=1e-2, atol=1e-2)


def test_packing_pooling_propagates_nan():
    packing, x = Packing.from_lengths([3, 1, 4]), torch.randn(8, 5)
    x[1, 2] = torch.nan
    for pooled in (packing.mean(x), packing.max(x)):
        assert pooled.isnan().nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_packing_pooling_gradients(how):
    packing = Packing.from_lengths([3, 1, 4])
    torch.autograd.gradcheck(getattr(packing, how), torch.randn(8, 5, dtype=torch.float64, requires_grad=True))


def test_few_sizes_has_sixteen_sizes_per_doubling():
    sizes = [few_sizes(n) for n in range(1, 20_001)]
    assert all(n <= size <= n * 17 / 16 for n, size in enumerate(sizes, start=1))
    assert len(set(sizes[1024:2048])) == 16
    assert sum(sizes) / sum(range(1, 20_001)) < 1.03


def test_weighted_mean_and_last_equal_loop():
    lengths = [3, 1, 4]
    packing, x = Packing.from_lengths(lengths), torch.randn(8, 5, dtype=torch.float64)
    parts = x.split(lengths)
    weights = [torch.arange(1.0, n + 1, dtype=torch.float64)[:, None] for n in lengths]
    expected = [(w * part).sum(0) / w.sum() for w, part in zip(weights, parts, strict=True)]
    torch.testing.assert_close(packing.weighted_mean(x), torch.stack(expected))
    torch.testing.assert_close(x[packing.last], torch.stack([part[-1] for part in parts]))


def test_without_first_leaves_out_tokens_and_keeps_positions():
    packing, x = Packing.from_lengths([3, 1, 4]), torch.randn(8, 5, dtype=torch.float64)
    kept, rest = packing.without_first(torch.tensor([1, 0, 3]))
    assert kept.tolist() == [1, 2, 3, 7]
    assert rest.lengths.tolist() == [2, 1, 1]
    expected = torch.stack([(2 * x[1] + 3 * x[2]) / 5, x[3], x[7]])
    torch.testing.assert_close(rest.weighted_mean(x[kept]), expected)
