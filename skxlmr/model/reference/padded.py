"""The padded interface of the reference: padded batches are packed on the way in and unpacked on the way out.

Notation: B texts, S padded length, T packed tokens, H hidden size, N heads; Q queries, P past tokens and K keys of a
padded text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skxlmr.model.attention import Adapter, Eager
from skxlmr.model.encoder import Encoder
from skxlmr.model.packing import Packing, bounds
from skxlmr.model.reference.outputs import ModelOutput, register_output, returned
from skxlmr.model.transfer import upload


@dataclass(frozen=True)
class PaddedBatch:
    """The real tokens of a padded batch: packs tensors and unpacks them again."""

    packing: Packing
    places: Tensor | None  # (T,) int64, index of each real token in the flattened (B, S) batch; None if all are real
    shape: tuple[int, int]  # (B, S)
    starts: Tensor | None = None  # (B,), index of each text's first real token; None is the first of its packed ones

    @classmethod
    def from_mask(cls, attention_mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> PaddedBatch:
        """Build from a 2-D attention mask, nonzero at real tokens, of which each row must have one; None is all.

        A mask on a GPU is read once, for which the host waits.
        """
        if attention_mask is None:
            return cls(Packing.from_lengths([shape[1]] * shape[0], device), None, shape)
        if tuple(attention_mask.shape) != shape:
            raise ValueError(f"attention_mask must have shape {shape}, got {tuple(attention_mask.shape)}.")
        real = (attention_mask != 0).cpu()
        lengths = real.sum(1)
        if not bool((lengths > 0).all()):
            row = int((lengths == 0).nonzero()[0])
            raise ValueError(f"attention_mask has no real token in row {row}; leave that row out.")
        cu_seqlens, places = upload([bounds(lengths), real.flatten().nonzero().flatten()], device)
        return cls(Packing(cu_seqlens, lengths), places, shape)

    @classmethod
    def whole(cls, attention_mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> PaddedBatch:
        """Build from a batch whose padding is computed, too, without a look at the values of the mask."""
        ends = torch.arange(shape[0] + 1, device=device) * shape[1]
        starts = ends[:-1]
        if attention_mask is not None and attention_mask.ndim == 2:
            starts = starts + (attention_mask != 0).long().argmax(1)
        # Only eager attention computes padding; it does not look for the lengths on the host.
        return cls(Packing(ends.int(), ends.diff()), None, shape, starts)

    def pack(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (T, ...)."""
        x = x.flatten(0, 1)
        return x if self.places is None else x.index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """(T, ...) -> (B, S, ...), zero at padding."""
        shape = (*self.shape, *x.shape[1:])
        if self.places is None:
            return x.view(shape)
        return x.new_zeros(shape).flatten(0, 1).index_copy(0, self.places, x).view(shape)


def position_ids_from_input_ids(input_ids: Tensor, pad_token_id: int, past_length: int = 0) -> Tensor:
    """Number the tokens of a padded batch, (B, S): `pad_token_id` plus the running count of tokens that are not pads.

    The first is `pad_token_id + 1 + past_length`; pads keep `pad_token_id`, the position that is never trained.
    """
    real = (input_ids != pad_token_id).long()
    return (real.cumsum(1) + past_length) * real + pad_token_id


@dataclass
class Encoded:
    """A padded batch after the encoder."""

    last: Tensor  # (T, H), the final hidden states, packed
    batch: PaddedBatch
    more: ModelOutput  # hidden states, attentions and past key values that were requested, padded

    @property
    def first(self) -> Tensor:
        """The final hidden state of each text's first token, (B, H)."""
        return self.last[self.batch.packing.first if self.batch.starts is None else self.batch.starts]


