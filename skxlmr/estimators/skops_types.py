"""The types that skops has to be told to trust."""

from __future__ import annotations

from pathlib import Path

from skxlmr.estimators.base import estimators
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.runtime.base_choice import FittedBase
from skxlmr.training.callbacks import MLflowLogger, ProgressBar, TensorBoardLogger
from skxlmr.tuning import TUNINGS


def skops_types() -> list[str]:
    """Return the types in files of skops that hold estimators of this library, for its parameter `trusted`.

    These are the estimators, those of your own that are defined by now included, and the objects that are their
    parameters and fitted attributes. Loading any of them executes nothing that a file could say. As with `save`,
    callbacks of `set_callbacks`, metadata requests and `memory` are not kept; the latter is not read from such a file
    either, since joblib unpickles what lies in that folder.

    Returns
    -------
    list of str
        Names of classes with their modules, sorted.

    See Also
    --------
    skxlmr.load : Read an estimator from files of tensors and JSON, without skops.

    Notes
    -----
    MLflow's format for scikit-learn is that of skops: give `log_model` or `save_model` of `mlflow.sklearn` the list as
    `skops_trusted_types`. Other objects that you pass as parameters, such as a function as `scoring` or your own
    callbacks, are not listed: look at them with `skops.io.get_untrusted_types` before you trust them.

    Examples
    --------
    >>> import skxlmr
    >>> skops_types = skxlmr.skops_types()
    >>> "skxlmr.estimators.classifier.XLMRXLClassifier" in skops_types
    True

    With skops, `skops.io.load("model.skops", trusted=skxlmr.skops_types())`.
    """
    callbacks = [ProgressBar, TensorBoardLogger, MLflowLogger]
    own = [*estimators().values(), *TUNINGS.values(), *callbacks, Int8, Float8, FittedBase]
    return sorted({f"{cls.__module__}.{cls.__qualname__}" for cls in (*own, type(Path()))})
