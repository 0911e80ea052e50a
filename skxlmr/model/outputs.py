"""What a forward pass returns: named fields that can also be read by key or as a tuple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


class ModelOutput:
    """Base of the outputs: attributes, keys (`out["logits"]`) and tuple positions (`out[0]`) without the Nones."""

    def keys(self) -> list[str]:
        """Names of the fields that are set, in order."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class BaseModelOutput(ModelOutput):
    """Output of the base model.

    Attributes
    ----------
    last_hidden_state : Tensor of shape (B, S, H)
        Zero where `attention_mask` is.
    pooler_output : Tensor of shape (B, H) or None
    hidden_states : tuple of num_hidden_layers + 1 tensors of shape (B, S, H), or None
        The embeddings, then each layer; the last one is normalised.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Output of a sequence classifier: `logits` of shape (B, num_labels), and `loss` where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """Output of a masked language model: `logits` of shape (B, S, V), and `loss` where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
