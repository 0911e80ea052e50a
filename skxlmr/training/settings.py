"""The parameters of a training, as estimators have them and `Fit` takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal

from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.runtime.base_choice import RunParameters
from skxlmr.system.lazy import lazy_property
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.training.callbacks import Callback
from skxlmr.training.optimizers import OPTIMIZERS
from skxlmr.training.processes import Processes
from skxlmr.training.schedule import LR_SCHEDULES, MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")


class ScorerNames(StrOptions):
    """The names of scikit-learn's scorers, which it imports when the first one is checked."""

    def __init__(self) -> None:
        self.type = str
        self.deprecated: set[str] = set()
        self.hidden = False

    @lazy_property
    def options(self) -> set[str]:
        """The names."""
        from sklearn.metrics import get_scorer_names

        return set(get_scorer_names())


@declare_parameters
class TrainingParameters(RunParameters):
    """Parameters of a training.

    Parameters
    ----------
    batch_size : int
        Rows in an optimiser step. The default is that of the XLM-R-XL paper (arXiv:2105.00572).
    learning_rate : float or "auto"
        The highest learning rate, after warm-up; "auto" takes that of the tuning.
    max_epochs : int or "auto"
        Passes over the rows. "auto" is 10, as in the paper, for few rows, and down to 3 for thousands; with
        `tuning="head"` and a head that starts from its optimum (see `init`) it is none.
    lr_schedule : {"linear", "cosine", "constant"}
        How the learning rate decays after warm-up: to zero along a line or half a cosine, or not at all.
    warmup : float
        Share of the steps during which the learning rate rises. The default is that of RoBERTa (arXiv:1907.11692).
    weight_decay : float
        Weight decay of AdamW for matrices; biases and LayerNorms are not decayed.
    max_grad_norm : float or None
        Clip the gradient norm to this value; None disables clipping.
    optimizer : {"adamw", "adamw8bit", "paged_adamw8bit"}
        The latter two are those of bitsandbytes, with 8-bit state, and need a CUDA device.
    early_stopping : bool
        Stop when the validation score no longer improves, and restore the weights of the best epoch.
    scoring : str, callable or None
        The validation score: a scorer of scikit-learn or its name, such as "f1_macro", or a function of an estimator, X
        and y (without y where there is none) that returns a number; higher is better. It is given the rows as `fit`
        was (a y that scikit-learn's metrics cannot read, such as a column of vectors, as an array that they can), and
        `sample_weight` if it takes that. None is what `score` computes.
    validation_fraction : float
        Share of the rows that early stopping sets aside, stratified by class where there are classes; not used if `fit`
        is given `X_val`.
    n_iter_no_change : int
        With early stopping, the number of consecutive epochs that may improve by less than `tol`.
    tol : float
        Minimum improvement of the validation score.
    warm_start : bool
        Whether `fit` continues from the weights of an earlier `fit`, with a new schedule.
    callbacks : list of Callback or None
        Called around steps and epochs; see `skxlmr.training.Callback`. Callbacks of scikit-learn are set by
        `set_callbacks`.
    checkpoint_dir : str, path or None
        A folder for checkpoints while `fit` runs. A fit that was killed and is run again with the same parameters and
        data continues from the latest checkpoint, and on a CPU ends with the same weights to the last bit. Each fit has
        its own folder there, so those of a grid search do not collide; at its end it is removed.
    checkpoint_steps : int
        Optimiser steps between two checkpoints; there is one after each epoch, too.
    processes : Processes or None
        Train on several processes, one per GPU, or on parts of the cores of a CPU; `Processes(n=4)`. What is learned
        stays the same. It is not saved.
    """

    batch_size: int = parameter(default=32, valid=[AT_LEAST_1], order=29)
    learning_rate: float | str = parameter(
        default="auto", valid=[Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})], order=30
    )
    max_epochs: int | Literal["auto"] = parameter(default="auto", valid=[AT_LEAST_1, StrOptions({"auto"})], order=30)
    lr_schedule: str = parameter(default="linear", valid=[StrOptions(set(LR_SCHEDULES))], order=30)
    warmup: float = parameter(default=WARMUP, valid=[Interval(Real, 0, 1, closed="left")], order=30)
    weight_decay: float = parameter(default=WEIGHT_DECAY, valid=[Interval(Real, 0, None, closed="left")], order=30)
    max_grad_norm: float | None = parameter(
        default=MAX_GRAD_NORM, valid=[Interval(Real, 0, None, closed="neither"), None], order=30
    )
    optimizer: str = parameter(default="adamw", valid=[StrOptions(set(OPTIMIZERS))], order=30)
    early_stopping: bool = parameter(default=False, valid=["boolean"], order=40)
    scoring: str | Callable[..., Any] | None = parameter(default=None, valid=[ScorerNames(), callable, None], order=40)
    validation_fraction: float = parameter(default=0.1, valid=[Interval(Real, 0, 1, closed="neither")], order=40)
    n_iter_no_change: int = parameter(default=3, valid=[AT_LEAST_1], order=40)
    tol: float = parameter(default=1e-4, valid=[Interval(Real, 0, None, closed="left")], order=40)
    warm_start: bool = parameter(default=False, valid=["boolean"], order=50)
    callbacks: Sequence[Callback] | None = parameter(default=None, valid=[list, tuple, None], order=50)
    checkpoint_dir: str | os.PathLike | None = parameter(default=None, valid=[str, os.PathLike, None], order=50)
    checkpoint_steps: int = parameter(default=100, valid=[AT_LEAST_1], order=50)
    processes: Processes | None = parameter(default=None, valid=[Processes, None], order=50)
