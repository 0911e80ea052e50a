"""What an estimator learns: an adapter and a head on a shared base, or copies of the base's own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.reference.generation import Past
from skxlmr.runtime.feature_cache import moment
from skxlmr.runtime.features import frozen_features, frozen_states, pooled
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.runtime.run import collate, run
from skxlmr.tuning import Tuning

if TYPE_CHECKING:
    from skxlmr.runtime.backbone import Backbone

# Features that a head alone predicts from at once: of all tokens of a large column they would fill the memory.
FEATURE_BYTES = 2**28


class Finetuned(nn.Module):
    """An adapter and a head; with `tuning="full"` copies of the base's weights in the adapter's place.

    The base is passed to every call, and never changed.

    Parameters
    ----------
    tuning : Tuning
    base : XLMRobertaXLModel
        For its shape, its device and, where they are copied, its weights.
    head : Module
        Takes features (n, H).
    pooling : str, default="cls"
        How the tokens of a window become its features; a key of `skxlmr.runtime.features.POOLINGS`. The default is
        `<s>`, which the reference's sequence head reads.
    causal : bool, default=False
        Whether a token sees only itself and those before it.

    Attributes
    ----------
    adapter : ModuleList or None
        One `LayerAdapter` for each layer of the base.
    own : ModuleDict or None
        Parts that take the place of the base's: "layers" the topmost ones, "norm", perhaps "embeddings".
    head : Module
    num_frozen : int
        Layers below everything that is learned.
    tuning : Tuning
    config : XLMRobertaXLConfig
        Of the base.
    """

    def __init__(
        self,
        tuning: Tuning,
        base: XLMRobertaXLModel,
        head: nn.Module,
        pooling: str = "cls",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.tuning = clone(tuning)  # the user's own may change after the fit
        self.config = base.config
        self.adapter = tuning.build(base.config)
        self.own = tuning.copy_weights(base)
        self.head = head
        self.pooling = pooling
        self.causal = causal
        self.num_frozen = tuning.num_frozen_layers(base.config)
        self.to(base.device)

    @property
    def only_head(self) -> bool:
        """Whether nothing below the head is learned."""
        return self.adapter is None and self.own is None

    def continue_from(self, earlier: Finetuned) -> None:
        """Take the weights of an earlier fit.

        Raises
        ------
        ValueError
            If it trained other weights than these.
        """
        have, need = ({name: p.shape for name, p in m.named_parameters()} for m in (earlier, self))
        if have != need:
            raise ValueError(
                "The earlier fit cannot be continued: its tuning, or its model, was another one. Set them back, or fit "
                "anew with warm_start=False."
            )
        self.load_state_dict(earlier.state_dict())

    def model(self, base: XLMRobertaXLModel) -> XLMRobertaXLModel:
        """The base with those parts replaced that are this estimator's own; a new model, but of the same weights."""
        if self.own is None:
            return base
        model = copy.copy(base)
        parts = {**base._modules, **self.own}
        parts["layers"] = nn.ModuleList([*base.layers[: self.num_frozen], *self.own["layers"]])
        model._modules = parts
        return model

    def embed(
        self,
        backbone: Backbone,
        windows: Sequence[np.ndarray],
        positions: Sequence[np.ndarray] | None = None,
        *,
        keep: int | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Features of a batch of windows, through what is learned; (n, H) float32.

        Parameters
        ----------
        backbone : Backbone
        windows : sequence of ndarray
        positions : sequence of ndarray, default=None
            Tokens of each window, for a vector each in the place of the pooling.
        keep : int, default=None
            Remember what the frozen layers gave; see `skxlmr.runtime.features.frozen_states`.
        recompute : bool, default=False
            Save memory in training: run the layers again in the backward pass.
        """
        base = backbone.model
        position_ids = None
        if self.num_frozen:
            x, packing = frozen_states(backbone, windows, self.num_frozen, causal=self.causal, keep=keep)
            x = x if self.own is None else x.float()
        else:
            x, position_ids, packing = collate(windows, base, self.causal)
        with self._precision(base):
            hidden = self.model(base).encode(
                x, position_ids, packing, adapter=self.adapter, start=self.num_frozen, recompute=recompute
            )
        return pooled(self.pooling, hidden, packing, positions)

    def decode(
        self, backbone: Backbone, ids: Tensor, mask: Tensor, positions: Tensor, past: Past | None
    ) -> tuple[Tensor, Past]:
        """One step of decoding, through what is learned; see `skxlmr.model.reference.generation.Step`.

        Returns
        -------
        hidden : Tensor of shape (B, H), float32
            Of the last token of each text.
        past : sequence of tuples
        """
        decoder = copy.copy(self.model(backbone.model))
        decoder.config = self.decoder_config
        with self._precision(backbone.model):
            encoded = decoder.encode_padded(
                ids, mask, position_ids=positions, past_key_values=past, use_cache=True, adapter=self.adapter
            )
        return encoded.batch.unpack(encoded.last)[:, -1].float(), encoded.more.past_key_values

    @property
    def decoder_config(self) -> XLMRobertaXLConfig:
        """The base's, as that of a decoder."""
        return replace(self.config, is_decoder=True)

    def words(self, base: XLMRobertaXLModel) -> Tensor:
        """The word embeddings that a language model's head is tied to, (V, H)."""
        return self.model(base).embeddings.word.weight

    def features(
        self, backbone: Backbone, plan: WindowPlan, batch_tokens: int, memory: object = None, verbose: int = 0
    ) -> Callable[..., Tensor]:
        """Return a function from window indices to their features, (n,) -> (n, d), for training the head on.

        Where only the head learns, the base runs over all windows now, once.
        """
        if self.only_head:
            every = np.arange(len(plan.windows))
            known = torch.from_numpy(self._frozen(backbone, plan, every, batch_tokens, memory, verbose))
            known, counts = known.to(self._device), plan.counts
            return lambda windows, recompute=False: known[torch.from_numpy(rows_of(windows, counts))]
        began = moment()
        return lambda windows, recompute=False: self.embed(
            backbone, *_taken(plan, windows), keep=began, recompute=recompute
        )

    def run(
        self,
        backbone: Backbone,
        plan: WindowPlan,
        batch_tokens: int,
        *,
        memory: object = None,
        keep: int | None = None,
        verbose: int = 0,
        description: str = "predict",
    ) -> np.ndarray:
        """Return the head's output for each window of a plan, or each of their positions, (n, d) float32.

        Windows of texts that no row of the plan has are not run; their outputs are 0.
        """
        if self._device != backbone.model.device:
            self.to(backbone.model.device)
        if self.only_head:
            of_parts = []
            for part in _parts(plan.counts, FEATURE_BYTES // (4 * self.config.hidden_size)):
                features = self._frozen(backbone, plan, part, batch_tokens, memory, verbose, description)
                with torch.inference_mode():
                    of_parts.append(self.head(torch.from_numpy(features).to(self._device)).float().cpu().numpy())
            return np.concatenate(of_parts)
        of_a_row = np.zeros(plan.n_texts, bool)
        of_a_row[plan.text_of_row] = True
        asked, counts = np.flatnonzero(of_a_row[plan.text_of_window]), plan.counts
        outputs = run(
            lambda batch: self.head(self.embed(backbone, *_taken(plan, asked[batch]), keep=keep)),
            plan.lengths[asked],
            batch_tokens=batch_tokens,
            counts=counts[asked],
            verbose=verbose,
            description=description,
        )
        if len(asked) == len(counts):
            return outputs
        every = np.zeros((counts.sum(), outputs.shape[1]), np.float32)
        every[rows_of(asked, counts)] = outputs
        return every

    def _frozen(
        self,
        backbone: Backbone,
        plan: WindowPlan,
        windows: np.ndarray,
        batch_tokens: int,
        memory: object,
        verbose: int,
        description: str = "encode",
    ) -> np.ndarray:
        """Features of the base as it is, on which a head alone learns and predicts."""
        some, positions = _taken(plan, windows)
        return frozen_features(
            backbone,
            some,
            self.pooling,
            positions=positions,
            batch_tokens=batch_tokens,
            memory=memory,
            verbose=verbose,
            description=description,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.head.parameters()).device

    def _precision(self, base: XLMRobertaXLModel) -> AbstractContextManager:
        """Own weights are float32; the matrices are multiplied in the dtype that the base runs in."""
        if self.own is None or base.dtype.itemsize > 2:
            return nullcontext()
        return torch.autocast(base.device.type, dtype=base.dtype)


def _taken(plan: WindowPlan, windows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Some windows of a plan, and their positions."""
    positions = None if plan.positions is None else [plan.positions[i] for i in windows]
    return [plan.windows[i] for i in windows], positions


def _parts(counts: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut windows, which have so many features each, into runs of about `most` features."""
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(np.cumsum(counts) // max(most, 1))) + 1)
