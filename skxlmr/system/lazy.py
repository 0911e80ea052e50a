"""Attributes that are computed when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from typing_extensions import Self

Value = TypeVar("Value")


class lazy_property(Generic[Value]):  # noqa: N801  (used as a decorator)
    """A property that is computed once per object; `functools.cached_property` without its lock.

    In Python 3.10 and 3.11 `functools.cached_property` has one lock for all objects of a class, held while the value is
    computed. If another thread holds it when the process is forked, the child waits for it for ever. Here two threads
    may compute the same value at the same time; the later one is kept.

    Parameters
    ----------
    function : callable
        Computes the value from the object. The object needs a ``__dict__``, in which the value is kept.

    Examples
    --------
    >>> class Circle:
    ...     def __init__(self, radius):
    ...         self.radius = radius
    ...     @lazy_property
    ...     def diameter(self):
    ...         print("computed")
    ...         return 2 * self.radius
    >>> circle = Circle(3)
    >>> circle.diameter
    computed
    6
    >>> circle.diameter
    6
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        value = self.function(instance)
        instance.__dict__[self.name] = value  # from now on it is found before this descriptor
        return value
