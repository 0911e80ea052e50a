"""What happens around the steps of a training: bars, logs, and whatever users want to do there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch import Tensor

from skxlmr.system.progress import progress_bar

if TYPE_CHECKING:
    from skxlmr.training.loop import Trainer

# What a callback has to remember when a training that was killed goes on: numbers for JSON, and tensors.
CallbackState = tuple[dict[str, object], dict[str, Tensor]]


class Callback:
    """Base of the callbacks: each method does nothing unless a subclass has its own.

    Passed to an estimator as `callbacks=[...]`. Of the trainer that the methods are given, these are to be read:
    `step` and `n_steps`, `epoch` (epochs done) and `max_epochs`, `loss` and `learning_rate` of the latest step, and
    `metrics`, the latest epoch's row of `history_`, to which columns may be added at the end of an epoch.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.training import Callback
    >>> class StopAt(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def on_epoch_end(self, trainer):
    ...         return trainer.metrics["loss"] < self.loss
    >>> clf = XLMRXLClassifier(model="nano", tuning="head", callbacks=[StopAt(10.0)], random_state=0)
    >>> clf.fit(["good", "bad"], [1, 0]).n_iter_
    1
    """

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Before the first step of an epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each optimiser step."""

    def on_epoch_end(self, trainer: Trainer) -> bool | None:
        """After each epoch; True ends the training."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last step, whatever ended it."""

    def state(self) -> CallbackState:
        """What to remember in a checkpoint."""
        return {}, {}

    def load_state(self, numbers: dict[str, object], tensors: dict[str, Tensor]) -> None:
        """Go on from there."""


class ProgressBar(Callback):
    """A bar over the optimiser steps, in a terminal or a notebook. `verbose=1` has one."""

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
    """Write losses, rates and scores for TensorBoard, which has to be installed (`pip install tensorboard`).

    Parameters
    ----------
    log_dir : str or path
        Each fit becomes a run in a folder of its own there.
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
    """Write settings, losses and scores to MLflow, which has to be installed (`pip install mlflow`).

    A fit is a run of its own; within a run that is active already it is a nested one.

    Parameters
    ----------
    experiment : str or None, default=None
        Its name; None is the active one.
    run_name : str or None, default=None
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
