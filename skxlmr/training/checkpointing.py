"""Checkpoints of a training, from which it goes on when its process was killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.system import atomic
from skxlmr.training.callbacks import Callback

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer

FORMAT = 1
NAME = "training.safetensors"
NUMBERS = "numbers"  # the tensor that holds the JSON: one file is written at once or not at all


class Checkpointing(Callback):
    """Write all that a training needs to go on, every few steps and after each epoch; go on from what is there.

    When the fit has come to its end the checkpoint is to be removed, by `remove`. While another fit of the same kind
    uses the folder, this one does without.

    Parameters
    ----------
    directory : path
        Of this training alone; see `training_directory`.
    every : int
        Steps from one checkpoint to the next.
    """

    def __init__(self, directory: Path, every: int) -> None:
        self.directory = directory
        self.every = every
        self._lock = FileLock(directory.with_suffix(".lock"))  # where a system has no locks, the renames must do

    def _acquire(self) -> bool:
        """Whether nobody else uses the folder."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            return True
        return True

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._active = self._acquire()
        if not self._active:
            return
        try:
            self._go_on(trainer)
        except BaseException:
            self._lock.release()  # or a later fit of this process would find the folder in use
            raise

    def _go_on(self, trainer: Trainer) -> None:
        """Load what an earlier fit that was killed has left."""
        self.directory.mkdir(exist_ok=True)
        atomic.remove_left_over(self.directory)
        checkpoint = read_checkpoint(self.directory)
        if checkpoint is not None:
            try:
                trainer.load_state(*checkpoint)
            except ValueError as error:
                raise CheckpointError(
                    f"The training cannot go on from {self.directory / NAME}: {error}. Bring the callbacks back, or "
                    f"remove the file to train from the beginning."
                ) from error

    def on_step_end(self, trainer: Trainer) -> None:
        if self._active and trainer.step % self.every == 0:
            write_training(self.directory, *trainer.state())

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._active:
            write_training(self.directory, *trainer.state())

    def on_fit_end(self, trainer: Trainer) -> None:
        self._lock.release()

    def remove(self) -> None:
        """Remove the checkpoint, and its folder unless there is something else, or somebody else at work."""
        if not (self._active and self._acquire()):
            return
        (self.directory / NAME).unlink(missing_ok=True)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def training_directory(parent: str | os.PathLike, identity: Iterable[object]) -> Path:
    """The folder of one training: named by a digest of all that it depends on, so that others have other folders.

    Parameters
    ----------
    parent : str or path
    identity : iterable of ndarray, or of anything whose `repr` says what it is
    """
    digest = hashlib.blake2b(repr(FORMAT).encode(), digest_size=10)
    for part in identity:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return Path(parent).expanduser() / f"fit-{digest.hexdigest()}"


def read_checkpoint(directory: Path) -> tuple[dict[str, object], dict[str, Tensor]] | None:
    """Read a checkpoint; None where there is none.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    path = directory / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        tensors = safetensors.torch.load(data)
        numbers = json.loads(tensors.pop(NUMBERS).numpy().tobytes())
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Remove it to train from the beginning.") from error
    return numbers, tensors


def write_training(directory: Path, numbers: dict[str, object], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; at any moment the old one or the new one is there, whole."""
    text = json.dumps(numbers, default=float).encode()  # a callback's metrics may be NumPy's numbers, or NaN
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    tensors[NUMBERS] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    with atomic.replacing(directory / NAME) as temporary:
        safetensors.torch.save_file(tensors, temporary)
