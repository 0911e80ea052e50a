"""Random numbers that belong to one training, whatever else in the process draws."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from skxlmr.system.forks import after_fork, gate

# Torch's dropout draws from generators that the whole process shares, so trainings in several threads take turns.
_turn = threading.RLock()


@after_fork
def _renew_lock() -> None:
    global _turn
    _turn = threading.RLock()


class Randomness:
    """The random state of one training on a device; within `drawing()` torch draws from it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        generators = [torch.Generator()]
        if device.type != "cpu":
            generators.append(torch.Generator(device))
        self.states = [generator.manual_seed(seed).get_state() for generator in generators]  # uint8, the CPU's first

    def check(self, states: Sequence[Tensor]) -> None:
        """Raise a ValueError if states from a file are not those of generators on this device."""
        if [(s.shape, s.dtype) for s in states] != [(s.shape, s.dtype) for s in self.states]:
            raise ValueError(f"it does not have {len(self.states)} random states of this device")
        try:
            torch.Generator().set_state(states[0])
        except RuntimeError as error:
            raise ValueError(f"its random state is not valid: {error}") from error

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw from this state in a `with` statement, and leave the generators of the process as they were.

        After an exception the state is that from before, so the next attempt draws the same numbers.
        """
        device, devices = self.device, [] if self.device.type == "cpu" else [self.device]
        with _turn, gate.inside(), torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            self._set(self.states)
            yield
            self.states = [torch.get_rng_state()]
            self.states += [torch.get_device_module(device).get_rng_state(device) for device in devices]

    @contextmanager
    def drawing_parts(self) -> Iterator[Callable[[int], None]]:
        """Draw as in `drawing`, by parts: the function that it yields begins the part with a number.

        What is drawn in a part depends on its number only, and not on the parts that were drawn before, so that several
        processes can draw some parts each.
        """
        with self.drawing():
            seed = int(torch.randint(2**62, (1,)))
            afterwards = [torch.get_rng_state(), *self.states[1:]]
            yield lambda part: self._set(Randomness(seed + part, self.device).states)
            self._set(afterwards)

    def _set(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.get_device_module(self.device).set_rng_state(state, self.device)
