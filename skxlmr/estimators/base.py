"""What the estimators share: parameters, the way to the base, persistence."""

from __future__ import annotations

import copy
import os
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxlmr.columns import TextColumn, check_features, check_text_column
from skxlmr.hardware.device import DTYPES
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import Backbone, get_backbone, trim
from skxlmr.runtime.plan import WindowPlan, make_plan
from skxlmr.saving.estimators import ESTIMATORS, same_class, save_estimator

TEXTS_AT_ONCE = 10_000  # of which the word pieces are looked at


class BaseXLMRXL(BaseEstimator):
    """Base of the estimators: a text column in, a frozen base from the pool, what was learned out."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__init__ is not object.__init__ and same_class(ESTIMATORS.get(cls.__name__, cls), cls):
            ESTIMATORS[cls.__name__] = cls

    _parameter_constraints: dict = {
        "model": [str, os.PathLike],
        "max_length": [Interval(Integral, 4, None, closed="left"), None],
        "stride": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "truncation": ["boolean"],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "vocabulary": [StrOptions({"full", "trim"})],
        "load_in_8bit": ["boolean", StrOptions({"auto"}), Int8],
        "load_in_4bit": ["boolean"],
        "dtype": [StrOptions({"auto", *DTYPES})],
        "device": [str],
        "memory": [None, str, os.PathLike, HasMethods("cache")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _needed_attributes: tuple[str, ...] = ()  # what predictions need of a fit, beside what was learned

    def _load_backbone(self, whole: bool = True) -> Backbone:
        """Take the base that the parameters name from the pool; unless it must be whole, perhaps without some words."""
        return get_backbone(
            self.model,
            load_in_8bit=self.load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dtype=self.dtype,
            device=self.device,
            batch_tokens=self.batch_tokens,
            whole=whole,
        )

    def _base_asked_for(self) -> tuple[object, ...]:
        """The parameters that choose a base, as they stand now."""
        return (self.model, repr(self.load_in_8bit), self.load_in_4bit, self.dtype, self.device)

    def _fitted_backbone(self) -> Backbone:
        """Return the base that was fitted on; after unpickling it comes from the pool."""
        check_is_fitted(self)
        asked = self._base_asked_for()
        if self._backbone is None or self._asked != asked:
            backbone = self._load_with(self._pieces_of_fit())
            self._check_fingerprint(backbone.fingerprint)
            self._backbone, self._asked = backbone, asked
        return self._backbone

    def _pieces_of_fit(self) -> np.ndarray | None:
        """The word pieces that were kept at fit; None is all, as with what was saved before there was a choice."""
        return getattr(self, "_pieces", None)

    def _load_with(self, pieces: np.ndarray | None) -> Backbone:
        """Take the base with these words, or with all, from the pool."""
        backbone = self._load_backbone(whole=pieces is None)
        return backbone if pieces is None else trim(backbone, pieces)

    def _trim_to(self, backbone: Backbone, column: TextColumn) -> Backbone:
        """Leave of a base the pieces of a column; also those that no window holds, since a word is cut as a whole."""
        texts, tokenizer = list(dict.fromkeys(column.strings)), backbone.reader.tokenizer
        parts = (texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE))
        pieces = [np.unique(np.concatenate(tokenizer.encode_batch(part))) for part in parts]
        return trim(backbone, np.unique(np.concatenate([np.empty(0, np.int32), *pieces])))

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self._fingerprint:
            raise ValueError(
                f"This {type(self).__name__} was fitted on another checkpoint than model={str(self.model)!r} is now. "
                f"Bring back the checkpoint that it was fitted on, or fit again."
            )

    def _plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        """Tokenise a column into windows."""
        max_length, stride = self._window(backbone)
        return make_plan(
            backbone.tokenizer,
            column.texts,
            column.pairs,
            max_length=max_length,
            stride=stride,
            truncation=self.truncation,
        )

    def _window(self, backbone: Backbone) -> tuple[int, int]:
        """Tokens in a window, and how many of them neighbours share."""
        longest = backbone.model.config.max_length
        if self.max_length is not None and self.max_length > longest:
            raise ValueError(
                f"max_length={self.max_length}, but {self.model!r} reads at most {longest} tokens at once."
            )
        max_length = self.max_length or longest
        return max_length, max_length // 8 if self.stride == "auto" else self.stride

    def _choose_batch_tokens(self, backbone: Backbone) -> int:
        if self.batch_tokens != "auto":
            return self.batch_tokens
        base = backbone.model
        return default_batch_tokens(base.config, base.dtype, base.device)

    def _check_column(self, X: Any) -> TextColumn:
        """Check what a user passed as X."""
        return check_text_column(X)

    def _check_fitted_column(self, X: Any) -> TextColumn:
        """Check a column after fit: it must have the shape and the names that fit saw."""
        check_is_fitted(self)
        column = self._check_column(X)
        check_features(self, column)
        return column

    def _fitted_attributes(self, backbone: Backbone, column: TextColumn, **learned: Any) -> dict[str, Any]:
        """All that a fit leaves: what was learned, and of which column and base."""
        attributes = {
            **learned,
            "n_features_in_": column.n_features,
            "_backbone": backbone,
            "_asked": self._base_asked_for(),
            "_fingerprint": backbone.fingerprint,
            "_pieces": backbone.pieces,
        }
        if column.feature_names is not None:
            attributes["feature_names_in_"] = column.feature_names
        return attributes

    def _become_fitted(self, attributes: dict[str, Any]) -> None:
        """Replace whatever an earlier fit left, at once and only when everything is there."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        vars(self).update(attributes)

    def save(self, directory: str | os.PathLike) -> None:
        """Write this fitted estimator to a directory: tensors and JSON, no pickle. `skxlmr.load` reads it.

        It holds what was learned, the parameters, and the base's name and fingerprint; not the base. A saved estimator
        that is there already is replaced, at once or not at all. Callbacks of `set_callbacks`, metadata requests and
        `memory` are not saved.

        Parameters
        ----------
        directory : str or path
            New, empty, or holding a saved estimator.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        FileExistsError
            If the directory holds other files.
        TypeError
            If a parameter, or a label, is something that JSON cannot hold; the message names it. Or if
            another class has the name of this one, by which it would be loaded.
        OSError
            If the disk is full or the directory not writable; an earlier save is then untouched.
        """
        save_estimator(self, directory)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the base out of pickles, and bring what was learned to the CPU."""
        state = dict(super().__getstate__())
        state.pop("_optimizer_state", None)
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
