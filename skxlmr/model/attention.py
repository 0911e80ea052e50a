"""Self-attention over packed tokens.

Notation, here and in the encoder: B texts, T packed tokens, L tokens in the longest text, H hidden size, N heads,
D head size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.packing import Packing

# What an adapter adds to the linear layers of one encoder layer, by the layer's name.
Deltas = Mapping[str, nn.Module]


def linear(layer: nn.Linear, x: Tensor, delta: nn.Module | None = None) -> Tensor:
    """Apply a linear layer of the base and, where an estimator learned one, the adapter's own term."""
    return layer(x) if delta is None else layer(x) + delta(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention, (T, H) -> (T, H)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, packing: Packing, deltas: Deltas) -> Tensor:
        q, k, v = (
            linear(layer, x, deltas.get(name)).unflatten(1, (-1, self.head_size))  # (T, H) -> (T, N, D)
            for name, layer in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        x = attend(q, k, v, packing, self.dropout_prob if self.training else 0.0)
        return linear(self.output, x.flatten(1), deltas.get("output"))  # (T, N, D) -> (T, H)


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float = 0.0) -> Tensor:
    """Scaled dot-product attention within each text; (T, N, D) thrice -> (T, N, D).

    The variable-length kernel of CUDA takes packed tokens as they are, in half precision and without dropout.
    Everywhere else the three are padded for this call alone.
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and dropout_p == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = packing.cu_seqlens, packing.max_length
        return varlen_attn(q, k, v, bounds, bounds, longest, longest)
    q, k, v = (packing.pad(x).transpose(1, 2) for x in (q, k, v))  # (T, N, D) -> (B, N, L, D)
    mask = packing.mask()
    mask = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L): keys
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    return packing.unpad(x.transpose(1, 2))  # (B, N, L, D) -> (T, N, D)
