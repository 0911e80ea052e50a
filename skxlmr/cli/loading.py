"""Trained models for commands that predict."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from skxlmr.cli.parameters import parameters_of, set_parameters
from skxlmr.cli.parsing import UsageError, did_you_mean

if TYPE_CHECKING:
    from skxlmr.estimators.base import XLMRXLEstimator

ROWS_FAILED = 3  # the exit code where rows have no prediction


def load_model(arguments: argparse.Namespace) -> tuple[XLMRXLEstimator, dict[str, Any]]:
    """Return the trained model that a command names, and the parameters that were set.

    Raises
    ------
    OSError, ValueError
        If there is none, or it is damaged.
    UsageError
        If there are no such parameters.
    """
    from skxlmr.estimators.loading import load

    given = parameters_of(arguments)
    base = {"model": given.pop("model")} if "model" in given else {}  # without it an adapter may not be found
    try:
        estimator = load(arguments.model, **base)
    except FileNotFoundError as error:
        meant = did_you_mean(arguments.model, [each.name for each in os.scandir() if each.is_dir()])
        raise FileNotFoundError(f"{error} {meant}".rstrip()) from error
    return estimator, base | set_parameters(estimator, given)


def require_estimator(estimator: XLMRXLEstimator, name: str, command: str, task: str) -> Any:
    """Return an estimator if it is of the class that a command needs.

    Raises
    ------
    UsageError
        If it is another one.
    """
    if all(cls.__name__ != name for cls in type(estimator).__mro__):
        raise UsageError(
            f"`skxlmr {command}` needs a model of the kind {name}, which `skxlmr train --task {task}` makes; this is a "
            f"{type(estimator).__name__}."
        )
    return estimator
