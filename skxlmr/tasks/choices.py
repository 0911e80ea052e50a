"""Multiple choice: prompts, each with several choices, of which one is right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import (
    TextColumn,
    check_column_of_texts,
    feature_names,
    lengths,
    name_row,
    one_column,
    split_columns,
    total_lengths,
)
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMultipleChoice, XLMRobertaXLTokenizer
from skxlmr.model.heads import ChoiceHead
from skxlmr.model.packing import segment_logsumexp
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import pool_windows
from skxlmr.tasks.base import Export, LossesOfOutputs, Task
from skxlmr.text.batching import deduplicate
from skxlmr.training.rows import Rows


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoiceColumn(TextColumn):
    """Prompts, the texts, and their choices: at least one per row, in the caller's order.

    `most_choices` is that of a row of the whole column, of which this may be a part.
    """

    choices: list[tuple[str, ...]]
    most_choices: int

    @property
    def strings(self) -> list[str]:
        return [*self.texts, *chain.from_iterable(self.choices)]

    @property
    def keys(self) -> list[tuple[str, tuple[str, ...]]]:
        return list(zip(self.texts, self.choices, strict=True))

    @property
    def sizes(self) -> np.ndarray:
        """Characters of each row as it is read, with the prompt before each choice, (n_rows,)."""
        return lengths(self.texts) * lengths(self.choices) + total_lengths(self.choices)


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoicePlan(WindowPlan):
    """Windows over pairs of prompt and choice; what a plan calls a text is a prompt with all its choices.

    `n_choices` is (n_texts,); `choice_of_window` numbers the choices of all texts consecutively, (n_windows,).
    """

    n_choices: np.ndarray
    most_choices: int
    choice_of_window: np.ndarray


def check_choices(X: Any, *, name: str = "X") -> ChoiceColumn:
    """Read a column of prompts, and one column of lists of choices or a column for each choice; errors name the row."""
    columns, labels, index = split_columns(X, name)
    names = feature_names(X, name)
    if len(columns) < 2:
        raise ValueError(
            f"{name} has {len(columns)} column; multiple choice needs the prompts and their choices: a column of lists,"
            f" or a column for each choice."
        )
    prompts, *rest = columns
    if not len(prompts):
        raise ValueError(f"{name} has 0 sample(s), while a minimum of 1 is required: there is no prompt.")
    named = [name if labels is None else f"{name}, column {label!r}" for label in labels or columns]
    texts = check_column_of_texts(prompts, named[0], index)
    if len(rest) == 1:
        choices = [_check_list(row, f"{named[1]}, {name_row(i, index)}") for i, row in enumerate(rest[0])]
    else:
        choices = _check_cells(rest, named[1:], index)
    most_choices = max(map(len, choices))
    return ChoiceColumn(texts, None, names, len(columns), choices=choices, most_choices=most_choices)


@dataclass(frozen=True, eq=False)
class Choosing(Task[ChoiceColumn]):
    """The right one of a row's choices; targets are their indices. `form` is what y holds: "index" or "choice"."""

    form: str = "index"

    read: ClassVar[staticmethod[[Any], Any]] = staticmethod(check_choices)
    found: ClassVar[dict[str, str]] = {"target_form_": "form"}

    def plan(self, backbone: Backbone, column: ChoiceColumn) -> ChoicePlan:
        max_length, stride = self.windows.resolve(backbone)
        return plan_choices(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def find(self, y: Any, column: ChoiceColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        targets, form = check_right_choices(y, column)
        if max(len(choices) for choices, weight in zip(column.choices, weights, strict=True) if weight) < 2:
            raise ValueError("X has only one choice in every row: there is nothing to learn from.")
        return replace(self, form=form), targets

    def targets(self, y: Any, column: ChoiceColumn, name: str = "y") -> np.ndarray:
        return check_right_choices(y, column, name)[0]

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> ChoiceHead:
        return ChoiceHead(config)

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the same score for all choices."""
        return np.zeros(1)

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the cross-entropy over a row's choices, for each of its windows; they come together."""
        plan, targets = rows.plan, rows.targets
        assert isinstance(plan, ChoicePlan)
        choice_of_window = plan.choice_of_window

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            choices, n_windows = _runs(np.stack([of_rows, choice_of_window[windows]], axis=1))
            row_of_choice, n_choices = _runs(choices[:, :1])
            scores = torch.segment_reduce(outputs, "mean", lengths=_on(device, n_windows), axis=0, unsafe=True)
            right = np.cumsum(n_choices) - n_choices + targets[row_of_choice[:, 0]]
            each = segment_logsumexp(scores, _on(device, n_choices)) - scores[_on(device, right)]
            windows_per_row = np.add.reduceat(n_windows, np.cumsum(n_choices) - n_choices)
            return each[:, 0].repeat_interleave(_on(device, windows_per_row))

        return losses

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Return the scores of the choices, (n_rows, most choices), -inf where a row has fewer."""
        assert isinstance(plan, ChoicePlan)
        of_choices = pool_windows(outputs, plan.choice_of_window, "mean")[:, 0]
        return padded(of_choices, plan.n_choices, plan.most_choices)[plan.text_of_row]

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(results.argmax(axis=1) == targets, weights=weights))

    @property
    def export(self) -> Export:
        # peft has no name for this task
        return Export(
            XLMRobertaXLForMultipleChoice,
            lambda head: {"roberta.pooler": head.pooler, "classifier": head.linear},
            {"id2label": None, "num_labels": 1},
        )


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapse equal neighbouring rows: each such row, and how many there are."""
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    return keys[starts], np.diff(starts, append=len(keys))


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device)


def _check_list(row: Any, where: str) -> tuple[str, ...]:
    if not isinstance(row, list | tuple | np.ndarray):
        raise TypeError(
            f"{where}: {row!r:.60} is not a list of choices. Give lists of texts in one column, or a column for each "
            f"choice."
        )
    for i, choice in enumerate(row):
        if not isinstance(choice, str):
            raise TypeError(f"{where}: choice {i} is {choice!r:.60}, a {type(choice).__name__}, not a text.")
    if not len(row):
        raise ValueError(f"{where}: there is no choice. Leave this row out.")
    return tuple(map(str, row))


def _check_cells(columns: list[list], names: list[str], index: pd.Index | None) -> list[tuple[str, ...]]:
    """Read the choices of all rows, one cell each; a row that has fewer ends in missing values."""
    rows = []
    for i, cells in enumerate(zip(*columns, strict=True)):
        given = [not (cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))) for cell in cells]
        n = sum(given)
        if not n or not all(given[:n]):
            missing = names[given.index(False)]
            why = "there is no choice" if not n else "it is missing, but a later choice is there"
            raise ValueError(f"{missing}, {name_row(i, index)}: {why}. Only the last choices of a row may be missing.")
        for cell, column in zip(cells[:n], names, strict=False):
            if not isinstance(cell, str):
                raise TypeError(
                    f"{column}, {name_row(i, index)}: {cell!r:.60} is a {type(cell).__name__}, not a text. Turn it "
                    f"into text first, for example with astype(str)."
                )
        rows.append(tuple(map(str, cells[:n])))
    return rows


