"""Parameters of estimators as texts: `--param name=value`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skxlmr.cli.parsing import CommandParser, UsageError
from skxlmr.system import nested_json

if TYPE_CHECKING:
    from skxlmr.estimators.base import XLMRXLEstimator

NONE = ("None", "none", "null")
BOOLEANS = {"true": True, "false": False}


def add_parameter_options(parser: CommandParser) -> None:
    """Add the options that set parameters of the estimator."""
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another parameter of the estimator, such as max_epochs=3 or tuning__rank=16; may be repeated",
    )
    parser.add_argument("--device", metavar="DEVICE", help="such as cpu or cuda; default: a GPU if there is one")


def parameters_of(arguments: argparse.Namespace, **others: Any) -> dict[str, Any]:
    """Return the parameters that the options set, as texts; `others` are those of other options, None if not given.

    Raises
    ------
    UsageError
        If one is not of the form name=value, or set twice.
    """
    given = {name: value for name, value in {"device": arguments.device, **others}.items() if value is not None}
    for text in arguments.param:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {text}: write name=value, such as max_epochs=3.")
        if name in given:
            raise UsageError(f"The parameter {name} is set twice.")
        given[name] = value
    return given


def set_parameters(estimator: XLMRXLEstimator, given: dict[str, Any]) -> dict[str, Any]:
    """Set parameters of an estimator, texts as values of the types that its constraints allow; return the values.

    Those with parameters of their own, such as tuning, are set before theirs, such as tuning__rank.

    Raises
    ------
    UsageError
        If a parameter does not exist (the message suggests one), or a value is not valid.
    """
    values: dict[str, Any] = {}
    try:
        for name in sorted(given, key=lambda each: each.count("__")):
            value = given[name]
            if isinstance(value, str):
                value = _typed(value, _constraints(estimator, name))
            estimator.set_params(**{name: value})
            values[name] = value
        estimator._check_parameters()
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    return values


def _constraints(estimator: Any, name: str) -> Sequence[Any]:
    """Return what is valid for a parameter; of one that does not exist, nothing, since setting it is an error."""
    outer, _, inner = name.partition("__")
    if inner:
        value = getattr(estimator, outer, None)
        named = getattr(estimator, "_named", {}).get(outer, {})
        return _constraints(named[value] if isinstance(value, str) and value in named else value, inner)
    return getattr(estimator, "_parameter_constraints", {}).get(outer, ())


def _typed(text: str, constraints: Sequence[Any]) -> Any:
    """Return the first value that a text may stand for and the constraints allow; otherwise the text."""
    from sklearn.utils._param_validation import make_constraint

    checks = [make_constraint(each) for each in constraints]
    return next(
        (value for value in _possible_values(text) if any(check.is_satisfied_by(value) for check in checks)), text
    )


def _possible_values(text: str) -> Iterator[Any]:
    if text in NONE:
        yield None
    if text.lower() in BOOLEANS:
        yield BOOLEANS[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            yield kind(text)
    if text[:1] in ("[", "{"):
        with suppress(ValueError):
            yield nested_json.loads(text)
    yield text
