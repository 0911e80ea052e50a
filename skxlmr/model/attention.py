"""Attention over packed tokens.

Notation: B texts, B' of them of one length L, T packed tokens, T' with padding, H hidden size, N heads without pruned
ones, D head size; with eager attention, Q queries, P past tokens and K keys of a padded text.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.avx import operators
from skxlmr.model.avx.library import DTYPES, library
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import embedding
from skxlmr.model.packing import Packing
from skxlmr.model.quantized_input import QuantizedInput
from skxlmr.model.stacked_linear import StackedLinear, can_stack
from skxlmr.model.storage import prepare

AMPERE = (8, 0)  # compute capability of the first GPUs with FlashAttention
HEAD_MULTIPLE = 8  # kernels of CUDA for 16 bits take multiples of it as head sizes

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
    """Multi-head attention, (T, H) -> (T, H): over each text's own tokens, or over those of another encoder.

    `num_heads` None is that of the config.
    """

    def __init__(
        self, config: XLMRobertaXLConfig, position_type: str = "absolute", num_heads: int | None = None
    ) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.dropout_prob = config.attention_probs_dropout_prob
        self.position_type = position_type
        width = self.head_size * (config.num_attention_heads if num_heads is None else num_heads)  # N * D
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)
        if position_type != "absolute":
            self.distance = embedding(2 * config.max_position_embeddings - 1, config.head_size)
        self._stacked: StackedLinear | None = None  # query, key and value as one layer
        self._may_stack = True

    def forward(self, x: Tensor, packing: Packing, deltas: Deltas = NO_DELTAS, eager: Eager | None = None) -> Tensor:
        dropout_p = self.dropout_prob if self.training else 0.0
        if eager is None:
            x = attend(*self.project(x, deltas), packing, dropout_p)
        else:
            source = x if eager.source is None else eager.source
            x = self.attend_eagerly(*self.project(x, deltas, source), eager, dropout_p)
        return linear(self.output, x.flatten(1), deltas.get("output"))  # (T, N, D) -> (T, N * D) -> (T, H)

    def project(self, x: Tensor, deltas: Deltas, source: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (T, N, D) of x (T, H), and keys and values of x or another `source`."""
        layers, source = (self.query, self.key, self.value), x if source is None else source
        adapted = any(deltas.get(name) is not None for name in ("query", "key", "value"))
        if source is x and not adapted and self._may_stack and can_stack(layers, x):
            stacked = self._stacked
            if stacked is None or not stacked.holds(layers):
                stacked = self._stacked = StackedLinear(layers)
            q, k, v = stacked(x).unflatten(1, (3, -1, self.head_size)).unbind(1)  # (T, 3 * N * D) -> (T, N, D) thrice
            return q, k, v
        quantized = source_quantized = prepare(self.query, x)  # an 8-bit input is quantised once for the three
        if source is not x:
            source_quantized = prepare(self.key, source)
        q, k, v = (
            linear(layer, inputs, deltas.get(name), shared).unflatten(1, (-1, self.head_size))  # (T, H) -> (T, N, D)
            for name, layer, inputs, shared in (
                ("query", self.query, x, quantized),
                ("key", self.key, source, source_quantized),
                ("value", self.value, source, source_quantized),
            )
        )
        return q, k, v

    def never_stack(self) -> None:
        """Leave the weights where they are, as FSDP needs it, which gathers them into memory of its own."""
        self._stacked, self._may_stack = None, False

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

    In a causal packing a token attends only to itself and those before it. On CPUs nothing is padded, and the result
    for a text is the same, bit for bit, in any batch: for inference on x86 a kernel takes all texts; otherwise one call
    takes all neighbouring texts of the same length, of which there are many because batches are sorted by length. On
    CUDA FlashAttention takes packed tokens as they are, where it runs. Otherwise texts are padded within buckets of
    similar length.
    """
    if takes_kernel(q, dropout_p):
        return operators.attention(q, k, v, packing.cu_seqlens, packing.max_length, packing.causal)
    if q.device.type == "cpu":
        return attend_by_length(q, k, v, packing, dropout_p)
    if not (q.is_cuda and q.dtype.itemsize == 2):
        return attend_in_buckets(q, k, v, packing, dropout_p)
    head_size = q.shape[2]
    if head_size % HEAD_MULTIPLE:  # zeros add nothing to the scores, and the outputs that they give are cut off
        q, k, v = (F.pad(x, (0, -head_size % HEAD_MULTIPLE)) for x in (q, k, v))
    attend_here = attend_packed if takes_packed(q, dropout_p) else attend_in_buckets
    y = attend_here(q, k, v, packing, dropout_p, head_size**-0.5)
    return y[..., :head_size] if head_size % HEAD_MULTIPLE else y


def takes_kernel(q: Tensor, dropout_p: float) -> bool:
    """Whether the kernel for x86 CPUs takes queries (T, N, D): for inference, in its dtypes."""
    return (
        q.device.type == "cpu"
        and q.dtype in DTYPES
        and not dropout_p
        and not (torch.is_grad_enabled() and q.requires_grad)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def takes_packed(q: Tensor, dropout_p: float) -> bool:
    """Whether `attend_packed` takes queries (T, N, D) of 16 bits on CUDA: the limits of FlashAttention in torch."""
    # Gradients of larger heads are for the A100 and the H100 only.
    has_kernel = q.shape[2] <= 192 or not (torch.is_grad_enabled() and q.requires_grad)
    return dropout_p == 0 and has_kernel and runs_packed(q.device, q.dtype, q.shape[2])


def runs_packed(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether a CUDA device has FlashAttention for heads of this size, without gradients or dropout.

    GPUs of AMD, which torch calls CUDA devices, too, have compute capabilities of another kind.
    """
    if torch.version.hip is not None:
        return False
    return dtype.itemsize == 2 and head_size <= 256 and torch.cuda.get_device_capability(device) >= AMPERE


def attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float, scale: float) -> Tensor:
    """Compute attention within each text by FlashAttention, without padding or dropout; (T, N, D) thrice -> (T, N, D).

    The keys of a text are not split among blocks of threads: how many parts there are would depend on the longest text
    of the batch, and the order of sums on the parts.
    """
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11, which may lack this argument, splits nothing. With it torch takes FlashAttention. From 2.14 on it
    # would otherwise prefer that of cuDNN, for long texts only, so that the longest text would choose the kernel.
    unsplit: dict[str, Any] = {"num_splits": 1} if "num_splits" in _arguments(varlen_attn) else {}
    bounds, longest = packing.cu_seqlens, packing.max_length
    window = (-1, 0 if packing.causal else -1)
    y = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=window, **unsplit)
    assert isinstance(y, Tensor)  # there is a second result only where it is requested
    return y


@functools.cache
def _arguments(function: Callable) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def attend_in_buckets(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float, scale: float | None = None
) -> Tensor:
    """Compute attention within each text, padded to the length of its bucket; (T, N, D) thrice -> (T, N, D).

    The length of a bucket depends on nothing but the text, and the mask is there even if nothing is padded. Otherwise
    the other texts of the batch would choose the kernel.
    """
    buckets = packing.buckets
    masks: list[Tensor | None] = [None] * len(buckets.sizes)  # padding comes last: no causal mask lets it through
    sizes = [n_texts * length for n_texts, length in buckets.sizes]
    if not packing.causal:
        parts = zip(buckets.is_token.split(sizes), buckets.sizes, strict=True)
        masks = [part.view(n_texts, 1, 1, length) for part, (n_texts, length) in parts]
    q, k, v = (buckets.pad(x) for x in (q, k, v))  # (T, N, D) -> (T', N, D)
    runs = zip(buckets.sizes, masks, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    attended = [_attend_run(qkv, size, packing.causal, dropout_p, mask, scale) for size, mask, *qkv in runs]
    return buckets.unpad(_joined(attended))  # (T', N, D) -> (T, N, D)


def attend_by_length(q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout_p: float) -> Tensor:
    """Compute attention within each text, in one call per run of texts of one length; (T, N, D) thrice -> (T, N, D).

    There may be more rows after the last text; what is returned for them has no meaning.
    """
    dtype, sizes = q.dtype, [n_texts * length for n_texts, length in packing.runs]
    sizes.append(len(q) - sum(sizes))
    if dtype.itemsize == 2 and torch.is_grad_enabled() and q.requires_grad:
        # The kernel's backward pass in 16 bits takes up to five times as long.
        q, k, v = q.float(), k.float(), v.float()
    rest = v[len(v) - sizes[-1] :]
    runs = zip(packing.runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=False)
    attended = [_attend_run(qkv, size, packing.causal, dropout_p) for size, *qkv in runs]
    attended += [rest] if sizes[-1] else []
    return _joined(attended).to(dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_run(
    qkv: Sequence[Tensor],
    size: tuple[int, int],
    causal: bool,
    dropout_p: float,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Compute attention within texts of one length, `size` is B' and L; (B' * L, N, D) thrice -> (B' * L, N, D)."""
    q, k, v = (x.unflatten(0, size).transpose(1, 2) for x in qkv)  # -> (B', N, L, D)
    x = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal=causal, scale=scale)
    return x.transpose(1, 2).flatten(0, 1)  # (B', N, L, D) -> (B' * L, N, D)
