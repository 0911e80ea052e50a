"""Fine-tuning of a base model for a task."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import joblib
import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from skxlmr.checkpoints.files import checked_as
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.hardware.advice import training_budget
from skxlmr.hardware.estimate import Together
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.heads import Head
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.sklearn_defaults import sklearn_defaults
from skxlmr.system.progress import number_of_fit
from skxlmr.system.schema import COUNT
from skxlmr.training.callbacks import Callback, EpochLog, ProgressBar
from skxlmr.training.checkpointing import Checkpointing, StateOfShards, training_directory, usable_checkpoint
from skxlmr.training.convergence import N_ROWS, Quality, warn_of_failure
from skxlmr.training.early_stopping import EarlyStopping
from skxlmr.training.gradients import BatchLosses, Losses
from skxlmr.training.loop import RowOrder, Trainer
from skxlmr.training.optimizers import OptimizerState
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import ALONE, Ranks, joined
from skxlmr.training.rows import Outcome, Rows
from skxlmr.training.schedule import Schedule, auto_epochs
from skxlmr.training.settings import TrainingParameters
from skxlmr.training.start import SoftStart, Startable, some_rows, start_head
from skxlmr.tuning import Tuning

if TYPE_CHECKING:
    from skxlmr.training.sharding import ShardedRanks


class Objective(NamedTuple):
    """What a trainer minimises: the losses of rows, and the callbacks and the order of rows that they need."""

    rows: Rows
    losses: Losses | BatchLosses
    callbacks: list[Callback]
    order: RowOrder | None = None


class OneEpoch(NamedTuple):
    """One epoch of many that are trained separately: the optimiser's state before it, and its number from 0."""

    optimizer_state: OptimizerState | None
    number: int


class Learnable(Startable, Protocol):
    """The part of a task that training needs; see `skxlmr.tasks.base.Task`."""

    causal: ClassVar[bool]
    language_model: ClassVar[str | None]

    @property
    def pooling(self) -> str: ...

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module: ...

    def learning_rate_factor(self, n_rows: int) -> float: ...

    def start_factor(self, targets: np.ndarray) -> float: ...

    def strata(self, targets: np.ndarray) -> np.ndarray | None: ...

    def held_out(self, rows: Rows) -> Rows: ...

    def objective(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, verbose: int
    ) -> Objective: ...

    def evaluate(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, keep: Keep
    ) -> dict[str, float]: ...

    def quality(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object
    ) -> Quality | None: ...


