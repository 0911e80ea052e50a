"""Outputs of a forward pass: named fields that can also be read by key or by position."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig


class Outputs(dict[str, Any]):
    """Base class of dataclasses of outputs, of which those that were not computed are None.

    They can be read as attributes, and without those that are None also by position (`outputs[0]`) or as from a dict.
    Setting an attribute sets the entry of the dict.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return tuple(self.values())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        present = {f.name: getattr(self, f.name, None) for f in fields(self)}  # some are missing in the constructor
        super().clear()
        super().update({name: value for name, value in present.items() if value is not None})

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in {f.name for f in fields(self)}:
            raise KeyError(key)
        setattr(self, key, value)

    def _is_refused(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"Fields of a {type(self).__name__} are set as attributes: use dict(outputs) to change a copy.")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _is_refused


@dataclass(eq=False)
class ModelOutput(Outputs):
    """Outputs of a model; those that it does not compute are None.

    They can be read as attributes, and without those that are None also by position (`outputs[0]`) or as from a dict.
    `ModelOutput(mapping)` makes one from names and values.

    Attributes
    ----------
    loss : Tensor of shape (), or None
        If labels were given.
    logits : Tensor or None
        (B, num_labels) for texts, (B, C) for C choices, (B, S, num_labels) for tokens, (B, S, V) for language models.
    start_logits, end_logits : Tensor of shape (B, S), or None
        Logits of the start and the end of an answer.
    last_hidden_state : Tensor of shape (B, S, H), or None
        Zero at padding, unless eager attention computed it.
    pooler_output : Tensor of shape (B, H), or None
    past_key_values : tuple of one tuple per layer, or None
        Keys and values of a decoder, each (B, N, K, D), followed by those of its cross-attention.
    hidden_states : tuple of num_hidden_layers + 1 tensors of shape (B, S, H), or None
        The embeddings, then each layer; the last one is normalised.
    attentions, cross_attentions : tuple of one tensor of shape (B, N, S, K) per layer, or None
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    past_key_values: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        """Take the fields from a single argument that is a mapping of them, or pairs of names and values."""
        given = self.loss
        if given is None or isinstance(given, Tensor) or not isinstance(given, Iterable):
            return
        names = {f.name for f in fields(self)}
        values = dict(given)
        if not values.keys() <= names or len(self) > 1:
            raise TypeError(f"ModelOutput takes tensors, or one mapping of {', '.join(sorted(names))}.")
        self.loss = None
        for name, value in values.items():
            setattr(self, name, value)


@dataclass(eq=False)
class GenerateOutput(Outputs):
    """What `generate` returns with `return_dict_in_generate=True`.

    They can be read as attributes, and without those that are None also by position (`outputs[0]`) or as from a dict.

    Attributes
    ----------
    sequences : Tensor of shape (B * num_return_sequences, S), int64
        The texts with their continuations, those of a text next to each other; without the texts if these were
        embeddings.
    sequences_scores : Tensor of shape (B * num_return_sequences,), or None
        With `num_beams` above 1 and `output_scores=True`, the log-probability of each continuation, divided by its
        length to the power of `length_penalty`.
    scores : tuple of one tensor of shape (B * num_return_sequences, V) or (B * num_beams, V) per step, or None
        With `output_scores=True`, the scores of the next token from which it was chosen: logits, or with `num_beams`
        above 1 log-probabilities, after all that changes them.
    logits : tuple of one tensor of the same shape per step, or None
        With `output_logits=True`, the logits that the model computed.
    beam_indices : Tensor of shape (B * num_return_sequences, n), int64, or None
        With `num_beams` above 1, the row of `scores` from which each new token was chosen; -1 after the end.
    attentions : tuple of one tuple per step, of one tensor of shape (B', N, Q, K) per layer, or None
        With `output_attentions=True`, for the rows B' of `scores`. Q are the tokens that the step reads: in the first
        step the texts, then the new token, or without a cache all tokens again. K are the tokens so far.
    hidden_states : tuple of one tuple per step, of num_hidden_layers + 1 tensors of shape (B', Q, H), or None
        With `output_hidden_states=True`.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None


@functools.cache
def register_output() -> None:
    """Let torch.export return a ModelOutput from an exported model."""
    from torch.export import register_dataclass  # only here: its import takes long

    register_dataclass(ModelOutput, serialized_type_name="skxlmr.model.ModelOutput")


def returned(
    outputs: ModelOutput, return_dict: bool | None, config: XLMRobertaXLConfig
) -> ModelOutput | tuple[Any, ...]:
    """Return the outputs as named fields or as a tuple, as the call or else the config requests."""
    return_dict = config.return_dict if return_dict is None else return_dict
    return outputs if return_dict else outputs.to_tuple()
