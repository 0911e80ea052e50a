"""Pickles read as data. What a pickle would import stays a name, what it would call stays a record of the call:
nothing is imported, called or built, so that a file may hold whatever it likes beside the tensors that are wanted."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from skxlmr.checkpoints.errors import CheckpointError


class Named:
    """A global that a pickle names and that was not imported.

    Parameters
    ----------
    name : str
        Module and qualified name, joined by a dot.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Unbuilt:
    """An object that a pickle describes and that was not built.

    Parameters
    ----------
    builder : object
        What would be called; a `Named`, unless the pickle is odd.
    arguments : object
        What it would be called with; a tuple, unless the pickle is odd.

    Attributes
    ----------
    items : dict
        Items that would be set on the object.
    state : object
        What the object's attributes would be filled from; None without.
    """

    __slots__ = ("arguments", "builder", "items", "state")

    def __init__(self, builder: object, arguments: object) -> None:
        self.builder = builder
        self.arguments = arguments
        self.items: dict = {}
        self.state: object = None

    @property
    def name(self) -> str | None:
        """Name of the builder; None if it is no `Named`."""
        return self.builder.name if isinstance(self.builder, Named) else None


class External:
    """Something that the pickle refers to and that lies outside of it, such as the bytes of a tensor.

    Parameters
    ----------
    reference : object
        How the pickle refers to it.
    """

    __slots__ = ("reference",)

    def __init__(self, reference: object) -> None:
        self.reference = reference


def read_pickle(stream: BinaryIO, path: str | Path) -> tuple[object, list[External]]:
    """Read one pickle, of the protocol 2 that `torch.save` writes, running none of it.

    Parameters
    ----------
    stream : binary file
        Left behind the end of the pickle. Memory grows with its size, so bound that first.
    path : str or Path
        For messages.

    Returns
    -------
    value : object
        None, bool, int, float, str, bytes, tuple, list, dict, `Named`, `Unbuilt` or `External`. It may contain itself.
    externals : list of External
        All that it refers to.

    Raises
    ------
    CheckpointError
        If it is no such pickle.

    Examples
    --------
    >>> import io, pickle
    >>> value, _ = read_pickle(io.BytesIO(pickle.dumps({"print": print, "epoch": 3}, protocol=2)), "model.pt")
    >>> value["epoch"], value["print"].name
    (3, '__builtin__.print')
    """
    machine = _StackMachine()
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                break
            step = STEPS.get(instruction.name)
            if step is None:
                raise CheckpointError(
                    f"{path} contains the pickle instruction {instruction.name}, which torch.save does not write"
                )
            step(machine, argument)
        return machine.stack.pop(), machine.externals
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises whatever the damage happens to provoke
        raise CheckpointError(f"{path} is damaged: its pickle cannot be parsed ({error})") from error


class _StackMachine:
    """The stack that the instructions of a pickle work on, with each instruction that needs more than one line."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.externals: list[External] = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, count: int) -> list:
        if count > len(self.stack):
            raise ValueError("too few values")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def refer(self) -> None:
        self.externals.append(External(self.stack.pop()))
        self.push(self.externals[-1])

    def call(self) -> None:
        builder, arguments = self.top(2)
        self.push(Unbuilt(builder, arguments))

    def set_state(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Unbuilt):
            raise ValueError(f"a {type(self.stack[-1]).__name__} has no state to set")
        self.stack[-1].state = state

    def append(self, values: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Unbuilt):  # the values of an unbuilt list are of no use to anyone
            raise ValueError(f"nothing can be appended to a {type(target).__name__}")

    def set_items(self, values: list) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Unbuilt) else target
        if not isinstance(items, dict):
            raise ValueError(f"a {type(target).__name__} has no items to set")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # A tuple may be nested deeply enough to crash its hash: such keys are kept as nothing but themselves.
            items[key if isinstance(key, str | int | float | None) else object()] = value


Step = Callable[[_StackMachine, object], object]

LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
# The instructions of protocol 2; x is the argument that stands beside the instruction.
STEPS: dict[str, Step] = {
    "PROTO": lambda m, x: None,
    "NONE": lambda m, x: m.push(None),
    "NEWTRUE": lambda m, x: m.push(True),
    "NEWFALSE": lambda m, x: m.push(False),
    "EMPTY_TUPLE": lambda m, x: m.push(()),
    "EMPTY_LIST": lambda m, x: m.push([]),
    "EMPTY_DICT": lambda m, x: m.push({}),
    "GLOBAL": lambda m, x: m.push(Named(x.replace(" ", "."))),
    "MARK": lambda m, x: m.marks.append(len(m.stack)),
    "POP": lambda m, x: m.stack.pop(),  # POP and POP_MARK: of tuples that contain themselves
    "POP_MARK": lambda m, x: m.since_mark(),
    "TUPLE": lambda m, x: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, x: m.push(tuple(m.top(1))),
    "TUPLE2": lambda m, x: m.push(tuple(m.top(2))),
    "TUPLE3": lambda m, x: m.push(tuple(m.top(3))),
    "APPEND": lambda m, x: m.append(m.top(1)),
    "APPENDS": lambda m, x: m.append(m.since_mark()),
    "SETITEM": lambda m, x: m.set_items(m.top(2)),
    "SETITEMS": lambda m, x: m.set_items(m.since_mark()),
    "REDUCE": lambda m, x: m.call(),
    "NEWOBJ": lambda m, x: m.call(),
    "BUILD": lambda m, x: m.set_state(),
    "BINPERSID": lambda m, x: m.refer(),
    **dict.fromkeys(LITERALS, _StackMachine.push),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, x: m.push(m.memo[x])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, x: m.memo.update({x: m.stack[-1]})),
}