def check_right_choices(y: Any, column: ChoiceColumn, name: str = "y") -> tuple[np.ndarray, str]:
    """Read which choices are right, by index from 0 or by text; returns (n_rows,) indices and the form of y."""
    values, _, index = one_column(y.ravel() if isinstance(y, np.ndarray) and y.shape[1:] == (1,) else y, name)
    check_consistent_length(column.texts, values)
    form = "choice" if isinstance(values[0], str) else "index"
    indices = np.empty(len(values), np.int64)
    for i, (value, choices) in enumerate(zip(values, column.choices, strict=True)):
        where = f"{name}, {name_row(i, index)}: {value!r:.60}"
        if form == "choice":
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"{where} is not one of the choices {list(choices)!r:.120}.")
            indices[i] = choices.index(value)
            continue
        whole = isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())
        if not whole or isinstance(value, bool | np.bool_):
            raise TypeError(
                f"{where} is not an index of a choice. Give indices from 0 in all rows, or the choices' texts."
            )
        if not 0 <= value < len(choices):
            raise ValueError(f"{where} is not an index of one of {len(choices)} choices, which are counted from 0.")
        indices[i] = int(value)
    return indices, form


def plan_choices(tokenizer: XLMRobertaXLTokenizer, column: ChoiceColumn, *, max_length: int, stride: int) -> ChoicePlan:
    """Tokenise prompts and choices, each distinct text once, and cut pairs that are too long into windows."""
    rows = column.keys
    first, text_of_row = deduplicate(rows)
    distinct = [rows[i] for i in first]
    texts = list(dict.fromkeys(text for prompt, choices in distinct for text in (prompt, *choices)))
    ids = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    windows, text_of_window, choice_of_window, n_before = [], [], [], 0
    for i, (prompt, choices) in enumerate(distinct):
        for choice in choices:
            of_pair = tokenizer.windows(ids[prompt], ids[choice], max_length=max_length, stride=stride)
            windows += [window.input_ids for window in of_pair]
            text_of_window += [i] * len(of_pair)
            choice_of_window += [n_before] * len(of_pair)
            n_before += 1
    return ChoicePlan(
        windows,
        np.asarray(text_of_window, np.int64),
        text_of_row,
        texts_are_whole=True,
        n_choices=lengths([choices for _, choices in distinct]),
        most_choices=column.most_choices,
        choice_of_window=np.asarray(choice_of_window, np.int64),
    )


def padded(scores: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """Put the scores of all choices, one row after the other, into a matrix, with -inf where a row has fewer.

    Examples
    --------
    >>> padded(np.array([1.0, 2.0, 3.0]), np.array([1, 2]), 2)
    array([[  1., -inf],
           [  2.,   3.]])
    """
    matrix = np.full((len(counts), width), -np.inf, scores.dtype)
    matrix[np.arange(width) < counts[:, None]] = scores
    return matrix
