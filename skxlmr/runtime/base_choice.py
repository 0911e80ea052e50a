"""The base model that an estimator runs on: which one its parameters choose, and which one it was fitted on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.checkpoints.errors import ModelNotFoundError
from skxlmr.columns import TextColumn
from skxlmr.hardware.device import DTYPES, check_not_forked
from skxlmr.hardware.estimate import MemoryEstimate, SeveralProcesses, memory_estimate
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import Backbone, find_checkpoint, get_backbone, trim
from skxlmr.system.parameters import declare_parameters, parameter, parameter_group
from skxlmr.tuning import Tuning, as_tuning

TEXTS_AT_ONCE = 10_000  # tokenised together to collect their pieces


@parameter_group
class RunParameters:
    """Parameters of everything that runs a model, predictions included.

    Parameters
    ----------
    batch_tokens : int or "auto"
        Tokens that are run at once; changes memory use and speed, not results (but for the draws of dropout).
    random_state : int, RandomState or None
        Seeds weight initialisation, row order, dropout, masks and sampling.
    verbose : int
        1 shows progress on stderr: bars in a terminal or a notebook, and lines elsewhere, such as one after each epoch.
        2 shows the lines in a terminal, too. Every epoch is logged by the logger "skxlmr.fit", whatever this is.
    """

    batch_tokens: int | str = parameter(
        default="auto", valid=[Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})], order=30
    )
    random_state: int | np.random.RandomState | None = parameter(default=None, valid=["random_state"], order=90)
    verbose: int = parameter(default=0, valid=["verbose"], order=90)


@declare_parameters
class BaseChoice(RunParameters):
    """Which base model to run, how to store its weights, and where.

    Parameters
    ----------
    model : str or path
        Id of a checkpoint on the hub ("name@revision" pins a branch, tag or commit), a local directory, "e5-small", or
        "nano", the small one that is bundled. An adapter of peft, a LoRA, stands for its base model with the adapter
        merged.
    load_in_8bit : "auto", bool, Int8 or Float8
        Store the frozen base in 8 bits: a quarter of float32's size, and faster on CPUs. "auto" does so for XL and XXL,
        on a GPU only where 16 bits would take more than half of its memory. With an `Int8` object you can search over
        its settings. `Float8` stores it in 8-bit floating point instead, for GPUs that multiply this.
    load_in_4bit : bool
        Store it in 4 bits (NF4): half the size of 8 bits, slower and less exact.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Data type of the base's activations, and of its weights unless they are in 8 or 4 bits; "auto" is bfloat16
        where the hardware supports it (on a CPU not for small models), else float16 on CUDA and float32 elsewhere.
        Trained weights and results are float32.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps" or "cuda:all". The last one uses all GPUs that the process sees
        (`CUDA_VISIBLE_DEVICES` chooses them): each holds a copy of the base and takes batches from one queue, in
        predictions, scores of whole columns, and the features of a frozen base. The first one trains, and generates
        texts. The results are those of one GPU, if all are of one kind. "auto" and "cuda" are one GPU, the current one.
        With several GPUs, leave `n_jobs` of scikit-learn at 1: each worker process would load its own copies on all of
        them.
    """

    model: str | os.PathLike = parameter(
        default="facebook/xlm-roberta-xl", valid=[str, os.PathLike], kw_only=False, order=10
    )
    load_in_8bit: bool | str | Int8 | Float8 = parameter(
        default="auto", valid=["boolean", StrOptions({"auto"}), Int8, Float8], order=70
    )
    load_in_4bit: bool = parameter(default=False, valid=["boolean"], order=70)
    dtype: str = parameter(default="auto", valid=[StrOptions({"auto", *DTYPES})], order=70)
    device: str = parameter(default="auto", valid=[str], order=70)

    _language_model: ClassVar[str | None] = None  # as `memory_estimate` takes it

    @property
    def _trained_by(self) -> Tuning | None:
        """The tuning by which the model is trained; None if it only runs."""
        tuning = getattr(self, "tuning", None)  # a parameter of the estimators that are trained
        return None if tuning is None else as_tuning(tuning)

    @property
    def _sharded_by(self) -> SeveralProcesses | None:
        """The processes that have shards of the model in training; None if each has the whole."""
        processes = getattr(self, "processes", None)
        return processes if getattr(processes, "strategy", None) == "fsdp" else None


def load_base(choice: BaseChoice, whole: bool = True, *, trains: bool = True, weights: bool = True) -> Backbone:
    """Load the chosen base model, or take it from the pool; for the parameters see `get_backbone`."""
    return get_backbone(
        choice.model,
        load_in_8bit=choice.load_in_8bit,
        load_in_4bit=choice.load_in_4bit,
        dtype=choice.dtype,
        device=choice.device,
        tuning=choice._trained_by,
        batch_tokens=choice.batch_tokens,
        whole=whole,
        processes=choice._sharded_by,
        language_model=choice._language_model,
        trains=trains,
        weights=weights,
    )


def estimate_memory(choice: BaseChoice, device: str) -> MemoryEstimate:
    """Estimate the memory of one process that trains, or runs, the chosen base model on a device."""
    return memory_estimate(
        choice.model,
        load_in_8bit=choice.load_in_8bit,
        load_in_4bit=choice.load_in_4bit,
        tuning=choice._trained_by,
        batch_tokens=choice.batch_tokens,
        dtype=choice.dtype,
        device=device,
        language_model=choice._language_model,
    )


def load_trimmed(choice: BaseChoice, column: TextColumn, others: Iterable[str] = ()) -> Backbone:
    """Load the chosen base model with the pieces of a column and of other texts only, also those beyond truncation."""
    backbone = load_base(choice, whole=False)
    texts, tokenizer = list(dict.fromkeys([*column.strings, *others])), backbone.reader.tokenizer
    parts = (texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE))
    pieces = [np.unique(np.concatenate(tokenizer.encode_batch(part))) for part in parts]
    return trim(backbone, np.unique(np.concatenate([np.empty(0, np.int32), *pieces])))


class FittedBase:
    """The base model that an estimator was fitted on; loaded again when it is needed.

    A pickle or a copy holds the fingerprint of its checkpoint, and the ids of the `pieces` (V,) if it was trimmed, but
    not its weights.
    """

    def __init__(self, fingerprint: str, pieces: np.ndarray | None = None) -> None:
        self.fingerprint = fingerprint
        self.pieces = pieces
        self._loaded: tuple[tuple, Backbone] | None = None

    @classmethod
    def of(cls, backbone: Backbone, choice: BaseChoice) -> FittedBase:
        """Make one from a base model that is loaded already."""
        base = cls(backbone.fingerprint, backbone.pieces)
        base._loaded = _values(choice), backbone
        return base

    def load(self, choice: BaseChoice, *, trains: bool = False, weights: bool = True) -> Backbone:
        """Return the base model in the dtype, storage and device that the parameters ask for now.

        `trains` says whether there must be enough memory for a training, and `weights` whether those of the base are
        needed. Raises ValueError if `model` is another checkpoint now.
        """
        known = self._loaded
        if known is None or known[0] != _values(choice) or (weights and not known[1].has_weights):
            backbone = self._found(choice, trains, weights or self.pieces is not None)
            if backbone.fingerprint != self.fingerprint:
                self.check(find_checkpoint(choice.model).fingerprint_as(self.fingerprint), choice)
            known = self._loaded = (
                _values(choice),
                backbone if self.pieces is None else trim(backbone, self.pieces),
            )
        check_not_forked(known[1].model.device)
        return known[1]

    def _found(self, choice: BaseChoice, trains: bool, weights: bool) -> Backbone:
        """Load the base model; if there is none at its place, say how to tell another."""
        try:
            return load_base(choice, whole=self.pieces is None, trains=trains, weights=weights)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{error} This {type(choice).__name__} was fitted on it. If the checkpoint lies elsewhere now, use "
                f"set_params(model=...) with its new place."
            ) from error

    def check(self, fingerprint: str, choice: BaseChoice) -> None:
        """Raise a ValueError if this is not the fingerprint of the checkpoint that was fitted on."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"This {type(choice).__name__} was fitted on another checkpoint than model={str(choice.model)!r} is "
                f"now: its weights, tokens or settings differ. Bring back the checkpoint that it was fitted on, use "
                f"set_params(model=...) if that lies elsewhere, or fit again."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "pieces": self.pieces, "_loaded": None}


def _values(choice: BaseChoice) -> tuple[object, ...]:
    return choice.model, repr(choice.load_in_8bit), choice.load_in_4bit, choice.dtype, choice.device
