"""What the settings of a config may be."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.system.schema import shown


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    # Other names of these in checkpoints, and what few have.
    "gelu_python": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "swish": F.silu,
    "quick_gelu": _quick_gelu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
# Settings of all models in the reference that have no effect here, and their values where a config.json lacks them.
OF_THE_REFERENCE = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "finetuning_task": None,
    "is_encoder_decoder": False,
    "task_specific_params": None,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "torch_dtype": None,
    "torchscript": False,
}
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")

# Upper bounds on the numbers of a config: far above all published models, but low enough that a malicious file cannot
# cause a huge allocation.
LARGEST = {
    "vocab_size": 4_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_024,
    "num_attention_heads": 1_024,
    "intermediate_size": 262_144,
    "max_position_embeddings": 1_048_576,
    "type_vocab_size": 1_024,
    "num_labels": 1_000_000,
}


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless a setting is an integer from 1 to the largest one of its name."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST[name]:
        raise ValueError(f"{name} must be an integer from 1 to {LARGEST[name]}, got {value!r}.")


def check_values(config: Any) -> None:
    """Raise ValueError if a setting of a config is invalid, apart from its labels and pruned heads."""
    for name in LARGEST:
        check_number(name, getattr(config, name))
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        value = getattr(config, name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value < 1):
            raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}.")
    for name in ("initializer_range", "layer_norm_eps"):
        value = getattr(config, name)
        if not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise ValueError(f"{name} must be a positive number, got {value!r}.")
    for name, choices in (
        ("hidden_act", tuple(ACTIVATIONS)),
        ("position_embedding_type", POSITION_TYPES),
        ("problem_type", PROBLEM_TYPES),
    ):
        if getattr(config, name) not in choices and not (name == "hidden_act" and callable(config.hidden_act)):
            raise ValueError(f"{name} must be one of {choices}, got {getattr(config, name)!r}.")
    if config.add_cross_attention and not config.is_decoder:
        raise ValueError("add_cross_attention=True needs is_decoder=True.")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size ({config.hidden_size}) must be a multiple of num_attention_heads "
            f"({config.num_attention_heads})."
        )
    if not isinstance(config.pad_token_id, int) or not 0 <= config.pad_token_id < config.vocab_size:
        raise ValueError(f"pad_token_id must be an id of the vocabulary, got {config.pad_token_id!r}.")
    if config.max_length < 3:
        raise ValueError(
            f"max_position_embeddings must be at least {config.first_position + 3} (for three tokens), "
            f"got {config.max_position_embeddings}."
        )


def checked_heads(pruned_heads: Any, n_layers: int, n_heads: int) -> dict[int, list[int]]:
    """Return pruned heads with sorted, positive numbers; layers count from the end if they are negative."""
    if not isinstance(pruned_heads, Mapping):
        raise ValueError(f"pruned_heads must map layers to lists of their heads, got {shown(pruned_heads)}.")
    checked: dict[int, list[int]] = {}
    for key, heads in pruned_heads.items():
        try:
            layer = int(key)
        except (TypeError, ValueError):
            raise ValueError(f"pruned_heads has {shown(key)} in place of the number of a layer.") from None
        if not -n_layers <= layer < n_layers:
            raise ValueError(f"pruned_heads has layer {layer}, and there are {n_layers}.")
        numbers = _integers(heads)
        if numbers is None or not all(0 <= head < n_heads for head in numbers):
            raise ValueError(
                f"pruned_heads of layer {layer} must be integers from 0 to {n_heads - 1}, got {shown(heads)}."
            )
        layer %= n_layers
        numbers = sorted({*checked.get(layer, ()), *numbers})
        if len(numbers) == n_heads:
            raise ValueError(f"pruned_heads has all heads of layer {layer}; at least one must remain.")
        if numbers:
            checked[layer] = numbers
    return checked


def _integers(values: Any) -> list[int] | None:
    """Return values as a list of integers, also those of numpy and torch; None if they are others."""
    try:
        return None if any(isinstance(value, bool) for value in values) else [operator.index(v) for v in values]
    except TypeError:
        return None
