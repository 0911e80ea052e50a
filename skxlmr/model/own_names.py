"""Weights by the names of this package, as `torch.save(model.state_dict())` or transformers' Trainer writes them."""

from __future__ import annotations

from torch import Tensor

from skxlmr.checkpoints.checkpoint import Checkpoint
from skxlmr.checkpoints.keymap import KeyMap
from skxlmr.model.key_maps import BASE, THEIR_BASE, key_map

WORDS = "embeddings.word.weight"  # which all models have, and under this name only those of this package


class RenamedCheckpoint(Checkpoint):
    """A checkpoint with other names of the tensors.

    Parameters
    ----------
    checkpoint : Checkpoint
        It stays open.
    names : dict of str to str
        The names in this checkpoint, by those that the tensors get.
    """

    def __init__(self, checkpoint: Checkpoint, names: dict[str, str]) -> None:
        super().__init__(checkpoint.name, [])
        self._checkpoint, self._names = checkpoint, names
        self.tensors = {name: checkpoint.tensors[own] for name, own in names.items()}

    def read(self, key: str) -> Tensor:
        """Read one tensor."""
        return self._checkpoint.read(self._names[key])


def in_their_names(checkpoint: Checkpoint, model_type: str) -> Checkpoint:
    """Return a checkpoint whose tensors have the names of transformers, if it has those of this package."""
    if WORDS not in checkpoint.tensors and BASE + WORDS not in checkpoint.tensors:
        return checkpoint
    names, base = key_map(model_type), THEIR_BASE[model_type]
    return RenamedCheckpoint(checkpoint, {_their_name(key, names, base): key for key in checkpoint.tensors})


def _their_name(key: str, names: KeyMap, base: str) -> str:
    if names.has_ours(key):
        return names.to_theirs(key)
    return names.to_theirs(BASE + key).removeprefix(base) if names.has_ours(BASE + key) else key
