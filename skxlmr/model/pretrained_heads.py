"""Reading of heads: only their tensors are read from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from skxlmr.checkpoints.checkpoint import Checkpoint, WithDecoderBias, load_into
from skxlmr.checkpoints.keymap import match
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.key_maps import key_map
from skxlmr.model.quantized import FloatOutsideLayers, holds_8bit

HINT = "Correct id2label, or without names num_labels, in config.json: there is one label for each output of the head."


def read_head(checkpoint: Checkpoint, config: XLMRobertaXLConfig, parts: Mapping[str, nn.Module]) -> list[str]:
    """Load the parts of a head, on the meta device, from a checkpoint, in float32 on the CPU.

    `parts` are named as in our model with this head, such as "classifier" or "roberta.pooler". Returns the keys that
    the checkpoint lacks; if there are any, nothing is loaded. Raises CheckpointMismatchError if a shape differs.
    """
    if holds_8bit(checkpoint):
        checkpoint = FloatOutsideLayers(checkpoint)
    checkpoint = WithDecoderBias(checkpoint)
    holder = _tree(parts)
    expected = {name: parameter.shape for name, parameter in holder.named_parameters()}
    names = key_map(config.model_type)
    tensors = {key: info for key, info in checkpoint.tensors.items() if names.to_ours(key) in expected}
    missing = expected.keys() - {names.to_ours(key) for key in tensors}
    if not missing:
        plan = match(tensors, expected, names, may_be_new=list(parts), hint_at_heads=HINT)
        load_into(holder, checkpoint, plan, dtype=torch.float32, device="cpu")
    return sorted(names.to_theirs(name) for name in missing)


def _tree(parts: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module that has modules at dotted names."""
    root = nn.Module()
    for name, module in parts.items():
        *path, last = name.split(".")
        parent = root
        for step in path:
            if not hasattr(parent, step):
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, module)
    return root
