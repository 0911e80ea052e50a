"""Models of random weights and padded batches, for tests of the padded interface."""

import torch

from skxlmr import model as models
from skxlmr.model import XLMRobertaXLConfig

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def build(name, **config):
    torch.manual_seed(0)
    model = getattr(models, "XLMRobertaXL" + name)(XLMRobertaXLConfig(**{**SHAPE, **config})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch(lengths=(5, 17, 1, 9), left=False):
    ids = torch.full((len(lengths), max(lengths)), 1)
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate(lengths):
        tokens = torch.randint(4, 50, (length,), generator=generator)
        ids[row, -length:] = tokens if left else ids[row, -length:]
        if not left:
            ids[row, :length] = tokens
    return ids, (ids != 1).long()
