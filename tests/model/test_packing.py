import pytest
import torch

from skxlmr.model.packing import Packing, few_sizes, padded_length


def test_padded_length_wastes_at_most_an_eighth_of_long_texts():
    padded = [padded_length(n) for n in range(1, 4097)]
    assert all(n <= size and size % 16 == 0 for n, size in enumerate(padded, start=1))
    assert all(size < n + 16 for n, size in enumerate(padded[:256], start=1))
    assert all(size <= n * 9 / 8 for n, size in enumerate(padded[128:], start=129))
    assert len(set(padded[:512])) == 24
    assert padded == sorted(padded)


@pytest.mark.parametrize("lengths", [[3, 40, 4, 1, 33], [2, 2], [500], [16, 17]])
def test_buckets_unpad_inverts_pad(lengths):
    buckets = Packing.from_lengths(lengths).buckets
    x = torch.randn(sum(lengths), 2)
    padded = buckets.pad(x)
    assert torch.equal(buckets.unpad(padded), x)
    assert not padded[~buckets.is_token].any()
    assert torch.equal(padded[buckets.is_token].sort(0).values, x.sort(0).values)
    # Each text lies whole at the start of a row of its bucket; rows are in the order of the texts.
    rows = [row for (n, size), part in zip(*_split(buckets, padded), strict=True) for row in part.view(n, size, 2)]
    texts = sorted(x.split(lengths), key=lambda text: padded_length(len(text)))
    for row, text in zip(rows, texts, strict=True):
        assert len(row) == padded_length(len(text))
        assert torch.equal(row[: len(text)], text)


def _split(buckets, padded):
    return buckets.sizes, padded.split([n * size for n, size in buckets.sizes])


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
