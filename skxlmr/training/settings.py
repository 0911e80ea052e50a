"""The parameters of a training, as estimators have them and `Fit` takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.runtime.base_choice import RunParameters
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.training.callbacks import Callback
from skxlmr.training.optimizers import OPTIMIZERS
from skxlmr.training.schedule import LR_SCHEDULES, MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")


@declare_parameters
class TrainingParameters(RunParameters):
    """Parameters of a training.

    Parameters
    ----------
    $parameters
    """

    batch_size: int = parameter(
        default=32,
        kind="int",
        text="Rows in an optimiser step. The default is that of the XLM-R-XL paper (arXiv:2105.00572).",
        valid=[AT_LEAST_1],
        group="training",
    )
    learning_rate: float | str = parameter(
        default="auto",
        kind='float or "auto"',
        text='The highest learning rate, after warm-up; "auto" takes that of the tuning.',
        valid=[Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        group="training",
    )
    max_epochs: int = parameter(
        default=10,
        kind="int",
        text="Passes over the rows. The default is that of the paper.",
        valid=[AT_LEAST_1],
        group="training",
    )
    lr_schedule: str = parameter(
        default="linear",
        kind='{"linear", "cosine", "constant"}',
        text="How the learning rate decays after warm-up: to zero along a line or half a cosine, or not at all.",
        valid=[StrOptions(set(LR_SCHEDULES))],
        group="training",
    )
    warmup: float = parameter(
        default=WARMUP,
        kind="float",
        text="""Share of the steps during which the learning rate rises. The default is that of RoBERTa
        (arXiv:1907.11692).""",
        valid=[Interval(Real, 0, 1, closed="left")],
        group="training",
    )
    weight_decay: float = parameter(
        default=WEIGHT_DECAY,
        kind="float",
        text="Weight decay of AdamW for matrices; biases and LayerNorms are not decayed.",
        valid=[Interval(Real, 0, None, closed="left")],
        group="training",
    )
    max_grad_norm: float | None = parameter(
        default=MAX_GRAD_NORM,
        kind="float or None",
        text="Clip the gradient norm to this value; None disables clipping.",
        valid=[Interval(Real, 0, None, closed="neither"), None],
        group="training",
    )
    optimizer: str = parameter(
        default="adamw",
        kind='{"adamw", "adamw8bit", "paged_adamw8bit"}',
        text="The latter two are those of bitsandbytes, with 8-bit state, and need a CUDA device.",
        valid=[StrOptions(set(OPTIMIZERS))],
        group="training",
    )
    early_stopping: bool = parameter(
        default=False,
        kind="bool",
        text="Stop when the validation score no longer improves, and restore the weights of the best epoch.",
        valid=["boolean"],
        group="stopping",
    )
    validation_fraction: float = parameter(
        default=0.1,
        kind="float",
        text="""Share of the rows that early stopping sets aside, stratified by class where there are classes; not used
        if `fit` is given `X_val`.""",
        valid=[Interval(Real, 0, 1, closed="neither")],
        group="stopping",
    )
    n_iter_no_change: int = parameter(
        default=3,
        kind="int",
        text="With early stopping, the number of consecutive epochs that may improve by less than `tol`.",
        valid=[AT_LEAST_1],
        group="stopping",
    )
    tol: float = parameter(
        default=1e-4,
        kind="float",
        text="Minimum improvement of the validation score.",
        valid=[Interval(Real, 0, None, closed="left")],
        group="stopping",
    )
    warm_start: bool = parameter(
        default=False,
        kind="bool",
        text="Whether `fit` continues from the weights of an earlier `fit`, with a new schedule.",
        valid=["boolean"],
        group="continuing",
    )
    callbacks: Sequence[Callback] | None = parameter(
        default=None,
        kind="list of Callback or None",
        text="""Called around steps and epochs; see `skxlmr.training.Callback`. Callbacks of scikit-learn are set by
        `set_callbacks`.""",
        valid=[list, tuple, None],
        group="continuing",
    )
    checkpoint_dir: str | os.PathLike | None = parameter(
        default=None,
        kind="str, path or None",
        text="""A folder for checkpoints while `fit` runs. A fit that was killed and is run again with the same
        parameters and data continues from the latest checkpoint, and on a CPU ends with the same weights to the last
        bit. Each fit has its own folder there, so those of a grid search do not collide; at its end it is removed.""",
        valid=[str, os.PathLike, None],
        group="continuing",
    )
    checkpoint_steps: int = parameter(
        default=100,
        kind="int",
        text="Optimiser steps between two checkpoints; there is one after each epoch, too.",
        valid=[AT_LEAST_1],
        group="continuing",
    )
