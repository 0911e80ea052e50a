"""Masks of padded batches, as the reference computes them.

Notation: B texts, Q queries, K keys, N heads, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skxlmr.model.base import ModelBase


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask of ones and zeros, (B, K) or (B, Q, K), into a term of the scores, (B, 1, 1 or Q, K).

    Masked scores get the lowest finite number, as in the reference: a query without any key attends to all alike. A
    mask of four dimensions, (B, 1 or N, Q, K), already is that term if it is floating point.
    """
    if mask.ndim == 4 and mask.is_floating_point():
        return mask.to(dtype)
    if mask.ndim < 4:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]  # -> (B, 1, 1, K) or (B, 1, Q, K)
    return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min


def causal_mask(mask: Tensor, n_queries: int) -> Tensor:
    """Return the keys up to each query among those of a mask, (B, K) -> (B, Q, K); the queries are the last keys."""
    n_keys = mask.shape[1]
    upto = torch.ones(n_queries, n_keys, device=mask.device).tril(n_keys - n_queries)
    return mask[:, None, :] * upto


class MaskingModel(ModelBase):
    """Base class of models that turn masks into terms of attention scores, for code that runs layers by itself."""

    def get_extended_attention_mask(
        self, attention_mask: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return what is added to the attention scores: 0, or the lowest number where a token may not attend.

        Parameters
        ----------
        attention_mask : Tensor of shape (B, K), (B, Q, K) or (B, 1 or N, Q, K)
            One at real tokens, zero at padding. One of four dimensions in floating point is returned as it is.
        input_shape : tuple of int
            (B, Q). A decoder attends only to the keys up to each query, of which there may be more than queries.
        dtype : torch.dtype, default=None
            None is that of the model.

        Returns
        -------
        Tensor of shape (B, 1 or N, 1 or Q, K)

        Raises
        ------
        ValueError
            If the mask does not have two to four dimensions.
        """
        self._check_mask(attention_mask)
        if self.config.is_decoder and attention_mask.ndim == 2:
            attention_mask = causal_mask(attention_mask, input_shape[1])
        return additive_mask(attention_mask, self.dtype if dtype is None else dtype)

    def invert_attention_mask(self, encoder_attention_mask: Tensor) -> Tensor:
        """Return what is added to the scores of cross-attention, in the dtype of the model.

        Parameters
        ----------
        encoder_attention_mask : Tensor of shape (B, K), (B, Q, K) or (B, 1 or N, Q, K)
            One at tokens that may be attended to, zero at others. One of four dimensions in floating point is returned
            as it is.

        Returns
        -------
        Tensor of shape (B, 1 or N, 1 or Q, K)

        Raises
        ------
        ValueError
            If the mask does not have two to four dimensions.
        """
        self._check_mask(encoder_attention_mask)
        return additive_mask(encoder_attention_mask, self.dtype)

    def get_head_mask(
        self, head_mask: Tensor | None, num_hidden_layers: int, is_attention_chunked: bool = False
    ) -> Tensor | list[None]:
        """Return a mask of attention heads in the shape that each layer multiplies its attention probabilities with.

        Parameters
        ----------
        head_mask : Tensor of shape (N,) or (L, N), or None
        num_hidden_layers : int
            L.
        is_attention_chunked : bool, default=False
            Whether to add a dimension at the end.

        Returns
        -------
        Tensor of shape (L, 1, N, 1, 1), or (L, 1, N, 1, 1, 1) if chunked
            A list of L times None for None.

        Raises
        ------
        ValueError
            If the mask has neither one nor two dimensions.
        """
        if head_mask is None:
            return [None] * num_hidden_layers
        if head_mask.ndim not in (1, 2):
            raise ValueError(f"head_mask must have shape (heads,) or (layers, heads), got {tuple(head_mask.shape)}.")
        every = head_mask.expand(num_hidden_layers, -1) if head_mask.ndim == 1 else head_mask
        mask = every[:, None, :, None, None].to(self.dtype)
        return mask[..., None] if is_attention_chunked else mask

    @staticmethod
    def _check_mask(mask: Tensor) -> None:
        if mask.ndim not in (2, 3, 4):
            raise ValueError(f"A mask must have two to four dimensions, got the shape {tuple(mask.shape)}.")
