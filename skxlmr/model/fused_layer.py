"""An encoder layer with 8-bit weights in few kernels, for inference: with Triton on CUDA, and on x86 CPUs.

LayerNorms are computed by the kernels that quantise their results, and bias, gelu and residual by those that multiply;
query, key and value are one product. Without an adapter a layer runs eight kernels and attention, or seven on a CPU.

Notation: T packed tokens, H hidden size, N heads, D head size, I width of the feed-forward network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.attention import Attention, Deltas, attend
from skxlmr.model.int8 import Int8Linear
from skxlmr.model.int8_engines.fused import Fused
from skxlmr.model.packing import Packing


class FeedForwardParts(Protocol):
    """What is used of a `FeedForward`."""

    up: nn.Linear
    down: nn.Linear
    activation: Callable[[Tensor], Tensor]


class LayerParts(Protocol):
    """What is used of a `Layer`."""

    training: bool
    pre_layer_norm: bool
    attention: Attention
    attention_norm: nn.LayerNorm
    ffn_norm: nn.LayerNorm

    @property
    def ffn(self) -> FeedForwardParts:
        """The feed-forward network."""


def can_fuse(layer: LayerParts, deltas: Deltas) -> bool:
    """Whether `run_fused` can run a layer: nothing in it is trained or watched, and its engine is fused."""
    attention, ffn = layer.attention, layer.ffn
    first = attention.query
    if not deltas.keys().isdisjoint(("attention_norm", "ffn_norm")):  # adapters of LayerNorms take their results
        return False
    if torch.is_grad_enabled() or layer.training or not isinstance(first, Int8Linear):
        return False
    linears = (first, attention.key, attention.value, attention.output, ffn.up, ffn.down)
    watched: tuple[Any, ...] = (*linears, attention, ffn, layer.attention_norm, layer.ffn_norm)
    return (
        first.settings.outliers != "dynamic"
        and all(
            isinstance(linear, Int8Linear) and linear.settings is first.settings and linear.observer is None
            for linear in linears
        )
        and not any(part._forward_hooks or part._forward_pre_hooks for part in watched)
        and isinstance(first.engine, Fused)
    )


def run_fused(layer: LayerParts, x: Tensor, packing: Packing, deltas: Deltas) -> Tensor:
    """Run a layer, (T, H) -> (T, H), as its `forward` does without eager attention and cross-attention."""
    if layer.pre_layer_norm:
        x = _attention(layer.attention, layer.attention_norm, x, packing, deltas)
        return _feed_forward(layer.ffn, layer.ffn_norm, x, deltas)
    x = _attention(layer.attention, None, x, packing, deltas)
    x = _feed_forward(layer.ffn, layer.attention_norm, x, deltas, residual_is_normalised=True)
    return _engine(_int8(layer.ffn.down)).layer_norm(x, layer.ffn_norm)


def _attention(attention: Attention, norm: nn.LayerNorm | None, x: Tensor, packing: Packing, deltas: Deltas) -> Tensor:
    """Return x with the output of attention added, (T, H)."""
    query, key, value, output = map(_int8, (attention.query, attention.key, attention.value, attention.output))
    engine = _engine(query)
    terms = [deltas.get(name) for name in ("query", "key", "value")]
    adapted = any(term is not None for term in terms)
    if norm is None:
        inputs, source = engine.quantize(x, query), x
    else:
        inputs, source = engine.normalise(x, norm, query, keep=adapted)
    qkv = engine.products(inputs, [query, key, value])  # (3, T, H)
    if adapted:
        qkv = torch.stack([y if term is None else term(source, y) for term, y in zip(terms, qkv, strict=True)])
    q, k, v = qkv.unflatten(2, (-1, attention.head_size)).unbind()  # (3, T, H) -> (T, N, D) thrice
    attended = attend(q, k, v, packing)
    y = engine.products(engine.quantize(attended, output), [output], residual=x)
    term = deltas.get("output")
    return y if term is None else term(attended.flatten(1), y)


def _feed_forward(
    ffn: FeedForwardParts, norm: nn.LayerNorm, x: Tensor, deltas: Deltas, residual_is_normalised: bool = False
) -> Tensor:
    """Normalise x, and return it, before or after that, with the output of the feed-forward network added, (T, H)."""
    up, down = _int8(ffn.up), _int8(ffn.down)
    of_up, of_down = deltas.get("up"), deltas.get("down")
    engine = _engine(up)
    gelu = ffn.activation is F.gelu and of_up is None
    inputs, normalised = engine.normalise(x, norm, up, keep=residual_is_normalised or of_up is not None)
    residual = normalised if residual_is_normalised else x
    if gelu and of_down is None:
        return engine.products(engine.chain(inputs, up, down), [down], residual=residual)
    inner = engine.products(inputs, [up], gelu=gelu)  # (T, I)
    if not gelu:
        inner = ffn.activation(inner if of_up is None else of_up(normalised, inner))
    y = engine.products(engine.quantize(inner, down), [down], residual=residual)
    return y if of_down is None else of_down(inner, y)


def _int8(linear: nn.Module) -> Int8Linear:
    assert isinstance(linear, Int8Linear)
    return linear


def _engine(linear: Int8Linear) -> Fused:
    engine = linear.engine
    assert isinstance(engine, Fused)
    return engine
