"""The sizes of a model with random weights, and a text for it."""

import torch

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
IDS = torch.tensor([[0, 5, 6, 2]])
