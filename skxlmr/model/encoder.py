"""The encoder: embeddings, pre-LN layers, and the base model with its pooler.

Notation: B texts, S padded length, T packed tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.attention import Deltas, SelfAttention, linear
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.outputs import BaseModelOutput
from skxlmr.model.packing import Packing, PaddedBatch, position_ids_from_input_ids
from skxlmr.model.pretrained import PretrainedModel, initialise

ACTIVATIONS = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}
NO_DELTAS: Deltas = {}


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings; no LayerNorm and no scaling."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        pad = config.pad_token_id
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=pad)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size, padding_idx=pad)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        token_types = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        return self.dropout(words + self.position(position_ids) + token_types)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, (T, H) -> (T, H)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, deltas: Deltas) -> Tensor:
        return linear(self.down, self.activation(linear(self.up, x, deltas.get("up"))), deltas.get("down"))


class Layer(nn.Module):
    """One pre-LN encoder layer, (T, H) -> (T, H)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, packing: Packing, deltas: Deltas = NO_DELTAS) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), packing, deltas))
        return x + self.ffn(self.ffn_norm(x), deltas)  # no dropout here: the reference has none


class Pooler(nn.Module):
    """Dense layer and tanh on the first token, (B, H) -> (B, H). Not part of pretraining."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_tokens: Tensor) -> Tensor:
        return self.dense(first_tokens).tanh()


class XLMRobertaXLModel(PretrainedModel):
    """The XLM-RoBERTa-XL encoder without a head.

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
        if config.position_embedding_type != "absolute":
            raise ValueError(
                f"position_embedding_type={config.position_embedding_type!r} is not supported; only 'absolute' is."
            )
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.apply(lambda module: initialise(module, config))

    def encode(
        self,
        words: Tensor,
        position_ids: Tensor,
        packing: Packing,
        *,
        token_type_ids: Tensor | None = None,
        adapter: Sequence[Deltas] | None = None,
        layers: Sequence[int] = (-1,),
    ) -> list[Tensor]:
        """Run the encoder on packed tokens.

        Parameters
        ----------
        words : Tensor of shape (T,) int64, or (T, H)
            Token ids, or word embeddings in their place.
        position_ids : Tensor of shape (T,), int64
        packing : Packing
        token_type_ids : Tensor of shape (T,), int64, or None
        adapter : sequence of one mapping per layer, or None
            What an estimator learned: modules whose output is added to that of the layer's "query", "key", "value",
            "output", "up" and "down". The base itself is left as it is.
        layers : sequence of int, default=(-1,)
            The hidden states to return, numbered as in the reference: 0 is the embeddings, `num_hidden_layers` (or
            -1) the normalised output. Layers above the highest one are not run.

        Returns
        -------
        list of Tensor of shape (T, H), one for each entry of `layers`
        """
        depth = len(self.layers)
        wanted = [i % (depth + 1) for i in layers]
        if words.ndim == 1:
            words = self.embeddings.word(words)
        x = self.embeddings(words, position_ids, token_type_ids)
        kept = {0: x}
        for i, layer in enumerate(self.layers[: max(wanted)], start=1):
            x = layer(x, packing, NO_DELTAS if adapter is None else adapter[i - 1])
            if i in wanted:
                kept[i] = self.norm(x) if i == depth else x
        return [kept[i] for i in wanted]

    def encode_padded(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        layers: Sequence[int] = (-1,),
    ) -> tuple[list[Tensor], PaddedBatch]:
        """Pack a padded batch (B, S) and run the encoder; returns hidden states (T, H) and the way back.

        Raises
        ------
        ValueError
            If not exactly one of `input_ids` and `inputs_embeds` is given, or a text is longer than the position
            embedding.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        words = input_ids if inputs_embeds is None else inputs_embeds
        shape = (words.shape[0], words.shape[1])
        pad = self.config.pad_token_id
        if position_ids is None and input_ids is not None:
            position_ids = position_ids_from_input_ids(input_ids, pad)
        if position_ids is None:  # embeddings do not tell pads apart: count every token
            position_ids = words.new_ones(shape, dtype=torch.int64).cumsum(1) + pad
        if int(position_ids.max()) >= self.config.max_position_embeddings:
            raise ValueError(
                f"A text of {shape[1]} tokens is too long: this model takes {self.config.max_length}. "
                f"Truncate it or split it into windows."
            )
        batch = PaddedBatch.from_mask(attention_mask, shape, words.device)
        position_ids = batch.pack(position_ids.expand(shape))
        token_type_ids = None if token_type_ids is None else batch.pack(token_type_ids.expand(shape))
        hidden = self.encode(
            batch.pack(words), position_ids, batch.packing, token_type_ids=token_type_ids, layers=layers
        )
        return hidden, batch

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> BaseModelOutput | tuple:
        """Encode a padded batch.

        Parameters
        ----------
        input_ids : Tensor of shape (B, S), int64
        attention_mask : Tensor of shape (B, S), default=None
            Nonzero at real tokens; None means all. Outputs are zero elsewhere.
        token_type_ids, position_ids : Tensor of shape (B, S), int64, default=None
        inputs_embeds : Tensor of shape (B, S, H), default=None
            Word embeddings in place of `input_ids`.
        output_hidden_states : bool, default=False
        return_dict : bool, default=True
            False gives a plain tuple.

        Returns
        -------
        BaseModelOutput or tuple
        """
        hidden, batch = self.encode_padded(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            self.hidden_layers(output_hidden_states),
        )
        outputs = BaseModelOutput(
            last_hidden_state=batch.unpack(hidden[-1]),
            pooler_output=None if self.pooler is None else self.pooler(hidden[-1][batch.packing.first]),
            hidden_states=tuple(batch.unpack(x) for x in hidden) if output_hidden_states else None,
        )
        return outputs if return_dict else outputs.to_tuple()

    def hidden_layers(self, output_hidden_states: bool) -> range:
        """The `layers` of `encode` that a forward pass needs: all of them, or the last."""
        depth = len(self.layers)
        return range(0 if output_hidden_states else depth, depth + 1)
