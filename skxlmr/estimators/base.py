"""The base class of all estimators: their fit state, their persistence, their tags."""

from __future__ import annotations

import copyreg
import importlib
import os
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from typing_extensions import Self

from skxlmr.columns import TextColumn, check_feature_names, check_n_features, check_text_column, feature_names
from skxlmr.estimators.cards import facts_of
from skxlmr.model.storage import EightBit
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import BaseChoice, FittedBase
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowParameters
from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.saving.checkpoints_with_heads import TrainedModel
from skxlmr.saving.estimators import SavedEstimator, SavedWeights, damaged, write_estimator
from skxlmr.saving.plain_state import plain_frame, plain_weights, read_frame, read_weights
from skxlmr.system.failed_calls import releasing_local_variables
from skxlmr.system.parameters import DeclaredParameters, declare_parameters, suggesting_values
from skxlmr.system.progress import count_with_siblings
from skxlmr.system.schema import POSITIVE, parse, vector
from skxlmr.training.processes import Processes
from skxlmr.tuning import Tuning

# The modules of the estimators of this package, and all estimators that are defined by now, by name.
MODULES = ("classifier", "embedder", "generator", "masked_lm", "multiple_choice", "qa", "regressor", "tagger")
_estimators: dict[str, type[XLMRXLEstimator]] = {}

# Parameters that are not saved: joblib unpickles what lies in the folder `memory`, and a tokenizer is a function.
# `processes` says how the next fit is run on this machine.
NOT_SAVED_PARAMETERS = {"memory", "tokenizer", "processes"}

# Attributes of a fitted estimator that are not saved as values: what is written separately, and transient state.
TRUSTED = {"_skl_callbacks", "_metadata_request"}  # these are in pickles
OF_RUNNING_FIT = {"_parent_callback_ctx", "_callback_fit_ctx", "_skl_callbacks_to_teardown"}  # set by scikit-learn
NOT_SAVED = {"_base", "_finetuned", "_optimizer_state", *TRUSTED, *OF_RUNNING_FIT}


def estimators() -> dict[str, type[XLMRXLEstimator]]:
    """Return the estimators that can be loaded, by name: all of this package, and those that users have defined."""
    for module in MODULES:
        importlib.import_module(f"{__package__}.{module}")
    return _estimators


class StateOfPickle(dict):
    """The state of an estimator in a pickle or a copy. skops, which does not trust this type, cannot make one."""


