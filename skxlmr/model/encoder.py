"""The encoder: the base model of all others.

Notation: B texts, S padded length, T packed tokens, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skxlmr.model.attention import NO_DELTAS, Deltas, Eager, additive_mask, causal_mask
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.layers import Embeddings, Layer, Pooler, layer_norm
from skxlmr.model.packing import Packing, PaddedBatch, few_sizes, position_ids_from_input_ids
from skxlmr.model.pretrained import PretrainedModel, initialise
from skxlmr.model.reference.outputs import ModelOutput


@dataclass
class Encoded:
    """A padded batch after the encoder.

    Attributes
    ----------
    last : Tensor of shape (T, H)
        Packed.
    batch : PaddedBatch
        The way back.
    more : ModelOutput
        The hidden states, attentions and past that were asked for; padded.
    """

    last: Tensor
    batch: PaddedBatch
    more: ModelOutput

    @property
    def first(self) -> Tensor:
        """The state of each text's first token, (B, H)."""
        return self.last[self.batch.packing.first]


class XLMRobertaXLModel(PretrainedModel):
    """The XLM-RoBERTa-XL encoder without a head; with `config.is_decoder`, a decoder.

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

    def __init__(self, config: XLMRobertaXLConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = layer_norm(config) if config.pre_layer_norm else nn.Identity()
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.apply(lambda module: initialise(module, config))

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations; quantised weights and the word embedding beside them are of others."""
        return self.embeddings.position.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.position.weight.device

    def with_words(self, words: Tensor) -> XLMRobertaXLModel:
        """The same model with another word embedding, for another vocabulary; all else is shared.

        Parameters
        ----------
        words : Tensor of shape (V, H)
            As it is to be held: its dtype and device are kept.
        """
        embeddings, model = copy.copy(self.embeddings), copy.copy(self)
        word = nn.Embedding.from_pretrained(words, padding_idx=self.config.pad_token_id)
        embeddings._modules = {**self.embeddings._modules, "word": word}
        model._modules = {**self._modules, "embeddings": embeddings}
        model.config = replace(self.config, vocab_size=len(words))
        return model

    def encode(
        self,
        words: Tensor,
        position_ids: Tensor | None,
        packing: Packing,
        *,
        token_type_ids: Tensor | None = None,
        adapter: Sequence[Deltas] | None = None,
        layers: Sequence[int] = (-1,),
        start: int = 0,
        recompute: bool = False,
        eager: Sequence[tuple[Eager, Eager | None]] | None = None,
    ) -> list[Tensor]:
        """Run the encoder on packed tokens.

        Parameters
        ----------
        words : Tensor of shape (T,) int64, or (T, H)
            Token ids, or word embeddings in their place; with `start`, the hidden state to go on from.
        position_ids : Tensor of shape (T,), int64, or None
            Not looked at with `start`.
        packing : Packing
        token_type_ids : Tensor of shape (T,), int64, or None
        adapter : sequence of one mapping per layer, or None
            What an estimator learned: modules that take the input and the output of the layer's "query", "key",
            "value", "output", "up" or "down", and return that output with their term added. The base itself is left
            as it is.
        layers : sequence of int, default=(-1,)
            The hidden states to return, numbered as in the reference: 0 is the embeddings, `num_hidden_layers` (or
            -1) the normalised output. Layers above the highest one are not run.
        start : int, default=0
            Layers that `words` has been through already.
        recompute : bool, default=False
            Keep of each layer only its input, and run it again in the backward pass.
        eager : sequence of one pair per layer, or None
            Asks for the eager path: what each layer's self-attention and cross-attention are given. They leave their
            probabilities, keys and values in it.

        Returns
        -------
        list of Tensor of shape (T, H), one for each entry of `layers`
        """
        depth = len(self.layers)
        wanted = [i % (depth + 1) for i in layers]
        if start:
            x = words
        else:
            words = self.embeddings.word(words) if words.ndim == 1 else words
            x = self.embeddings(words, position_ids, token_type_ids)
        n_tokens = len(x)
        if eager is None and x.device.type == "cpu" and x.dtype.itemsize <= 4:
            x = F.pad(x, (0, 0, 0, few_sizes(n_tokens) - n_tokens))
        kept = {start: x}
        for i, layer in enumerate(self.layers[start : max(wanted)], start=start + 1):
            inputs = (x, packing, NO_DELTAS if adapter is None else adapter[i - 1], *(eager[i - 1] if eager else ()))
            if (recompute or self.gradient_checkpointing) and torch.is_grad_enabled():
                x = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                x = layer(*inputs)
            if i in wanted:
                kept[i] = self.norm(x) if i == depth else x
        return [kept[i][:n_tokens] for i in wanted]

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
        adapter: Sequence[Deltas] | None = None,
    ) -> Encoded:
        """Run a padded batch (B, S), by the path that its arguments ask for; see `forward`.

        Parameters
        ----------
        every_position : bool, default=False
            Compute the states of padding, too.
        adapter : sequence of one mapping per layer, or None
            See `encode`.

        Returns
        -------
        Encoded

        Raises
        ------
        ValueError
            If not exactly one of `input_ids` and `inputs_embeds` is given, a text is longer than the position
            embedding, or there is no cross-attention to look at `encoder_hidden_states` with.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        words = input_ids if inputs_embeds is None else inputs_embeds
        shape, past_length = (words.shape[0], words.shape[1]), 0
        if past_key_values is not None:
            past_length = past_key_values[0][0].shape[2]
        position_ids = self._position_ids(input_ids, position_ids, shape, past_length, words.device)

        eager = None
        if self._needs_eager(attention_mask, head_mask, output_attentions, every_position):
            eager = self._eager(
                (*shape, past_length),
                attention_mask,
                head_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values,
            )
        batch = PaddedBatch.from_mask(attention_mask if eager is None else None, shape, words.device)
        hidden = self.encode(
            batch.pack(words),
            batch.pack(position_ids.expand(shape)),
            batch.packing,
            token_type_ids=None if token_type_ids is None else batch.pack(token_type_ids.expand(shape)),
            adapter=adapter,
            layers=range(0 if output_hidden_states else len(self.layers), len(self.layers) + 1),
            eager=eager,
        )
        more = ModelOutput()
        if output_hidden_states:
            more.hidden_states = tuple(batch.unpack(x) for x in hidden)
        if output_attentions:
            more.attentions = tuple(own.probs for own, _ in eager)
            if eager[0][1] is not None:
                more.cross_attentions = tuple(cross.probs for _, cross in eager)
        if config.is_decoder and (config.use_cache if use_cache is None else use_cache):
            more.past_key_values = tuple((*own.present, *(cross.present if cross else ())) for own, cross in eager)
        return Encoded(hidden[-1], batch, more)

    def _needs_eager(
        self, attention_mask: Tensor | None, head_mask: Tensor | None, output_attentions: bool, every_position: bool
    ) -> bool:
        """Decide which path runs: the packed one, which leaves padding out, unless something needs the eager one."""
        return (
            output_attentions
            or head_mask is not None
            or self.config.is_decoder
            or self.config.position_embedding_type != "absolute"
            or (every_position and attention_mask is not None)
            or (attention_mask is not None and (attention_mask.ndim == 3 or not attention_mask.any(1).all()))
        )

    def _position_ids(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        shape: tuple[int, int],
        past_length: int,
        device: torch.device,
    ) -> Tensor:
        """Positions of a padded batch, (1 or B, S): as given, or counted."""
        config = self.config
        if position_ids is None and input_ids is not None and config.first_position:
            position_ids = position_ids_from_input_ids(input_ids, config.pad_token_id, past_length)
        if position_ids is None:  # embeddings do not tell pads apart: count every token, and from the start
            before = past_length if config.first_position == 0 else 0
            position_ids = torch.arange(shape[1], device=device)[None] + config.first_position + before
        if self.embeddings.absolute and int(position_ids.max()) >= self.config.max_position_embeddings:
            raise ValueError(
                f"A text of {past_length + shape[1]} tokens is too long: this model takes {self.config.max_length}. "
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
        """What the attentions of each layer are given; `lengths` are those of texts, tokens and earlier tokens."""
        weight = self.embeddings.position.weight
        batch_size, n_queries, past_length = lengths
        n_keys = past_length + n_queries
        mask = torch.ones(batch_size, n_keys, device=weight.device) if attention_mask is None else attention_mask
        if self.config.is_decoder and mask.ndim == 2:
            mask = mask[:, None, :] * causal_mask(n_queries, n_keys, weight.device)  # (B, Q, K)
        mask = additive_mask(mask, weight.dtype)
        memory = None
        if self.config.is_decoder and encoder_hidden_states is not None:
            if not self.config.add_cross_attention:
                raise ValueError("encoder_hidden_states need a model with add_cross_attention=True in its config.")
            memory = encoder_hidden_states.flatten(0, 1)  # (B, K, H) -> (B * K, H)
            if encoder_attention_mask is None:
                encoder_attention_mask = torch.ones(encoder_hidden_states.shape[:2], device=weight.device)
            memory_mask = additive_mask(encoder_attention_mask, weight.dtype)
        eager = []
        for i in range(len(self.layers)):
            heads = None
            if head_mask is not None:  # (N,) or (layers, N)
                heads = (head_mask if head_mask.ndim == 1 else head_mask[i]).to(weight.dtype)[:, None, None]
            past = None if past_key_values is None else tuple(past_key_values[i])
            own = Eager(mask, heads, None if past is None else past[:2])
            cross = None if memory is None else Eager(memory_mask, heads, (past and past[2:]) or None, memory)
            eager.append((own, cross))
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
    ) -> ModelOutput | tuple:
        """Encode a padded batch.

        Parameters
        ----------
        input_ids : Tensor of shape (B, S), int64
        attention_mask : Tensor of shape (B, S) or (B, S, K), default=None
            One at real tokens, zero at padding, whose states are not computed: they are zero in the outputs. With
            three dimensions it says what each token may look at. None means everything.
        token_type_ids, position_ids : Tensor of shape (B, S), int64, default=None
        head_mask : Tensor of shape (N,) or (num_hidden_layers, N), default=None
            Factors of the attention heads.
        inputs_embeds : Tensor of shape (B, S, H), default=None
            Word embeddings in place of `input_ids`.
        encoder_hidden_states : Tensor of shape (B, K, H), default=None
            States that a decoder with cross-attention looks at.
        encoder_attention_mask : Tensor of shape (B, K), default=None
        past_key_values : sequence of one tuple per layer, default=None
            What a decoder returned for the tokens before; `input_ids` then holds only the new ones, `attention_mask`
            covers all.
        use_cache, output_attentions, output_hidden_states, return_dict : bool, default=None
            None takes the config's. `return_dict=False` gives a tuple.

        Returns
        -------
        ModelOutput or tuple
            last_hidden_state, pooler_output, past_key_values, hidden_states, attentions, cross_attentions.
        """
        encoded = self.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, past_key_values, use_cache, output_attentions, output_hidden_states,
        )  # fmt: skip
        outputs = encoded.more
        outputs.last_hidden_state = encoded.batch.unpack(encoded.last)
        outputs.pooler_output = None if self.pooler is None else self.pooler(encoded.first)
        outputs = self.returned(outputs, return_dict)
        if self.pooler is None and isinstance(outputs, tuple):  # in a tuple the pooler's output keeps its place
            outputs = (outputs[0], None, *outputs[1:])
        return outputs
