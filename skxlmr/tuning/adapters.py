"""What is added to a frozen base: low-rank terms and biases of its linear layers and LayerNorms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model import XLMRobertaXLConfig

LINEAR_LAYERS = ("query", "key", "value", "output", "up", "down")  # of an encoder layer

# Their paths in the encoder layer, and those of its LayerNorms.
PATHS = {name: f"{'ffn' if name in ('up', 'down') else 'attention'}.{name}" for name in LINEAR_LAYERS}
NORM_PATHS = {"attention_norm": "attention_norm", "ffn_norm": "ffn_norm"}
# The LayerNorms outside of the layers, by the names of their deltas: of the embeddings, in the first layer's
# adapter; and of the output, in the last one's.
OUTER_PATHS = {"embeddings_norm": "embeddings.norm", "norm": "norm"}


def layer_widths(config: XLMRobertaXLConfig, layer: int) -> dict[str, tuple[int, int]]:
    """Return the input and output widths of the linear layers of an encoder layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = len(config.kept_heads(layer)) * config.head_size
    attention = {"query": (hidden, heads), "key": (hidden, heads), "value": (hidden, heads), "output": (heads, hidden)}
    return {**attention, "up": (hidden, inner), "down": (inner, hidden)}


class LowRank(nn.Module):
    """Add the term `scale * B A x` of low-rank adaptation to y, (T, in) and (T, out) -> (T, out); and perhaps a bias.

    B and the bias start at zero, so an untrained adapter changes nothing.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, scale: float, dropout: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        low = F.linear(self.dropout(x.to(self.a.dtype)), self.a)
        if y.dtype == low.dtype:
            return torch.addmm(y, low, self.b.t(), alpha=self.scale)
        return y + F.linear(low * self.scale, self.b).to(y.dtype)

    def merge_into(self, layer: nn.Linear | nn.LayerNorm) -> None:
        """Add the term to the weights of a linear layer."""
        layer.weight += (self.b @ self.a * self.scale).to(layer.weight)
        if self.bias is not None:
            layer.bias.add_(self.bias.to(layer.bias))

    @property
    def kept_per_token(self) -> int:
        """Activations kept per token for the backward pass: the input, its dropout mask, and the low-rank product."""
        rank, in_features = self.a.shape
        return in_features * (2 if self.dropout.p else 1) + rank


class AddedBias(nn.Module):
    """Add a bias to y, beside that of the linear layer or LayerNorm, (T, out) -> (T, out). It starts at zero."""

    kept_per_token = 0

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.bias.to(y.dtype)

    def merge_into(self, layer: nn.Linear | nn.LayerNorm) -> None:
        """Add it to the bias of a layer."""
        layer.bias.add_(self.bias.to(layer.bias))


class LayerAdapter(nn.ModuleDict):
    """The deltas of one encoder layer, by the name of the linear layer or LayerNorm that each is added to."""

    def get(self, name: str) -> nn.Module | None:
        """Return the delta of a linear layer, or None."""
        return self._modules.get(name)
