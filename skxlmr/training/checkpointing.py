"""Checkpoints, from which a training resumes after its process was killed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skxlmr.checkpoints.checksum import NO_CHECKSUM, add_checksum, open_verified
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import checked_file
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.system import atomic, nested_json
from skxlmr.system.schema import parse
from skxlmr.system.warn import warn
from skxlmr.training.callbacks import Callback, CallbackState

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer

FORMAT = 2
NAME = "training.safetensors"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
MAX_VALUES = 4_000_000  # of the JSON: the history, and the states of callbacks
NUMBERS = "numbers"  # the tensor that holds the JSON, so that one file, written at once or not at all, holds everything


class Checkpointing(Callback):
    """Write a checkpoint after every `every` steps and after each epoch; resume from one that is there.

    The directory belongs to this training only; see `training_directory`. While another process fits the same, there
    are no checkpoints of this one. Call `remove` when the fit is complete.

    An error of the disk while a checkpoint is written gives one warning; training goes on, and so do the attempts,
    since the disk may be emptied. The earlier checkpoint stays.
    """

    def __init__(self, directory: Path, every: int) -> None:
        from filelock import FileLock  # whose import takes a tenth of the package's

        self.directory = directory
        self.every = every
        self._lock = FileLock(directory.with_suffix(".lock"))  # without locks, atomic renames suffice
        self._has_failed = False

    def _acquire(self) -> bool:
        """Lock the directory; return whether no other fit uses it."""
        from filelock import Timeout

        self.directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            return True
        return True

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._active = False
        try:
            self._active = self._acquire()
            if self._active:
                self._resume(trainer)
        except OSError as error:
            self._lock.release()
            if error.errno not in FULL_DISK:
                raise
            self._active = False
            self._warn(error)
        except BaseException:
            self._lock.release()  # otherwise a later fit of this process would find the directory in use
            raise

    def _resume(self, trainer: Trainer) -> None:
        self.directory.mkdir(exist_ok=True)
        atomic.remove_left_over(self.directory, only_ours=True)
        checkpoint = usable_checkpoint(self.directory)
        if checkpoint is not None:
            try:
                trainer.state.load(*checkpoint)
            except ValueError as error:
                raise CheckpointError(
                    f"Training cannot resume from {self.directory / NAME}: {error}. Pass the same callbacks again, or "
                    f"remove the file to train from the beginning."
                ) from error

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.step % self.every == 0:
            self._write(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not (self._active or trainer.ranks.is_sharded):
            return
        state = trainer.state.saved()
        if not self._active:
            return
        try:
            write_checkpoint(self.directory, *state)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            warn(
                f"A checkpoint of the training cannot be written: {error}. Training goes on; should it be killed, it "
                f"resumes from the last checkpoint that was written, if any."
            )

    def on_fit_end(self, trainer: Trainer) -> None:
        self._lock.release()

    def remove(self) -> None:
        """Remove the checkpoint, and its directory unless that holds other files or another fit uses it."""
        try:
            if not (self._active and self._acquire()):
                return
            atomic.remove_left_over(self.directory, only_ours=True)
            (self.directory / NAME).unlink(missing_ok=True)
            if self.directory.is_dir() and not any(self.directory.iterdir()):
                self.directory.rmdir()
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
        except OSError as error:  # what was learned is not lost for that
            self._lock.release()
            warn(f"The checkpoint of the training cannot be removed: {error}.")


class StateOfShards(Callback):
    """In the other processes: gather what rank 0 writes, if each has a shard of it."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.step % self.every == 0:
            trainer.state.saved()

    def on_epoch_end(self, trainer: Trainer) -> None:
        trainer.state.saved()


def training_directory(parent: str | os.PathLike, identity: Iterable[object]) -> Path:
    """Return the directory of one training, named by a digest of everything that its result depends on.

    The parts of `identity` are arrays, or objects that are equal if their `repr` is.
    """
    digest = hashlib.blake2b(repr(FORMAT).encode(), digest_size=10)
    for part in identity:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return Path(parent).expanduser() / f"fit-{digest.hexdigest()}"


def usable_checkpoint(directory: Path) -> CallbackState | None:
    """Read a checkpoint; None if there is none. One that is damaged is removed, with a warning."""
    try:
        return read_checkpoint(directory)
    except CheckpointError as error:
        warn(f"{error} It is removed, and training starts from the beginning.")
        with suppress(OSError):
            (directory / NAME).unlink()
    return None


def read_checkpoint(directory: Path) -> CallbackState | None:
    """Read a checkpoint; None if there is none. Raises CheckpointError if it does not match its checksum."""
    path = directory / NAME
    if not os.path.lexists(path):
        return None
    try:
        checked_file(path, directory)
        with closing(open_verified(path)) as file:
            tensors = {name: file.read(name) for name in file.tensors}
        text = tensors.pop(NUMBERS).numpy().tobytes().decode()
        numbers = nested_json.loads(text, max_values=MAX_VALUES)  # among them may be NaN
        return parse(dict[str, Any], numbers), tensors
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def write_checkpoint(directory: Path, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint atomically: at any moment the old one or the new one is there and complete."""
    text = json.dumps(numbers, default=float).encode()  # the metrics of a callback may be NumPy scalars, or NaN
    numbers_as_tensor = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    content = SafetensorsContent({**tensors, NUMBERS: numbers_as_tensor}, NO_CHECKSUM)
    atomic.check_space(directory, content.nbytes)
    with atomic.replacing(directory / NAME) as temporary:
        atomic.write_file(temporary, content)
        add_checksum(temporary)
