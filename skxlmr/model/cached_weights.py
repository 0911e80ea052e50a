"""Weights that are prepared once, and mapped from the user's cache directory from then on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skxlmr.checkpoints.cache import building, find_cached, write_cached
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.system.warn import warn


def find_or_build(
    files: CheckpointFiles,
    kind: str,
    build: Callable[[], dict[str, Tensor]],
    usable: Callable[[dict[str, Tensor]], bool],
    otherwise: str,
) -> dict[str, Tensor] | None:
    """Return cached tensors of a checkpoint, and write them into the cache first if they are missing.

    Parameters
    ----------
    files : CheckpointFiles
        Their fingerprint names the file in the cache.
    kind : str
        The other part of that name.
    build : callable
        Returns the tensors to write, by name.
    usable : callable
        Whether cached tensors are those that are needed; if not, they are replaced.
    otherwise : str
        The consequence of a cache that cannot be written, for the warning.

    Returns
    -------
    dict of str to Tensor, or None
        Mapped from the file; None if it could not be written.

    Warns
    -----
    UserWarning
        If the file could not be written.
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
            warn(f"{otherwise}: {error}. The environment variable SKXLMR_CACHE chooses another folder for the cache.")
            return None
        return find()


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter by its full name with a frozen one that uses the memory of the tensor."""
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