@declare_parameters
class XLMRXLEstimator(DeclaredParameters, WindowParameters, BaseChoice, BaseEstimator):
    """Base class of the estimators: a text column goes in, a frozen base model from the pool runs it.

    Parameters
    ----------
    $parameters

    Notes
    -----
    All public methods of subclasses run in `skxlmr.runtime.torch_state.default_torch_state`, and after an exception
    keep no memory of a GPU (`skxlmr.system.failed_calls.releasing_local_variables`).
    """

    missing: ClassVar[str] = "error"  # a parameter of some subclasses

    # Parameters by which the estimator computes what transformers does with a checkpoint that has its head.
    _pretrained_parameters: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in list(vars(cls).items()):
            if isinstance(method, FunctionType) and not name.startswith("_"):
                setattr(cls, name, default_torch_state()(releasing_local_variables()(method)))
        of_package = cls.__module__.rpartition(".")[0] == __package__  # may be imported after those of a user
        if not abstract and (of_package or _same_class(_estimators.get(cls.__name__, cls), cls)):
            _estimators[cls.__name__] = cls

    def __sklearn_clone__(self) -> Self:
        """Return a clone, whose fits are counted with those of other clones for their progress bars."""
        cloned = super().__sklearn_clone__()
        count_with_siblings(cloned, self)
        return cloned

    def _check_column(self, X: Any) -> TextColumn:
        """Check what a user passed as X."""
        return check_text_column(X, missing=self.missing)

    def _select(self, X: Any) -> Any:
        """Select those columns of X that are read, if they are found by name."""
        return X

    def _needs_all_features(self, n_features: int) -> bool:
        """Whether X of so many columns must have the columns that fit saw, if it was fitted here."""
        return hasattr(self, "n_features_in_")

    def _check_fitted_column(self, X: Any) -> Any:
        """Check X after fit: it must have the columns that fit saw. Wrong names are reported before wrong values."""
        check_is_fitted(self)
        names = feature_names(self._select(X))
        if names is not None and self._needs_all_features(len(names)):
            check_feature_names(self, names)
        column = self._check_column(X)
        if self._needs_all_features(column.n_features):
            if names is None:
                check_feature_names(self, None)
            check_n_features(self, column)
        return column

    def _fitted_backbone(self, *, trains: bool = False) -> Backbone:
        """Return the base model of the fit, loaded again where necessary; `trains` says that a training follows."""
        check_is_fitted(self)
        return self._base.load(self, trains=trains)

    def _backbone_to_run(self) -> Backbone:
        """Return the base model to run what was trained on; without its weights if that has copies of all of them."""
        check_is_fitted(self)
        finetuned = getattr(self, "_finetuned", None)
        return self._base.load(self, weights=finetuned is None or not finetuned.replaces_base)

    def _fitted_attributes(self, backbone: Backbone, column: TextColumn, **attributes: Any) -> dict[str, Any]:
        """All that a fit leaves: what was learned, and from which column on which base model."""
        attributes |= {"n_features_in_": column.n_features, "_base": FittedBase.of(backbone, self)}
        if column.feature_names is not None:
            attributes["feature_names_in_"] = column.feature_names
        return attributes

    def _set_fitted(self, attributes: dict[str, Any]) -> None:
        """Replace what an earlier fit left, at once and only when everything is there.

        In another thread, too, the estimator is that of the earlier fit until then, and that of this one afterwards.
        """
        others = {name: value for name, value in vars(self).items() if not name.endswith("_") and name != "_finetuned"}
        self.__dict__ = others | attributes

    def _snapshot(self) -> Self:
        """Return a shallow copy as of now, which a fit in another thread does not change."""
        copied = object.__new__(type(self))
        copied.__dict__ = vars(self).copy()
        return copied

    def _fitted_names(self) -> tuple[str, ...]:
        """Attributes without which nothing can be predicted."""
        return ()

    def _fitted_types(self) -> dict[str, Any]:
        """The types of fitted attributes, as `skxlmr.system.schema.parse` takes them; those of others are free."""
        return {
            "n_features_in_": POSITIVE,
            "feature_names_in_": vector("UO", "names"),
            "_sklearn_output_config": dict[str, str],
        }

    def _check_restored(self) -> None:
        """Raise a ValueError if fitted attributes that were read from a file do not fit together."""
        n_features = getattr(self, "n_features_in_", None)
        if hasattr(self, "feature_names_in_") and len(self.feature_names_in_) != n_features:
            raise ValueError(f"its feature_names_in_ are not n_features_in_={n_features} names")

    def _restore(self, saved: SavedEstimator) -> None:
        """Become what was saved."""
        not_fitted = self.get_params(deep=False).keys() | NOT_SAVED
        for name in saved.fitted:
            if not name.isidentifier() or name.startswith("__") or hasattr(type(self), name) or name in not_fitted:
                raise ValueError(f"it has an attribute {name!r:.60}")
        self._check_fitted_attributes(saved.fitted)
        self.__dict__.update(saved.fitted, _base=FittedBase(saved.fingerprint, saved.pieces))
        self._check_restored()
        if isinstance(saved.finetuned, SavedWeights):
            self._finetuned = self._build(saved.finetuned)

    def _restore_pretrained(self, trained: TrainedModel) -> None:
        """Become what a checkpoint was trained for; raises ValueError if parameters do not go with its head."""
        raise NotImplementedError

    def _validate_params(self) -> None:
        with suggesting_values(self._parameter_constraints, self.get_params(deep=False)):
            super()._validate_params()

    def _check_parameters(self) -> None:
        """Raise an error if a parameter is not valid."""
        self._validate_params()
        for value in self.get_params(deep=False).values():
            if isinstance(value, Tuning | EightBit | Processes):
                value.check()

    def _check_fitted_attributes(self, attributes: dict[str, Any]) -> None:
        """Raise a ValueError if an attribute is missing without which nothing can be predicted, or of another type."""
        for name in self._fitted_names():
            if name not in attributes:
                raise ValueError(f"it has no attribute {name!r}")
        types = self._fitted_types()
        for name in types.keys() & attributes.keys():
            parse(types[name], attributes[name], name)

    def _build(self, weights: SavedWeights) -> Finetuned:
        """Build the modules of trained weights that were read; the other fitted attributes are there already."""
        raise NotImplementedError

    @default_torch_state()
    def save(self, directory: str | os.PathLike) -> None:
        """Write this fitted estimator to a directory: tensors and JSON, no pickle. `skxlmr.load` reads it.

        It holds the trained weights, the parameters, and the base's name and fingerprint; not the base. A saved
        estimator that is there already is replaced, at once or not at all, also if the process is killed or others
        save there at the same time. A model card, README.md, describes it to readers; `load` ignores it, and one that
        you have written or changed is kept. Callbacks of `set_callbacks`, metadata requests, `memory`, `tokenizer` and
        `processes` are not saved.

        While `fit` runs, the estimator is still that of the earlier fit: a callback, or another thread, saves what the
        earlier fit learned, with the parameters as they are then. During a first fit it raises NotFittedError.

        Parameters
        ----------
        directory : str or path
            New, empty, or holding a saved estimator.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        FileExistsError
            If the directory holds other files, or is a file.
        TypeError
            If a parameter, or a label, is something that JSON cannot hold; the message names it. Or if
            another class has the name of this one, by which it would be loaded.
        OSError
            If the disk is full or the directory not writable; an earlier save is then untouched.
        """
        check_is_fitted(self, "_base")
        self._snapshot()._save(directory)

    def _save(self, directory: str | os.PathLike) -> None:
        cls = type(self)
        if not _same_class(estimators().get(cls.__name__, cls), cls):
            name = cls.__name__
            raise TypeError(f"This {name} could not be loaded again: another class has that name. Rename yours.")
        parameters = self.get_params(deep=False)
        fitted = {name: value for name, value in vars(self).items() if name not in parameters.keys() | NOT_SAVED}
        saved = SavedEstimator(
            class_name=cls.__name__,
            parameters={name: value for name, value in parameters.items() if name not in NOT_SAVED_PARAMETERS},
            fitted=fitted,
            fingerprint=self._base.fingerprint,
            pieces=self._base.pieces,
            finetuned=getattr(self, "_finetuned", None),
            facts=facts_of(self),
        )
        write_estimator(directory, saved)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a file of skops may hold: plain values and arrays, and nothing of the base model."""
        state = _without_trusted(super().__getstate__())
        for name in ("_optimizer_state", *OF_RUNNING_FIT):
            state.pop(name, None)
        if "_finetuned" in state:
            state["_finetuned"] = plain_weights(state["_finetuned"])
        if "history_" in state:
            state["history_"] = plain_frame(state["history_"])
        return state

    @default_torch_state()
    def __setstate__(self, state: dict[str, Any]) -> None:
        where = f"The state of this {type(self).__name__}"
        with damaged(where):
            state = dict(state) if isinstance(state, StateOfPickle) else _without_trusted(state)
            weights = state.pop("_finetuned", None)
            if "history_" in state:
                state["history_"] = read_frame(state["history_"])
            super().__setstate__(state)
            if weights is not None:
                self._finetuned = self._build(read_weights(weights, where))

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[type], dict[str, Any]]:
        """Keep also in pickles and copies, whose source is trusted anyway, what a file of skops may not hold."""
        state = StateOfPickle(self.__getstate__())
        state.update({name: vars(self)[name] for name in (TRUSTED | NOT_SAVED_PARAMETERS) & vars(self).keys()})
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.categorical = False
        tags.input_tags.allow_nan = self.missing == "empty"
        return tags


def _without_trusted(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without what is kept only in pickles and copies."""
    return {
        name: None if name in NOT_SAVED_PARAMETERS else value for name, value in state.items() if name not in TRUSTED
    }


def _same_class(one: type, other: type) -> bool:
    """Whether two classes are one, perhaps defined again, as a notebook does when a cell is run twice."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
