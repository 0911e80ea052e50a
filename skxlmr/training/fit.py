"""Fine-tuning of a base model for a task."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import joblib
import torch
from sklearn.utils import check_random_state

from skxlmr.checkpoints.files import checked_as
from skxlmr.model.heads import Head
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.system.progress import number_of_fit
from skxlmr.system.schema import COUNT
from skxlmr.training.auto_settings import least_memory, resolved_schedule
from skxlmr.training.callbacks import Callback, EpochLog, ProgressBar
from skxlmr.training.checkpointing import Checkpointing, StateOfShards, training_directory, usable_checkpoint
from skxlmr.training.convergence import N_ROWS, Quality, warn_of_failure
from skxlmr.training.early_stopping import EarlyStopping
from skxlmr.training.gradients import BatchLosses
from skxlmr.training.held_out import hold_out
from skxlmr.training.learnable import Learnable, Objective
from skxlmr.training.loop import Trainer
from skxlmr.training.optimizers import OptimizerState
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import ALONE, Ranks, joined
from skxlmr.training.rows import Outcome, Rows
from skxlmr.training.schedule import Schedule
from skxlmr.training.settings import TrainingParameters
from skxlmr.training.start import SoftStart, some_rows, start_head
from skxlmr.tuning import Tuning

if TYPE_CHECKING:
    from skxlmr.training.sharding import ShardedRanks


class OneEpoch(NamedTuple):
    """One epoch of many that are trained separately: the optimiser's state before it, and its number from 0."""

    optimizer_state: OptimizerState | None
    number: int


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
        resolved = resolved_schedule(
            settings, self.backbone, self.tuning, len(rows.numbers), ranks, self.task.language_model
        )
        schedule = least_memory(ranks.gather(resolved))
        if epoch is not None:
            schedule = replace(schedule, max_epochs=1, lr_schedule="constant", warmup=0.0)
        seed, checkpointing = self._seed(schedule, rows, held_out, start, epoch)
        if held_out is None and settings.early_stopping:
            rows, held_out = hold_out(self.task, rows, settings.validation_fraction, seed)
        finetuned = self._new_finetuned(start, seed)
        started = self._start(finetuned, rows, schedule, seed, wanted=start is None and epoch is None)
        judged, quality = rows.take(some_rows(rows, seed, N_ROWS)), None
        if started:
            quality = self._quality(finetuned, judged, schedule) if ranks.is_first else None
            schedule = self._after_start(schedule, finetuned.only_head, len(rows.numbers))
        finetuned.train()
        sharded = self._sharded(ranks, finetuned)
        ranks, fit = (ranks, self) if sharded is None else (sharded, replace(self, backbone=sharded.backbone))
        validates = ranks.is_first or ranks.is_sharded
        stopping: EarlyStopping | None = None
        if held_out is not None and validates:
            stopping = fit._early_stopping(finetuned, held_out, schedule, started)
        rows, losses, needed, order = fit._objective(finetuned, rows, schedule, ranks)
        softened = [self._soft_start(finetuned, rows)] if started and not finetuned.only_head else []
        given = [*softened, *(settings.callbacks or ()), *callbacks]
        trainer = Trainer(
            losses,
            finetuned,
            rows.plan,
            rows.weights,
            schedule,
            seed,
            callbacks=[*needed, *self._callbacks(ranks, stopping, given, checkpointing, epoch)],
            row_numbers=rows.numbers,
            order=order,
            half=self.backbone.model.dtype == torch.float16 and not finetuned.only_head,
            epochs_before=0 if epoch is None else epoch.number,
            before={} if quality is None else {"loss": quality.loss},
            ranks=ranks,
        )
        if epoch is not None and epoch.optimizer_state is not None:
            trainer.state.load_optimizer(*epoch.optimizer_state)
        history = trainer.run()
        if stopping is not None:
            stopping.restore_best(trainer)
        if checkpointing is not None and trainer.finished:  # after everything that could have raised
            checkpointing.remove()
        finetuned.eval().requires_grad_(False)
        if epoch is None and trainer.finished and schedule.max_epochs and validates:
            fit._judge(finetuned, judged, schedule, quality)
        scores, state = None if stopping is None else stopping.scores, trainer.state.whole_optimizer_state()
        if sharded is not None:
            sharded.gather_weights()
            finetuned.eval().requires_grad_(False)  # also the modules that took the place of those with shards
        return Outcome(finetuned, history, scores, state, trainer.before or None)

    def _seed(
        self, schedule: Schedule, rows: Rows, held_out: Rows | None, start: Finetuned | None, epoch: OneEpoch | None
    ) -> tuple[int, Checkpointing | None]:
        """Return the seed, and what writes checkpoints, if this process does.

        Without a random state, a fit that was killed is continued with the seed of its checkpoint.
        """
        settings, ranks = self.settings, self._ranks
        seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
        checkpointing: Checkpointing | None = None
        if epoch is None and settings.checkpoint_dir is not None and ranks.is_first:
            identity = self._identity(schedule, rows, held_out, start, seed)
            directory = training_directory(settings.checkpoint_dir, identity)
            checkpointing = Checkpointing(directory, settings.checkpoint_steps)
            checkpoint = usable_checkpoint(directory) if settings.random_state is None else None
            if checkpoint is not None:
                seed = checked_as(COUNT, checkpoint[0].get("seed"), directory)
        return ranks.broadcast(seed), checkpointing

    def _sharded(self, ranks: Ranks, finetuned: Finetuned) -> ShardedRanks | None:
        """Shard what is trained, and the base, if the settings say so; a head alone is not, since no base is run."""
        processes = self.settings.processes
        if processes is None or processes.strategy != "fsdp" or ranks.size == 1 or finetuned.only_head:
            return None
        if self.score is not None:
            raise ValueError("Processes(strategy='fsdp') has no scoring. Use scoring=None, or strategy='ddp'.")
        from skxlmr.training.sharding import ShardedRanks  # whose import takes a second

        return ShardedRanks(ranks, finetuned, self.backbone)

    def _objective(self, finetuned: Finetuned, rows: Rows, schedule: Schedule, ranks: Ranks) -> Objective:
        """Return what is minimised."""
        objective = self.task.objective(
            finetuned, self.backbone, rows, schedule.batch_tokens, self.memory, self.settings.verbose
        )
        if ranks.is_sharded and isinstance(objective.losses, BatchLosses):
            raise ValueError(
                "Processes(strategy='fsdp') does not train what compares the rows of a step. Use strategy='ddp'."
            )
        return objective

    def _soft_start(self, finetuned: Finetuned, rows: Rows) -> SoftStart:
        assert isinstance(finetuned.head, Head)
        return SoftStart(finetuned.head, self.task.start_factor(rows.targets))

    def _callbacks(
        self,
        ranks: Ranks,
        stopping: EarlyStopping | None,
        given: Sequence[Callback],
        checkpointing: Checkpointing | None,
        epoch: OneEpoch | None,
    ) -> list[Callback]:
        """Return what this process calls, in order, beside what the objective needs."""
        settings, added = self.settings, list[Callback | None]()
        if ranks.is_first:
            reports = self._reports(None if epoch is not None else number_of_fit(settings))
            added = [stopping, *given, checkpointing, *reports]  # the reports show what the others did
        elif ranks.is_sharded:
            checkpoints = settings.checkpoint_dir is not None and epoch is None
            added = [stopping, StateOfShards(settings.checkpoint_steps) if checkpoints else None]
        return [callback for callback in added if callback is not None]

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

    def _start(self, finetuned: Finetuned, rows: Rows, schedule: Schedule, seed: int, wanted: bool) -> bool:
        """Give all processes the weights of rank 0; return whether it started the head from a linear model."""
        ranks = self._ranks
        started = (
            wanted
            and ranks.is_first
            and self.init != "random"
            and start_head(
                self.task,
                finetuned.eval(),
                self.backbone,
                rows,
                schedule.batch_tokens,
                seed=seed,
                memory=self.memory,
                verbose=self.settings.verbose,
            )
        )
        started = ranks.broadcast(started)
        ranks.broadcast_tensors(list(finetuned.state_dict().values()))
        return started

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
