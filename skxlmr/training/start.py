"""The start of a head: a linear model of frozen features, fitted before anything else is trained."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from skxlmr.model.heads import Head
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import rows_of
from skxlmr.training.callbacks import Callback
from skxlmr.training.loop import Trainer
from skxlmr.training.rows import Rows

# Maximum number of feature vectors (texts, pairs or tokens) that are used before fine-tuning. More do not make a better
# start of a training that uses all of them.
MAX_FEATURES = 20_000


class LinearModel(Protocol):
    """A linear map from the features of a head's last layer to its outputs."""

    @property
    def weight(self) -> np.ndarray: ...  # (n_outputs, n_features)

    @property
    def bias(self) -> np.ndarray: ...  # (n_outputs,)


class Startable(Protocol):
    """The part of a task that `start_head` needs; see `skxlmr.tasks.base.Task`."""

    def samples(self, rows: Rows, units: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def start(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearModel | None: ...


def start_head(
    task: Startable,
    finetuned: Finetuned,
    backbone: Backbone,
    rows: Rows,
    batch_tokens: int,
    *,
    seed: int,
    memory: object = None,
    verbose: int = 0,
) -> bool:
    """Set the head to the linear model that the task fits to the features of its last layer.

    If only the head is trained, all rows are used, otherwise at most about `MAX_FEATURES` feature vectors. Returns
    False if the task has no such model.
    """
    head, plan = finetuned.head, rows.plan
    assert isinstance(head, Head)
    order = np.arange(len(rows.numbers))
    if not finetuned.only_head:
        order = some_rows(rows, seed)
    units, place = plan.units_of_rows(order)
    targets, weights = task.samples(rows.take(order), units, place)
    distinct, of_unit = np.unique(units, return_inverse=True)
    hidden = torch.cat(
        list(finetuned.untrained_features(backbone, plan, batch_tokens, distinct, memory=memory, verbose=verbose))
    )
    with torch.no_grad():
        head.prepare(hidden)
        features = head.project(hidden).float().cpu().numpy()
    model = task.start(features[rows_of(of_unit, plan.counts_of_units[distinct])], targets, weights)
    if model is None:
        return False
    head.start(torch.from_numpy(model.weight), torch.from_numpy(model.bias))
    return True


class SoftStart(Callback):
    """Scale the outputs of a head that has been started, before the first step.

    A linear model that separates its rows has no loss left, and with it no gradient, from which the base could learn.
    Outputs that are closer together have the same order and most of the loss.
    """

    def __init__(self, head: Head, factor: float) -> None:
        self.head = head
        self.factor = factor

    def on_fit_begin(self, trainer: Trainer) -> None:
        with torch.no_grad():
            self.head.start(self.head.last.weight * self.factor, self.head.last.bias * self.factor)


def some_rows(rows: Rows, seed: int, most: int = MAX_FEATURES) -> np.ndarray:
    """Draw rows that together have about `most` feature vectors, or take all of them; in ascending order."""
    plan = rows.plan
    per_text = np.bincount(plan.text_of_unit, plan.counts_of_units)
    order = np.random.RandomState(seed).permutation(len(rows.numbers))
    n = max(1, int(np.searchsorted(np.cumsum(per_text[plan.text_of_row[order]]), most, side="right")))
    return np.sort(order[:n])
