"""The parts of the encoder: embeddings, layers and the pooler.

Notation: B texts, T packed tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skxlmr.model.attention import NO_DELTAS, Attention, Deltas, Eager, linear
from skxlmr.model.config import ACTIVATIONS, XLMRobertaXLConfig
from skxlmr.model.fused_layer import can_fuse, run_fused
from skxlmr.model.initialisation import embedding
from skxlmr.model.int8 import can_chain, chain
from skxlmr.model.packing import Packing


class Dropout(nn.Dropout):
    """Dropout that runs no operator where it changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training and self.p else x


class Embeddings(nn.Module):
    """Sum of word, token type and absolute position embeddings, with a LayerNorm in post-LayerNorm models; (T, H)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        pad = config.pad_token_id
        self.word = embedding(config.vocab_size, config.hidden_size, pad)
        # Only BERT uses the position of the pad id for a token; in other models it is never trained.
        self.position = embedding(
            config.max_position_embeddings, config.hidden_size, pad if config.first_position else None
        )
        self.token_type = embedding(config.type_vocab_size, config.hidden_size)
        self.absolute = config.position_embedding_type == "absolute"
        self.norm = nn.Identity() if config.pre_layer_norm else layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        words: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        delta: nn.Module | None = None,
    ) -> Tensor:
        words = words.to(self.position.weight.dtype)  # quantised models have it in 16 bits
        x = words + (self.token_type.weight[0] if token_type_ids is None else self.types(token_type_ids))
        return self.dropout(linear(self.norm, x + self.position(position_ids) if self.absolute else x, delta))

    def words(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings of ids, (T,) -> (T, H)."""
        remedy = "for tokens that were added to a vocabulary, call resize_token_embeddings(len(tokenizer))"
        return look_up(self.word, input_ids, "input_ids", remedy)

    def types(self, token_type_ids: Tensor) -> Tensor:
        """Return the token type embeddings of ids, (T,) -> (T, H)."""
        return look_up(self.token_type, token_type_ids, "token_type_ids", "leave them out; in XLM-RoBERTa all are 0")


def look_up(table: nn.Module, ids: Tensor, name: str, remedy: str) -> Tensor:
    """Return the rows of an embedding; on CPUs raise an IndexError that names an id without a row, and the remedy."""
    try:
        return table(ids)
    except IndexError:
        n_rows = len(table.weight)  # type: ignore[arg-type]
        wrong = ids[(ids < 0) | (ids >= n_rows)].flatten()
        if not len(wrong):
            raise
        raise IndexError(f"{name} has {int(wrong[0])}, but the model has {n_rows} rows for them: {remedy}.") from None


def layer_norm(config: XLMRobertaXLConfig) -> nn.LayerNorm:
    """Return a LayerNorm over the hidden size."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def activation(config: XLMRobertaXLConfig) -> Callable[[Tensor], Tensor]:
    """Return the activation of a config, by its name if it has one."""
    return ACTIVATIONS[config.hidden_act] if isinstance(config.hidden_act, str) else config.hidden_act


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, (T, H) -> (T, H)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = activation(config)

    def forward(self, x: Tensor, deltas: Deltas) -> Tensor:
        up, down = deltas.get("up"), deltas.get("down")
        if up is None and down is None and can_chain(self.up, self.down, x):
            return chain(self.up, self.activation, self.down, x)
        return linear(self.down, self.activation(linear(self.up, x, up)), down)


class Layer(nn.Module):
    """One layer, (T, H) -> (T, H), with LayerNorms before its parts (XL) or after them (XLM-RoBERTa, BERT)."""

    def __init__(self, config: XLMRobertaXLConfig, number: int) -> None:
        super().__init__()
        self.pre_layer_norm = config.pre_layer_norm
        self.attention_norm = layer_norm(config)
        self.attention = Attention(config, config.position_embedding_type, len(config.kept_heads(number)))
        if config.add_cross_attention:
            self.cross_norm = layer_norm(config)
            self.cross_attention = Attention(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.ffn_norm = layer_norm(config)
        self.ffn = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        deltas: Deltas = NO_DELTAS,
        eager: Eager | None = None,
        cross: Eager | None = None,
    ) -> Tensor:
        if eager is None and cross is None and can_fuse(self, deltas):
            return run_fused(self, x, packing, deltas)
        attention_delta, ffn_delta = deltas.get("attention_norm"), deltas.get("ffn_norm")
        if self.pre_layer_norm:
            x = x + self.dropout(
                self.attention(linear(self.attention_norm, x, attention_delta), packing, deltas, eager)
            )
            if cross is not None:
                x = x + self.dropout(self.cross_attention(self.cross_norm(x), packing, NO_DELTAS, cross))
            return x + self.ffn(linear(self.ffn_norm, x, ffn_delta), deltas)  # without dropout, as in the reference
        x = linear(self.attention_norm, x + self.dropout(self.attention(x, packing, deltas, eager)), attention_delta)
        if cross is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attention(x, packing, NO_DELTAS, cross)))
        return linear(self.ffn_norm, x + self.dropout(self.ffn(x, deltas)), ffn_delta)


class Pooler(nn.Module):
    """Dense layer and tanh on the first token, (B, H) -> (B, H). XL was pretrained without it."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_tokens: Tensor) -> Tensor:
        return self.dense(first_tokens).tanh()
