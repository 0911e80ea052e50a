"""The encoder over packed tokens, which all other models and all estimators run.

Notation: T packed tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.attention import NO_DELTAS, Adapter, Deltas, Eager, linear
from skxlmr.model.checkpointing import Checkpointing
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.fused_encoder import FusedEncoder
from skxlmr.model.initialisation import initialise
from skxlmr.model.layers import Embeddings, Layer, Pooler, layer_norm
from skxlmr.model.packing import Packing, few_sizes
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.system.current_device import on_device

if TYPE_CHECKING:
    from typing_extensions import Self


class Encoder(PretrainedModel):
    """Embeddings, layers and final LayerNorm, run on packed tokens; the pooler is not run by `encode`."""

    def __init__(self, config: XLMRobertaXLConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm: nn.Module = layer_norm(config) if config.pre_layer_norm else nn.Identity()
        self.pooler: Pooler | None = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = config.extra.get("gradient_checkpointing") is True  # of older config.json files
        self.checkpointing = Checkpointing()
        self.attn_implementation = "sdpa"
        self._fused: FusedEncoder | None = None
        self.apply(lambda module: initialise(module, config))

    def with_words(self, words: Tensor) -> Self:
        """Return a model with another word embedding (V, H), in its dtype and on its device; all else is shared."""
        embeddings, model = copy.copy(self.embeddings), copy.copy(self)
        word = nn.Embedding.from_pretrained(words, padding_idx=self.config.pad_token_id)
        embeddings._modules = {**self.embeddings._modules, "word": word}
        model._modules = {**self._modules, "embeddings": embeddings}
        model.config = replace(self.config, vocab_size=len(words))
        return model

    def encode(
        self,
        inputs: Tensor,
        position_ids: Tensor | None,
        packing: Packing,
        *,
        token_type_ids: Tensor | None = None,
        adapter: Adapter | None = None,
        layers: Sequence[int] = (-1,),
        start: int = 0,
        recompute: bool = False,
        eager: Sequence[tuple[Eager, Eager | None]] | None = None,
        through: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None,
    ) -> list[Tensor]:
        """Run the encoder on token ids (T,) or word embeddings (T, H); return the hidden states (T, H) after `layers`.

        Layers are numbered as in the reference: 0 is the embeddings, `num_hidden_layers` (or -1) the normalised output.
        Those above the highest one are not run, and with `start` not the first ones: `inputs` are the hidden states
        after that many. `position_ids` and `token_type_ids` are (T,) int64.

        The modules of an `adapter` each take the input and the output of the linear layer or LayerNorm that they are
        named after ("query", "key", "value", "output", "up", "down", "attention_norm", "ffn_norm"; "embeddings_norm" in
        the first layer, "norm" in the last one), and return the output with their term added. `recompute` keeps only
        the input of each layer for the backward pass, and runs the layer again there. `eager` switches to eager
        attention: what self-attention and cross-attention of each layer need, and where they store their results.
        `through` is a conversion of hidden states and its inverse: the converted ones are returned, and lie between the
        layers on the graph of autograd.
        Raise NotImplementedError for relative positions without `eager`.
        """
        if eager is None and not self.embeddings.absolute:
            raise NotImplementedError(
                f"position_embedding_type={self.config.position_embedding_type!r} runs only in the forward pass of "
                f"the model classes, not in estimators: these need a model with absolute positions."
            )
        depth = len(self.layers)
        deltas: Sequence[Deltas] = [NO_DELTAS] * depth if adapter is None else adapter  # type: ignore[assignment]
        wanted = [i % (depth + 1) for i in layers]
        x = inputs
        if not start:
            words = self.embeddings.words(inputs) if inputs.ndim == 1 else inputs
            x = self.embeddings(words, position_ids, token_type_ids, deltas[0].get("embeddings_norm"))
        if eager is None and adapter is None and (fused := self._fuse(x)) is not None:
            kept = self._run_fused(fused, x, packing, wanted, start)
            return [kept[i] if through is None else through[0](kept[i]) for i in wanted]
        n_tokens = x.shape[0]
        if eager is None and x.device.type == "cpu" and x.dtype.itemsize <= 4:
            x = F.pad(x, (0, 0, 0, few_sizes(n_tokens) - n_tokens))  # (T, H) -> (T', H), T' one of few sizes
        kept = {start: x}
        if through is not None:
            kept[start], x = _through(x, n_tokens, *through)
        with on_device(x.device):  # Triton launches its kernels on the current device
            for i, layer in enumerate(self.layers[start : max(wanted)], start=start + 1):
                arguments = (x, packing, deltas[i - 1], *(eager[i - 1] if eager else ()))
                again = recompute or (self.gradient_checkpointing and self.checkpointing.applies_to(i - 1))
                if again and torch.is_grad_enabled():
                    x = self.checkpointing.run(layer, *arguments)
                else:
                    x = layer(*arguments)
                if i == depth:
                    x = linear(self.norm, x, deltas[-1].get("norm"))
                if i in wanted and through is not None:
                    kept[i], x = _through(x, n_tokens, *through)
                elif i in wanted:
                    kept[i] = x
        if through is not None:
            return [kept[i] for i in wanted]
        return [kept[i][:n_tokens] for i in wanted]  # (T', H) -> (T, H)

    def _fuse(self, x: Tensor) -> FusedEncoder | None:
        """Return what runs all layers at once on hidden states (T, H); None if nothing does."""
        if x.device.type != "cpu" or self.training or torch.is_grad_enabled():
            return None
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        layers: Any = list(self.layers)
        fused = self._fused
        if fused is None or not fused.is_current(layers):
            fused = self._fused = FusedEncoder(layers) if FusedEncoder.can_run(layers) else None
        return fused if fused is not None and fused.takes(x) else None

    def _run_fused(
        self, fused: FusedEncoder, x: Tensor, packing: Packing, wanted: Sequence[int], start: int
    ) -> dict[int, Tensor]:
        """Run the layers from `start` on up to those that are `wanted`; return their hidden states (T, H) by number."""
        kept = {start: x}
        for stop in sorted(i for i in set(wanted) if i > start):
            x = kept[stop] = fused.run(x, packing, start, stop)
            start = stop
            if stop == len(self.layers):
                kept[stop] = self.norm(x)
        return kept

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert as `to` does; the weights have other addresses afterwards."""
        self._fused = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the addresses of the weights, which copies do not share."""
        return {**self.__dict__, "_fused": None}


def _through(
    x: Tensor, n_tokens: int, convert: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Convert hidden states (T', H), and return the result and what it is converted back to, (T', H)."""
    converted = convert(x[:n_tokens])
    return converted, F.pad(back(converted), (0, 0, 0, x.shape[0] - n_tokens))
