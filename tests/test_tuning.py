import pytest
import torch
from sklearn.base import clone

from skxlmr import Full, Head, LoRA
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.tuning import LINEAR_LAYERS, LowRank, as_tuning

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
)


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


@pytest.mark.parametrize("layers", [None, 1, 3])
def test_lora_with_layers_adapts_the_topmost(layers):
    adapter = LoRA(rank=2, targets=list(LINEAR_LAYERS), layers=layers).build(CONFIG)
    adapted = [i for i, deltas in enumerate(adapter) if len(deltas)]
    assert adapted == list(range(3))[-(layers or 3) :]
    assert adapter[2].get("up")(torch.randn(4, 16), torch.randn(4, 32)).shape == (4, 32)
    assert adapter[2].get("down")(torch.randn(4, 32), torch.randn(4, 16)).shape == (4, 16)
    assert adapter[0].get("nothing") is None


@pytest.mark.parametrize("tuning", [LoRA(rank=3), Head(), Full()], ids=str)
def test_tuning_clone_keeps_the_parameters(tuning):
    assert clone(tuning).get_params() == tuning.get_params()
    assert as_tuning(tuning) is tuning


def test_as_tuning_reads_shorthands():
    assert [type(as_tuning(name)) for name in ("lora", "head", "full")] == [LoRA, Head, Full]
