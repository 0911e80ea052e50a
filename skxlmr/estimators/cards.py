"""What the model card of a fitted estimator says."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from skxlmr.checkpoints.resolve import BUNDLED, HUB_ID
from skxlmr.saving.cards import LICENCES, SENTENCES, CardFacts, CardKind, licence_in
from skxlmr.tuning import Tuning

HUB_NAMES = {"e5-small": "intfloat/multilingual-e5-small"}
# Parameters that are not shown: the base has a section of its own, and the others say nothing of what was learned.
# Some of them hold paths.
NOT_SHOWN = set("model memory tokenizer callbacks checkpoint_dir checkpoint_steps device processes verbose".split())
LIBRARIES = ("skxlmr", "torch", "scikit-learn")
LOCAL = "a local checkpoint"

MINUS_LOSS = "minus the loss"
# Of each estimator; a class that a user has derived has the kind of the one that it is derived from.
KINDS = {
    "XLMRXLClassifier": CardKind("text-classification", "Classifies texts", "accuracy"),
    "XLMRXLRegressor": CardKind("text-classification", "Predicts numbers from texts", "R²", ("text-regression",)),
    "XLMRXLTagger": CardKind("token-classification", "Tags the words of texts", "F1"),
    "XLMRXLQA": CardKind("question-answering", "Finds the answers to questions in their contexts", "F1"),
    "XLMRXLMultipleChoice": CardKind("multiple-choice", "Chooses the right one of several texts", "accuracy"),
    "XLMRXLMaskedLM": CardKind("fill-mask", "Fills masks in texts", MINUS_LOSS),
    "XLMRXLGenerator": CardKind("text-generation", "Continues texts", MINUS_LOSS),
    "XLMRXLEmbedder": CardKind(SENTENCES, "Turns texts into vectors", MINUS_LOSS, ("feature-extraction",)),
}
OF_OTHERS = CardKind("feature-extraction", "Reads texts")


def facts_of(estimator: Any, directory: Path | None = None) -> CardFacts:
    """Return what is known of a fitted estimator.

    Parameters
    ----------
    estimator : XLMRXLEstimator
    directory : Path or None
        Where the files of its base lie, if they are needed anyway; its README.md may name the licence.
    """
    base, hub_id, revision = _base_of(estimator.model)
    licence = LICENCES.get(hub_id or base)
    if licence is None and directory is not None:
        licence = licence_in(directory)
    kind, fitted = _kind_of(estimator), vars(estimator)
    trained = getattr(estimator, "_finetuned", None) is not None and "n_iter_" in fitted
    losses = fitted.get("loss_curve_") or []
    return CardFacts(
        type(estimator).__name__,
        kind,
        base,
        hub_id,
        revision,
        estimator._base.fingerprint,
        licence,
        n_rows=fitted.get("_n_rows") if trained else None,
        scripts=fitted.get("_scripts", ()) if trained else (),
        labels=_labels(fitted.get("classes_")) if trained else (),
        n_epochs=fitted["n_iter_"] if trained else None,
        loss=losses[-1] if losses else None,
        metric=_metric_of(estimator, kind),
        score=_score_of(estimator) if trained else None,
        is_chosen=estimator.early_stopping if trained else False,
        parameters=_parameters(estimator),
        versions={"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    )


def _kind_of(estimator: Any) -> CardKind:
    return next((KINDS[cls.__name__] for cls in type(estimator).__mro__ if cls.__name__ in KINDS), OF_OTHERS)


def _metric_of(estimator: Any, kind: CardKind) -> str | None:
    """Return what the validation score of an estimator is."""
    scoring = getattr(estimator, "scoring", None)
    if scoring is not None:
        return scoring if isinstance(scoring, str) else "an own function"
    if getattr(estimator, "scheme_", None) == "plain":
        return "accuracy"  # of tags that mark no entities
    return kind.metric


def _score_of(estimator: Any) -> float | None:
    """Return the validation score of the epoch that was kept: the best with early stopping, or else the last."""
    scores = estimator.validation_scores_
    return None if not scores else estimator.best_validation_score_ if estimator.early_stopping else scores[-1]


def _base_of(model: Any) -> tuple[str, str | None, str | None]:
    """Return the name of a base, and its id on the hub and its revision if it is there."""
    if isinstance(model, str):
        name, _, revision = model.partition("@")
        if model in BUNDLED:
            return model, None, None
        if model in HUB_NAMES:
            return model, HUB_NAMES[model], None
        if HUB_ID.fullmatch(name) and not os.path.exists(model):
            return name, name, revision or None
    return LOCAL, None, None


def _labels(classes: Any) -> list[str]:
    """Return the names of labels; of several outputs those of all, each once."""
    if classes is None:
        return []
    arrays = classes if isinstance(classes, list) else [classes]
    return list(dict.fromkeys(str(label) for array in arrays for label in np.ravel(array).tolist()))


def _parameters(estimator: Any) -> dict[str, str]:
    """Return the parameters that are not the default, as text."""
    given, signature = estimator.get_params(deep=False), inspect.signature(type(estimator))
    default = {name: parameter.default for name, parameter in signature.parameters.items()}
    shown = {}
    for name in sorted(given.keys() - NOT_SHOWN):
        value = given[name]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float | str | Tuning | list | tuple | dict | None) or hasattr(value, "check"):
            text = repr(value)
        else:
            text = f"an object of {type(value).__name__}"  # whose text may have an address in memory
        if name not in default or text != repr(default[name]):
            shown[name] = text
    return shown


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
