"""Reading pickles as data, without executing them.

An import in the pickle becomes a `Named`, a call becomes an `Unbuilt`: nothing is imported, called or built.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from skxlmr.checkpoints.errors import CheckpointError


@dataclass(eq=False, repr=False, slots=True)
class Named:
    """A global that the pickle names by module and qualified name, joined by a dot; it is not imported."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class Unbuilt:
    """An object that the pickle describes as a call; it is not built."""

    builder: object  # the callable; a `Named` in every normal pickle
    arguments: object  # a tuple in every normal pickle
    items: dict = field(default_factory=dict)  # to be set on the object
    state: object = None  # to be set on the object

    @property
    def name(self) -> str | None:
        """Name of the builder; None if it is not a `Named`."""
        return self.builder.name if isinstance(self.builder, Named) else None


@dataclass(eq=False, repr=False, slots=True)
class External:
    """A reference by persistent id to something outside of the pickle, such as the storage of a tensor."""

    reference: object


def read_pickle(stream: BinaryIO, path: str | Path) -> tuple[object, list[External]]:
    """Read one pickle of protocol 2, which `torch.save` writes, without executing it; leaves the stream after it.

    Memory grows with the size of the stream: limit it before. The value consists of None, bool, int, float, str, bytes,
    tuple, list, dict, `Named`, `Unbuilt` and `External`, may contain itself, and is returned with a list of all its
    external references in their order. Raises CheckpointError if it is not such a pickle, or damaged.

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
    except Exception as error:  # pickletools raises all kinds of errors for damaged pickles
        raise CheckpointError(f"{path} is damaged: its pickle cannot be parsed ({error})") from error


class _StackMachine:
    """The stack of the pickle machine, with the instructions that need more than one line."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.externals: list[External] = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def get(self, key: int) -> None:
        self.push(self.memo[key])

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

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
        elif not isinstance(target, Unbuilt):  # the items of an unbuilt list are not needed
            raise ValueError(f"nothing can be appended to a {type(target).__name__}")

    def set_items(self, values: list) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Unbuilt) else target
        if not isinstance(items, dict):
            raise ValueError(f"a {type(target).__name__} has no items to set")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing a deeply nested tuple could overflow the stack: such keys are replaced by unique objects.
            items[key if isinstance(key, str | int | float | None) else object()] = value


# One instruction; the second argument is the one that stands in the pickle beside it.
Step = Callable[[_StackMachine, Any], object]

LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
# The instructions of protocol 2.
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
    "POP": lambda m, x: m.stack.pop(),  # POP and POP_MARK occur in tuples that contain themselves
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
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _StackMachine.get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _StackMachine.put),
}
