"""Settings of scikit-learn for those of its estimators that are used inside of this library."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sklearn import config_context

from skxlmr.system.forks import after_fork

# MLflow's switch is one for the whole process: the first of several threads turns it off, the last one on again.
_lock = threading.Lock()
_n_users = 0
_turned_off = ExitStack()


@after_fork
def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


@contextmanager
def sklearn_defaults() -> Iterator[None]:
    """Run what is inside with scikit-learn's default settings, whatever the user set by `sklearn.set_config`.

    Settings such as `transform_output` are meant for the estimators that a user calls, and not for a PCA or a logistic
    regression inside of them. For the same reason MLflow, after `mlflow.autolog()`, logs no runs for these. It is a
    context manager and a decorator. Scorers of the user run outside of it.

    Examples
    --------
    >>> import sklearn
    >>> with sklearn.config_context(transform_output="pandas"), sklearn_defaults():
    ...     sklearn.get_config()["transform_output"]
    'default'
    """
    with (
        config_context(
            assume_finite=False, array_api_dispatch=False, transform_output="default", enable_metadata_routing=False
        ),
        _without_autologging(),
    ):
        yield


@contextmanager
def _without_autologging() -> Iterator[None]:
    """Turn the autologging of MLflow off, where the program has imported it."""
    global _n_users
    mlflow = sys.modules.get("mlflow.utils.autologging_utils")
    with _lock:
        if not _n_users and mlflow is not None and not getattr(mlflow, "_AUTOLOGGING_GLOBALLY_DISABLED", False):
            _turned_off.enter_context(mlflow.disable_autologging())  # which does not restore what the user turned off
        _n_users += 1
    try:
        yield
    finally:
        with _lock:
            _n_users -= 1
            if not _n_users:
                _turned_off.close()
