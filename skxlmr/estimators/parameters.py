"""Parameters that several estimators have: what their docstrings say of them is written here once."""

from __future__ import annotations

import inspect
import textwrap
from string import Template
from typing import TypeVar

Class = TypeVar("Class", bound=type)

SHARED = {
    "reading": """\
    model : str or path, default="facebook/xlm-roberta-xl"
        Id of a checkpoint on the hub, a local directory, "e5-small", or "nano", the small one that is bundled.
    tuning : {"lora", "bias", "head", "full"} or Tuning, default="lora"
        What of the model learns; `LoRA(rank=16)` in place of "lora" sets its parameters.
    max_length : int, default=None
        Most tokens that the model reads at once; None takes all it can, 512.
    stride : int or "auto", default="auto"
        Tokens that neighbouring windows of a text longer than `max_length` share; "auto" is an eighth of
        `max_length`.""",
    "truncation": """\
    truncation : bool, default=False
        Read only the beginning of a long text. How many were cut is told in a warning.""",
    "batch_size": """\
    batch_size : int, default=32
        Rows in an optimiser step. The default is that of the XLM-R-XL paper (arXiv:2105.00572).""",
    "packs": """\
    batch_size : int, default=8
        Packs in an optimiser step: neighbouring rows that fill `max_length` tokens together, so that a step learns from
        about as many tokens whatever the lengths of the texts. No text sees the others of its pack.""",
    "steps": """\
    batch_tokens : int or "auto", default="auto"
        Tokens that are run at once; changes memory and speed, not results (but for the draws of dropout).
    learning_rate : float or "auto", default="auto"
        The highest rate, after warm-up; "auto" takes that of the tuning.
    max_epochs : int, default=10
        Passes over the rows. The default is that of the paper.
    lr_schedule : {"linear", "cosine", "constant"}, default="linear"
        How the rate goes on after warm-up: down to zero in a line or half a cosine, or not at all.
    warmup : float, default=0.06
        Share of the steps over which the rate goes up. The default is that of RoBERTa (arXiv:1907.11692).
    weight_decay : float, default=0.01
        AdamW's, of matrices; biases and LayerNorms are not decayed.
    max_grad_norm : float or None, default=1.0
        Longer gradients are shortened to this length; None lets them be.
    optimizer : {"adamw", "adamw8bit", "paged_adamw8bit"}, default="adamw"
        The latter two are those of bitsandbytes, with their state in 8 bits, and need a CUDA device.""",
    "stopping": """\
    early_stopping : bool, default=False
        Stop when the validation score no longer rises, and go back to the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows, of each class alike where there are classes, that early stopping sets aside; not where
        `fit` is given `X_val`.
    n_iter_no_change : int, default=3
        With early stopping, how many epochs in a row may bring less than `tol`.
    tol : float, default=1e-4
        Least rise of the validation score that counts.""",
    "going_on": """\
    warm_start : bool, default=False
        Whether `fit` goes on from what an earlier `fit` learned, with a new schedule.
    callbacks : list of Callback or None, default=None
        Called around steps and epochs; see `skxlmr.training.Callback`. scikit-learn's own go to `set_callbacks`.
    checkpoint_dir : str, path or None, default=None
        A folder for checkpoints while `fit` runs. A fit that was killed, run again with the same parameters and
        data, goes on from the latest, and on a CPU ends with the same weights to the last bit. Each fit has a folder
        of its own there, so those of a grid search do not meet; at its end it is removed.
    checkpoint_steps : int, default=100
        Optimiser steps from one checkpoint to the next; there is one after each epoch, too.""",
    "vocabulary": """\
    vocabulary : {"full", "trim"}, default="full"
        "trim" holds of the word pieces only those that the training texts use, and all single characters, of which
        other words are then made up: what is predicted for texts of the same words stays the same. For XL this
        frees up to 1.2 GB (on a GPU after loading), and `tuning="full"` learns no other words. Who goes on learning
        (`warm_start`, `partial_fit`) keeps the pieces of the first fit.""",
    "base": """\
    load_in_8bit : "auto", bool or Int8, default="auto"
        Hold the frozen base in 8 bits: a quarter of float32's memory, and faster on CPUs. "auto" does so for XL and
        XXL, on a GPU only where 16 bits would take more than half of its memory. `Int8` opens the settings to a grid.
    load_in_4bit : bool, default=False
        Hold it in 4 bits (NF4): half the memory of 8, slower and less exact.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the base's activations, and of its weights unless these are in 8 or 4 bits; "auto" is bfloat16 where the
        hardware has it (on a CPU not for small models), else float16 on CUDA and float32 elsewhere.
        What is learned is float32.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1" or "mps".""",
    "memory": """\
    memory : str, path, joblib.Memory or None, default=None
        With `tuning="head"`, a folder where the base's features of the texts are kept, for other processes
        (`n_jobs`) and another day. Within a process they are remembered anyway; see `skxlmr.set_feature_cache`.""",
    "draws": """\
    random_state : int, RandomState or None, default=None
        Of all that is drawn: the start of what is learned, the order of the rows, dropout; masks and samples of the
        language models.
    verbose : int, default=0
        1 shows progress bars.""",
    "history": """\
    history_ : DataFrame
        One row per epoch: epoch, loss, learning_rate, seconds; validation_score where there are validation rows.
    validation_scores_ : list of float, or None
        Score on the validation rows after each epoch.
    best_validation_score_ : float, or None
        The highest of them.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_iter_ : int
        Epochs run.
    n_features_in_ : int
        Columns of X: 1, or 2 for pairs; where there are choices, as many as it had.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.""",
}


SHARED["training"] = f"{SHARED['batch_size']}\n{SHARED['steps']}"
SHARED["loading"] = f"{SHARED['vocabulary']}\n{SHARED['base']}\n{SHARED['memory']}\n{SHARED['draws']}"


def documented(cls: Class) -> Class:
    """Put the shared parts of a class's docstring where it names them: $reading, $training and so on."""
    if cls.__doc__:  # python -OO has none
        parts = {name: textwrap.dedent(text).strip() for name, text in SHARED.items()}
        cls.__doc__ = Template(inspect.cleandoc(cls.__doc__)).substitute(parts)
    return cls
