"""The trained part of a model: an adapter and a head on a shared base, or copies of the base's own weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.lm_head import LMHead
from skxlmr.model.reference.decoding import Past
from skxlmr.model.transfer import downloads, upload, upload_one
from skxlmr.runtime import graphs
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.features import frozen_features, frozen_states, pooled
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.runtime.run import Batch, HostBatch, run
from skxlmr.system.forks import gate
from skxlmr.tuning import Tuning

if TYPE_CHECKING:
    from skxlmr.runtime.backbone import Backbone

Module = TypeVar("Module", bound=nn.Module)

# Maximum size of the features that a head predicts from at once: those of a large column would fill the memory.
FEATURE_BYTES = 2**28


class Finetuned(nn.Module):
    """An adapter, or copies of some of the base's weights, and a head that takes features (n, H).

    The base is passed to each call, and never changed. The pooling is a key of `skxlmr.runtime.features.POOLINGS`, or
    several that are joined by "+"; with "cls" the features are those of `<s>`, as for the classification head of the
    reference. If `causal`, a token attends to itself and earlier ones only.
    """

    def __init__(
        self, tuning: Tuning, base: XLMRobertaXLModel, head: nn.Module, pooling: str = "cls", causal: bool = False
    ) -> None:
        super().__init__()
        self.tuning = clone(tuning)  # the user may change the original after the fit
        self.config = base.config
        self.adapter = tuning.build(base.config)
        self.own = tuning.copy_weights(base)
        self.head = head
        if isinstance(head, LMHead) and head.decoder is not None:  # trained where a tied one would be
            head.decoder.requires_grad_(self.own is not None and "embeddings" in self.own)
        self.pooling = pooling
        self.causal = causal
        self.num_frozen = tuning.num_frozen_layers(base.config)
        self.to(base.device)

    @property
    def only_head(self) -> bool:
        """Whether only the head is trained."""
        return self.adapter is None and self.own is None

    @property
    def replaces_base(self) -> bool:
        """Whether it has copies of all weights of the base."""
        return self.own is not None and self.own._modules.keys() >= {"embeddings", "layers"} and not self.num_frozen

    def continue_from(self, earlier: Finetuned) -> None:
        """Load the weights of an earlier fit; if that trained the head alone, all others start as in the base.

        Raises ValueError if it trained other weights.
        """
        have, need = ({name: p.shape for name, p in m.named_parameters()} for m in (earlier, self))
        if earlier.only_head:
            need = {name: shape for name, shape in need.items() if name.startswith("head.")}
        if have != need:
            raise ValueError(
                "The earlier fit cannot be continued: its tuning, or its model, was another one. Set them back, or fit "
                "anew with warm_start=False."
            )
        self.load_state_dict(earlier.state_dict(), strict=not earlier.only_head)

    def model(self, base: XLMRobertaXLModel) -> XLMRobertaXLModel:
        """Return the base with its own trained copies in place of the base's; no weights are copied."""
        if self.own is None:
            return base
        model = copy.copy(base)
        parts: dict[str, nn.Module | None] = {**base._modules, **self.own._modules}
        own_layers = self.own["layers"]
        assert isinstance(own_layers, nn.ModuleList)
        parts["layers"] = nn.ModuleList([*base.layers[: self.num_frozen], *own_layers])
        model._modules = parts
        return model

    def embed(self, backbone: Backbone, batch: Batch, *, keep: Keep | None = None, recompute: bool = False) -> Tensor:
        """Compute the features of a batch, (n, H) float32: one per window, or one per place.

        For `keep` see `skxlmr.runtime.features.frozen_states`. With `recompute`, the backward pass runs each layer
        again, to save memory.
        """
        base = backbone.model
        x, position_ids = batch.ids, batch.position_ids
        if self.num_frozen:
            x = frozen_states(backbone, batch, self.num_frozen, keep)
            x = x if self.own is None else x.float()
        with self._precision(base):
            encode = functools.partial(graphs.encode, base) if self.own is None else self.model(base).encode
            hidden = encode(
                x,
                position_ids,
                batch.packing,
                adapter=self.adapter,
                start=self.num_frozen,
                recompute=recompute,
            )
        return pooled(self.pooling, hidden, batch)

    def batch(
        self,
        backbone: Backbone,
        windows: Sequence[np.ndarray],
        positions: Sequence[np.ndarray] | None = None,
        left_out: np.ndarray | None = None,
        *,
        more: Sequence[np.ndarray] = (),
    ) -> HostBatch:
        """Prepare windows for `embed`; for the parameters see `HostBatch.of`."""
        return HostBatch.of(windows, backbone.model, positions, left_out, more=more, causal=self.causal)

    def decode(
        self, backbone: Backbone, ids: Tensor, mask: Tensor, positions: Tensor, past: Past | None
    ) -> tuple[Tensor, Past]:
        """Run one step of decoding; see `skxlmr.model.reference.decoding.Step`.

        Returns the last hidden states (B, S, H) of the tokens, float32, and the keys and values for the next step.
        """
        decoder = copy.copy(self.model(backbone.model))
        decoder.config = self.decoder_config
        with self._precision(backbone.model):
            encoded = decoder.encode_padded(
                ids, mask, position_ids=positions, past_key_values=past, use_cache=True, adapter=self.adapter,
                check_positions=False,  # `generate` has done so
            )  # fmt: skip
        past = encoded.more.past_key_values
        assert past is not None
        return encoded.batch.unpack(encoded.last).float(), past

    @property
    def decoder_config(self) -> XLMRobertaXLConfig:
        """The config of the base as a decoder."""
        return replace(self.config, is_decoder=True)

    def words(self, base: XLMRobertaXLModel) -> Tensor:
        """Return the word embeddings, (V, H), to which the head of a language model is tied, unless it is untied."""
        return self.model(base).embeddings.word.weight

    def features(
        self, backbone: Backbone, plan: WindowPlan, batch_tokens: int, memory: object = None, verbose: int = 0
    ) -> Callable[..., Tensor]:
        """Return a function from indices of windows to their features, (n,) -> (n, H), to train on.

        If only the head is trained, the features of all windows are computed here.
        """
        device = backbone.model.device
        if self.only_head:
            every = np.arange(len(plan.windows))
            known = upload_one(self._frozen(backbone, plan, every, batch_tokens, memory, verbose), device)
            counts = plan.counts
            return lambda windows, recompute=False: known[upload_one(rows_of(windows, counts), device)]
        keep = Keep()
        return lambda windows, recompute=False: self.embed(
            backbone, self.batch(backbone, *_taken(plan, windows)).to(device), keep=keep, recompute=recompute
        )

    def run(
        self,
        backbone: Backbone,
        plan: WindowPlan,
        batch_tokens: int,
        *,
        memory: object = None,
        keep: Keep | None = None,
        verbose: int = 0,
        description: str = "predict",
    ) -> np.ndarray:
        """Return the head's outputs for the windows of a plan, or for their positions, (n, n_outputs) float32.

        Windows of texts that are in no row of the plan are not run; their outputs are 0.
        """
        if self._device != backbone.model.device:
            self.to(backbone.model.device)
        if self.only_head:
            parts = self.untrained_features(
                backbone, plan, batch_tokens, memory=memory, verbose=verbose, description=description
            )
            return torch.cat(list(downloads(map(self._head_outputs, parts)))).numpy()
        of_a_row = np.zeros(plan.n_texts, bool)
        of_a_row[plan.text_of_row] = True
        asked = np.flatnonzero(of_a_row[plan.text_of_unit])
        counts, n_windows, on = plan.counts_of_units, plan.windows_per_unit, self.on_each_device()

        def prepare(batch: np.ndarray) -> HostBatch:
            windows = rows_of(asked[batch], n_windows)
            return self.batch(backbone, *_taken(plan, windows), more=plan.combination(windows))

        def compute(base: Backbone, batch: HostBatch) -> Tensor:
            here, on_device = on(base.model.device), batch.to(base.model.device)
            return here.head(plan.combine(here.embed(base, on_device, keep=keep), on_device.more))

        starts = np.cumsum(n_windows) - n_windows
        outputs = run(
            backbone.on_each(compute),
            prepare,
            np.add.reduceat(plan.lengths, starts)[asked],
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

    def _head_outputs(self, features: Tensor) -> Tensor:
        with gate.inside():
            return self.head(features).detach().float()

    @torch.no_grad()
    def untrained_features(
        self,
        backbone: Backbone,
        plan: WindowPlan,
        batch_tokens: int,
        units: np.ndarray | None = None,
        *,
        memory: object = None,
        verbose: int = 0,
        description: str = "encode",
    ) -> Iterator[Tensor]:
        """Compute the inputs that an untrained model gives the head, of all units or of some, in order, in parts.

        If the lower layers are frozen, their outputs are cached for the training.
        """
        n_windows = plan.windows_per_unit
        units = np.arange(len(n_windows)) if units is None else units
        per_unit = np.add.reduceat(plan.counts, np.cumsum(n_windows) - n_windows)[units]
        for part in _parts(per_unit, FEATURE_BYTES // (4 * self.config.hidden_size)):
            windows = rows_of(units[part], n_windows)
            if self.only_head or not self.num_frozen:
                features = self._frozen(backbone, plan, windows, batch_tokens, memory, verbose, description)
            else:
                features = self._embed_all(backbone, plan, windows, batch_tokens, verbose, description)
            on_device, *combination = upload([features, *plan.combination(windows)], self._device)
            yield plan.combine(on_device, combination)

    def _embed_all(
        self,
        backbone: Backbone,
        plan: WindowPlan,
        windows: np.ndarray,
        batch_tokens: int,
        verbose: int,
        description: str,
    ) -> np.ndarray:
        keep, on = Keep(), self.on_each_device()

        def compute(base: Backbone, batch: HostBatch) -> Tensor:
            return on(base.model.device).embed(base, batch.to(base.model.device), keep=keep)

        return run(
            backbone.on_each(compute),
            lambda batch: self.batch(backbone, *_taken(plan, windows[batch])),
            plan.lengths[windows],
            batch_tokens=batch_tokens,
            counts=plan.counts[windows],
            verbose=verbose,
            description=description,
        )

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
        some, positions, left_out = _taken(plan, windows)
        return frozen_features(
            backbone,
            some,
            self.pooling,
            positions=positions,
            left_out=left_out,
            batch_tokens=batch_tokens,
            memory=memory,
            verbose=verbose,
            description=description,
        )

    def on_each_device(self) -> Callable[[torch.device], Finetuned]:
        """Return a function from a device to this object, or to a copy there, which is made when it is first needed.

        The function is for one run, since training changes the weights.
        """
        return functools.cache(lambda device: self if device == self._device else copied_to(self, device))

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _precision(self, base: XLMRobertaXLModel) -> AbstractContextManager:
        """Multiply matrices in the dtype of the base, although trained copies are float32."""
        if self.own is None or base.dtype.itemsize > 2:
            return nullcontext()
        return torch.autocast(base.device.type, dtype=base.dtype)


def copied_to(module: Module, device: torch.device) -> Module:
    """Return a copy of a module on another device; at no time is there a second one on its own."""
    tensors: dict[int, Tensor] = {}
    for parameter in module.parameters():
        tensors[id(parameter)] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
    for buffer in module.buffers():
        tensors[id(buffer)] = buffer.to(device)
    return copy.deepcopy(module, tensors)


def _taken(
    plan: WindowPlan, windows: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray] | None, np.ndarray | None]:
    positions = None if plan.positions is None else [plan.positions[i] for i in windows]
    return [plan.windows[i] for i in windows], positions, None if plan.left_out is None else plan.left_out[windows]


def _parts(counts: np.ndarray, most: int) -> list[np.ndarray]:
    """Split units, which have `counts` features each, into consecutive parts of about `most` features."""
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(np.cumsum(counts) // max(most, 1))) + 1)
