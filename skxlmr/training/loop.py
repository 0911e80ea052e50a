"""The training loop: epochs of optimiser steps over micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skxlmr.model.dynamic_outliers import Guess, guessing
from skxlmr.runtime import graphs
from skxlmr.runtime.plan import WindowPlan
from skxlmr.system.current_device import on_device
from skxlmr.system.out_of_memory import as_out_of_memory
from skxlmr.system.schema import COUNT, POSITIVE, parse, shown
from skxlmr.system.warn import warn
from skxlmr.training.callbacks import LOGGER, Callback, CallbackState
from skxlmr.training.gradients import (
    BatchLosses,
    Begin,
    Losses,
    NotFiniteError,
    accumulate_gradients,
    clip_gradients,
)
from skxlmr.training.optimizers import (
    OptimizerState,
    check_optimizer_state,
    check_same_shapes,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import ALONE, Ranks
from skxlmr.training.schedule import Schedule

# Gradients in float16 vanish unless the loss is scaled up; start and growth are those of torch.amp.GradScaler.
FIRST_LOSS_SCALE = 2.0**16
STEPS_UNTIL_GROWTH = 2000

TOO_LARGE = (
    "The training does not fit into the memory that is free, with the smallest batches and gradient checkpointing. "
    "`skxlmr.release_models()` frees models that no estimator uses. Otherwise use load_in_8bit=True, a tuning that "
    "trains less, a lower max_length, or another device; `skxlmr.memory_estimate` says what is needed."
)

# Draws the order of the rows in an epoch, (n_rows,).
RowOrder = Callable[[np.random.RandomState], np.ndarray]

# What the history has of each epoch, beside what callbacks add.
METRICS = ("epoch", "loss", "learning_rate", "seconds")


@dataclass
class Position:
    """The progress of a training; with weights, optimiser and random states, all that is needed to resume it."""

    batch_tokens: POSITIVE
    recompute: bool
    loss_scale: float
    epoch: COUNT = 0  # epochs done
    step: COUNT = 0  # steps done
    rows_done: COUNT = 0  # of this epoch
    loss_sum: float = 0.0  # of this epoch, weighted
    weight_sum: float = 0.0
    seconds: float = 0.0
    steps_since_overflow: COUNT = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class SavedState:
    """The numbers of a `Trainer.state`, as a file holds them."""

    position: Position
    optimizer: dict[str, Any]
    callbacks: list[dict[str, Any]]


class _LossScaleError(Exception):
    """The scaled gradient overflows float16."""


@dataclass(eq=False, repr=False)
class Trainer:
    """Minimise the weighted mean loss over the rows of a plan; callbacks see the trainer.

    With several processes, each runs some of the micro-batches of a step, and all take the same step with the sum of
    their gradients. They continue from what rank 0 has after `on_fit_begin` of its callbacks, and end when those do.
    """

    losses: Losses | BatchLosses
    module: nn.Module  # its parameters that require gradients are trained
    plan: WindowPlan
    row_weights: np.ndarray  # (n_rows,)
    schedule: Schedule
    seed: int  # of row order and dropout; each epoch derives its own from it
    _: KW_ONLY
    callbacks: Sequence[Callback] = ()  # called in this order
    row_numbers: np.ndarray | None = None  # the user's numbers of the rows, for messages; None counts from 0
    order: RowOrder | None = None  # None shuffles them
    half: bool = False  # gradients pass through float16, so the loss is scaled
    epochs_before: int = 0  # epochs of earlier trainings that this one continues
    before: dict[str, float] = field(default_factory=dict)  # metrics before the first epoch
    ranks: Ranks = ALONE  # the processes that train together, all with the same arguments but for `callbacks`

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be instances of skxlmr.training.Callback, got {callback!r}. Callbacks of "
                    f"scikit-learn are set by set_callbacks(...)."
                )
        schedule = self.schedule
        self.parameters = self.ranks.trained(self.module)
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = make_optimizer(schedule.optimizer, list(self.parameters.values()), schedule.weight_decay)
        self.randomness = Randomness(self.seed, self.device)
        self.n_steps = schedule.max_epochs * -(-len(self.row_weights) // schedule.batch_size)
        loss_scale = FIRST_LOSS_SCALE if self.half else 1.0
        self.position = Position(schedule.batch_tokens, schedule.gradient_checkpointing, loss_scale)
        self.loss = self.learning_rate = float("nan")  # of the latest step
        self._may_guess = True  # see `skxlmr.model.dynamic_outliers`
        self._resumed: CallbackState | None = None  # what the other processes have to load, too
        self._guessed = False  # in the latest step, in one of the processes
        self.finished = False  # True after the last epoch, not after an interruption

    @property
    def step(self) -> int:
        return self.position.step

    @property
    def epoch(self) -> int:
        return self.epochs_before + self.position.epoch

    @property
    def max_epochs(self) -> int:
        return self.epochs_before + self.schedule.max_epochs

    @property
    def metrics(self) -> dict[str, float]:
        return self.position.history[-1] if self.position.history else self.before

    @property
    def settings(self) -> dict[str, Any]:
        """The schedule and the seed, for logs."""
        return asdict(self.schedule) | {"seed": self.seed}

    def run(self) -> pd.DataFrame:
        """Train; returns the history, one row of `metrics` per epoch.

        A KeyboardInterrupt ends training with a warning, or is raised if there was no step yet. Raises
        FloatingPointError, before the weights change, if the loss or its gradient is no longer finite.
        """
        begun: list[Callback] = []
        with on_device(self.device):  # libraries launch kernels on the current device: 8-bit optimizers, Triton
            return self._run(begun)

    def _run(self, begun: list[Callback]) -> pd.DataFrame:
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(self)
                begun.append(callback)
            self._take_over()
            while not self.position.stopped and self.position.epoch < self.schedule.max_epochs:
                self._run_epoch()
            self.finished = True
        except KeyboardInterrupt:
            if self.step == 0:
                raise
            self._close_epoch_early()
        finally:
            with ExitStack() as stack:  # all of them end, even if one raises
                for callback in reversed(begun):
                    stack.callback(callback.on_fit_end, self)
        return pd.DataFrame(self.position.history, columns=None if self.position.history else list(METRICS))

    def _run_epoch(self) -> None:
        position, n_rows = self.position, len(self.row_weights)
        of_epoch = np.random.RandomState([self.seed, self.epochs_before + position.epoch])
        order = of_epoch.permutation(n_rows) if self.order is None else self.order(of_epoch)
        if position.rows_done == 0:
            self.randomness = Randomness(int(of_epoch.randint(2**31 - 1)), self.device)
        for callback in self.callbacks:
            with self._interruptible():
                callback.on_epoch_begin(self)
        began = time.perf_counter() - position.seconds
        while position.rows_done < n_rows:
            self._run_step(order[position.rows_done : position.rows_done + self.schedule.batch_size])
            position.seconds = time.perf_counter() - began
            for callback in self.callbacks:
                with self._interruptible():
                    callback.on_step_end(self)
        self._close_epoch()
        position.epoch += 1
        for callback in self.callbacks:
            with self._interruptible():
                position.stopped |= bool(callback.on_epoch_end(self))
        position.stopped = self.ranks.broadcast(position.stopped)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let all processes end training in the next step if a callback raises KeyboardInterrupt."""
        try:
            yield
        except KeyboardInterrupt:
            if self.ranks.size == 1:
                raise
            self.ranks.interrupted = True

    def _take_over(self) -> None:
        """Load the state of rank 0, which may have resumed from a checkpoint."""
        if self.ranks.size == 1:
            return
        if self.ranks.is_sharded:
            self._take_over_shards()
            return
        numbers, tensors = self.state() if self.ranks.is_first else ({}, {})
        numbers = self.ranks.broadcast({**numbers, "callbacks": []})
        tensors = {name: t for name, t in tensors.items() if not name.startswith("callback")}
        kinds = self.ranks.broadcast({name: (tuple(t.shape), t.dtype, t.device.type) for name, t in tensors.items()})
        if not self.ranks.is_first:
            devices = {"cpu": torch.device("cpu"), self.device.type: self.device}
            tensors = {name: torch.empty(s, dtype=d, device=devices[on]) for name, (s, d, on) in kinds.items()}
        self.ranks.broadcast_tensors([tensors[name] for name in kinds])
        if not self.ranks.is_first:
            assert not self._with_state(), "only rank 0 has callbacks with a state"
            self.load_state(numbers, tensors)

    def _take_over_shards(self) -> None:
        """Do the same, tensor by tensor, if each process has a shard of them."""
        ranks, (numbers, tensors) = self.ranks, self._resumed or ({}, {})
        if not ranks.broadcast(bool(numbers)):
            ranks.broadcast_tensors([p for p in self.parameters.values() if ranks.whole_alike(p)])
            return
        numbers = ranks.broadcast({**numbers, "callbacks": []})
        kinds = ranks.broadcast({n: (t.shape, t.dtype) for n, t in tensors.items() if not n.startswith("callback")})
        parts = {}
        for name, (shape, dtype) in kinds.items():
            tensor = tensors[name].cpu().contiguous() if ranks.is_first else torch.empty(shape, dtype=dtype)
            ranks.broadcast_tensors([tensor])
            parts[name] = self._part(name, tensor).clone()
        if not ranks.is_first:
            self._load(parse(SavedState, numbers), parts)
        self._resumed = None

    def _parameter_of(self, name: str) -> nn.Parameter | None:
        """Return the parameter to which a tensor of a `state` belongs."""
        part, _, name = name.partition("/")
        if part == "optimizer":
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            i = name.partition(".")[0]
            return parameters[int(i)] if i.isdecimal() and int(i) < len(parameters) else None
        return self.parameters.get(name) if part == "learned" else None

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameter_of(name)
        return tensor if parameter is None else self.ranks.part(parameter, tensor)

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameter_of(name)
        return tensor if parameter is None else self.ranks.whole(parameter, tensor)

    def load_optimizer(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Load a `whole_optimizer_state`."""
        parts = {name: self._part(f"optimizer/{name}", tensor) for name, tensor in tensors.items()}
        load_optimizer_state(self.optimizer, numbers, parts)

    def whole_optimizer_state(self) -> OptimizerState:
        """Return the state of the optimizer, of which rank 0 has the whole."""
        numbers, tensors = optimizer_state(self.optimizer)
        return numbers, {name: self._whole(f"optimizer/{name}", tensor) for name, tensor in tensors.items()}

    def _close_epoch(self) -> None:
        """Append the epoch to the history and reset the sums."""
        position = self.position
        position.history.append(
            {
                "epoch": self.epoch + 1,
                "loss": position.loss_sum / position.weight_sum,
                "learning_rate": self._rate(position.step - 1),
                "seconds": position.seconds,
            }
        )
        position.rows_done, position.loss_sum, position.weight_sum, position.seconds = 0, 0.0, 0.0, 0.0

    def _close_epoch_early(self) -> None:
        warn(
            f"Training was interrupted in epoch {min(self.epoch + 1, self.max_epochs)} of {self.max_epochs}, after "
            f"{self.step} of {self.n_steps} steps; the model is fitted so far."
        )
        if self.position.rows_done:
            self._close_epoch()

    def _rate(self, step: int) -> float:
        return self.schedule.rate(step, self.n_steps)

    def _run_step(self, rows: np.ndarray) -> None:
        position = self.position
        try:
            self.loss = self._gradients(rows)
        except NotFiniteError as error:
            numbers = np.arange(len(self.row_weights)) if self.row_numbers is None else self.row_numbers
            raise FloatingPointError(
                f"{error.describe(numbers)} in step {self.step + 1} of epoch {self.epoch + 1}. Lower "
                f"learning_rate (it is {self.schedule.learning_rate:g}), or use dtype='float32'."
            ) from None
        self.learning_rate = self._rate(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weight = float(self.row_weights[rows].sum())
        position.loss_sum += self.loss * weight
        position.weight_sum += weight
        position.rows_done += len(rows)
        position.step += 1

    def _gradients(self, rows: np.ndarray) -> float:
        """Compute the gradient of a step.

        If memory runs out, retry without CUDA graphs, which frozen layers may use, then with smaller batches. If
        float16 overflows, retry with a smaller scale; if a guess was wrong, without guesses.
        """
        while True:
            try:
                # A retry draws the same dropout as the failed attempt.
                with as_out_of_memory(), self.randomness.drawing_parts() as begin, guessing(self._may_guess) as guess:
                    return self._attempt(rows, begin, guess)
            except torch.OutOfMemoryError as error:
                freed = graphs.free() and self.ranks.size == 1  # several processes reduce their batches together
                if not freed and (self.ranks.is_sharded or not self._reduce_memory(rows)):
                    raise torch.OutOfMemoryError(f"{error}\n{TOO_LARGE}") from None
            except (NotFiniteError, _LossScaleError) as error:
                if self._guessed:
                    self._may_guess = False
                elif isinstance(error, NotFiniteError):
                    raise
                else:
                    self.position.loss_scale /= 2
                    self.position.steps_since_overflow = 0
            # Outside of the handler, whose traceback holds the tensors of the failed attempt.
            self.optimizer.zero_grad(set_to_none=True)
            self.module.zero_grad(set_to_none=True)  # of which the optimizer has shards
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self, rows: np.ndarray, begin: Begin, guess: Guess) -> float:
        position, ranks, parameters = self.position, self.ranks, list(self.parameters.values())
        scale = position.loss_scale
        losses = accumulate_gradients(
            self.losses,
            self.plan,
            rows,
            self.row_weights[rows],
            position.batch_tokens,
            position.recompute,
            scale,
            ranks,
            begin,
        )
        self._guessed, interrupted = ranks.any([guess.used_so_far, ranks.interrupted])
        if interrupted:
            raise KeyboardInterrupt
        ranks.sum_gradients(parameters)
        clipped = clip_gradients(parameters, self.schedule.max_grad_norm, scale, ranks)
        loss, norm = losses.read(clipped, ranks=ranks)
        if not np.isfinite(norm):
            if scale > 1:
                raise _LossScaleError
            raise NotFiniteError(f"The gradient became {norm}", np.array([], int))
        if scale > 1:
            position.steps_since_overflow += 1
            if position.steps_since_overflow % STEPS_UNTIL_GROWTH == 0:
                position.loss_scale *= 2
        return loss

    def _reduce_memory(self, rows: np.ndarray) -> bool:
        """Halve `batch_tokens`, then recompute layers in the backward pass; return False if both are exhausted."""
        position = self.position
        if position.batch_tokens > self.plan.shortest(rows):
            position.batch_tokens //= 2
            LOGGER.info("out of memory: batch_tokens is %d from here on", position.batch_tokens)
        elif not position.recompute:
            position.recompute = True
            LOGGER.info("out of memory: layers are computed again in the backward pass from here on")
        else:
            return False
        return True

    def state(self) -> CallbackState:
        """Return what is needed to resume from here: numbers for JSON, and tensors.

        If the parameters are sharded, all processes call this, and rank 0 gets the whole ones.
        """
        optimizer_numbers, optimizer_tensors = optimizer_state(self.optimizer)
        numbers = {
            "seed": self.seed,
            "position": asdict(self.position),
            "optimizer": optimizer_numbers,
            "callbacks": [callback.state()[0] for callback in self._with_state()],
        }
        parts = {
            "learned": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": optimizer_tensors,
            "random": {str(i): state for i, state in enumerate(self.randomness.states)},
        }
        parts |= {f"callback{i}": callback.state()[1] for i, callback in enumerate(self._with_state())}
        tensors = {f"{part}/{name}": tensor for part, of_part in parts.items() for name, tensor in of_part.items()}
        return numbers, {name: self._whole(name, tensor) for name, tensor in tensors.items()}

    def load_state(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Resume from a `state`.

        Raises ValueError if there are more or fewer callbacks that have a state, or if it is not that of this training;
        nothing is changed then, unless it is a callback that raises.
        """
        saved = parse(SavedState, numbers)
        with_state = self._with_state()
        if len(with_state) != len(saved.callbacks):
            raise ValueError(
                f"it was written with {len(saved.callbacks)} callbacks that have a state, but there are "
                f"{len(with_state)} now"
            )

        check_same_shapes(_part_of(tensors, "learned"), self.ranks.like(self.parameters), "learned")
        self._load(saved, {name: self._part(name, tensor) for name, tensor in tensors.items()}, with_state)
        if self.ranks.is_sharded:
            self._resumed = (numbers, tensors)

    def _load(self, saved: SavedState, tensors: dict[str, Tensor], with_state: Sequence[Callback] = ()) -> None:
        """Load the parts of a state that this process has; nothing is changed if they are not of this training."""

        def part(name: str) -> dict[str, Tensor]:
            return _part_of(tensors, name)

        learned, states = part("learned"), part("random")
        self.randomness.check([states[str(i)] for i in range(len(states)) if str(i) in states])
        check_optimizer_state(self.optimizer, saved.optimizer, part("optimizer"))
        self._check_position(saved.position)
        with torch.no_grad():
            for name, value in learned.items():
                self.parameters[name].copy_(value)
        load_optimizer_state(self.optimizer, saved.optimizer, part("optimizer"))
        self.position = saved.position
        self.randomness.states = [states[str(i)] for i in range(len(states))]
        for i, (callback, of_callback) in enumerate(zip(with_state, saved.callbacks, strict=bool(with_state))):
            callback.load_state(of_callback, part(f"callback{i}"))

    def _check_position(self, position: Position) -> None:
        """Raise a ValueError if a training of these rows and epochs cannot be there."""
        is_begun = position.rows_done > 0
        if (
            position.epoch > self.schedule.max_epochs
            or position.rows_done > len(self.row_weights)
            or is_begun > (position.weight_sum > 0)
            or not 0 < position.loss_scale < float("inf")
            or len(position.history) != position.epoch
        ):
            raise ValueError(f"this training cannot be at {shown(position)}")

    def _with_state(self) -> list[Callback]:
        """Callbacks that have a state; others, such as a progress bar, may differ when training resumes."""
        return [callback for callback in self.callbacks if type(callback).state is not Callback.state]


def _part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a state."""
    return {key.split("/", 1)[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