class XLMRobertaXLModel(Encoder):
    """The XLM-RoBERTa-XL encoder without a head; with `config.is_decoder`, a decoder.

    It adds the padded interface of the reference to the packed `Encoder`.

    Parameters
    ----------
    config : XLMRobertaXLConfig
    add_pooling_layer : bool, default=True
        Whether to have the pooler, which turns the first token into `pooler_output`.

    Examples
    --------
    >>> import torch
    >>> from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
    >>> config = XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...                             intermediate_size=32)
    >>> model = XLMRobertaXLModel(config).eval()
    >>> outputs = model(torch.tensor([[0, 7, 8, 2]]))
    >>> outputs.last_hidden_state.shape
    torch.Size([1, 4, 16])
    """

    def encode_padded(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Sequence[tuple[Tensor, ...]] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        every_position: bool = False,
        adapter: Adapter | None = None,
        check_positions: bool = True,
    ) -> Encoded:
        """Encode a padded batch (B, S), packed or, where an argument requires it, with eager attention.

        The arguments are those of `forward`, and whether to compute `every_position` (the hidden states of padding,
        too), the `adapter` of `encode`, and whether to check that the model has all positions, for which the host waits
        for a GPU.
        """
        if torch.jit.is_tracing():
            raise NotImplementedError(
                "torch.jit.trace would record the lengths of these texts, and give wrong results for others. Use "
                "torch.export.export, which keeps them free, or torch.compile."
            )
        exporting = torch.compiler.is_exporting()
        if exporting:
            register_output()
        config = self.config
        inputs = self._inputs(input_ids, inputs_embeds)
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        shape = (inputs.shape[0], inputs.shape[1])
        past_length = self._past_length(past_key_values)
        position_ids = self._position_ids(inputs, input_ids, position_ids, past_length, check_positions)

        eager, real = None, attention_mask
        needs_eager = exporting or self._needs_eager(attention_mask, head_mask, output_attentions, every_position)
        if not needs_eager and attention_mask is not None:
            real = (attention_mask != 0).cpu()
            needs_eager = not bool(real.any(1).all())
        if needs_eager:
            eager = self._eager(
                (*shape, past_length), attention_mask, head_mask, encoder_hidden_states, encoder_attention_mask,
                past_key_values,
            )  # fmt: skip
        if exporting:  # lengths stay free, so nothing may depend on the values of the mask
            batch = PaddedBatch.whole(attention_mask, shape, inputs.device)
        else:
            batch = PaddedBatch.from_mask(real if eager is None else None, shape, inputs.device)
        hidden = self.encode(
            batch.pack(inputs),
            batch.pack(position_ids.expand(shape)),
            batch.packing,
            token_type_ids=None if token_type_ids is None else batch.pack(token_type_ids.expand(shape)),
            adapter=adapter,
            layers=range(0 if output_hidden_states else len(self.layers), len(self.layers) + 1),
            eager=eager,
            through=(batch.unpack, batch.pack) if output_hidden_states else None,
        )
        more, last = ModelOutput(), hidden[-1]
        if output_hidden_states:
            more.hidden_states, last = tuple(hidden), batch.pack(last)
        if eager is not None and output_attentions:
            more.attentions = tuple(own.probs for own, _ in eager)
            more.cross_attentions = tuple(cross.probs for _, cross in eager if cross is not None) or None
        if eager is not None and config.is_decoder and (config.use_cache if use_cache is None else use_cache):
            more.past_key_values = tuple((*own.present, *(cross.present if cross else ())) for own, cross in eager)
        return Encoded(last, batch, more)

    def _inputs(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Return the ids (B, S) or word embeddings (B, S, H) that are given; raise ValueError if they are not such."""
        inputs = either(input_ids, inputs_embeds)
        if input_ids is None:
            wrong = inputs.ndim != 3 or inputs.shape[2] != self.config.hidden_size
            expected = f"inputs_embeds must have shape (texts, tokens, {self.config.hidden_size})"
        else:
            wrong, expected = inputs.ndim != 2, "input_ids must have shape (texts, tokens)"
        if wrong:
            alone = " Add a dimension to a single text: input_ids[None]." if inputs.ndim == 1 else ""
            raise ValueError(f"{expected}, got {tuple(inputs.shape)}.{alone}")
        if not (torch.compiler.is_exporting() or (inputs.shape[0] and inputs.shape[1])):
            raise ValueError(f"{expected}, with at least one of each, got {tuple(inputs.shape)}.")
        word = self.embeddings.word
        if input_ids is None or not word._forward_hooks:
            return inputs
        return self.embeddings.words(input_ids)  # hooks of users, such as the noise of NEFTune, are for padded batches

    def _past_length(self, past_key_values: Sequence[tuple[Tensor, ...]] | None) -> int:
        """Return the number of tokens that a decoder knows already; raise an error if it has not returned them."""
        if past_key_values is None:
            return 0
        if not self.config.is_decoder:
            raise ValueError("past_key_values are for decoders: load the model with is_decoder=True.")
        is_past = isinstance(past_key_values, list | tuple) and all(
            isinstance(p, list | tuple) for p in past_key_values
        )
        if not is_past or len(past_key_values) != len(self.layers):
            raise TypeError(
                f"past_key_values must be those of an earlier output of a decoder, one tuple for each of "
                f"{len(self.layers)} layers, not {type(past_key_values).__name__}: leave them out in the first call."
            )
        return past_key_values[0][0].shape[2]

    def _needs_eager(
        self, attention_mask: Tensor | None, head_mask: Tensor | None, output_attentions: bool, every_position: bool
    ) -> bool:
        """Whether something needs eager attention, beside texts without a token.

        Otherwise the batch is packed and padding is left out.
        """
        return (
            output_attentions
            or self.attn_implementation == "eager"
            or head_mask is not None
            or self.config.is_decoder
            or self.config.position_embedding_type != "absolute"
            or (every_position and attention_mask is not None)
            or (attention_mask is not None and attention_mask.ndim > 2)
        )

    def _position_ids(
        self,
        inputs: Tensor,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        past_length: int,
        check: bool,
    ) -> Tensor:
        """Return the position ids of a padded batch, (1 or B, S): those given, or else counted."""
        config = self.config
        most = config.first_position + past_length + inputs.shape[1]
        if torch.compiler.is_exporting() or not (position_ids is not None or most > config.max_position_embeddings):
            check = False
        if position_ids is None and input_ids is not None and config.first_position:
            position_ids = position_ids_from_input_ids(input_ids, config.pad_token_id, past_length)
        if position_ids is None:  # pads cannot be told from embeddings: as in the reference every token counts
            before = past_length if config.first_position == 0 else 0
            position_ids = torch.arange(inputs.shape[1], device=inputs.device)[None] + config.first_position + before
        if check and self.embeddings.absolute and int(position_ids.max()) >= config.max_position_embeddings:
            raise ValueError(
                f"A text of {past_length + inputs.shape[1]} tokens is too long: this model takes {config.max_length}. "
                f"Truncate it or split it into windows."
            )
        return position_ids

    def _eager(
        self,
        lengths: tuple[int, int, int],
        attention_mask: Tensor | None,
        head_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_attention_mask: Tensor | None,
        past_key_values: Sequence[tuple[Tensor, ...]] | None,
    ) -> list[tuple[Eager, Eager | None]]:
        """Return what each layer's self-attention and cross-attention need; `lengths` are (B, Q, P)."""
        weight = self.embeddings.position.weight
        batch_size, n_queries, past_length = lengths
        n_keys = past_length + n_queries
        mask = torch.ones(batch_size, n_keys, device=weight.device) if attention_mask is None else attention_mask
        mask = self.get_extended_attention_mask(mask, (batch_size, n_queries)).expand(batch_size, -1, -1, -1)
        source = source_mask = None
        if self.config.is_decoder and encoder_hidden_states is not None:
            if not self.config.add_cross_attention:
                raise ValueError("encoder_hidden_states need a model with add_cross_attention=True in its config.")
            source = encoder_hidden_states.flatten(0, 1)  # (B, K, H) -> (B * K, H)
            if encoder_attention_mask is None:
                encoder_attention_mask = torch.ones(encoder_hidden_states.shape[:2], device=weight.device)
            source_mask = self.invert_attention_mask(encoder_attention_mask)
        eager = []
        for i in range(len(self.layers)):
            heads = kept = None
            if head_mask is not None:  # (N,) or (num_hidden_layers, N), with the pruned heads
                heads = (head_mask if head_mask.ndim == 1 else head_mask[i]).to(weight.dtype)[:, None, None]
                kept = heads[self.config.kept_heads(i)]
            past = () if past_key_values is None else tuple(past_key_values[i])
            cross = None if source_mask is None else Eager(source_mask, heads, past[2:], source)
            eager.append((Eager(mask, kept, past[:2]), cross))
        return eager

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Sequence[tuple[Tensor, ...]] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """Encode a padded batch.

        Parameters
        ----------
        input_ids : Tensor of shape (B, S), int64
        attention_mask : Tensor of shape (B, S), (B, S, K) or (B, 1 or N, S, K), default=None
            One at real tokens, zero at padding, whose hidden states are not computed: they are zero in the outputs.
            With more dimensions, one where the token of the last but one may attend to that of the last; with four, a
            mask in floating point is added to the attention scores instead. None is all ones.
        token_type_ids, position_ids : Tensor of shape (B, S), int64, default=None
        head_mask : Tensor of shape (N,) or (num_hidden_layers, N), default=None
            Factors of the attention heads, those of pruned ones included.
        inputs_embeds : Tensor of shape (B, S, H), default=None
            Word embeddings in place of `input_ids`.
        encoder_hidden_states : Tensor of shape (B, K, H), default=None
            Hidden states that a decoder with cross-attention attends to.
        encoder_attention_mask : Tensor of shape (B, K), default=None
        past_key_values : sequence of one tuple per layer, default=None
            What a decoder returned for the previous tokens; `input_ids` then holds only the new ones, while
            `attention_mask` covers all.
        use_cache, output_attentions, output_hidden_states, return_dict : bool, default=None
            None takes the value of the config. `return_dict=False` returns a tuple.

        Returns
        -------
        ModelOutput or tuple
            last_hidden_state, pooler_output, past_key_values, hidden_states, attentions, cross_attentions.

        Raises
        ------
        ValueError
            If not exactly one of `input_ids` and `inputs_embeds` is given, if a text is longer than the position
            embedding, or if `encoder_hidden_states` are given to a model without cross-attention.
        """
        encoded = self.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, past_key_values, use_cache, output_attentions, output_hidden_states,
        )  # fmt: skip
        outputs = encoded.more
        outputs.last_hidden_state = encoded.batch.unpack(encoded.last)
        outputs.pooler_output = None if self.pooler is None else self.pooler(encoded.first)
        result = returned(outputs, return_dict, self.config)
        if self.pooler is None and isinstance(result, tuple):  # as in the reference a tuple keeps its place
            return (result[0], None, *result[1:])
        return result


def either(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Return the one of both that is given; raise ValueError unless it is exactly one."""
    if input_ids is None and inputs_embeds is not None:
        return inputs_embeds
    if input_ids is not None and inputs_embeds is None:
        return input_ids
    raise ValueError("Give either input_ids or inputs_embeds.")
