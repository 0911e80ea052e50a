"""Packed batches: the tokens of all texts, one text after the other, and the boundaries between them.

All operations on single tokens (linear layers, LayerNorm, activations) run on the packed form, without any padding.

Notation: B texts, T packed tokens, L tokens in the longest text, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skxlmr.model.segments import segment_max, segment_mean
from skxlmr.system.lazy import lazy_property


def padded_length(length: int) -> int:
    """Return the length to which a text is padded in its bucket: a multiple of 16, with eight per doubling from 128 on.

    Above 128 tokens at most an eighth is padding. It depends on nothing but the text, so that neither does the result.
    """
    step = max(16, 1 << max((length - 1).bit_length() - 4, 0))
    return -(-length // step) * step


@dataclass(frozen=True)
class Buckets:
    """Packed texts in buckets of similar length, each text padded to the length of its bucket: T' tokens with padding.

    Only attention kernels that take no packed texts need them.
    """

    sizes: list[tuple[int, int]]  # of each bucket, the number of its texts B' and their padded length L'
    slots: Tensor  # (T,) int64, index of each packed token among the padded ones
    is_token: Tensor  # (T',) bool, False at padding

    @classmethod
    def from_lengths(cls, lengths: Tensor) -> Buckets:
        """Return the buckets of texts of these lengths, (B,)."""
        on_host = lengths.cpu()
        distinct, which = on_host.unique(return_inverse=True)
        padded = torch.tensor([padded_length(length) for length in distinct.tolist()])[which]  # (B,)
        order = padded.argsort(stable=True)
        starts = torch.empty_like(padded)
        starts[order] = padded[order].cumsum(0) - padded[order]  # of each text among the padded tokens
        moved = starts - (on_host.cumsum(0) - on_host)
        slots = torch.arange(int(on_host.sum())) + moved.repeat_interleave(on_host)
        is_token = torch.zeros(int(padded.sum()), dtype=torch.bool).index_fill(0, slots, True)
        of_bucket, counts = padded[order].unique_consecutive(return_counts=True)
        sizes = list(zip(counts.tolist(), of_bucket.tolist(), strict=True))
        return cls(sizes, slots.to(lengths.device), is_token.to(lengths.device))

    def pad(self, x: Tensor) -> Tensor:
        """Pad with zeros, one bucket after the other, (T, ...) -> (T', ...)."""
        return x.new_zeros(len(self.is_token), *x.shape[1:]).index_copy(0, self.slots, x)

    def unpad(self, x: Tensor) -> Tensor:
        """Remove the padding, (T', ...) -> (T, ...)."""
        return x.index_select(0, self.slots)


@dataclass(frozen=True)
class Packing:
    """The boundaries of the texts in a packed batch."""

    cu_seqlens: Tensor  # (B + 1,) int32: text b is x[cu_seqlens[b]:cu_seqlens[b + 1]]
    max_length: int  # L
    causal: bool = False  # whether each token attends only to itself and those before it
    left_out: Tensor | None = None  # (B,) int64: tokens of each text before its first one here; None means none

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[int] | Tensor, device: torch.device | str | None = None, *, causal: bool = False
    ) -> Packing:
        """Return the packing of texts of these lengths, each at least 1."""
        lengths = torch.as_tensor(lengths, dtype=torch.int64)
        max_length = int(lengths.max())
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=cu_seqlens[1:])
        return cls(cu_seqlens.to(device, torch.int32), max_length, causal)

    @property
    def batch_size(self) -> int:
        """Number of texts, B."""
        return len(self.cu_seqlens) - 1

    @lazy_property
    def runs(self) -> list[tuple[int, int]]:
        """Runs of consecutive texts of the same length, as (number of texts, length)."""
        lengths, counts = torch.unique_consecutive(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    @lazy_property
    def buckets(self) -> Buckets:
        """The texts in buckets of similar length."""
        return Buckets.from_lengths(self.lengths)

    @property
    def first(self) -> Tensor:
        """Index of the first token of each text, (B,)."""
        return self.cu_seqlens[:-1].long()

    @property
    def last(self) -> Tensor:
        """Index of the last token of each text, (B,)."""
        return self.cu_seqlens[1:].long() - 1

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each text, (B,)."""
        return self.cu_seqlens.diff().long()

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of each text, (T, H) -> (B, H)."""
        return segment_mean(x, self.first)

    def weighted_mean(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of each text, weighted by their positions from 1, (T, H) -> (B, H)."""
        left_out = torch.zeros_like(self.lengths) if self.left_out is None else self.left_out
        places = torch.arange(1, len(x) + 1, device=x.device)
        places = places - (self.first - left_out).repeat_interleave(self.lengths)
        mean_place = left_out + (self.lengths + 1) / 2
        return self.mean(x * places[:, None]) / mean_place[:, None]

    def without_first(self, counts: Tensor) -> tuple[Tensor, Packing]:
        """Leave out the first tokens of each text, (B,) int64; return the indices of the others, and their packing."""
        places = torch.arange(int(self.cu_seqlens[-1]), device=counts.device)
        kept = places - self.first.repeat_interleave(self.lengths) >= counts.repeat_interleave(self.lengths)
        rest = Packing.from_lengths((self.lengths - counts).cpu(), counts.device, causal=self.causal)
        return places[kept], replace(rest, left_out=counts)

    def max(self, x: Tensor) -> Tensor:
        """Return the maximum over the tokens of each text, (T, H) -> (B, H)."""
        return segment_max(x, self.lengths)


def few_sizes(n_tokens: int) -> int:
    """Round up to one of sixteen sizes per doubling, by at most 3 % on average.

    On CPUs the library for 16-bit products compiles and keeps code for each shape, in fine-tuning e5-small 3.5 MB per
    number of tokens, and the C library keeps more freed buffers the more different sizes they have.
    """
    step = 1 << max(n_tokens.bit_length() - 5, 0)
    return -(-n_tokens // step) * step
