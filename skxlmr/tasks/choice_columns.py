"""Columns of prompts and choices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import (
    TextColumn,
    check_column_of_texts,
    feature_names,
    lengths,
    name_row,
    split_columns,
    total_lengths,
)
from skxlmr.system.text_length import check_lengths

# Names that columns of prompts have in published data: (X)COPA, RACE, SWAG, HellaSwag, PIQA, SocialIQA, alphaNLI,
# CommonsenseQA, OpenBookQA, ARC, Cosmos QA, StoryCloze, DREAM, QuAIL.
PROMPTS = set(
    "prompt premise question question_stem stem query context ctx ctx_a ctx_b article passage document text story "
    "dialogue sentence sent1 sent2 startphrase goal obs1 obs2 observation_1 observation_2 inputsentence1 "
    "inputsentence2 inputsentence3 inputsentence4 asks-for".split()
)
LISTS = list | tuple | np.ndarray | Mapping


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoiceColumn(TextColumn):
    """Prompts, the texts, and their choices: at least one per row, in the caller's order.

    `most_choices` is that of a row of the whole column, of which this may be a part. `prompts` are the positions of the
    columns that the prompts are made of, and `labels` are the names of the choices, or None, in each row.
    """

    choices: list[tuple[str, ...]]
    labels: list[tuple[str, ...] | None]
    most_choices: int
    prompts: tuple[int, ...]

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


def check_choices(X: Any, prompts: Sequence[str] | Sequence[int] | None = None, *, name: str = "X") -> ChoiceColumn:
    """Read prompts, and their choices: one column of lists, or a column for each choice; errors name the row.

    `prompts` are the names or positions of the columns that are the prompt, which are joined by spaces. If they are not
    given, they are all columns beside one of lists; or those beside columns of numbered names (ending0, ending1, ...),
    if there is only one or their names are `PROMPTS`; or the first column, and such names after it.
    """
    columns, labels, index = split_columns(X, name)
    if len(columns) < 2:
        raise ValueError(
            f"{name} has {len(columns)} column; multiple choice needs the prompts and their choices: a column of lists,"
            f" or a column for each choice."
        )
    if not len(columns[0]):
        raise ValueError(f"{name} has 0 sample(s), while a minimum of 1 is required: there is no prompt.")
    named = [name if labels is None else f"{name}, column {label!r}" for label in labels or columns]
    unique = labels is not None and all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
    names = feature_names(X, name)
    at = (
        _prompts(columns, labels if unique else None, name)
        if prompts is None
        else _given(prompts, labels, len(columns))
    )
    rest = [i for i in range(len(columns)) if i not in at]
    texts = [check_column_of_texts(columns[i], named[i], index) for i in at]
    if len(rest) == 1:
        read = [_check_list(row, f"{named[rest[0]]}, {name_row(i, index)}") for i, row in enumerate(columns[rest[0]])]
    else:
        cells = _check_cells([columns[i] for i in rest], [named[i] for i in rest], index)
        read = [(row, None) for row in cells]
    choices = [row for row, _ in read]
    return ChoiceColumn(
        texts[0] if len(texts) == 1 else [" ".join(parts) for parts in zip(*texts, strict=True)],
        None,
        names,
        len(columns),
        choices=choices,
        labels=[of_row for _, of_row in read],
        most_choices=max(map(len, choices)),
        prompts=tuple(at),
    )


def _given(prompts: Sequence[str] | Sequence[int], labels: list | None, n_columns: int) -> list[int]:
    """Return the positions of columns that are given by name or position."""
    at = []
    for prompt in prompts:
        if isinstance(prompt, str):
            if labels is None or prompt not in labels:
                have = "X has no column names" if labels is None else f"X has {', '.join(map(repr, labels))}"
                raise ValueError(f"prompt_columns: there is no column {prompt!r}; {have}.")
            at.append(labels.index(prompt))
        else:
            at.append(prompt)
    if not at or len(set(at)) == n_columns or len(set(at)) < len(at) or not all(0 <= i < n_columns for i in at):
        raise ValueError(
            f"X has {n_columns} columns, of which prompt_columns={list(prompts)!r} must be some, each once, and leave "
            f"one or more as choices."
        )
    return at


def _prompts(columns: list[list], labels: list[str] | None, name: str) -> list[int]:
    """Return the positions of the columns that are the prompt."""
    everything = range(len(columns))
    lists = [i for i in everything if any(isinstance(value, LISTS) for value in columns[i])]
    shown = everything if labels is None else labels
    if len(lists) > 1:
        raise ValueError(
            f"{name} has several columns of lists: {', '.join(repr(shown[i]) for i in lists)}. Select one."
        )
    if lists:
        return [i for i in everything if i not in lists]
    if len(columns) == 2:
        return [0]
    for i in everything:
        if all(
            isinstance(value, str) and re.fullmatch(r"\s*\[\s*[\"'].*\]\s*", value, re.DOTALL) for value in columns[i]
        ):
            raise ValueError(
                f"{name}, column {shown[i]!r}: lists of choices are written as texts, such as {columns[i][0]!r:.40}. "
                f"Read them first, for example with ast.literal_eval."
            )
    if labels is None:
        return [0]
    known = [i for i in everything if labels[i].strip().lower() in PROMPTS]
    choices = _numbered([None if i in known else label for i, label in enumerate(labels)])
    rest = [i for i in everything if i not in choices]
    if not rest or not choices:
        leading = next(i for i in range(1, len(labels) + 1) if i not in known)
        choices, rest = list(range(leading, len(labels))), list(range(leading))
        is_clear = len(choices) > 1 and known in ([], rest, rest[1:])
    else:
        is_clear = len(rest) == 1 or rest == known
    if not is_clear:
        raise ValueError(
            f"{name} has the columns {', '.join(map(repr, labels))}: which of them are the prompt, and which choices? "
            f"Say it with prompt_columns, for example prompt_columns=[{labels[0]!r}]."
        )
    return rest


def _numbered(labels: Sequence[str | None]) -> list[int]:
    """Return the positions of the longest run of names that are numbered: choice1, choice2, or A, B, C; or none."""
    best: list[int] = []
    run: list[int] = []
    expected = None
    for i, label in enumerate(labels):
        found = None if label is None else re.fullmatch(r"(.*?)([0-9]+|[A-Za-z])", label)
        number = None
        if found is not None:
            number = (found[1], int(found[2]) if found[2].isdecimal() else ord(found[2]))
        run = [*run, i] if number is not None and number == expected else [i]
        expected = None if number is None else (number[0], number[1] + 1)
        if number is not None and len(run) > max(len(best), 1):
            best = run
    return best


def _check_list(row: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the choices of a row, and their labels, which only a dict of "text" and "label" has."""
    labels = None
    if isinstance(row, Mapping) and isinstance(row.get("text"), list | tuple | np.ndarray):
        labels, row = row.get("label"), row["text"]
        if labels is not None and (len(labels) != len(row) or not all(isinstance(label, str) for label in labels)):
            raise ValueError(f"{where}: the labels {labels!r:.60} are not one text for each of {len(row)} choices.")
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
    check_lengths(list(row), lambda i: f"{where}, choice {i}")
    return tuple(map(str, row)), None if labels is None else tuple(map(str, labels))


def _name_cell(names: list[str], index: pd.Index | None, row: int, column: int) -> str:
    return f"{names[column]}, {name_row(row, index)}"


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
        check_lengths(cells[:n], partial(_name_cell, names, index, i))
        rows.append(tuple(map(str, cells[:n])))
    return rows
