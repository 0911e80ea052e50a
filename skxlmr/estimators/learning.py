"""From rows to what is learned, by the parameters that all estimators have that learn."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from skxlmr.estimators.base import BaseXLMRXL
from skxlmr.hardware.advice import training_budget
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.heads import ClassificationHead
from skxlmr.runtime.backbone import Backbone, get_backbone
from skxlmr.runtime.feature_cache import moment
from skxlmr.runtime.finetuned import Learned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import pool_windows
from skxlmr.tasks.base import RowTask, Task
from skxlmr.training.callbacks import Callback, ProgressBar
from skxlmr.training.checkpointing import Checkpointing, read_checkpoint, training_directory
from skxlmr.training.early_stopping import EarlyStopping
from skxlmr.training.gradients import Losses
from skxlmr.training.loop import Trainer
from skxlmr.training.optimizers import OPTIMIZERS, load_optimizer_state, optimizer_state
from skxlmr.training.randomness import Randomness
from skxlmr.training.rows import Outcome, Rows
from skxlmr.training.schedule import LR_SCHEDULES, Schedule
from skxlmr.tuning import TUNINGS, Tuning, as_tuning


class LearningXLMRXL(BaseXLMRXL):
    """Base of the estimators that learn: their parameters, and how a training is put together from them."""

    _parameter_constraints: dict = {
        **BaseXLMRXL._parameter_constraints,
        "tuning": [StrOptions(set(TUNINGS)), Tuning],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "lr_schedule": [StrOptions(set(LR_SCHEDULES))],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "checkpoint_dir": [str, os.PathLike, None],
        "checkpoint_steps": [Interval(Integral, 1, None, closed="left")],
    }

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: int) -> nn.Module:
        """A head with a random start."""
        return ClassificationHead(config, n_outputs)

    def _new_learned(self, tuning: Tuning, base: XLMRobertaXLModel, n_outputs: int) -> Learned:
        """What is to learn, with a random start."""
        return Learned(tuning, base, self._new_head(base.config, n_outputs))

    def _load_backbone(self, whole: bool = True) -> Backbone:
        """Take the base that the parameters name from the pool; where its own weights learn, not in 8 bits."""
        tuning, load_in_8bit = as_tuning(self.tuning), self.load_in_8bit
        if tuning.trains_base:
            if self.load_in_4bit or load_in_8bit not in ("auto", False):
                raise ValueError(
                    "tuning='full' trains every weight, which 8-bit and 4-bit weights do not allow. Use "
                    "load_in_8bit=False, or tuning='lora', which trains through them."
                )
            load_in_8bit = False
        return get_backbone(
            self.model,
            load_in_8bit=load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
            tuning=tuning,
            batch_tokens=self.batch_tokens,
            whole=whole,
        )

    def _schedule(self, tuning: Tuning, backbone: Backbone) -> Schedule:
        """How long and how fast to learn, by the parameters and the defaults of the tuning."""
        batch_tokens, gradient_checkpointing = self._choose_batch_tokens(backbone), False
        if self.batch_tokens == "auto":
            batch_tokens, gradient_checkpointing = training_budget(
                backbone.model.config,
                batch_tokens,
                tuning=tuning,
                load_in_8bit=False if tuning.trains_base else self.load_in_8bit,
                load_in_4bit=self.load_in_4bit,
                dtype=self.dtype,
                device=self.device,
            )
        return Schedule(
            batch_size=self.batch_size,
            batch_tokens=batch_tokens,
            max_epochs=self.max_epochs,
            learning_rate=tuning.default_learning_rate if self.learning_rate == "auto" else self.learning_rate,
            lr_schedule=self.lr_schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            optimizer=self.optimizer,
            gradient_checkpointing=gradient_checkpointing,
        )

    def _learn(
        self,
        backbone: Backbone,
        rows: Rows,
        held_out: Rows | None,
        task: Task,
        epoch_contexts: Callable[[Learned], Callback | None],
        start: Learned | None,
    ) -> Outcome:
        """Train for `max_epochs`, with what the parameters ask for: validation, callbacks, checkpoints."""
        tuning = as_tuning(self.tuning)
        schedule = self._schedule(tuning, backbone)
        seed, directory = self._seed_and_directory(backbone, schedule, rows, held_out, task, start)
        if held_out is None and self.early_stopping:
            rows, held_out = self._split(rows, task, seed)
        learned = self._starting_point(backbone, task.n_outputs, seed, start)
        callbacks: list[Callback] = [ProgressBar()] if self.verbose else []
        stopping, began = None, moment()
        if held_out is not None:
            stopping = EarlyStopping(
                learned,
                lambda: self._score_rows(learned, backbone, held_out, task, schedule.batch_tokens, began),
                self.n_iter_no_change,
                self.tol,
                stops=self.early_stopping,
            )
            callbacks.append(stopping)
        callbacks += self._own_callbacks()
        contexts = epoch_contexts(learned)
        callbacks += [] if contexts is None else [contexts]
        checkpointing = None if directory is None else Checkpointing(directory, self.checkpoint_steps)
        callbacks += [] if checkpointing is None else [checkpointing]
        trainer = self._trainer(learned, backbone, rows, task, schedule, seed, callbacks)
        history = trainer.run()
        if stopping is not None:
            stopping.restore_best()
        if checkpointing is not None and trainer.finished:  # after all that could have raised
            checkpointing.remove()
        return Outcome(
            ready(learned), history, None if stopping is None else stopping.scores, optimizer_state(trainer.optimizer)
        )

    def _learn_one_epoch(
        self,
        backbone: Backbone,
        rows: Rows,
        task: Task,
        start: Learned | None,
        state: tuple[dict, dict] | None,
        epochs_before: int,
    ) -> Outcome:
        """Train for one epoch at a constant rate, going on from what was learned before."""
        schedule = replace(
            self._schedule(as_tuning(self.tuning), backbone), max_epochs=1, lr_schedule="constant", warmup=0.0
        )
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        learned = self._starting_point(backbone, task.n_outputs, seed, start)
        callbacks = [*([ProgressBar()] if self.verbose else []), *self._own_callbacks()]
        trainer = self._trainer(learned, backbone, rows, task, schedule, seed, callbacks, epochs_before)
        if state is not None:
            load_optimizer_state(trainer.optimizer, *state)
        history = trainer.run()
        return Outcome(ready(learned), history, None, optimizer_state(trainer.optimizer))

    def _own_callbacks(self) -> list[Callback]:
        """The user's."""
        for callback in self.callbacks or ():
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be instances of skxlmr.training.Callback, got {callback!r}. Those of scikit-learn "
                    f"are set by set_callbacks(...)."
                )
        return list(self.callbacks or ())

    def _trainer(
        self,
        learned: Learned,
        backbone: Backbone,
        rows: Rows,
        task: Task,
        schedule: Schedule,
        seed: int,
        callbacks: list[Callback],
        epochs_before: int = 0,
    ) -> Trainer:
        rows, losses, own_callbacks = self._objective(learned, backbone, rows, task, schedule.batch_tokens)
        return Trainer(
            losses,
            learned,
            rows.plan,
            rows.weights,
            schedule,
            seed,
            callbacks=[*own_callbacks, *callbacks],
            row_numbers=rows.numbers,
            half=backbone.model.dtype == torch.float16 and not learned.only_head,
            epochs_before=epochs_before,
        )

    def _objective(
        self, learned: Learned, backbone: Backbone, rows: Rows, task: Task, batch_tokens: int
    ) -> tuple[Rows, Losses, list[Callback]]:
        """What a trainer minimises: rows, their losses, and callbacks that these need."""
        features = learned.features(backbone, rows.plan, batch_tokens, self.memory, self.verbose)
        of_outputs = self._losses_of_outputs(task, rows, backbone.model.device)

        def losses(windows: np.ndarray, of_rows: np.ndarray, recompute: bool) -> Tensor:
            return of_outputs(learned.head(features(windows, recompute)), windows, of_rows)

        return rows, losses, []

    def _losses_of_outputs(
        self, task: RowTask, rows: Rows, device: torch.device
    ) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        """Return a function from the head's output for some windows, these, and the row of each, to their losses."""
        targets = torch.from_numpy(rows.targets).to(device)
        return lambda outputs, windows, of_rows: task.losses(outputs, targets[of_rows])

    def _seed_and_directory(
        self,
        backbone: Backbone,
        schedule: Schedule,
        rows: Rows,
        held_out: Rows | None,
        task: Task,
        start: Learned | None,
    ) -> tuple[int, os.PathLike | None]:
        """The seed of all random numbers, and the folder of this training's checkpoints.

        Without a `random_state` a training that was killed goes on with the seed that it had.
        """
        drawn = check_random_state(self.random_state).randint(2**31 - 1)
        if self.checkpoint_dir is None:
            return drawn, None
        early_stopping = (self.early_stopping, self.validation_fraction, self.n_iter_no_change, self.tol)
        identity = [
            type(self).__name__,
            backbone.key,
            (type(as_tuning(self.tuning)).__name__, as_tuning(self.tuning).get_params()),
            replace(schedule, batch_tokens=0, gradient_checkpointing=False),
            task,
            *self._more_identity(backbone),
            early_stopping if self.early_stopping or held_out is not None else None,
            None if self.random_state is None else drawn,
            *rows.identity(),
            *([] if held_out is None else held_out.identity()),
            *([] if start is None else [value.cpu().numpy() for value in start.state_dict().values()]),
        ]
        directory = training_directory(self.checkpoint_dir, identity)
        checkpoint = read_checkpoint(directory) if self.random_state is None else None
        return drawn if checkpoint is None else checkpoint[0]["seed"], directory

    def _more_identity(self, backbone: Backbone) -> list[object]:
        """What else a training depends on that its rows do not show."""
        return []

    def _starting_point(self, backbone: Backbone, n_outputs: int, seed: int, start: Learned | None) -> Learned:
        """What is to learn: as an earlier fit left it, or with a random start."""
        base, tuning = backbone.model, as_tuning(self.tuning)
        with Randomness(seed, base.device).drawing():
            learned = self._new_learned(tuning, base, n_outputs)
        if start is not None:
            have, need = ({name: p.shape for name, p in m.named_parameters()} for m in (start, learned))
            if have != need:
                raise ValueError(
                    f"This {type(self).__name__} cannot go on learning: its tuning is another one than that of the "
                    f"earlier fit, or its model. Set them back, or fit anew with warm_start=False."
                )
            learned.load_state_dict(start.state_dict())
        return learned.train()

    def _split(self, rows: Rows, task: Task, seed: int) -> tuple[Rows, Rows]:
        """Set rows aside for validation, of each class alike; returns those to learn from and those set aside."""
        try:
            kept, held = train_test_split(
                np.arange(len(rows.numbers)),
                test_size=self.validation_fraction,
                stratify=task.strata(rows.targets),
                random_state=seed,
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True cannot set validation_fraction={self.validation_fraction} of "
                f"{len(rows.numbers)} rows aside: {error} Pass X_val and y_val, or use another validation_fraction."
            ) from error
        return rows.take(np.sort(kept)), rows.take(np.sort(held))

    def _score_rows(
        self, learned: Learned, backbone: Backbone, rows: Rows, task: Task, batch_tokens: int, began: int
    ) -> float:
        outputs = learned.run(backbone, rows.plan, batch_tokens, memory=self.memory, keep=began)
        return task.score(self._of_rows(outputs, rows.plan), rows.targets, rows.weights)

    def _of_rows(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """From the head's output for each window of a plan to what each row gets."""
        return pool_windows(outputs, plan.text_of_window, "mean")[plan.text_of_row]


def ready(learned: Learned) -> Learned:
    """What was learned, to predict with."""
    return learned.eval().requires_grad_(False)


def snapshot(learned: Learned) -> Learned:
    """What is learned so far, on its own."""
    return ready(copy.deepcopy(learned))
