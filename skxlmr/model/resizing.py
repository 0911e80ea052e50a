"""Access to the embeddings of a model; that of words can be replaced and resized.

Notation: V vocabulary, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from skxlmr.model.base import ModelBase
from skxlmr.model.initialisation import initialise

SPREAD = 1e-9  # of new rows: the factor of the covariance of the old ones


class ResizableModel(ModelBase):
    """Base class of models with a word embedding: its access and its size."""

    _input_hook: RemovableHandle | None = None

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embedding, (V, H)."""
        return self.base_model.embeddings.word

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding; `config.vocab_size` becomes its number of rows.

        Parameters
        ----------
        value : nn.Embedding
            Of the hidden size of the model. A language model predicts with it, too, unless it is untied.

        Raises
        ------
        TypeError
            If it is not an embedding.
        ValueError
            If its rows have another width, or a language model has a bias for another number of rows.
        """
        if not isinstance(value, nn.Embedding):
            raise TypeError(f"The word embedding must be an nn.Embedding, not {type(value).__name__}.")
        if value.embedding_dim != self.config.hidden_size:
            raise ValueError(f"The word embedding has rows of {value.embedding_dim}, not {self.config.hidden_size}.")
        bias = self._output_bias()
        if bias is not None and len(bias) != value.num_embeddings:
            raise ValueError(
                f"The language model has {len(bias)} tokens and the word embedding {value.num_embeddings}: call "
                f"resize_token_embeddings({value.num_embeddings}) first."
            )
        self.base_model.embeddings.word = value
        self._set_vocab_size(value.num_embeddings)

    def get_output_embeddings(self) -> nn.Linear | None:
        """Return the decoder of a language model, (..., H) -> (..., V); None for other models.

        Its weight and bias are the parameters of the model: the weight is that of the word embedding, unless the
        config has `tie_word_embeddings=False`.
        """
        bias = self._output_bias()
        if bias is None:
            return None
        words = self._output().words(self.get_input_embeddings().weight)
        decoder = nn.Linear(words.shape[1], len(words), device="meta")
        decoder.weight, decoder.bias = words, bias
        return decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder of a language model; unless it is untied, its weight becomes the word embedding, too.

        Parameters
        ----------
        new_embeddings : nn.Linear
            (..., H) -> (..., V), with a bias or without, which is then zero. `config.vocab_size` becomes V.

        Raises
        ------
        TypeError
            If it is not a linear layer.
        ValueError
            If the model is not a language model, the layer takes another width, or the model is untied and has another
            number of word embeddings.
        """
        bias = self._output_bias()
        if bias is None:
            raise ValueError(f"{type(self).__name__} is not a language model: it has no output embeddings.")
        if not isinstance(new_embeddings, nn.Linear):
            raise TypeError(f"The output embeddings must be an nn.Linear, not {type(new_embeddings).__name__}.")
        if new_embeddings.in_features != self.config.hidden_size:
            raise ValueError(f"The layer takes {new_embeddings.in_features} values, not {self.config.hidden_size}.")
        n_rows, word = new_embeddings.out_features, self.get_input_embeddings()
        given, head = new_embeddings.bias, self._output()
        if head.decoder is not None and n_rows != word.num_embeddings:
            raise ValueError(
                f"The layer has {n_rows} outputs, and there are {word.num_embeddings} word embeddings: call "
                f"resize_token_embeddings({n_rows}) first."
            )
        head.bias = nn.Parameter(bias.new_zeros(n_rows)) if given is None else given
        if head.decoder is not None:
            head.decoder = new_embeddings.weight
            return
        word.weight, word.num_embeddings = new_embeddings.weight, n_rows
        self._set_vocab_size(n_rows)

    def tie_weights(self) -> None:
        """Let an untied language model predict with its word embedding again, if `config.tie_word_embeddings` is true.

        Otherwise do nothing: a decoder that is tied always is the word embedding, also after that was replaced.
        """
        head = self._output()
        if head is not None and self.config.tie_word_embeddings is not False:
            head.decoder = None

    def get_position_embeddings(self) -> nn.Embedding:
        """Return the position embedding, (max_position_embeddings, H)."""
        return self.base_model.embeddings.position

    def enable_input_require_grads(self) -> None:
        """Let the word embeddings of inputs require a gradient, so that it flows back to layers of frozen models.

        Reentrant gradient checkpointing of a frozen model with trained adapters needs that; ours does not.
        """
        self.disable_input_require_grads()
        self._input_hook = self.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_()
        )

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        if self._input_hook is not None:
            self._input_hook.remove()
        self._input_hook = None

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Give the word embedding, and the decoder and bias of a language model, another number of rows.

        Rows are added or dropped at the end, and `config.vocab_size` becomes their number.

        Parameters
        ----------
        new_num_tokens : int, default=None
            Number of rows; None keeps it.
        pad_to_multiple_of : int, default=None
            The number of rows is rounded up to a multiple of this one.
        mean_resizing : bool, default=True
            Whether new rows are drawn around the mean of the old ones, with 1e-9 of their covariance (Hewitt, 2021,
            "Initializing New Word Embeddings for Pretrained Language Models"); otherwise they are drawn as in a new
            model. New biases of a language model are zero.

        Returns
        -------
        nn.Embedding
            The word embedding, which is the same object as before.

        Raises
        ------
        ValueError
            If a number is not a positive integer, or the row of padding would be dropped.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM
        >>> model = XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1,
        ...                                                    num_attention_heads=2, intermediate_size=32))
        >>> model.resize_token_embeddings(51, pad_to_multiple_of=8)
        Embedding(56, 16, padding_idx=1)
        >>> model.config.vocab_size
        56
        """
        word = self.get_input_embeddings()
        for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a positive integer or None, got {value!r}.")
        n_rows, step = new_num_tokens or word.num_embeddings, pad_to_multiple_of or 1
        n_rows = -(-n_rows // step) * step
        if n_rows <= self.config.pad_token_id:
            raise ValueError(f"{n_rows} rows are without that of padding, pad_token_id={self.config.pad_token_id}.")
        if n_rows == word.num_embeddings:
            return word
        n_new = max(0, n_rows - word.num_embeddings)
        draw = rows_like if mean_resizing else self._new_rows
        with torch.no_grad():
            word.weight = resized(word.weight, n_rows, draw(word.weight, n_new))
            if (head := self._output()) is not None:
                head.bias = resized(head.bias, n_rows, head.bias.new_zeros(n_new))
                if head.decoder is not None:
                    head.decoder = resized(head.decoder, n_rows, draw(head.decoder, n_new))
        word.num_embeddings = n_rows
        self._set_vocab_size(n_rows)
        return word

    def _output(self) -> Any:
        """Return the head of a language model, or None."""
        return getattr(self, "lm_head", None)

    def _output_bias(self) -> nn.Parameter | None:
        head = self._output()
        return None if head is None else head.bias

    def _new_rows(self, weight: Tensor, n_new: int) -> Tensor:
        """Draw rows as in a new model, (n_new, H)."""
        layer = nn.Embedding.from_pretrained(torch.empty(n_new, weight.shape[1], device=weight.device), freeze=False)
        initialise(layer, self.config)
        return layer.weight

    def _set_vocab_size(self, n_rows: int) -> None:
        for config in (self.config, self.base_model.config):
            config.vocab_size = n_rows


def rows_like(rows: Tensor, n_new: int) -> Tensor:
    """Draw `n_new` rows around the mean of others, (V, H) -> (n_new, H), with `SPREAD` of their covariance."""
    old = rows.detach().float()
    mean = old.mean(0)
    centred = old - mean
    factor, failed = torch.linalg.cholesky_ex(SPREAD * (centred.T @ centred) / len(old))
    if failed:  # the covariance is singular: there are fewer rows than columns
        return mean.expand(n_new, -1)
    return mean + torch.randn(n_new, len(mean), device=old.device) @ factor.T


def resized(old: Tensor, n_rows: int, new: Tensor) -> nn.Parameter:
    """Return a parameter with the first `n_rows` of the old rows, followed by new ones."""
    joined = torch.cat([old.detach()[:n_rows], new.detach().to(old.dtype)])
    return nn.Parameter(joined, requires_grad=old.requires_grad)
