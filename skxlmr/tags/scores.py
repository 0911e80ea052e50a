"""Scores of entities, from tags or from spans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.tags.entities import Span, lenient_spans, strict_spans
from skxlmr.tags.rows import name_rows, raise_for_rows
from skxlmr.tags.schemes import get_scheme, read_tags, scheme_of_prefixes, split_tag
from skxlmr.tags.spans import SPAN_TYPES, read_span

AVERAGES = ("micro avg", "macro avg", "weighted avg")
Rows = Iterable[Sequence[Any]] | pd.DataFrame


def entity_f1(
    y_true: Iterable[Sequence[Any]],
    y_pred: Rows,
    *,
    strict: bool = False,
    scheme: str | None = None,
    sample_weight: Sequence[float] | np.ndarray | None = None,
) -> float:
    """Compute the micro-averaged F1 of entities; an entity is correct if its type, start and end are.

    It equals seqeval's `f1_score`, and with `strict` that of its strict mode. But L, U and M are read as E, S and I,
    where seqeval without its strict mode does not know them, and a tag of no scheme is an error.

    Parameters
    ----------
    y_true, y_pred : iterable, or DataFrame
        For each sentence its tags, or its spans: (start, end, label), or dicts with these keys. y_pred may also be the
        result of `XLMRXLTagger.predict_spans` for these sentences.
    strict : bool, default=False
        Count only well-formed entities; see `strict_entity_spans`. Otherwise tags are read as by `entity_spans`.
    scheme : str, default=None
        Scheme of the tags: BIO, IOB1, IOE1, IOE2, BIOES, BILOU, BMES, IO, or a name of seqeval, IOB2 or IOBES. "IO" is
        for types without a prefix (PERSON), too. None allows all prefixes; with `strict` it is the one that the
        prefixes of y_true suggest, as in seqeval.
    sample_weight : sequence of float, default=None
        Weight of the entities of each sentence.

    Returns
    -------
    float
        0.0 if no entity is correct.

    Raises
    ------
    TypeError, ValueError
        If a sentence is a str, or its numbers of tags differ; if there is no such scheme, or a tag is not of it. The
        message names the sentences.

    Examples
    --------
    >>> entity_f1([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    0.6666666666666666
    >>> entity_f1([[(0, 3, "PER"), (13, 17, "LOC")]], [[(0, 3, "PER")]])
    0.6666666666666666
    """
    return micro_f1(count_entities(y_true, y_pred, strict, scheme, sample_weight))


def entity_report(
    y_true: Iterable[Sequence[Any]],
    y_pred: Rows,
    *,
    strict: bool = False,
    scheme: str | None = None,
    sample_weight: Sequence[float] | np.ndarray | None = None,
) -> pd.DataFrame:
    """Compute precision, recall and F1 of each type of entity, and their averages.

    The values are those of seqeval's `classification_report`; see `entity_f1`.

    Parameters
    ----------
    y_true, y_pred : iterable, or DataFrame
        As `entity_f1` takes them.
    strict : bool, default=False
    scheme : str, default=None
    sample_weight : sequence of float, default=None
        As `entity_f1` takes them.

    Returns
    -------
    DataFrame
        One row per type, sorted, then "micro avg" of all entities, "macro avg", the mean of the types, and "weighted
        avg", their mean weighted by support. Columns precision, recall, f1, which are 0 where they are not defined, and
        support, the number of true entities, or the sum of their weights. The type of tags without one ("B") is "_".

    Raises
    ------
    TypeError, ValueError
        As `entity_f1`.

    Examples
    --------
    >>> entity_report([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]]).round(2)
                  precision  recall    f1  support
    LOC                 0.0     0.0  0.00        1
    PER                 1.0     1.0  1.00        1
    micro avg           1.0     0.5  0.67        2
    macro avg           0.5     0.5  0.50        2
    weighted avg        0.5     0.5  0.50        2
    """
    counts = count_entities(y_true, y_pred, strict, scheme, sample_weight)
    types = sorted(counts)
    table = np.array([counts[kind] for kind in types], float).reshape(-1, 3)
    of_types, support = _ratios(table), table[:, 2]
    weighted = support @ of_types / support.sum() if support.sum() else np.zeros(3)
    macro = of_types.mean(axis=0) if len(types) else np.zeros(3)
    scores = np.vstack([of_types, _ratios(table.sum(axis=0, keepdims=True)), macro, weighted])
    report = pd.DataFrame(scores, [kind or "_" for kind in types] + list(AVERAGES), ["precision", "recall", "f1"])
    total = np.concatenate([support, np.repeat(support.sum(), 3)])
    return report.assign(support=total if sample_weight is not None else total.astype(np.int64))


def micro_f1(counts: dict[str, np.ndarray]) -> float:
    """Compute the F1 of all entities from the result of `count_entities`."""
    total = np.sum(list(counts.values()), axis=0) if counts else np.zeros(3)
    return float(_ratios(total[None])[0, 2])


def _ratios(counts: np.ndarray) -> np.ndarray:
    """Return precision, recall and F1 of numbers of right, predicted and true entities, (n, 3) -> (n, 3)."""
    right, predicted, true = counts.T
    denominators = np.stack([predicted, true, (predicted + true) / 2], axis=1)
    return np.divide(right[:, None], denominators, out=np.zeros_like(denominators), where=denominators > 0)


def count_entities(
    y_true: Iterable[Sequence[Any]],
    y_pred: Rows,
    strict: bool = False,
    scheme: str | None = None,
    sample_weight: Sequence[float] | np.ndarray | None = None,
    names: tuple[str, str] = ("y_true", "y_pred"),
) -> dict[str, np.ndarray]:
    """Count the correct, the predicted and the true entities of each type, (3,) float; see `entity_f1`.

    `names` are what messages call y_true and y_pred.
    """
    if scheme is not None:
        get_scheme(scheme)
    true = [list(row) if not isinstance(row, str) else row for row in y_true]
    predicted = _rows_of_table(y_pred, len(true), names[1]) if isinstance(y_pred, pd.DataFrame) else list(y_pred)
    if len(true) != len(predicted):
        raise ValueError(f"{names[0]} has {len(true)} sentences, but {names[1]} {len(predicted)}.")
    weights = [1.0] * len(true) if sample_weight is None else sample_weight
    if len(weights) != len(true):
        raise ValueError(f"sample_weight has {len(weights)} values for {len(true)} sentences.")
    if strict and scheme is None:
        prefixes = [
            {split_tag(tag)[0] for row in rows for tag in row if isinstance(tag, str)} for rows in (true, predicted)
        ]
        scheme = scheme_of_prefixes(prefixes[0] if prefixes[0] - {"O"} else prefixes[1]).name
    spans = [_read_rows(rows, strict, scheme, name) for rows, name in ((true, names[0]), (predicted, names[1]))]
    _check_lengths(true, predicted, spans, names, isinstance(y_pred, pd.DataFrame))
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for weight, have, got in zip(weights, *spans, strict=True):
        for column, of_sentence in enumerate((have & got, got, have)):
            for _, _, kind in of_sentence:
                counts[kind][column] += weight
    return dict(counts)


def _check_lengths(
    true: list[Any], predicted: list[Any], spans: list[list[set[Span]]], names: tuple[str, str], is_table: bool
) -> None:
    """Check that rows of tags are equally long, and that spans lie within the tags that they are compared with."""
    are_tags = (all(map(_are_tags, true)), all(map(_are_tags, predicted)) and not is_table)
    for i, rows in enumerate(zip(true, predicted, strict=True)):
        if all(are_tags) and len(rows[0]) != len(rows[1]):
            raise ValueError(f"sentence {i} has {len(rows[0])} tags in {names[0]}, but {len(rows[1])} in {names[1]}.")
        if are_tags[0] == are_tags[1]:
            continue
        tags, others = (0, 1) if are_tags[0] else (1, 0)
        beyond = [span for span in spans[others][i] if span[1] > len(rows[tags])]
        if beyond:
            raise ValueError(
                f"sentence {i} has the span {min(beyond)} in {names[others]}, but {len(rows[tags])} tags in "
                f"{names[tags]}. If spans count characters, compare them with those of XLMRXLTagger.predict_spans."
            )


def _are_tags(row: Sequence[Any]) -> bool:
    """Whether a row is tags, or empty, and not spans."""
    return not any(isinstance(item, SPAN_TYPES) for item in row)


def _read_rows(rows: list[Any], strict: bool, scheme: str | None, name: str) -> list[set[Span]]:
    """Return the entities of rows of tags, or of spans."""
    for i, row in enumerate(rows):
        if isinstance(row, str):
            raise TypeError(
                f"{name}, sentence {i} is a str, not a list of tags. Put the tags of each sentence into a list."
            )
    names = [f"sentence {i}" for i in range(len(rows))]
    if any(not _are_tags(row) for row in rows):
        return _read_spans(rows, name, names)
    for i, row in enumerate(rows):
        odd = next((tag for tag in row if not isinstance(tag, str)), None)
        if odd is not None:
            raise TypeError(f"{name}, sentence {i}: {odd!r:.60} is a {type(odd).__name__}, not a tag.")
    parts = read_tags(rows, scheme, name=name, names=names)
    if strict and scheme is not None:
        of_scheme = get_scheme(scheme)
        return [set(strict_spans(row, of_scheme)) for row in parts]
    return [set(lenient_spans(row)) for row in parts]


def _read_spans(rows: list[Any], name: str, names: list[str]) -> list[set[Span]]:
    spans, problems = [], []
    for i, row in enumerate(rows):
        try:
            spans.append({read_span(item)[:3] for item in row})
        except (TypeError, ValueError) as error:
            problems.append((name_rows(names, i), str(error)))
    if problems:
        raise_for_rows(name, problems, len(rows), "", error=TypeError)
    return spans


def _rows_of_table(table: pd.DataFrame, n_rows: int, name: str) -> list[list[tuple]]:
    """Return the spans of each row from the result of `predict_spans`."""
    missing = [column for column in ("row", "start", "end", "label") if column not in table]
    if missing:
        raise ValueError(
            f"{name} is a DataFrame without the columns {', '.join(missing)}, which predict_spans gives. Pass a column "
            f"of tags or of spans, or that table."
        )
    rows: list[list[tuple]] = [[] for _ in range(n_rows)]
    for row, start, end, label in zip(table.row, table.start, table.end, table.label, strict=True):
        if not 0 <= row < n_rows:
            raise ValueError(f"{name} has spans of row {row}, but there are {n_rows} sentences.")
        rows[row].append((start, end, label))
    return rows
