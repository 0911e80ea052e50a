"""Packed batches: the tokens of all texts, one text after the other, and the boundaries between them.

All operations on single tokens (linear layers, LayerNorm, activations) run on the packed form, without any padding.

Notation: B texts, T packed tokens, L tokens in the longest text, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.segments import segment_max, segment_mean
from skxlmr.model.transfer import upload_one
from skxlmr.system.lazy import lazy_property

LONGEST_BITS = 32  # of the length of a text


def padded_lengths(lengths: Tensor) -> Tensor:
    """Return the lengths to which texts are padded in their buckets, (B,) int64 -> (B,) int64.

    They are multiples of 16, eight per doubling from 128 on, so that above 128 tokens at most an eighth is padding.
    They depend on nothing but the text, so that neither does the result.

    Examples
    --------
    >>> padded_lengths(torch.tensor([1, 16, 17, 129, 257])).tolist()
    [16, 16, 32, 144, 288]
    """
    powers = torch.ones_like(lengths)[:, None] << torch.arange(LONGEST_BITS, device=lengths.device)
    n_bits = (lengths[:, None] > powers).sum(1)  # of `length - 1` as a binary number
    step = torch.ones_like(lengths) << (n_bits - 4).clamp(min=4)
    return -(-lengths // step) * step


@dataclass(frozen=True)
class Buckets:
    """Packed texts in buckets of similar length, each text padded to the length of its bucket: T' tokens with padding.

    Only attention kernels that take no packed texts need them.
    """

    sizes: list[tuple[int, int]]  # of each bucket, the number of its texts B' and their padded length L'
    slots: Tensor  # (T,) int64, index of each packed token among the padded ones
    is_token: Tensor  # (T',) bool, False at padding

    @classmethod
    def from_lengths(cls, lengths: Tensor, on_host: Tensor) -> Buckets:
        """Return the buckets of texts of these lengths, (B,), which are on the device and on the host."""
        n_tokens, of_host = int(on_host.sum()), padded_lengths(on_host)
        padded = padded_lengths(lengths)
        order = padded.argsort(stable=True)
        starts = torch.empty_like(padded)
        starts[order] = padded[order].cumsum(0) - padded[order]  # of each text among the padded tokens
        moved = starts - (lengths.cumsum(0) - lengths)
        slots = torch.arange(n_tokens, device=moved.device) + moved.repeat_interleave(lengths, output_size=n_tokens)
        is_token = torch.zeros(int(of_host.sum()), dtype=torch.bool, device=moved.device).index_fill(0, slots, True)
        of_bucket, counts = of_host.unique(return_counts=True)
        return cls(list(zip(counts.tolist(), of_bucket.tolist(), strict=True)), slots, is_token)

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
    on_host: Tensor  # (B,) int64 on the CPU, number of tokens of each text
    causal: bool = False  # whether each token attends only to itself and those before it
    left_out: Tensor | None = None  # (B,) int64: tokens of each text before its first one here; None means none

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[int] | Tensor, device: torch.device | str | None = None, *, causal: bool = False
    ) -> Packing:
        """Return the packing of texts of these lengths, each at least 1."""
        lengths = torch.as_tensor(lengths, dtype=torch.int64)
        on_host = lengths.cpu()
        return cls(upload_one(bounds(on_host), torch.device(device or lengths.device)), on_host, causal)

    @lazy_property
    def max_length(self) -> int:
        """Number of tokens of the longest text, L."""
        return int(self.on_host.max())

    @property
    def batch_size(self) -> int:
        """Number of texts, B."""
        return len(self.cu_seqlens) - 1

    @lazy_property
    def runs(self) -> list[tuple[int, int]]:
        """Runs of consecutive texts of the same length, as (number of texts, length)."""
        lengths, counts = torch.unique_consecutive(self.on_host, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    @lazy_property
    def buckets(self) -> Buckets:
        """The texts in buckets of similar length."""
        return Buckets.from_lengths(self.lengths, self.on_host)

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
        places = places - (self.first - left_out).repeat_interleave(self.lengths, output_size=len(x))
        mean_place = left_out + (self.lengths + 1) / 2
        return self.mean(x * places[:, None]) / mean_place[:, None]

    def without_first(self, counts: Tensor, counts_on_host: Tensor) -> tuple[Tensor, Packing]:
        """Leave out the first tokens of each text; return the indices of the others, (T',), and their packing.

        Their numbers, (B,) int64, are given on the device and on the host, which so does not wait for the device.
        """
        on_host = self.on_host - counts_on_host
        n_tokens, left_out = int(on_host.sum()), counts.cumsum(0)
        moved = left_out.repeat_interleave(self.lengths - counts, output_size=n_tokens)
        cu_seqlens = self.cu_seqlens - F.pad(left_out, (1, 0)).int()
        kept = torch.arange(n_tokens, device=counts.device) + moved
        return kept, Packing(cu_seqlens, on_host, self.causal, counts)

    def max(self, x: Tensor) -> Tensor:
        """Return the maximum over the tokens of each text, (T, H) -> (B, H)."""
        return segment_max(x, self.lengths)


def bounds(lengths: Tensor) -> Tensor:
    """Return where texts of these lengths begin, and where the last one ends, (B,) -> (B + 1,) int32."""
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=ends[1:])
    return ends.int()


def few_sizes(n_tokens: int) -> int:
    """Round up to one of sixteen sizes per doubling, by at most 3 % on average.

    On CPUs the library for 16-bit products compiles and keeps code for each shape, in fine-tuning e5-small 3.5 MB per
    number of tokens, and the C library keeps more freed buffers the more different sizes they have.
    """
    step = 1 << max(n_tokens.bit_length() - 5, 0)
    return -(-n_tokens // step) * step
