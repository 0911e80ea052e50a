import torch

from skxlmr import Bias
from skxlmr.tuning.adapters import LINEAR_LAYERS


def test_bias_adds_one_to_each_linear_layer_and_merges_into_it(config):
    (delta,) = {type(delta) for deltas in Bias().build(config) for delta in deltas.values()}
    assert [len(deltas) for deltas in Bias().build(config)] == [len(LINEAR_LAYERS)] * 3
    layer, bias, x = torch.nn.Linear(4, 3), delta(3), torch.randn(2, 4)
    torch.nn.init.normal_(bias.bias)
    expected = bias(x, layer(x))
    with torch.no_grad():
        bias.merge_into(layer)
    torch.testing.assert_close(layer(x), expected)
