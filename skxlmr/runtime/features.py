"""Features of texts from a frozen base, cached, since each epoch, fold and candidate needs them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import joblib
import numpy as np
import torch
from sklearn.utils.validation import check_memory
from torch import Tensor

from skxlmr.model.dynamic_outliers import guessing
from skxlmr.model.transfer import upload
from skxlmr.runtime.feature_cache import Keep, cache
from skxlmr.runtime.run import Batch, HostBatch, encode, run
from skxlmr.system.schema import Rule
from skxlmr.system.warn import warn

if TYPE_CHECKING:
    from skxlmr.runtime.backbone import Backbone

# From the hidden states of a batch to one vector per window. Several, joined by "+", are concatenated.
POOLINGS = {
    "mean": lambda hidden, packing: packing.mean(hidden[-1].float()),
    "max": lambda hidden, packing: packing.max(hidden[-1].float()),
    "cls": lambda hidden, packing: hidden[-1][packing.first].float(),
    "first_last_mean": lambda hidden, packing: packing.mean((hidden[0].float() + hidden[-1].float()) / 2),
    "mean_sqrt_len_tokens": lambda hidden, packing: packing.mean(hidden[-1].float()) * packing.lengths.sqrt()[:, None],
    "weightedmean": lambda hidden, packing: packing.weighted_mean(hidden[-1].float()),
    "lasttoken": lambda hidden, packing: hidden[-1][packing.last].float(),
}

# The type of the name of a pooling, from a file.
POOLING = Annotated[str, Rule("poolings, joined by +", lambda name: set(name.split("+")) <= POOLINGS.keys())]

FORMAT = 3  # of features on disk: increase it when the outputs of the model change


def frozen_features(
    backbone: Backbone,
    windows: Sequence[np.ndarray],
    pooling: str,
    *,
    layers: Sequence[int] = (-1,),
    positions: Sequence[np.ndarray] | None = None,
    left_out: np.ndarray | None = None,
    batch_tokens: int,
    memory: str | os.PathLike | joblib.Memory | None = None,
    verbose: int = 0,
    description: str = "encode",
) -> np.ndarray:
    """Compute features of windows of token ids with the frozen base, or take them from the cache; (n, H) float32.

    There is one vector per window, pooled over the hidden states after `layers`, but for the first `left_out` tokens of
    each; or, with `positions` in each window, one per position. `memory` caches features on disk, for other processes.
    """
    base = backbone.model
    layers = tuple(i % (len(base.layers) + 1) for i in layers)
    keys = _keys(backbone, windows, (pooling if positions is None else "tokens", layers), positions, left_out)
    rows: dict[bytes, np.ndarray] = {
        key: row for key, row in zip(keys, cache.get(keys), strict=True) if row is not None
    }
    missing = {key: i for i, key in enumerate(keys) if key not in rows}
    fresh = list(missing)
    on_disk = _on_disk(memory)
    if on_disk is not None:
        for key in [key for key in missing if on_disk.check_call_in_cache(key, rows)]:
            with contextlib.suppress(KeyError):  # of `_give`: the file is damaged, or has just been deleted
                rows[key] = on_disk(key, rows)
                del missing[key]
    if missing:
        chosen = np.fromiter(missing.values(), np.int64, len(missing))
        some = [windows[i] for i in chosen]
        at = None if positions is None else [positions[i] for i in chosen]
        prompts = None if left_out is None else left_out[chosen]
        counts = np.ones(len(some), np.int64) if at is None else np.fromiter(map(len, at), np.int64, len(at))

        def prepare(batch: np.ndarray) -> HostBatch:
            return HostBatch.of(
                [some[i] for i in batch],
                base,
                at and [at[i] for i in batch],
                None if prompts is None else prompts[batch],
            )

        def compute(each: Backbone, batch: HostBatch) -> Tensor:
            on_device = batch.to(each.model.device)
            return pooled(pooling, encode(each.model, on_device, layers), on_device)

        computed = run(
            backbone.on_each(compute),
            prepare,
            np.fromiter(map(len, some), np.int64, len(some)),
            batch_tokens=batch_tokens,
            counts=counts,
            verbose=verbose,
            description=description,
        )
        rows |= zip(missing, (part.copy() for part in np.split(computed, np.cumsum(counts)[:-1])), strict=True)
        if on_disk is not None:
            _keep(on_disk, missing, rows)
    cache.put(fresh, [rows[key] for key in fresh])
    return np.concatenate([rows[key] for key in keys])


def pooled(pooling: str, hidden: list[Tensor], batch: Batch) -> Tensor:
    """Compute the features of a batch: one pooled vector per window, or one per place."""
    if batch.places is not None:
        return hidden[-1][batch.places].float()
    packing = batch.packing
    if batch.pooled is not None:
        tokens, packing = batch.pooled
        hidden = [states[tokens] for states in hidden]
    return torch.cat([POOLINGS[mode](hidden, packing) for mode in pooling.split("+")], 1)


def _on_disk(memory: str | os.PathLike | joblib.Memory | None) -> Any:
    """Return `_give` with the cache on disk; None without `memory`, or with a warning if it cannot be used."""
    if memory is None:
        return None
    try:
        memory = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
        return check_memory(memory).cache(_give, ignore=["rows"], verbose=0)
    except OSError as error:
        _warn_not_kept(error)
        return None


def _keep(on_disk: Any, keys: Iterable[bytes], rows: dict[bytes, np.ndarray]) -> None:
    """Write rows into the cache on disk. Joblib itself warns if it cannot write one of them."""
    try:
        for key in keys:
            on_disk(key, rows)
    except OSError as error:
        _warn_not_kept(error)


def _warn_not_kept(error: OSError) -> None:
    warn(f"Features are not kept on disk: {error}. Choose another folder by the parameter memory.")


def _give(key: bytes, rows: dict[bytes, np.ndarray]) -> np.ndarray:
    """Return a row that is computed already; joblib caches it by its key."""
    return rows[key]


def frozen_states(backbone: Backbone, batch: Batch, n_layers: int, keep: Keep | None = None) -> Tensor:
    """Compute the hidden states (T, H) of a batch after the first `n_layers`, without gradients, or use cached ones.

    With `keep`, cache them.
    """
    base, causal = backbone.model, batch.packing.causal
    if keep is not None:
        keep.store()
    keys = _keys(backbone, batch.windows, ("causal states" if causal else "states", n_layers))
    found = cache.get(keys)
    missing = [i for i, states in enumerate(found) if states is None]
    parts: dict[int, Tensor] = {}
    if missing:
        # Tensors made in inference mode could not be trained on.
        with torch.inference_mode(False), torch.no_grad(), guessing(None) as guess:
            some = batch
            if len(missing) < len(found):
                some = HostBatch.of([batch.windows[i] for i in missing], base, causal=causal).to(base.device)
            (states,) = encode(base, some, (n_layers,))
        lengths = some.packing.on_host.tolist()
        if keep is not None:
            keep.put([keys[i] for i in missing], states, lengths, check=guess.used)
        if some is batch:
            return states
        parts = dict(zip(missing, states.split(lengths), strict=True))
    cached = [i for i in range(len(found)) if i not in parts]
    parts |= zip(cached, upload([found[i] for i in cached], base.device), strict=True)
    return torch.cat([parts[i] for i in range(len(found))])


def _keys(
    backbone: Backbone,
    windows: Sequence[np.ndarray],
    what: tuple,
    positions: Sequence[np.ndarray] | None = None,
    left_out: np.ndarray | None = None,
) -> list[bytes]:
    """Return for each window a digest of everything that its features depend on."""
    source = hashlib.blake2b(repr((FORMAT, backbone.results_key, what)).encode(), digest_size=32).digest()
    data = [np.asarray(window, np.int32).tobytes() for window in windows]
    if positions is not None:
        data = [b"%d %b%b" % (len(w), w, at.astype(np.int32).tobytes()) for w, at in zip(data, positions, strict=True)]
    if left_out is not None:
        data = [b"without %d %b" % (n, w) for w, n in zip(data, left_out.tolist(), strict=True)]
    return [hashlib.blake2b(of_window, key=source, digest_size=20).digest() for of_window in data]