@dataclass(frozen=True, eq=False)
class Fit:
    """Fine-tuning of a base model for a task.

    Attributes
    ----------
    backbone : Backbone
    task : Learnable
    tuning : Tuning
    settings : TrainingParameters
    memory : str, path, joblib.Memory or None
        Caches the features of texts if only the head is trained.
    init : {"auto", "random", "probe"}
        Whether the head starts from a linear model of the frozen features.
    score : callable or None
        From the module so far, rows to validate on and the number of tokens to run at once to their score; higher is
        better. None is the score of the task.
    """

    backbone: Backbone
    task: Learnable
    tuning: Tuning
    settings: TrainingParameters
    memory: str | os.PathLike | joblib.Memory | None = None
    init: str = "random"
    score: Callable[[Finetuned, Rows, int], float] | None = None

    def learn(
        self,
        rows: Rows,
        held_out: Rows | None = None,
        start: Finetuned | None = None,
        callbacks: Sequence[Callback] = (),
        epoch: OneEpoch | None = None,
    ) -> Outcome:
        """Train, with the validation and the checkpoints that the settings ask for.

        Without rows to validate on, early stopping holds some out. `start` is what a warm start continues from, and
        `callbacks` are in addition to those of the settings. With `epoch`, train that one epoch instead of
        `max_epochs`, at a constant learning rate and without checkpoints.
        """
        settings, ranks = self.settings, self._ranks
        schedule = _least_memory(ranks.gather(self._schedule(len(rows.numbers))))
        seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
        checkpointing: Checkpointing | None = None
        stopping: EarlyStopping | None = None
        if epoch is not None:
            schedule = replace(schedule, max_epochs=1, lr_schedule="constant", warmup=0.0)
        elif settings.checkpoint_dir is not None and ranks.is_first:
            identity = self._identity(schedule, rows, held_out, start, seed)
            directory = training_directory(settings.checkpoint_dir, identity)
            checkpointing = Checkpointing(directory, settings.checkpoint_steps)
            checkpoint = usable_checkpoint(directory) if settings.random_state is None else None
            if checkpoint is not None:  # continue with the seed of the fit that was killed
                seed = checked_as(COUNT, checkpoint[0].get("seed"), directory)
        seed = ranks.broadcast(seed)
        if held_out is None and settings.early_stopping:
            rows, held_out = self._hold_out(rows, seed)
        finetuned = self._new_finetuned(start, seed)
        started = start is None and epoch is None and ranks.is_first and self._start(finetuned, rows, schedule, seed)
        started = ranks.broadcast(started)
        ranks.broadcast_tensors(list(finetuned.state_dict().values()))
        judged, quality = rows.take(some_rows(rows, seed, N_ROWS)), None
        if started:
            quality = self._quality(finetuned, judged, schedule) if ranks.is_first else None
            schedule = self._after_start(schedule, finetuned.only_head, len(rows.numbers))
        finetuned.train()
        sharded: ShardedRanks | None = None
        if settings.processes is not None and settings.processes.strategy == "fsdp" and ranks.size > 1:
            sharded = self._sharded(ranks, finetuned)
        ranks, fit = (ranks, self) if sharded is None else (sharded, replace(self, backbone=sharded.backbone))
        validates = ranks.is_first or ranks.is_sharded
        if held_out is not None and validates:
            stopping = fit._early_stopping(finetuned, held_out, schedule, started)
        rows, losses, needed, order = self.task.objective(
            finetuned, fit.backbone, rows, schedule.batch_tokens, self.memory, settings.verbose
        )
        if sharded is not None and isinstance(losses, BatchLosses):
            raise ValueError(
                "Processes(strategy='fsdp') does not train what compares the rows of a step. Use strategy='ddp'."
            )
        soft: SoftStart | None = None
        if started and not finetuned.only_head:
            assert isinstance(finetuned.head, Head)
            soft = SoftStart(finetuned.head, self.task.start_factor(rows.targets))
        added = list[Callback | None](needed)
        if ranks.is_first:
            added += [stopping, soft, *(settings.callbacks or ()), *callbacks, checkpointing]
            added += self._reports(None if epoch is not None else number_of_fit(settings))  # of all that the others did
        elif sharded is not None:
            checkpoints = settings.checkpoint_dir is not None and epoch is None
            added += [stopping, StateOfShards(settings.checkpoint_steps) if checkpoints else None]
        trainer = Trainer(
            losses,
            finetuned,
            rows.plan,
            rows.weights,
            schedule,
            seed,
            callbacks=[callback for callback in added if callback is not None],
            row_numbers=rows.numbers,
            order=order,
            half=self.backbone.model.dtype == torch.float16 and not finetuned.only_head,
            epochs_before=0 if epoch is None else epoch.number,
            before={} if quality is None else {"loss": quality.loss},
            ranks=ranks,
        )
        if epoch is not None and epoch.optimizer_state is not None:
            trainer.load_optimizer(*epoch.optimizer_state)
        history = trainer.run()
        if stopping is not None:
            stopping.restore_best(trainer)
        if checkpointing is not None and trainer.finished:  # after everything that could have raised
            checkpointing.remove()
        finetuned.eval().requires_grad_(False)
        if epoch is None and trainer.finished and schedule.max_epochs and validates:
            fit._judge(finetuned, judged, schedule, quality)
        scores, state = None if stopping is None else stopping.scores, trainer.whole_optimizer_state()
        if sharded is not None:
            sharded.gather_weights()
        return Outcome(finetuned, history, scores, state, trainer.before or None)

    def _sharded(self, ranks: Ranks, finetuned: Finetuned) -> ShardedRanks | None:
        """Shard what is trained, and the base; None if only the head is trained, for which nothing is run."""
        if finetuned.only_head:
            return None
        if self.score is not None:
            raise ValueError("Processes(strategy='fsdp') has no scoring. Use scoring=None, or strategy='ddp'.")
        from skxlmr.training.sharding import ShardedRanks  # whose import takes a second

        return ShardedRanks(ranks, finetuned, self.backbone)

    @property
    def _ranks(self) -> Ranks:
        """The processes that train together."""
        return (self.settings.processes is not None and joined()) or ALONE

    def _reports(self, number: int | None) -> list[Callback]:
        """Make the callbacks that log the training and, with `verbose`, show it; a fit in a search has a number."""
        verbose = self.settings.verbose
        return [EpochLog(number), *([ProgressBar(int(verbose), number)] if verbose else [])]

    def _new_finetuned(self, start: Finetuned | None, seed: int) -> Finetuned:
        """Make what is trained, with random weights, or with those of an earlier fit."""
        base, files = self.backbone.model, self.backbone.files if start is None else None
        with Randomness(seed, base.device).drawing():
            head = self.task.head(base.config, files)
            finetuned = Finetuned(self.tuning, base, head, self.task.pooling, self.task.causal)
        if start is not None:
            finetuned.continue_from(start)
        return finetuned

    def _start(self, finetuned: Finetuned, rows: Rows, schedule: Schedule, seed: int) -> bool:
        """Start the head from a linear model of the frozen features; return whether the task has one."""
        return self.init != "random" and start_head(
            self.task,
            finetuned.eval(),
            self.backbone,
            rows,
            schedule.batch_tokens,
            seed=seed,
            memory=self.memory,
            verbose=self.settings.verbose,
        )

    def _after_start(self, schedule: Schedule, only_head: bool, n_rows: int) -> Schedule:
        """Return the schedule of a training whose head has been started: a head alone has its optimum already."""
        if only_head and self.settings.max_epochs == "auto":
            schedule = replace(schedule, max_epochs=0)
        if self.settings.learning_rate == "auto":
            rate = schedule.learning_rate * self.task.learning_rate_factor(n_rows)
            schedule = replace(schedule, learning_rate=rate)
        return schedule

    def _quality(self, finetuned: Finetuned, rows: Rows, schedule: Schedule) -> Quality | None:
        return self.task.quality(finetuned, self.backbone, rows, schedule.batch_tokens, self.memory)

    def _judge(self, finetuned: Finetuned, rows: Rows, schedule: Schedule, before: Quality | None) -> None:
        """Warn if training learned nothing, or made its start worse."""
        after = self._quality(finetuned, rows, schedule)
        if after is not None:
            if before is not None:
                after = replace(after, start=before)
            warn_of_failure(after, schedule.learning_rate, schedule.max_epochs, self.settings.early_stopping)

    def _schedule(self, n_rows: int) -> Schedule:
        """Resolve the "auto" of the settings, by the number of rows, the tuning and the free memory."""
        settings, backbone = self.settings, self.backbone
        batch_tokens, gradient_checkpointing = backbone.batch_tokens(settings.batch_tokens), False
        if settings.batch_tokens == "auto":
            batch_tokens, gradient_checkpointing = training_budget(
                backbone.model.config,
                batch_tokens,
                tuning=self.tuning,
                load_in_8bit=backbone.storage if isinstance(backbone.storage, Int8) else False,
                load_in_4bit=backbone.storage == "nf4",
                dtype=str(backbone.model.dtype).removeprefix("torch."),
                device=str(backbone.model.device),
                processes=Together(self._ranks.size_here, getattr(settings.processes, "strategy", "ddp")),
                language_model=self.task.language_model,
            )
        return Schedule(
            batch_size=settings.batch_size,
            batch_tokens=batch_tokens,
            max_epochs=(
                auto_epochs(n_rows, settings.batch_size) if settings.max_epochs == "auto" else int(settings.max_epochs)
            ),
            learning_rate=(
                self.tuning.default_learning_rate(backbone.model.config)
                if settings.learning_rate == "auto"
                else float(settings.learning_rate)
            ),
            lr_schedule=settings.lr_schedule,
            warmup=settings.warmup,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optimizer=settings.optimizer,
            gradient_checkpointing=gradient_checkpointing,
        )

    def _identity(
        self, schedule: Schedule, rows: Rows, held_out: Rows | None, start: Finetuned | None, seed: int
    ) -> list[object]:
        """Return all that the result depends on."""
        settings = self.settings
        early_stopping = (
            settings.early_stopping, settings.validation_fraction, settings.n_iter_no_change, settings.tol,
            re.sub(" at 0x[0-9a-f]+", "", repr(settings.scoring)),  # of a function without its address
        )  # fmt: skip
        return [
            self.backbone.results_key,
            (type(self.tuning).__name__, self.tuning.get_params()),
            replace(schedule, batch_tokens=0, gradient_checkpointing=False),
            self.task,
            self.init,
            early_stopping if settings.early_stopping or held_out is not None else None,
            None if settings.random_state is None else seed,
            *rows.identity(),
            *([] if held_out is None else held_out.identity()),
            *([] if start is None else [value.cpu().numpy() for value in start.state_dict().values()]),
        ]

    @sklearn_defaults()
    def _hold_out(self, rows: Rows, seed: int) -> tuple[Rows, Rows]:
        """Split off rows for validation, stratified by class; returns the rows to train on, and those held out."""
        from sklearn.model_selection import train_test_split

        fraction, classes = self.settings.validation_fraction, self.task.strata(rows.targets)
        try:
            kept, held = train_test_split(
                np.arange(len(rows.numbers)), test_size=fraction, random_state=seed, stratify=classes
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True cannot set validation_fraction={fraction} of {len(rows.numbers)} rows aside: "
                f"{_why_not_stratified(classes) or error} Pass X_val and y_val, or use another validation_fraction."
            ) from None
        return rows.take(np.sort(kept)), self.task.held_out(rows.take(np.sort(held)))

    def _early_stopping(self, finetuned: Finetuned, held_out: Rows, schedule: Schedule, started: bool) -> EarlyStopping:
        settings, began, batch_tokens = self.settings, Keep(), schedule.batch_tokens

        def score() -> dict[str, float]:
            metrics = self.task.evaluate(finetuned, self.backbone, held_out, batch_tokens, self.memory, began)
            if self.score is not None:
                metrics["validation_score"] = self.score(finetuned, held_out, batch_tokens)
            return metrics

        return EarlyStopping(
            finetuned,
            score,
            settings.n_iter_no_change,
            settings.tol,
            stops=settings.early_stopping,
            started=started,
        )


def _least_memory(schedules: Sequence[Schedule]) -> Schedule:
    """Return that one of the schedules that needs the least memory; they are the same otherwise."""
    return min(schedules, key=lambda each: (not each.gradient_checkpointing, each.batch_tokens))


def _why_not_stratified(classes: np.ndarray | None) -> str | None:
    """Say which classes have one row only; None if there are none."""
    if classes is None:
        return None
    labels, counts = np.unique(classes, return_counts=True)
    alone = labels[counts == 1].tolist()
    return f"each class needs two rows or more, but {alone[:5]} have one." if alone else None
