"""Attention over packed tokens.

Notation: B texts, B' of them of one length, T packed tokens, L tokens in the longest text, H hidden size, N heads,
D head size; with eager attention, Q queries, P past tokens and K keys of a padded text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import embedding
from skxlmr.model.int8 import prepare
from skxlmr.model.int8_engines import QuantizedInput
from skxlmr.model.packing import Packing
from skxlmr.model.stacked_linear import StackedLinear, can_stack

# Modules of an adapter that add to the linear layers of one encoder layer, by their names.
Deltas = Mapping[str, nn.Module]
NO_DELTAS: Deltas = {}
Adapter = Sequence[Deltas] | nn.ModuleList  # one for each layer


def linear(
    layer: nn.Module, x: Tensor, delta: nn.Module | None = None, quantized: QuantizedInput | None = None
) -> Tensor:
    """Apply a linear layer and its adapter; `quantized` is x after `prepare`, which 8-bit layers can share."""
    y = layer(x) if quantized is None else layer(x, quantized)
    return y if delta is None else delta(x, y)


@dataclass
class Eager:
    """What eager attention in one layer needs, and what its forward pass stores."""

    mask: Tensor  # (B, 1, 1 or Q, K), added to the scores: 0, or the lowest number where a query may not attend
    head_mask: Tensor | None = None  # (N, 1, 1), factors of the heads
    past: tuple[Tensor, ...] = ()  # keys and values of past tokens (B, N, P, D); of cross-attention, all of them
    source: Tensor | None = None  # (B * K, H), hidden states of another encoder, for cross-attention
    probs: Tensor = field(init=False)  # (B, N, Q, K)
    present: tuple[Tensor, Tensor] = field(init=False)  # keys and values that were attended to, (B, N, K, D) twice


class Attention(nn.Module):
    """Multi-head attention, (T, H) -> (T, H): over each text's own tokens, or over those of another encoder."""

    def __init__(self, config: XLMRobertaXLConfig, position_type: str = "absolute") -> None:
        super().__init__()
        self.head_size = config.head_size
        self.dropout_prob = config.attention_probs_dropout_prob
        self.position_type = position_type
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        if position_type != "absolute":
            self.distance = embedding(2 * config.max_position_embeddings - 1, config.head_size)
        self._stacked: StackedLinear | None = None  # query, key and value as one layer

    def forward(self, x: Tensor, packing: Packing, deltas: Deltas = NO_DELTAS, eager: Eager | None = None) -> Tensor:
        dropout_p = self.dropout_prob if self.training else 0.0
        if eager is None:
            x = attend(*self.project(x, deltas), packing, dropout_p)
        else:
            source = x if eager.source is None else eager.source
            x = self.attend_eagerly(*self.project(x, deltas, source), eager, dropout_p)
        return linear(self.output, x.flatten(1), deltas.get("output"))  # (T, N, D) -> (T, H)

    def project(self, x: Tensor, deltas: Deltas, source: Tensor | None = None) -> Sequence[Tensor]:
        """Return queries (T, N, D) of x (T, H), and keys and values of x or another `source`."""
        layers, source = (self.query, self.key, self.value), x if source is None else source
        adapted = any(deltas.get(name) is not None for name in ("query", "key", "value"))
        if source is x and not adapted and can_stack(layers, x):
            stacked = self._stacked
            if stacked is None or not stacked.holds(layers):
                stacked = self._stacked = StackedLinear(layers)
            return stacked(x).view(len(x), 3, -1, self.head_size).unbind(1)  # (T, 3 * H) -> (T, N, D) thrice
        quantized = source_quantized = prepare(self.query, x)  # an 8-bit input is quantised once for the three
        if source is not x:
            source_quantized = prepare(self.key, source)
        return [
            linear(layer, inputs, deltas.get(name), shared).unflatten(1, (-1, self.head_size))  # (T, H) -> (T, N, D)
            for name, layer, inputs, shared in (
                ("query", self.query, x, quantized),
                ("key", self.key, source, source_quantized),
                ("value", self.value, source, source_quantized),
            )
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Attention:
        """Convert as `to` does; the weights leave the matrix that they are parts of."""
        self._stacked = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the matrix, of which copies are not parts."""
        return {**self.__dict__, "_stacked": None}

    def attend_eagerly(self, q: Tensor, k: Tensor, v: Tensor, eager: Eager, dropout_p: float) -> Tensor:
        """Compute attention step by step, for what the kernels do not return; (T, N, D) thrice -> (T, N, D).

        Texts are padded here: T is B * Q for queries, and another multiple of B for keys and values.
        """
        batch_size = eager.mask.shape[0]
        q, k, v = (x.unflatten(0, (batch_size, -1)).transpose(1, 2) for x in (q, k, v))  # -> (B, N, Q or K, D)
        if eager.past and eager.source is not None:
            k, v = eager.past
        elif eager.past:
            k, v = torch.cat([eager.past[0], k], 2), torch.cat([eager.past[1], v], 2)
        eager.present = (k, v)
        scores = q @ k.transpose(2, 3)  # (B, N, Q, K)
        if self.position_type != "absolute":
            scores = scores + self.relative_scores(q, k)
        probs = (scores / self.head_size**0.5 + eager.mask).softmax(-1)
        probs = F.dropout(probs, dropout_p, training=dropout_p > 0)
        eager.probs = probs if eager.head_mask is None else probs * eager.head_mask
        return (eager.probs @ v).transpose(1, 2).flatten(0, 1)  # (B, N, Q, D) -> (T, N, D)

    def relative_scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return scores by the distance of query and key (Shaw et al., 2018; Huang et al., 2020), (B, N, Q, K)."""
        n_queries, n_keys = q.shape[2], k.shape[2]
        keys = torch.arange(n_keys, device=q.device)
        distances = keys[n_keys - n_queries :, None] - keys  # the queries are the last of the keys
        embedded = self.distance(distances + self.distance.num_embeddings // 2).to(q.dtype)  # (Q, K, D)
        scores = torch.einsum("bnqd,qkd->bnqk", q, embedded)
        if self.position_type == "relative_key_query":
            scores = scores + torch.einsum("bnkd,qkd->bnqk", k, embedded)
        return scores


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float = 0.0) -> Tensor:
    """Compute scaled dot-product attention within each text; (T, N, D) thrice -> (T, N, D).

    In a causal packing a token attends only to itself and those before it. On CUDA the variable-length kernel takes
    packed tokens as they are, in half precision and without dropout. On a CPU one call takes all neighbouring texts of
    the same length, of which there are many because batches are sorted by length: nothing is padded, and the result for
    a text is the same, bit for bit, in any batch. Otherwise q, k and v are padded.
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and dropout_p == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = packing.cu_seqlens, packing.max_length
        window = (-1, 0 if packing.causal else -1)
        y = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=window)
        assert isinstance(y, Tensor)  # there is a second result only where it is requested
        return y
    if q.device.type == "cpu":
        return attend_by_length(q, k, v, packing, dropout_p)
    return attend_padded(q, k, v, packing, dropout_p)


def attend_padded(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float) -> Tensor:
    """Compute attention within each text, padded to the longest; (T, N, D) thrice -> (T, N, D)."""
    q, k, v = (packing.pad(x).transpose(1, 2) for x in (q, k, v))  # (T, N, D) -> (B, N, L, D)
    mask = None if packing.causal else packing.mask()  # padding comes last: no causal mask lets it through
    mask = None if mask is None else mask[:, None, None, :]  # (B, L) -> (B, 1, 1, L)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=packing.causal)
    return packing.unpad(x.transpose(1, 2))  # (B, N, L, D) -> (T, N, D)


def attend_by_length(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float) -> Tensor:
    """Compute attention within each text, in one call per run of texts of one length; (T, N, D) thrice -> (T, N, D).

    There may be more rows after the last text; what is returned for them has no meaning.
    """
    dtype, sizes = q.dtype, [n_texts * length for n_texts, length in packing.runs]
    sizes.append(len(q) - sum(sizes))
    if dtype.itemsize == 2 and torch.is_grad_enabled() and q.requires_grad:
        # The kernel's backward pass in 16 bits takes up to five times as long.
        q, k, v = q.float(), k.float(), v.float()
    attended, rest = [], v[len(v) - sizes[-1] :]
    for (n_texts, length), *run in zip(packing.runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=False):
        q, k, v = (x.unflatten(0, (n_texts, length)).transpose(1, 2) for x in run)  # -> (B', N, L, D)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=packing.causal)
        attended.append(x.transpose(1, 2).flatten(0, 1))  # (B', N, L, D) -> (B' * L, N, D)
    attended += [rest] if sizes[-1] else []
    return (attended[0] if len(attended) == 1 else torch.cat(attended)).to(dtype)
