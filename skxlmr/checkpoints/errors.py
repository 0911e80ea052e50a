"""Errors of reading checkpoints."""

from __future__ import annotations

from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete or in a format that this package does not read."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks to run code, or to read a file outside its own folder."""


class SavedEstimatorError(CheckpointError):
    """A model is a fitted estimator, in `directory`, and not a checkpoint."""

    def __init__(self, message: str, directory: Path) -> None:
        super().__init__(message)
        self.directory = directory


class CheckpointMismatchError(CheckpointError):
    """The tensors of a checkpoint do not fit the model that its config describes."""


class ModelNotFoundError(FileNotFoundError):
    """A model is not bundled, not a directory, and neither on the hub nor in its cache."""
