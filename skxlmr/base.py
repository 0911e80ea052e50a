"""What the estimators share: parameters, the way to the base, persistence."""

from __future__ import annotations

import copy
import os
from numbers import Integral, Real
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxlmr.backbone import Backbone, get_backbone
from skxlmr.device import DTYPES
from skxlmr.inference import Plan, default_batch_tokens, plan
from skxlmr.memory import training_batch_tokens
from skxlmr.training.adapters import TUNINGS, Tuning, as_tuning
from skxlmr.training.loop import LR_SCHEDULES, Schedule
from skxlmr.training.optimizers import OPTIMIZERS
from skxlmr.validation import TextColumn, check_features, check_text_column
from skxlmr.weights.quantization import Int8


class BaseXLMRXL(BaseEstimator):
    """Base of the estimators: a text column in, a frozen base from the pool, what was learned out."""

    _parameter_constraints: dict = {
        "model": [str, os.PathLike],
        "max_length": [Interval(Integral, 4, None, closed="left"), None],
        "stride": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "truncation": ["boolean"],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "load_in_8bit": ["boolean", StrOptions({"auto"}), Int8],
        "load_in_4bit": ["boolean"],
        "dtype": [StrOptions({"auto", *DTYPES})],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def _load_backbone(self) -> Backbone:
        """Take the base that the parameters name from the pool."""
        return get_backbone(
            self.model,
            load_in_8bit=self.load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
            batch_tokens=self.batch_tokens,
        )

    def _base_asked_for(self) -> tuple[object, ...]:
        """The parameters that choose a base, as they stand now."""
        return (self.model, repr(self.load_in_8bit), self.load_in_4bit, self.dtype, self.device)

    def _fitted_backbone(self) -> Backbone:
        """Return the base that was fitted on; after unpickling it comes from the pool."""
        check_is_fitted(self)
        asked = self._base_asked_for()
        if self._backbone is None or self._asked != asked:
            backbone = self._load_backbone()
            if backbone.fingerprint != self._fingerprint:
                raise ValueError(
                    f"This {type(self).__name__} was fitted on another checkpoint than model={self.model!r} is now. "
                    f"Bring back the checkpoint that it was fitted on, or fit again."
                )
            self._backbone, self._asked = backbone, asked
        return self._backbone

    def _plan(self, backbone: Backbone, column: TextColumn) -> Plan:
        """Tokenise a column into windows."""
        longest = backbone.model.config.max_length
        if self.max_length is not None and self.max_length > longest:
            raise ValueError(
                f"max_length={self.max_length}, but {self.model!r} reads at most {longest} tokens at once."
            )
        max_length = self.max_length or longest
        return plan(
            backbone.tokenizer,
            column.texts,
            column.pairs,
            max_length=max_length,
            stride=max_length // 8 if self.stride == "auto" else self.stride,
            truncation=self.truncation,
        )

    def _choose_batch_tokens(self, backbone: Backbone) -> int:
        if self.batch_tokens != "auto":
            return self.batch_tokens
        base = backbone.model
        return default_batch_tokens(base.config, base.norm.weight.dtype, base.device)

    def _check_column(self, X: Any) -> TextColumn:
        """Check what a user passed as X."""
        return check_text_column(X)

    def _check_fitted_column(self, X: Any) -> TextColumn:
        """Check a column after fit: it must have the shape and the names that fit saw."""
        check_is_fitted(self)
        column = self._check_column(X)
        check_features(self, column)
        return column

    def _become_fitted(self, backbone: Backbone, column: TextColumn, **learned: Any) -> None:
        """Replace whatever an earlier fit left, at once and only when everything is there."""
        learned["n_features_in_"] = column.n_features
        if column.feature_names is not None:
            learned["feature_names_in_"] = column.feature_names
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        vars(self).update(
            learned,
            _backbone=backbone,
            _asked=self._base_asked_for(),
            _fingerprint=backbone.fingerprint,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the base out of pickles, and bring what was learned to the CPU."""
        state = dict(super().__getstate__())
        if state.get("_backbone") is not None:
            on_cpu = state["_backbone"].model.device.type == "cpu"
            state["_backbone"] = None
            if "_learned" in state and not on_cpu:
                state["_learned"] = copy.deepcopy(state["_learned"]).cpu()
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.categorical = False
        return tags


class TrainableXLMRXL(BaseXLMRXL):
    """Base of the estimators that learn from y."""

    _parameter_constraints: dict = {
        **BaseXLMRXL._parameter_constraints,
        "tuning": [StrOptions(set(TUNINGS)), Tuning],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "lr_schedule": [StrOptions(set(LR_SCHEDULES))],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def _load_backbone(self) -> Backbone:
        """Take the base that the parameters name from the pool; where all of it learns, not in 8 bits."""
        tuning, load_in_8bit = as_tuning(self.tuning), self.load_in_8bit
        if tuning.trains_base:
            if self.load_in_4bit or load_in_8bit not in ("auto", False):
                raise ValueError(
                    "tuning='full' trains every weight, which 8-bit and 4-bit weights do not allow. Use "
                    "load_in_8bit=False, or tuning='lora', which trains through them."
                )
            load_in_8bit = False
        return get_backbone(
            self.model,
            load_in_8bit=load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
            tuning=tuning,
            batch_tokens=self.batch_tokens,
        )

    def _choose_training_tokens(self, tuning: Tuning, backbone: Backbone) -> int:
        """Tokens of a micro-batch; "auto" takes no more than there is memory for."""
        batch_tokens = self._choose_batch_tokens(backbone)
        if self.batch_tokens != "auto":
            return batch_tokens
        return training_batch_tokens(
            backbone.model.config,
            batch_tokens,
            tuning=tuning,
            load_in_8bit=False if tuning.trains_base else self.load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
        )

    def _schedule(self, tuning: Tuning, backbone: Backbone) -> Schedule:
        """How long and how fast to learn, by the parameters and the defaults of the tuning."""
        return Schedule(
            batch_size=self.batch_size,
            batch_tokens=self._choose_training_tokens(tuning, backbone),
            max_epochs=self.max_epochs,
            learning_rate=tuning.default_learning_rate if self.learning_rate == "auto" else self.learning_rate,
            lr_schedule=self.lr_schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            optimizer=self.optimizer,
        )
