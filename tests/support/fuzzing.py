"""Hostile files and texts for hypothesis, and the property that reading any of them must have."""

from __future__ import annotations

import copy
import json
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

MAX_SECONDS, MAX_BYTES = 10, 2**30
TYPED = (ValueError, OSError)  # CheckpointError is a ValueError

HOSTILE_VALUES = [
    None, True, -1, 0, 1, 1.5, -0.0, 1e308, 2**31, 2**63, 2**70, "", "x", "0", "x" * 1000, "../../etc/passwd", "\x00",
    "\ud800", [], {}, [[]], [1] * 5, ["a", 1], [None], {"a": {}}, {"0": None}, {"kind": "nonsense"},
    {"kind": "float", "value": "nan"}, {"kind": "tuple", "items": 1}, {"kind": "dict", "items": [[[], 1]]},
    {"kind": "strings", "dtype": "<U100000000", "items": ["a"]}, {"kind": "strings", "dtype": "O", "items": [{}]},
    {"kind": "array", "tensor": "array/0", "order": "F"}, {"kind": "frame", "columns": [["a", 1]]},
    {"kind": "object", "class": "LoRA", "parameters": {"rank": "8"}, "fitted": {}},
    {"kind": "object", "class": "PCA", "parameters": {}, "fitted": {}},
]  # fmt: skip

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=6), values, max_size=4),
    max_leaves=8,
)


def nested(depth: int, kind: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = ([value], {"a": value}, {"kind": "tuple", "items": value})[kind]
    return value


nested_values = st.builds(nested, st.integers(1, 99) | st.just(400), st.integers(0, 2))
hostile_values = st.sampled_from(HOSTILE_VALUES) | json_values | nested_values


@st.composite
def mutated_json(draw: st.DrawFn, content: Any, inside: tuple = ()) -> Any:
    """Change one to three places of JSON, or of the part of it at the path `inside`."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(_at(content, inside)))
        if places:
            owner, key = draw(st.sampled_from(places))
            match draw(st.sampled_from(["replace", "replace", "delete", "rename", "repeat"])):
                case "delete":
                    del owner[key]
                case "rename" if isinstance(owner, dict):
                    owner[draw(st.sampled_from(["", "a", f"{key}x", "__class__", "fit"]))] = owner.pop(key)
                case "repeat" if isinstance(owner, list):
                    owner.insert(key, copy.deepcopy(owner[key]))
                case _:
                    owner[key] = copy.deepcopy(draw(hostile_values))
    return content


def _at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key] if isinstance(content, dict) and key in content else None
    return content


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield owner and key of what may be changed: of long lists the beginning and the end."""
    if depth > 20:
        return
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in items if len(items) <= 40 else [*items[:20], *items[-20:]]:
        yield value, key
        yield from _places(item, depth + 1)


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, insert into, repeat parts of, or flip bits of a file; preferably at its beginning and its end."""
    changed = bytearray(data)
    near_ends = st.integers(0, 100) | st.integers(-100, -1).map(lambda i: i % max(len(data), 1))
    position = near_ends | st.integers(0, max(len(data) - 1, 0))
    for _ in range(draw(st.integers(1, 4))):
        i = min(draw(position), max(len(changed) - 1, 0))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "delete", "repeat"])):
            case "flip" if changed:
                changed[i] ^= 1 << draw(st.integers(0, 7))
            case "set" if changed:
                changed[i] = draw(st.sampled_from([0, 1, 127, 128, 255]))
            case "cut":
                del changed[i:]
            case "insert":
                changed[i:i] = draw(st.binary(max_size=20))
            case "delete":
                del changed[i : i + draw(st.integers(1, 40))]
            case "repeat":
                changed[i:i] = changed[draw(position) :][: draw(st.integers(1, 200))]
    return bytes(changed)


def as_bytes(content: Any) -> bytes:
    """Write JSON; lone surrogates are escaped, as `json.dumps` does."""
    return json.dumps(content).encode()


def reads(call: Callable[[], Any], *, errors: tuple[type[Exception], ...] = TYPED, warning: str | None = None) -> Any:
    """Return the result of a call, None after an error of these types.

    Any other error, a warning that does not match, more than 10 s or more than 1 GB fail the test.
    """
    began = time.process_time()
    with warnings.catch_warnings(), limited_memory():
        warnings.simplefilter("error")
        if warning is not None:
            warnings.filterwarnings("ignore", warning)
        result, message = None, ""
        try:
            result = call()
        except errors as error:
            message = str(error)
    seconds = time.process_time() - began
    assert seconds < MAX_SECONDS, f"it took {seconds:.1f} s"
    assert len(message) < 3000, f"a message of {len(message):,} characters"
    assert not re.search(r"Error\(.*Error\(", message), f"errors within errors: {message}"
    return result


@contextmanager
def limited_memory() -> Iterator[None]:
    """Fail if the memory of this process grows by more than 1 GB, where the system says how much it is at most.

    Much more than that makes allocations fail. Libraries reserve addresses that they do not use, so that these are not
    counted.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the largest memory so far is now what there is
        before = _memory("VmRSS")
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 8 * MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = _memory("VmHWM") - before
    assert grown < MAX_BYTES, f"it took {grown:,} bytes of memory"


def _memory(name: str) -> int:
    """Return a size of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024
