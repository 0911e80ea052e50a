"""Features of texts from a frozen base, cached, since each epoch, fold and candidate needs them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from sklearn.utils.validation import check_memory
from torch import Tensor

from skxlmr.model.packing import Packing
from skxlmr.runtime.feature_cache import cache
from skxlmr.runtime.run import encode, run
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

FORMAT = 1  # of features on disk: increase it when the outputs of the model change


def frozen_features(
    backbone: Backbone,
    windows: Sequence[np.ndarray],
    pooling: str,
    *,
    layers: Sequence[int] = (-1,),
    positions: Sequence[np.ndarray] | None = None,
    batch_tokens: int,
    memory: str | os.PathLike | joblib.Memory | None = None,
    verbose: int = 0,
    description: str = "encode",
) -> np.ndarray:
    """Compute features of windows of token ids with the frozen base, or take them from the cache; (n, H) float32.

    There is one vector per window, pooled over the hidden states after `layers`; or, with `positions` in each window,
    one per position. `memory` caches features on disk, for other processes.
    """
    base = backbone.model
    layers = tuple(i % (len(base.layers) + 1) for i in layers)
    keys = _keys(backbone, windows, (pooling if positions is None else "tokens", layers), positions)
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
        counts = np.ones(len(some), np.int64) if at is None else np.fromiter(map(len, at), np.int64, len(at))
        computed = run(
            lambda batch: pooled(
                pooling, *encode(base, [some[i] for i in batch], layers=layers), at and [at[i] for i in batch]
            ),
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


def pooled(
    pooling: str, hidden: list[Tensor], packing: Packing, positions: Sequence[np.ndarray] | None = None
) -> Tensor:
    """Compute the features of a batch: one pooled vector per window, or one per position in the windows."""
    if positions is None:
        return torch.cat([POOLINGS[mode](hidden, packing) for mode in pooling.split("+")], 1)
    counts = torch.tensor([len(at) for at in positions])
    tokens = packing.first.cpu().repeat_interleave(counts) + torch.from_numpy(np.concatenate(positions))
    return hidden[-1][tokens.to(hidden[-1].device)].float()


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


def frozen_states(
    backbone: Backbone,
    windows: Sequence[np.ndarray],
    n_layers: int,
    *,
    causal: bool = False,
    keep: int | None = None,
) -> tuple[Tensor, Packing]:
    """Compute the hidden states (T, H) of a batch after the first `n_layers`, without gradients, or use cached ones.

    With `keep`, cache them, and evict for them only what was not used since that `moment`.
    """
    base = backbone.model
    keys = _keys(backbone, windows, ("causal states" if causal else "states", n_layers))
    found = cache.get(keys)
    missing = [i for i, states in enumerate(found) if states is None]
    if missing:
        # Tensors made in inference mode could not be trained on.
        with torch.inference_mode(False), torch.no_grad():
            (states,), packing = encode(base, [windows[i] for i in missing], layers=(n_layers,), causal=causal)
            parts = states.split(packing.lengths.tolist())
            if keep is not None:
                cache.put([keys[i] for i in missing], [part.to("cpu", copy=True) for part in parts], spare=keep)
        if len(missing) == len(windows):
            return states, packing
        for i, part in zip(missing, parts, strict=True):
            found[i] = part
    packing = Packing.from_lengths([len(window) for window in windows], base.device, causal=causal)
    if not missing:  # all of them are on the CPU
        return torch.cat(found).to(base.device), packing
    return torch.cat([states.to(base.device) for states in found]), packing


def _keys(
    backbone: Backbone, windows: Sequence[np.ndarray], what: tuple, positions: Sequence[np.ndarray] | None = None
) -> list[bytes]:
    """Return for each window a digest of everything that its features depend on."""
    source = hashlib.blake2b(repr((FORMAT, backbone.results_key, what)).encode(), digest_size=32).digest()
    data = [np.asarray(window, np.int32).tobytes() for window in windows]
    if positions is not None:
        data = [b"%d %b%b" % (len(w), w, at.astype(np.int32).tobytes()) for w, at in zip(data, positions, strict=True)]
    return [hashlib.blake2b(of_window, key=source, digest_size=20).digest() for of_window in data]
