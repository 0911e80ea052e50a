import pytest
import torch

from skxlmr.tuning.adapters import LowRank


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_low_rank_adds_the_product_of_its_matrices(dtype):
    delta = LowRank(16, 32, rank=4, scale=2.0, dropout=0.0)
    delta = delta.double() if dtype == torch.float64 else delta
    x, y = torch.randn(5, 16, dtype=dtype), torch.randn(5, 32, dtype=dtype)
    assert torch.equal(delta(x, y), y), "it starts as zero"
    torch.nn.init.normal_(delta.b)
    term = 2.0 * x.to(delta.a) @ (delta.b @ delta.a).T
    assert delta(x, y).dtype == dtype
    torch.testing.assert_close(delta(x, y), y + term.to(dtype))


def test_low_rank_gradients_equal_numerical_ones():
    delta = LowRank(6, 4, rank=2, scale=3.0, dropout=0.0).double()
    torch.nn.init.normal_(delta.b)
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (x, y, delta.a, delta.b)]
    torch.autograd.gradcheck(lambda x, y, a, b: delta(x, y), arguments)
