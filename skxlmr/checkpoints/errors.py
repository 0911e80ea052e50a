"""What can be wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete or in a form that this package does not read."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for something that no checkpoint needs: code to run, or a file outside its own folder."""


class CheckpointMismatchError(CheckpointError):
    """The tensors of a checkpoint are not those of the model that its config describes."""


class ModelNotFoundError(OSError):
    """There is no such model: no bundled name, no directory, nothing on the hub or in its cache."""
