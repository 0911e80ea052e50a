"""Heads, and their start from a linear model."""

import pytest
import torch

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.heads import ChoiceHead, ClassificationHead, PairHead, PooledHead, SpanHead, TokenHead

CONFIG = XLMRobertaXLConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)

HEADS = {
    "classification": (lambda: ClassificationHead(CONFIG, 3), (10, 8), 3),
    "pooled": (lambda: PooledHead(CONFIG, 3, normalize=False), (10, 8), 3),
    "normalised": (lambda: PooledHead(CONFIG, 3, normalize=True), (10, 8), 3),
    "pairs": (lambda: PairHead(CONFIG, 2, normalize=True), (10, 2, 8), 2),
    "token": (lambda: TokenHead(CONFIG, 4), (10, 8), 4),
    "span": (lambda: SpanHead(CONFIG), (10, 8), 2),
    "choice": (lambda: ChoiceHead(CONFIG), (10, 8), 1),
}


@pytest.mark.parametrize("name", HEADS)
def test_start_makes_outputs_a_linear_map_of_the_projection(name):
    make, shape, n_outputs = HEADS[name]
    head, x = make().eval(), torch.randn(shape, generator=torch.manual_seed(0))
    head.prepare(x)
    features = head.project(x)
    weight, bias = torch.randn(n_outputs, features.shape[1]), torch.randn(n_outputs)
    head.start(weight, bias)
    torch.testing.assert_close(head(x), features @ weight.T + bias)


@pytest.mark.parametrize("name", ["classification", "choice"])
def test_prepare_makes_the_hidden_layer_almost_linear(name):
    make, shape, _ = HEADS[name]
    head, x = make().eval(), 50 * torch.randn(shape, generator=torch.manual_seed(0))
    head.prepare(x)
    features = head.project(x)
    assert torch.corrcoef(torch.stack([features.flatten(), x.flatten()]))[0, 1] > 0.99
    assert 0.2 < features.square().mean().sqrt() < 0.4


def test_pair_head_projects_both_vectors_their_difference_and_product():
    head, x = PairHead(CONFIG, 1, normalize=True), torch.randn(5, 2, 8, generator=torch.manual_seed(0))
    u, v, difference, product = head.project(x).chunk(4, dim=1)
    torch.testing.assert_close(u.square().mean(1), torch.ones(5))
    torch.testing.assert_close(difference, (u - v).abs())
    torch.testing.assert_close(product.mean(1), torch.cosine_similarity(x[:, 0], x[:, 1]))
