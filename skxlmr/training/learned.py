"""What an estimator learns: an adapter and a head on a shared base, or copies of the base's own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from skxlmr.features import POOLINGS, frozen_features, frozen_states, moment
from skxlmr.inference import Plan, collate, run
from skxlmr.model import XLMRobertaXLModel
from skxlmr.training.adapters import Tuning

if TYPE_CHECKING:
    from skxlmr.backbone import Backbone


class Learned(nn.Module):
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
        How the tokens of a window become its features; a key of `skxlmr.features.POOLINGS`. The default is `<s>`,
        which the reference's sequence head reads.

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

    def __init__(self, tuning: Tuning, base: XLMRobertaXLModel, head: nn.Module, pooling: str = "cls") -> None:
        super().__init__()
        self.tuning = clone(tuning)  # the user's own may change after the fit
        self.config = base.config
        self.adapter = tuning.build(base.config)
        self.own = tuning.copy_weights(base)
        self.head = head
        self.pooling = pooling
        self.num_frozen = tuning.num_frozen_layers(base.config)
        self.to(base.device)

    @property
    def only_head(self) -> bool:
        """Whether nothing below the head is learned."""
        return self.adapter is None and self.own is None

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
        self, backbone: Backbone, windows: Sequence[np.ndarray], *, keep: int | None = None, recompute: bool = False
    ) -> Tensor:
        """Features of a batch of windows, through what is learned; (n, H) float32.

        Parameters
        ----------
        backbone : Backbone
        windows : sequence of ndarray
        keep : int, default=None
            Remember what the frozen layers gave; see `skxlmr.features.frozen_states`.
        recompute : bool, default=False
            Save memory in training: run the layers again in the backward pass.
        """
        base = backbone.model
        positions = None
        if self.num_frozen:
            x, packing = frozen_states(backbone, windows, self.num_frozen, keep=keep)
            x = x if self.own is None else x.float()
        else:
            x, positions, packing = collate(windows, base)
        with self._precision(base):
            hidden = self.model(base).encode(
                x, positions, packing, adapter=self.adapter, start=self.num_frozen, recompute=recompute
            )
        return POOLINGS[self.pooling](hidden, packing)

    def features(
        self, backbone: Backbone, plan: Plan, batch_tokens: int, memory: object = None, verbose: int = 0
    ) -> Callable[..., Tensor]:
        """Return a function from window indices to their features, (n,) -> (n, d), for training the head on.

        Where only the head learns, the base runs over all windows now, once.
        """
        if self.only_head:
            known = torch.from_numpy(
                frozen_features(
                    backbone, plan.windows, self.pooling, batch_tokens=batch_tokens, memory=memory, verbose=verbose
                )
            ).to(backbone.model.device)
            return lambda windows, recompute=False: known[torch.from_numpy(windows)]
        began = moment()
        return lambda windows, recompute=False: self.embed(
            backbone, [plan.windows[i] for i in windows], keep=began, recompute=recompute
        )

    def run(
        self,
        backbone: Backbone,
        windows: Sequence[np.ndarray],
        batch_tokens: int,
        *,
        memory: object = None,
        keep: int | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Return the head's output for each window, (n_windows, d) float32."""
        self.to(backbone.model.device)
        settings = {"batch_tokens": batch_tokens, "verbose": verbose, "description": "predict"}
        if self.only_head:
            features = frozen_features(backbone, windows, self.pooling, memory=memory, **settings)
            with torch.inference_mode():
                return self.head(torch.from_numpy(features).to(backbone.model.device)).float().cpu().numpy()
        return run(lambda batch: self.head(self.embed(backbone, batch, keep=keep)), windows, **settings)

    @contextmanager
    def _precision(self, base: XLMRobertaXLModel) -> Iterator[None]:
        """Own weights are float32; the matrices are multiplied in the dtype that the base runs in."""
        dtype = base.norm.weight.dtype
        with torch.autocast(base.device.type, dtype=dtype, enabled=self.own is not None and dtype.itemsize == 2):
            yield
