"""Settings of scikit-learn for those of its estimators that are used inside of this library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sklearn import config_context


@contextmanager
def sklearn_defaults() -> Iterator[None]:
    """Run what is inside with scikit-learn's default settings, whatever the user set by `sklearn.set_config`.

    Settings such as `transform_output` are meant for the estimators that a user calls, and not for a PCA or a logistic
    regression inside of them. It is a context manager and a decorator. Scorers of the user run outside of it.

    Examples
    --------
    >>> import sklearn
    >>> with sklearn.config_context(transform_output="pandas"), sklearn_defaults():
    ...     sklearn.get_config()["transform_output"]
    'default'
    """
    with config_context(
        assume_finite=False, array_api_dispatch=False, transform_output="default", enable_metadata_routing=False
    ):
        yield
