"""Removal of attention heads from a model.

Notation: H hidden size, N heads before and N' after, D head size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from skxlmr.model.attention import Attention
from skxlmr.model.base import ModelBase
from skxlmr.model.config_values import checked_heads
from skxlmr.model.quantized import QuantizedLinear, quantized_layers


class PrunableModel(ModelBase):
    """Base class of models whose attention heads can be removed."""

    def prune_heads(self, heads_to_prune: Mapping[int, Collection[int]]) -> None:
        """Remove attention heads from self-attention: the model becomes smaller and faster.

        The outputs are those of a `head_mask` that is zero at these heads. `config.pruned_heads` lists them, so that a
        saved model is loaded without them.

        Parameters
        ----------
        heads_to_prune : dict of int to list of int
            Heads by layer, numbered as in the unpruned model. Heads that were removed before are ignored. A negative
            layer counts from the last one.

        Raises
        ------
        ValueError
            If a layer or a head does not exist, a layer would be left without heads, or the model is in 8 or 4 bits;
            the model is then unchanged.

        References
        ----------
        Michel et al., "Are Sixteen Heads Really Better than One?", arXiv:1905.10650.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
        >>> model = XLMRobertaXLModel(XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2,
        ...                                              num_attention_heads=4, intermediate_size=32))
        >>> model.prune_heads({0: [1, 2], -1: [3]})
        >>> model.config.pruned_heads
        {0: [1, 2], 1: [3]}
        >>> model.layers[0].attention.query
        Linear(in_features=16, out_features=8, bias=True)
        """
        if quantized_layers(self.base_model):
            raise ValueError(
                "A model in 8 or 4 bits cannot be pruned: load it unquantised, prune and save it, and then load it in "
                "8 or 4 bits."
            )
        before = {layer: self.config.kept_heads(layer) for layer in range(self.config.num_hidden_layers)}
        wanted = checked_heads(heads_to_prune, self.config.num_hidden_layers, self.config.num_attention_heads)
        merged = {
            layer: [*self.config.pruned_heads.get(layer, ()), *wanted.get(layer, ())]
            for layer in sorted(self.config.pruned_heads.keys() | wanted.keys())
        }
        self.config.pruned_heads = merged  # raises if a layer has no heads left
        self.base_model.config.pruned_heads = merged
        for layer in wanted:
            after = set(self.config.kept_heads(layer))
            attention = self.base_model.layers[layer].attention
            assert isinstance(attention, Attention)
            keep_heads(attention, torch.tensor([i for i, head in enumerate(before[layer]) if head in after]))


def keep_heads(attention: Attention, places: Tensor) -> None:
    """Keep the heads of attention at some places, (N',)."""
    rows = (places[:, None] * attention.head_size + torch.arange(attention.head_size)).flatten()  # (N' * D,)
    for layer in (attention.query, attention.key, attention.value):
        _set(layer, "weight", layer.weight[rows.to(layer.weight.device)])  # (N * D, H) -> (N' * D, H)
        _set(layer, "bias", layer.bias[rows.to(layer.bias.device)])  # (N * D,) -> (N' * D,)
        layer.out_features = len(rows)
    output = attention.output
    _set(output, "weight", output.weight[:, rows.to(output.weight.device)])  # (H, N * D) -> (H, N' * D)
    output.in_features = len(rows)


def _set(layer: nn.Linear, name: str, tensor: Tensor) -> None:
    assert not isinstance(layer, QuantizedLinear)
    parameter = nn.Parameter(tensor.detach().contiguous(), requires_grad=getattr(layer, name).requires_grad)
    setattr(layer, name, parameter)
