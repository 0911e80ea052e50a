"""Random weights: those that the reference starts training from."""

from __future__ import annotations

import torch
from torch import nn

from skxlmr.model.config import XLMRobertaXLConfig


def initialise(module: nn.Module, config: XLMRobertaXLConfig) -> None:
    """Initialise one module's own parameters as the reference does; call with `nn.Module.apply`.

    Parameters on the meta device are left alone: they are loaded later.
    """
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=config.initializer_range)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()


def embedding(n_rows: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """Return an embedding to be initialised: torch's own initialisation takes two seconds on the meta device."""
    return nn.Embedding.from_pretrained(torch.empty(n_rows, width), freeze=False, padding_idx=padding_idx)


def linear_head(config: XLMRobertaXLConfig, out_features: int, in_features: int | None = None) -> nn.Linear:
    """Return an initialised linear layer, (..., in_features) -> (..., out_features); None is the hidden size."""
    layer = nn.Linear(in_features or config.hidden_size, out_features)
    initialise(layer, config)
    return layer
