"""Callbacks of a training: progress bars, logs, and those of users."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from skxlmr.system.progress import HiddenBar, can_draw, duration, progress_bar, write_line

if TYPE_CHECKING:
    from tqdm import tqdm

    from skxlmr.training.loop import Trainer

LOGGER = logging.getLogger("skxlmr.fit")

# What a callback needs to resume a training that was killed: numbers for JSON, and tensors.
CallbackState = tuple[dict[str, Any], dict[str, Tensor]]


class Callback:
    """Base class of the callbacks; its methods do nothing, and subclasses override those that they need.

    Callbacks are passed to an estimator as `callbacks=[...]`. Their methods may read these attributes of the trainer:
    `step` and `n_steps`, `epoch` (epochs done) and `max_epochs`, `loss` and `learning_rate` of the latest step, and
    `metrics`, the row of the latest epoch in `history_`, to which `on_epoch_end` may add columns.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.training import Callback
    >>> class StopAt(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def on_epoch_end(self, trainer):
    ...         return trainer.metrics["loss"] < self.loss
    >>> clf = XLMRXLClassifier("nano", tuning="head", max_epochs=5, callbacks=[StopAt(10.0)])
    >>> clf.fit(["good", "bad"], [1, 0]).n_iter_
    1
    """

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Called before the first step."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Called before the first step of an epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        """Called after each optimiser step."""

    def on_epoch_end(self, trainer: Trainer) -> bool | None:
        """Called after each epoch; return True to end the training."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called after the last step, also if training was interrupted or failed."""

    def state(self) -> CallbackState:
        """Return what to write into a checkpoint: numbers for JSON, and tensors."""
        return {}, {}

    def load_state(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Load what `state` returned."""


class EpochLines(Callback):
    """Base class of callbacks that report each epoch in a line, with the time that is left."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    @property
    def name(self) -> str:
        """The name of the fit: "fit", or "fit 3" if it is the third of a search."""
        return "fit" if self.number is None else f"fit {self.number}"

    def report(self, line: str) -> None:
        """Show or log a line."""
        raise NotImplementedError

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._began, self._first_step = time.monotonic(), trainer.step

    def on_epoch_end(self, trainer: Trainer) -> None:
        passed = time.monotonic() - self._began
        left = passed * (trainer.n_steps - trainer.step) / max(trainer.step - self._first_step, 1)
        times = f"{duration(passed)} passed, {duration(left)} left"
        self.report(f"{self.name}: epoch {trainer.epoch}/{trainer.max_epochs}, {_scores(trainer.metrics)}, {times}")

    def on_fit_end(self, trainer: Trainer) -> None:
        if trainer.finished and trainer.n_steps == 0:
            self.report(f"{self.name}: the head is at its optimum, {_scores(trainer.metrics)}")
        elif trainer.finished and trainer.epoch < trainer.max_epochs:
            self.report(f"{self.name}: stopped after {trainer.epoch} of {trainer.max_epochs} epochs")


def _scores(metrics: dict[str, float]) -> str:
    shown = [name for name in metrics if name == "loss" or name.startswith("validation")]
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)


class EpochLog(EpochLines):
    """Log each epoch, at the level INFO of the logger "skxlmr.fit"; each fit has one."""

    def report(self, line: str) -> None:
        LOGGER.info("%s", line)

    def on_fit_begin(self, trainer: Trainer) -> None:
        super().on_fit_begin(trainer)
        LOGGER.debug("%s begins: %s", self.name, trainer.settings)


class ProgressBar(EpochLines):
    """Show the progress of a fit on stderr; the parameter `verbose` of an estimator adds one.

    In a terminal or a notebook this is a bar of the optimiser steps, with the time left, the latest loss and validation
    score. Elsewhere, such as in the file of `nohup` or in a worker process, it is a line after each epoch; if you have
    set a handler for the log (see Notes), the line is in the log only.

    Parameters
    ----------
    verbose : int, default=1
        1 is as described; from 2 on there is a line after each epoch in a terminal, too.
    number : int or None, default=None
        Number of the fit in a search, of which only one bar is visible at a time. None means a single fit.

    Notes
    -----
    With or without a bar, each epoch is a record of level INFO of the logger "skxlmr.fit", and the settings of each fit
    are one of level DEBUG: `logging.basicConfig(level=logging.INFO)` shows the former.
    """

    def __init__(self, verbose: int = 1, number: int | None = None) -> None:
        super().__init__(number)
        self.verbose = verbose

    def report(self, line: str) -> None:
        if self.verbose >= 2 or not self._draws:
            write_line(line)

    def on_fit_begin(self, trainer: Trainer) -> None:
        super().on_fit_begin(trainer)
        self._draws = can_draw()
        self._bar: tqdm | HiddenBar = HiddenBar()
        self._step = trainer.step  # later than 0 if it resumes from a checkpoint
        if self._draws and trainer.n_steps:
            leave = self.number is None
            self._bar = progress_bar(trainer.n_steps, self.name, unit="step", leave=leave, done=trainer.step)

    def on_step_end(self, trainer: Trainer) -> None:
        self._bar.update(trainer.step - self._step)
        self._step = trainer.step
        self._describe(trainer, min(trainer.epoch + 1, trainer.max_epochs))

    def on_epoch_end(self, trainer: Trainer) -> None:
        super().on_epoch_end(trainer)
        self._describe(trainer, trainer.epoch)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._bar.close()
        super().on_fit_end(trainer)
        del self._bar

    def _describe(self, trainer: Trainer, epoch: int) -> None:
        values = {"epoch": f"{epoch}/{trainer.max_epochs}", "loss": f"{trainer.loss:.4f}"}
        history = trainer.position.history or [trainer.before]
        if "validation_score" in history[-1]:
            values["validation"] = f"{history[-1]['validation_score']:.4f}"
        self._bar.set_postfix(**values, refresh=False)


class TensorBoardLogger(Callback):
    """Log losses, learning rates and scores to TensorBoard, which must be installed (`pip install tensorboard`).

    Parameters
    ----------
    log_dir : str or path
        Each fit writes a run into a new folder there.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        self.log_dir = log_dir

    def on_fit_begin(self, trainer: Trainer) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoardLogger needs tensorboard: pip install tensorboard") from error
        os.makedirs(self.log_dir, exist_ok=True)
        n_runs = len(os.listdir(self.log_dir))
        self._writer = SummaryWriter(os.path.join(self.log_dir, f"fit-{n_runs + 1:03d}-{os.getpid()}"))

    def on_step_end(self, trainer: Trainer) -> None:
        self._writer.add_scalar("step/loss", trainer.loss, trainer.step)
        self._writer.add_scalar("step/learning_rate", trainer.learning_rate, trainer.step)

    def on_epoch_end(self, trainer: Trainer) -> None:
        for name, value in trainer.metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, trainer.epoch)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._writer.close()
        del self._writer


class MLflowLogger(Callback):
    """Log settings, losses and scores to MLflow, which must be installed (`pip install mlflow`).

    Each fit is a new run; while another run is active, a nested one.

    Parameters
    ----------
    experiment : str or None, default=None
        Name of the experiment; None means the active one.
    run_name : str or None, default=None
        Name of the run; None lets MLflow choose one.
    """

    def __init__(self, experiment: str | None = None, run_name: str | None = None) -> None:
        self.experiment = experiment
        self.run_name = run_name

    def on_fit_begin(self, trainer: Trainer) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError("MLflowLogger needs mlflow: pip install mlflow") from error
        self._mlflow = mlflow
        if self.experiment is not None:
            mlflow.set_experiment(self.experiment)
        mlflow.start_run(run_name=self.run_name, nested=mlflow.active_run() is not None)
        mlflow.log_params(trainer.settings)

    def on_step_end(self, trainer: Trainer) -> None:
        values = {"step_loss": trainer.loss, "step_learning_rate": trainer.learning_rate}
        self._mlflow.log_metrics(values, step=trainer.step)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._mlflow.log_metrics(trainer.metrics, step=trainer.epoch)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._mlflow.end_run()
        del self._mlflow
