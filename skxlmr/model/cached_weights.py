"""Weights that are prepared once, and mapped from the user's cache directory from then on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skxlmr.checkpoints.cache import building, find_cached, hint_at_folder, write_cached
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.system.warn import warn


def find_or_build(
    files: CheckpointFiles,
    kind: str,
    build: Callable[[], dict[str, Tensor]],
    usable: Callable[[dict[str, Tensor]], bool],
    otherwise: str,
) -> dict[str, Tensor] | None:
    """Return mapped tensors of a checkpoint from the cache; build and write them first if they are not usable there.

    If the cache cannot be written, return None and warn of the consequence, `otherwise`.
    """

    def find() -> dict[str, Tensor] | None:
        cached = find_cached(files.fingerprint, kind)
        return cached if cached is not None and usable(cached) else None

    cached = find()
    if cached is not None:
        return cached
    with building(files.fingerprint, kind):
        cached = find()  # another process may have built them meanwhile
        if cached is not None:
            return cached
        tensors = build()
        try:
            write_cached(files.fingerprint, kind, tensors, model=files.name)
        except OSError as error:
            warn(f"{otherwise}: {error}.{hint_at_folder(error)}")
            return None
        return find()


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter by its full name with a frozen one that uses the memory of the tensor."""
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
