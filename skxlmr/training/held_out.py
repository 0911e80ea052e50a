"""Rows that are set aside from a training to validate on."""

from __future__ import annotations

import numpy as np

from skxlmr.sklearn_defaults import sklearn_defaults
from skxlmr.training.learnable import Learnable
from skxlmr.training.rows import Rows


@sklearn_defaults()
def hold_out(task: Learnable, rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Split off rows for validation, stratified by class; returns the rows to train on, and those held out."""
    from sklearn.model_selection import train_test_split

    classes = task.strata(rows.targets)
    try:
        kept, held = train_test_split(
            np.arange(len(rows.numbers)), test_size=fraction, random_state=seed, stratify=classes
        )
    except ValueError as error:
        why = str(_why_not_stratified(classes) or error).removesuffix(".")
        raise ValueError(
            f"early_stopping=True cannot set validation_fraction={fraction} of {len(rows.numbers)} rows aside: "
            f"{why}. Pass X_val and y_val, or use another validation_fraction."
        ) from None
    return rows.take(np.sort(kept)), task.held_out(rows.take(np.sort(held)))


def _why_not_stratified(classes: np.ndarray | None) -> str | None:
    """Say which classes have one row only; None if there are none."""
    if classes is None:
        return None
    labels, counts = np.unique(classes, return_counts=True)
    alone = labels[counts == 1].tolist()
    return f"each class needs two rows or more, but {alone[:5]} have one." if alone else None
