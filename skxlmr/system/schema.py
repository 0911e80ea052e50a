"""Values from files, checked against types that are declared as annotations.

What a file may contain is declared once: as a dataclass whose fields are the entries of a JSON object, or as a type
such as `dict[str, int]`. `parse` compares a value with it, and names the field, the expected type and the value.
"""

from __future__ import annotations

import dataclasses
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

CONTENT = "the content"
INT_BITS = 64
NAMES = {
    bool: "true or false",
    int: f"an integer of {INT_BITS} bits",
    float: "a number",
    str: "a string",
    NoneType: "null",
    np.ndarray: "an array",
}
PLURALS = {bool: "booleans", int: "integers", float: "numbers", str: "strings"}

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple, _short.maxstring = 3, 4, 6, 6, 60


class SchemaError(ValueError):
    """A value is not what its declaration says."""


@dataclass(frozen=True)
class Rule:
    """A condition on a value, beside its type: `Annotated[int, Rule("a positive integer", lambda n: n > 0)]`."""

    description: str
    holds: Callable[[Any], object]


POSITIVE = Annotated[int, Rule("an integer from 1", lambda number: number > 0)]
COUNT = Annotated[int, Rule("an integer from 0", lambda number: number >= 0)]


def one_of(*choices: str) -> Any:
    """Return the type of a string that is one of some.

    >>> parse(one_of("mean", "max"), "mean")
    'mean'
    """
    return Annotated[str, Rule(" or ".join(map(repr, choices)), lambda text: text in choices)]


def vector(kinds: str, what: str) -> Any:
    """Return the type of an array (n,) with at least one element, of dtypes of these kinds, and without NaN.

    >>> parse(vector("iu", "integers"), np.array([1, 2]))
    array([1, 2])
    """

    def holds(array: np.ndarray) -> bool:
        is_finite = array.dtype.kind not in "fmM" or bool(np.isfinite(array).all())
        return array.ndim == 1 and len(array) > 0 and array.dtype.kind in kinds and is_finite

    return Annotated[np.ndarray, Rule(f"an array of {what} with one dimension", holds)]


def shown(value: object, length: int = 80) -> str:
    """Return a short `repr` in time and space that do not depend on the size and the nesting of a value.

    >>> shown({"names": ["x" * 1000, [[[[1]]]]]}, length=40)
    "{'names': ['xxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    text = _short.repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def parse(expected: Any, value: Any, name: str = "") -> Any:
    """Compare a value with a type, and return it; JSON objects become the dataclasses that are declared for them.

    Parameters
    ----------
    expected : type
        A class, None, a union, `Literal`, `Any`, `list[...]`, `tuple[...]`, `dict[str, ...]`, a dataclass, or one of
        these with a `Rule`. A float may be an int. A field of a dataclass with a default may be missing from the
        object; entries that are not fields are ignored.
    value : object
        As `json.loads` returns it, or of any other class.
    name : str
        What messages call the value, before the names of its fields.

    Raises
    ------
    SchemaError
        If it is of another type; the message names the field, the expected type and the value.

    Examples
    --------
    >>> parse(dict[str, int], {"width": 3})
    {'width': 3}
    >>> parse(dict[str, int], {"width": "3"}, "sizes")
    Traceback (most recent call last):
        ...
    skxlmr.system.schema.SchemaError: sizes.width must be an integer of 64 bits, got '3'
    """
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return value
    if origin is Annotated:
        value = parse(arguments[0], value, name)
        for rule in arguments[1:]:
            if not rule.holds(value):
                raise _error(rule.description, value, name)
        return value
    if origin in (Union, UnionType):
        return _parse_union(arguments, value, name)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            raise _error(describe(expected), value, name)
        return value
    if origin is list and isinstance(value, list):
        return [parse(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, tuple | list):
        return _parse_tuple(expected, arguments, value, name)
    if origin is dict and isinstance(value, dict):
        return {
            parse(arguments[0], key, f"a key of {name or CONTENT}"): parse(arguments[1], item, _inside(name, key))
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(expected) and isinstance(value, Mapping):
        return _parse_object(expected, value, name)
    if not _is_instance(value, origin or expected):
        raise _error(describe(expected), value, name)
    return value


def matches(expected: Any, value: Any) -> bool:
    """Whether `parse` accepts a value."""
    try:
        parse(expected, value)
    except SchemaError:
        return False
    return True


def describe(expected: Any) -> str:
    """Return what messages call a type.

    >>> describe(int | None), describe(Literal["a", "b"]), describe(list[str])
    ('an integer of 64 bits or null', "'a' or 'b'", 'a list of strings')
    """
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Annotated:
        return arguments[1].description
    if origin in (Union, UnionType):
        return " or ".join(describe(part) for part in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is list:
        return f"a list of {PLURALS.get(arguments[0], 'values, each ' + describe(arguments[0]))}"
    if origin is tuple:
        return f"a list of {len(arguments)} values" if Ellipsis not in arguments else "a list"
    if expected in (dict, Mapping) or origin is dict or dataclasses.is_dataclass(expected):
        return "an object"
    return NAMES.get(expected) or f"a {getattr(expected, '__name__', expected)}"


def types_of(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, by name."""
    return {field.name: hints[field.name] for hints in (_hints(cls),) for field in dataclasses.fields(cls)}


@lru_cache(maxsize=64)
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _parse_union(alternatives: tuple, value: Any, name: str) -> Any:
    errors = []  # their messages: in a local variable an error keeps alive what all callers have, until gc collects it
    for alternative in alternatives:
        try:
            return parse(alternative, value, name)
        except SchemaError as error:
            errors.append((_kind(alternative), str(error)))
    # The error inside of an alternative of the right kind says more than that none of them fits.
    same_kind = [message for kind, message in errors if kind is not None and isinstance(value, kind)]
    if len(same_kind) == 1:
        raise SchemaError(same_kind[0])
    raise _error(" or ".join(map(describe, alternatives)), value, name)


def _kind(expected: Any) -> type | None:
    """Return the class of containers that a type stands for, None for others."""
    if dataclasses.is_dataclass(expected):
        return dict
    origin = get_origin(expected)
    return origin if origin in (list, dict) else None


def _parse_tuple(expected: Any, arguments: tuple, value: Any, name: str) -> tuple:
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise _error(describe(expected), value, name)
    return tuple(parse(part, item, f"{name}[{i}]") for i, (part, item) in enumerate(zip(arguments, value, strict=True)))


def _parse_object(cls: Any, value: Mapping, name: str) -> Any:
    types, values = types_of(cls), {}
    for field in dataclasses.fields(cls):
        if field.name in value:
            values[field.name] = parse(types[field.name], value[field.name], _inside(name, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{name or CONTENT} has no {field.name!r}, which must be {describe(types[field.name])}")
    return cls(**values)


def _is_instance(value: Any, expected: Any) -> bool:
    if expected is None:
        return value is None
    if expected is bool:
        return isinstance(value, bool | np.bool_)
    if expected is int:
        is_int = isinstance(value, Integral) and not isinstance(value, bool)
        return is_int and -(2 ** (INT_BITS - 1)) <= value < 2 ** (INT_BITS - 1)
    if expected is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if expected is Callable:
        return callable(value)
    return isinstance(value, expected)


def _inside(name: str, key: object) -> str:
    return f"{name}.{key!s:.60}" if name else f"{key!s:.60}"


def _error(description: str, value: Any, name: str) -> SchemaError:
    return SchemaError(f"{name or CONTENT} must be {description}, got {shown(value)}")
