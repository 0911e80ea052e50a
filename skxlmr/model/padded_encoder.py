"""The encoder over padded texts, in operators that other runtimes have: what is exported for serving.

Notation: B texts, L tokens with padding, H hidden size, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.attention import Attention
from skxlmr.model.encoder import Encoder
from skxlmr.model.int8 import quantize_weight
from skxlmr.model.layers import Layer

MASKED = -1e9  # added to the scores of padding; finite, so that a row of nothing but padding does not become NaN
TINY = 1e-12


class PaddedEncoder(nn.Module):
    """An encoder in float32 on texts that are padded at the end, with the weights of one on packed tokens.

    Parameters
    ----------
    encoder : Encoder
        With absolute positions, and without quantised weights. Its weights are shared, but for queries, keys and
        values.
    layers : sequence of int, default=(-1,)
        The hidden states to return, numbered as in `Encoder.encode`.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.depth = len(encoder.layers)
        self.wanted = [i % (self.depth + 1) for i in layers]
        self.first_position = encoder.config.first_position
        embeddings = encoder.embeddings
        self.word: nn.Module = embeddings.word
        self.position = embeddings.position
        self.token_type = nn.Parameter(embeddings.token_type.weight[0].detach(), requires_grad=False)  # (H,)
        self.embeddings_norm = embeddings.norm
        self.layers = nn.ModuleList(PaddedLayer(layer) for layer in encoder.layers[: max(self.wanted)])
        self.norm = encoder.norm

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the hidden states (B, L, H) of ids (B, L) and a mask (B, L) of ones at tokens, zeros at padding."""
        positions = torch.arange(input_ids.shape[1]) + self.first_position
        mask = (1.0 - attention_mask.float()[:, None, None, :]) * MASKED  # (B, 1, 1, L)
        x = self.embeddings_norm(self.word(input_ids) + self.token_type + self.position(positions))
        kept = {0: x}
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x, mask)
            kept[i] = self.norm(x) if i == self.depth else x
        return [kept[i] for i in self.wanted]

    def prepare_int8(self) -> None:
        """Store the word embedding in 8 bits, and scale the inputs of each linear layer by their rows.

        A runtime that then quantises a whole input with one scale uses the full range of 8 bits for every token, and
        the result for a text hardly depends on the batch.
        """
        assert isinstance(self.word, nn.Embedding)
        self.word = Int8Embedding(self.word)
        for layer in self.layers:
            assert isinstance(layer, PaddedLayer)
            attention = layer.attention
            attention.qkv, attention.output = RowScaledLinear(attention.qkv), RowScaledLinear(attention.output)
            layer.up, layer.down = RowScaledLinear(layer.up), RowScaledLinear(layer.down)


class PaddedLayer(nn.Module):
    """One layer, (B, L, H) -> (B, L, H); its LayerNorms are where those of `Layer` are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, Layer)
        self.pre_layer_norm = layer.pre_layer_norm
        self.attention = PaddedAttention(layer.attention)
        self.attention_norm, self.ffn_norm = layer.attention_norm, layer.ffn_norm
        self.up: nn.Module = layer.ffn.up
        self.down: nn.Module = layer.ffn.down
        self.activation = layer.ffn.activation

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pre_layer_norm:
            x = x + self.attention(self.attention_norm(x), mask)
            return x + self.ffn(self.ffn_norm(x))
        x = self.attention_norm(x + self.attention(x, mask))
        return self.ffn_norm(x + self.ffn(x))

    def ffn(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class PaddedAttention(nn.Module):
    """Multi-head attention, (B, L, H) -> (B, L, H), with queries, keys and values from one product."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.head_size = attention.head_size
        parts = (attention.query, attention.key, attention.value)
        qkv = nn.Linear(parts[0].in_features, 3 * parts[0].out_features, device="meta")
        qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
        qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]), requires_grad=False)
        self.qkv: nn.Module = qkv
        self.output: nn.Module = attention.output

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, L, N * D) -> (B, N, L, D)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        x = F.scaled_dot_product_attention(q, k, v, mask)
        return self.output(x.transpose(1, 2).flatten(2))  # (B, N, L, D) -> (B, L, N * D) -> (B, L, H)


class RowScaledLinear(nn.Module):
    """A linear layer whose inputs are divided by the largest absolute value of their row, and multiplied afterwards."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        assert isinstance(linear, nn.Linear)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        peaks = x.abs().amax(-1, keepdim=True) + TINY
        return F.linear(x / peaks, self.weight) * peaks + self.bias


class Int8Embedding(nn.Module):
    """A word embedding in 8 bits, with one scale per row; (B, L) -> (B, L, H) float32."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight, peaks = quantize_weight(embedding.weight.detach())
        self.register_buffer("weight", weight)  # (V, H), int8
        self.register_buffer("scales", peaks[:, None] / 127)  # (V, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * F.embedding(ids, self.scales)  # type: ignore[arg-type]
