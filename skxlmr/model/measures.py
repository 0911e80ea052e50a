"""How large a model is, and how much it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from skxlmr.model.base import ModelBase
from skxlmr.model.quantized import QuantizedLinear, quantized_layers


class MeasuredModel(ModelBase):
    """Base class of models that count their parameters, bytes and operations."""

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters; one that is tied counts once, a quantised weight as before quantisation.

        Parameters
        ----------
        only_trainable : bool, default=False
            Whether to count only those that require a gradient.
        exclude_embeddings : bool, default=False
            Whether to leave out the word, position and token type embeddings.

        Returns
        -------
        int
        """
        total, seen = 0, set()
        for module in self.modules():
            if isinstance(module, nn.Embedding) and exclude_embeddings:
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen or (only_trainable and not parameter.requires_grad):
                    continue
                seen.add(id(parameter))
                if not isinstance(module, QuantizedLinear) or name == "bias":
                    total += parameter.numel()
        if not only_trainable:
            total += sum(layer.in_features * layer.out_features for layer in quantized_layers(self).values())
        return total

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes of the parameters, of which those that are tied count once.

        Parameters
        ----------
        return_buffers : bool, default=True
            Whether to count buffers, too: the outlier columns of an 8-bit model.

        Returns
        -------
        int
        """
        total = sum(parameter.nbytes for parameter in self.parameters())
        return total + sum(buffer.nbytes for buffer in self.buffers()) if return_buffers else total

    def estimate_tokens(self, input_dict: Mapping[str, Any]) -> int:
        """Return the number of tokens of a batch, padding included: the elements of `input_ids`.

        Parameters
        ----------
        input_dict : dict
            Arguments of `forward`.

        Returns
        -------
        int
            With `inputs_embeds` in place of `input_ids`, the number of embeddings; 0 with neither.
        """
        ids, embeds = input_dict.get(self.main_input_name), input_dict.get("inputs_embeds")
        if isinstance(ids, Tensor):
            return ids.numel()
        return embeds.shape[:-1].numel() if isinstance(embeds, Tensor) else 0

    def floating_point_ops(self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True) -> int:
        """Estimate the operations of one training step: six per token and parameter (arXiv:2001.08361, section 2.1).

        Parameters
        ----------
        input_dict : dict
            Arguments of `forward`.
        exclude_embeddings : bool, default=True
            Whether to leave out the embeddings, in which values are looked up.

        Returns
        -------
        int
            It does not count attention scores, so it is too low for texts much longer than the hidden size.

        Examples
        --------
        >>> import torch
        >>> from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
        >>> model = XLMRobertaXLModel(XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2,
        ...                                              num_attention_heads=4, intermediate_size=32))
        >>> model.floating_point_ops({"input_ids": torch.zeros(2, 5, dtype=torch.int64)})
        285120
        """
        return 6 * self.estimate_tokens(input_dict) * self.num_parameters(exclude_embeddings=exclude_embeddings)
