"""Callbacks of a training: progress bars, logs, and those of users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import Tensor

from skxlmr.system.progress import progress_bar

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer

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


class ProgressBar(Callback):
    """Show a progress bar over the optimiser steps, in a terminal or a notebook; `verbose=1` adds one."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._bar = progress_bar(trainer.n_steps, "fit", unit="step")
        self._bar.update(trainer.step)

    def on_step_end(self, trainer: Trainer) -> None:
        self._bar.update()
        epoch = f"{min(trainer.epoch + 1, trainer.max_epochs)}/{trainer.max_epochs}"
        self._bar.set_postfix(epoch=epoch, loss=f"{trainer.loss:.4f}", refresh=False)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._bar.close()
        del self._bar


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
