import pytest
import torch
from torch import nn

from skxlmr.model.checkpointing import Checkpointing


class Counting(nn.Module):
    """Counts how often it runs."""

    runs = 0

    def forward(self, x, factor):
        self.runs += 1
        return (x * factor).sin()


@pytest.mark.parametrize("options", [{}, {"offload": True}, {"options": {"use_reentrant": True}}])
def test_layer_runs_again_in_backward_pass(options):
    layer, x = Counting(), torch.randn(3, requires_grad=True)
    result = Checkpointing(**options).run(layer, x, 2.0)
    assert layer.runs == 1
    result.sum().backward()
    assert layer.runs == 2
    torch.testing.assert_close(x.grad, 2 * (2 * x).cos().detach())


def test_every_second_layer_is_run_again():
    assert [Checkpointing(every_n_layers=2).applies_to(i) for i in range(5)] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"reentrant": True}}, "has no option reentrant; torch.utils.checkpoint has"),
        ({"every_n_layers": 0}, "every_n_layers must be a positive integer, got 0"),
        ({"every_n_layers": "2"}, "every_n_layers must be a positive integer, got '2'"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Checkpointing(**options)
