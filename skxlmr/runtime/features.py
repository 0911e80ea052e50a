"""What a frozen base says of a text, remembered: the same texts come again in every epoch, fold and candidate."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import joblib
import numpy as np
import torch
from sklearn.utils.validation import check_memory
from torch import Tensor

from skxlmr.model.packing import Packing
from skxlmr.runtime.feature_cache import cache
from skxlmr.runtime.run import encode, run

if TYPE_CHECKING:
    from skxlmr.runtime.backbone import Backbone

# From the hidden states of a batch to one vector per window.
POOLINGS = {
    "mean": lambda hidden, packing: packing.mean(hidden[-1].float()),
    "max": lambda hidden, packing: packing.max(hidden[-1].float()),
    "cls": lambda hidden, packing: hidden[-1][packing.first].float(),
    "first_last_mean": lambda hidden, packing: packing.mean((hidden[0].float() + hidden[-1].float()) / 2),
}

FORMAT = 1  # of what lies on disk: to be raised when the model's numbers change


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
    """Vectors of each window, of the base as it is; from the cache, where they were asked for before.

    Parameters
    ----------
    backbone : Backbone
    windows : sequence of ndarray
        Token ids.
    pooling : str
        A key of `POOLINGS`.
    layers : sequence of int
        The hidden states that the pooling reads.
    positions : sequence of ndarray, default=None
        Tokens of each window, for a vector each; the pooling does not matter then.
    batch_tokens : int
    memory : str, path, joblib.Memory or None, default=None
        A folder where vectors are kept for other processes, too.

    Returns
    -------
    ndarray of shape (number of windows, or of positions in all of them, H), float32
    """
    base = backbone.model
    layers = tuple(i % (len(base.layers) + 1) for i in layers)
    if positions is None:
        keys = _keys(backbone, windows, (pooling, layers))
    else:
        keys = _keys(backbone, windows, ("tokens", layers), positions)
    rows: dict[bytes, np.ndarray] = {
        key: row for key, row in zip(keys, cache.get(keys), strict=True) if row is not None
    }
    missing = {key: i for i, key in enumerate(keys) if key not in rows}
    fresh = list(missing)
    on_disk = None
    if memory is not None:
        memory = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
        on_disk = check_memory(memory).cache(_give, ignore=["rows"], verbose=0)
    if on_disk is not None:
        for key in [key for key in missing if on_disk.check_call_in_cache(key, rows)]:
            with contextlib.suppress(KeyError):  # from `_give`: the file is damaged, or was deleted just now
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
            for key in missing:
                on_disk(key, rows)
    cache.put(fresh, [rows[key] for key in fresh])
    return np.concatenate([rows[key] for key in keys])


def pooled(
    pooling: str, hidden: list[Tensor], packing: Packing, positions: Sequence[np.ndarray] | None = None
) -> Tensor:
    """Features of a batch: by the pooling one vector for each window, or one for each of its `positions`."""
    if positions is None:
        return POOLINGS[pooling](hidden, packing)
    counts = torch.tensor([len(at) for at in positions])
    tokens = packing.first.cpu().repeat_interleave(counts) + torch.from_numpy(np.concatenate(positions))
    return hidden[-1][tokens.to(hidden[-1].device)].float()


def _give(key: bytes, rows: dict[bytes, np.ndarray]) -> np.ndarray:
    """What joblib keeps by its key: a row that is there already."""
    return rows[key]


def frozen_states(
    backbone: Backbone,
    windows: Sequence[np.ndarray],
    n_layers: int,
    *,
    causal: bool = False,
    keep: int | None = None,
) -> tuple[Tensor, Packing]:
    """Hidden states of a batch after the first layers of the base, (T, H), without gradients.

    Parameters
    ----------
    backbone : Backbone
    windows : sequence of ndarray
    n_layers : int
    causal : bool, default=False
        Whether a token sees only itself and those before it.
    keep : int, default=None
        Remember them, and forget for it only what was not used since that `moment`. What is remembered is used
        either way.
    """
    base = backbone.model
    keys = _keys(backbone, windows, ("causal states" if causal else "states", n_layers))
    found = cache.get(keys)
    missing = [i for i, states in enumerate(found) if states is None]
    if missing:
        # In inference mode they could not be trained on later.
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
    """A digest of all that the result depends on, for each window."""
    source = hashlib.blake2b(repr((FORMAT, backbone.key, what)).encode(), digest_size=32).digest()
    data = [np.asarray(window, np.int32).tobytes() for window in windows]
    if positions is not None:
        data = [b"%d %b%b" % (len(w), w, at.astype(np.int32).tobytes()) for w, at in zip(data, positions, strict=True)]
    return [hashlib.blake2b(of_window, key=source, digest_size=20).digest() for of_window in data]
