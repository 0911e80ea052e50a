"""The state of a training: all that is needed to resume it, in a checkpoint or in another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.system.schema import COUNT, POSITIVE, parse, shown
from skxlmr.training.callbacks import Callback, CallbackState
from skxlmr.training.optimizers import (
    OptimizerState,
    check_optimizer_state,
    check_same_shapes,
    load_optimizer_state,
    optimizer_state,
)
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import Ranks


@dataclass
class Position:
    """The progress of a training, and the settings that it has changed itself."""

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
    """The numbers of a `TrainingState.saved`, as a file holds them."""

    position: Position
    optimizer: dict[str, Any]
    callbacks: list[dict[str, Any]]


@dataclass(eq=False, repr=False)
class TrainingState:
    """What changes during a training.

    Of several processes each has its own, and all methods that exchange something are called by all of them.
    """

    seed: int
    parameters: dict[str, nn.Parameter]  # as the optimizer sees them: in shards, if the ranks have shards
    optimizer: torch.optim.Optimizer
    randomness: Randomness
    position: Position
    callbacks: Sequence[Callback]
    ranks: Ranks
    n_rows: int
    max_epochs: int

    def __post_init__(self) -> None:
        self._resumed: CallbackState | None = None  # what the other processes have to load, too

    def saved(self) -> CallbackState:
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

    def load(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Resume from what `saved` returned.

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
        learned, states, of_optimizer = (_part_of(tensors, part) for part in ("learned", "random", "optimizer"))
        self.randomness.check([states[str(i)] for i in range(len(states)) if str(i) in states])
        check_optimizer_state(self.optimizer, saved.optimizer, of_optimizer)
        self._check_position(saved.position)
        with torch.no_grad():
            for name, value in learned.items():
                self.parameters[name].copy_(value)
        load_optimizer_state(self.optimizer, saved.optimizer, of_optimizer)
        self.position = saved.position
        self.randomness.states = [states[str(i)] for i in range(len(states))]
        for i, (callback, of_callback) in enumerate(zip(with_state, saved.callbacks, strict=bool(with_state))):
            callback.load_state(of_callback, _part_of(tensors, f"callback{i}"))

    def _check_position(self, position: Position) -> None:
        """Raise a ValueError if a training of these rows and epochs cannot be there."""
        is_begun = position.rows_done > 0
        if (
            position.epoch > self.max_epochs
            or position.rows_done > self.n_rows
            or is_begun > (position.weight_sum > 0)
            or not 0 < position.loss_scale < float("inf")
            or len(position.history) != position.epoch
        ):
            raise ValueError(f"this training cannot be at {shown(position)}")

    def _with_state(self) -> list[Callback]:
        """Callbacks that have a state; others, such as a progress bar, may differ when training resumes."""
        return [callback for callback in self.callbacks if type(callback).state is not Callback.state]

    def take_over(self) -> None:
        """Load the state of rank 0, which may have resumed from a checkpoint."""
        if self.ranks.size == 1:
            return
        if self.ranks.is_sharded:
            self._take_over_shards()
            return
        numbers, tensors = self.saved() if self.ranks.is_first else ({}, {})
        numbers = self.ranks.broadcast({**numbers, "callbacks": []})
        tensors = {name: t for name, t in tensors.items() if not name.startswith("callback")}
        kinds = self.ranks.broadcast({name: (tuple(t.shape), t.dtype, t.device.type) for name, t in tensors.items()})
        if not self.ranks.is_first:
            devices = {"cpu": torch.device("cpu"), self.randomness.device.type: self.randomness.device}
            tensors = {name: torch.empty(s, dtype=d, device=devices[on]) for name, (s, d, on) in kinds.items()}
        self.ranks.broadcast_tensors([tensors[name] for name in kinds])
        if not self.ranks.is_first:
            assert not self._with_state(), "only rank 0 has callbacks with a state"
            self.load(numbers, tensors)

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

    def load_optimizer(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Load a `whole_optimizer_state`."""
        parts = {name: self._part(f"optimizer/{name}", tensor) for name, tensor in tensors.items()}
        load_optimizer_state(self.optimizer, numbers, parts)

    def whole_optimizer_state(self) -> OptimizerState:
        """Return the state of the optimizer, of which rank 0 has the whole."""
        numbers, tensors = optimizer_state(self.optimizer)
        return numbers, {name: self._whole(f"optimizer/{name}", tensor) for name, tensor in tensors.items()}

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        """Return the part of a whole tensor of a state that this process has."""
        parameter = self._parameter_of(name)
        return tensor if parameter is None else self.ranks.part(parameter, tensor)

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameter_of(name)
        return tensor if parameter is None else self.ranks.whole(parameter, tensor)

    def _parameter_of(self, name: str) -> nn.Parameter | None:
        """Return the parameter to which a tensor of a state belongs."""
        part, _, name = name.partition("/")
        if part == "optimizer":
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            i = name.partition(".")[0]
            return parameters[int(i)] if i.isdecimal() and int(i) < len(parameters) else None
        return self.parameters.get(name) if part == "learned" else None


def _part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a state."""
    return {key.split("/", 1)[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
