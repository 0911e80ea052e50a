import pytest
import torch

from skxlmr.model.attention import attend, attend_padded
from skxlmr.model.packing import Packing


@pytest.mark.parametrize("causal", [False, True])
def test_attend_padded_equals_attend(causal):
    torch.manual_seed(0)
    packing = Packing.from_lengths([3, 8, 1], causal=causal)
    q, k, v = torch.randn(3, 12, 2, 8, dtype=torch.float64)
    torch.testing.assert_close(attend_padded(q, k, v, packing, 0.0), attend(q, k, v, packing))
