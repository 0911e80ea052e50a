"""Pickles that would run code."""

from collections.abc import Callable


class Calls:
    """An object that is pickled as the call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call
