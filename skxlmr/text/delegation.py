"""Methods that the tokenizer has of its parts, with their signatures and documentation; errors name the tokenizer.

A part is made for a call from what the tokenizer has at the time, so that it holds no state of its own.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
Owner = TypeVar("Owner")
Part = TypeVar("Part")
R = TypeVar("R")

INSTEAD = {"pad_to_max_length": "padding='max_length'", "max_len": "max_length", "text_pairs": "text_pair"}


def methods_of(
    part: Callable[[Owner], Part], options: Callable[..., Any] | None = None
) -> Callable[[Callable[Concatenate[Part, P], R]], Callable[Concatenate[Owner, P], R]]:
    """Return a function from a method of a part to that of an owner, which calls it.

    A parameter that the method does not have raises TypeError with the nearest name. If it takes any, they are those of
    the function `options`.
    """
    others = set() if options is None else set(inspect.signature(options).parameters)

    def of_owner(method: Callable[Concatenate[Part, P], R]) -> Callable[Concatenate[Owner, P], R]:
        parameters = inspect.signature(method).parameters.values()
        names = others.union(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)

        @functools.wraps(method)
        def call(owner: Owner, *args: P.args, **kwargs: P.kwargs) -> R:
            if unknown := kwargs.keys() - names:
                raise TypeError(
                    f"{type(owner).__name__}.{method.__name__} got an unexpected keyword argument "
                    f"{', '.join(_described(unknown, names))}"
                )
            return method(part(owner), *args, **kwargs)

        return call

    return of_owner


class PropertyOf(Generic[R]):
    """A property of an owner that is what a method of its part returns."""

    def __init__(self, part: Callable[[Any], Part], method: Callable[[Part], R]) -> None:
        self.part, self.method = part, method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, owner: None, cls: type) -> PropertyOf[R]: ...

    @overload
    def __get__(self, owner: object, cls: type) -> R: ...

    def __get__(self, owner: Any, cls: type) -> Any:
        return self if owner is None else self.method(self.part(owner))

    def __set__(self, owner: Any, value: Any) -> None:
        raise AttributeError(f"{self.name} of {type(owner).__name__} cannot be set: it follows from the vocabulary.")


def _described(unknown: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return names that are unknown, with those that may be meant."""
    described = []
    for name in sorted(unknown):
        close = [INSTEAD[name]] if name in INSTEAD else difflib.get_close_matches(name, sorted(names), n=1)
        described.append(f"{name!r}" + (f" (did you mean {close[0]}?)" if close else ""))
    return described
