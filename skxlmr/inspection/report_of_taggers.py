"""The tables of a report on a tagger."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from skxlmr.columns import as_objects
from skxlmr.estimators.tagger import XLMRXLTagger
from skxlmr.inspection.arguments import distinct
from skxlmr.inspection.calibration import calibration_table, expected_calibration_error
from skxlmr.inspection.tables import ReportRows, confusion_table
from skxlmr.metrics import entity_report, strict_entity_spans

NONE = "(none)"  # what a missed entity is taken for, and a spurious one is
Span = tuple[int, int, str]


def tables_of_tagger(tagger: XLMRXLTagger, X: Any, y: Any, rows: ReportRows) -> dict[str, pd.DataFrame | None]:
    """Return the tables of a report, by the names of its attributes; entities are scored strictly."""
    column, task = tagger._check_fitted_column(X), tagger._task()
    true = task.check_tags(y, column)
    both = tagger._run(
        column,
        lambda outputs, plan: as_objects([*zip(task.tags(outputs, plan), task.spans(outputs, plan), strict=True)]),
    )
    predicted, spans = [tags for tags, _ in both], [found for _, found in both]
    marked = (
        _plain_spans(true) if tagger.scheme_ == "plain" else [set(strict_entity_spans(r, tagger.scheme_)) for r in true]
    )
    found = [{(start, end, kind): score for start, end, kind, score in of_row} for of_row in spans]

    def scores(positions: np.ndarray) -> dict[str, float]:
        return _scores([true[i] for i in positions], [predicted[i] for i in positions], tagger.scheme_)

    every = np.arange(len(true))
    confidence = [(score, span in have) for have, got in zip(marked, found, strict=True) for span, score in got.items()]
    values = np.array(confidence, np.float64).reshape(-1, 2)
    calibration = calibration_table(values[:, 0], values[:, 1], rows.n_bins)
    summary = {"n": len(true), **scores(every), "calibration_error": expected_calibration_error(calibration)}
    return {
        "summary": pd.DataFrame([summary], index=["all rows"]),
        "by_class": _by_entity(true, predicted, tagger.scheme_),
        "by_group": rows.by_group(scores),
        "by_length": rows.by_length(scores),
        "confusion": _confusion_of_tags(true, predicted) if tagger.scheme_ == "plain" else _confusion(marked, found),
        "worst": _worst(marked, found, rows, [list(tokens) for tokens in column.texts]),
        "calibration": calibration,
    }


def _plain_spans(rows: list[list[str]]) -> list[set[Span]]:
    return [{(i, i + 1, tag) for i, tag in enumerate(tags) if tag != "O"} for tags in rows]


def _scores(true: list[list[str]], predicted: list[list[str]], scheme: str) -> dict[str, float]:
    """Return the scores of some sentences: of all their entities, or of their tokens if tags have no scheme."""
    if scheme == "plain":
        of_tokens = [list(chain.from_iterable(rows)) for rows in (true, predicted)]
        n_tokens = len(of_tokens[0])
        return {"tokens": n_tokens, "accuracy": float(accuracy_score(*of_tokens)) if n_tokens else float("nan")}
    scores = entity_report(true, predicted, strict=True, scheme=scheme).loc["micro avg"].to_dict()
    return {"entities": int(scores["support"]), **{name: scores[name] for name in ("precision", "recall", "f1")}}


def _by_entity(true: list[list[str]], predicted: list[list[str]], scheme: str) -> pd.DataFrame:
    """Return precision, recall, F1 and support of each type of entity, or of each tag, and their averages."""
    if scheme != "plain":
        return entity_report(true, predicted, strict=True, scheme=scheme).rename_axis("entity")
    flat = [list(chain.from_iterable(rows)) for rows in (true, predicted)]
    tags = sorted({*flat[0], *flat[1]})
    table = {
        tag: scores
        for tag, *scores in zip(
            tags, *precision_recall_fscore_support(*flat, labels=tags, zero_division=0), strict=True
        )
    }
    for average in ("macro", "weighted"):
        scores = precision_recall_fscore_support(*flat, labels=tags, average=average, zero_division=0)
        table[f"{average} avg"] = [*scores[:3], len(flat[0])]
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["precision", "recall", "f1", "support"])
    return frame.astype({"support": np.int64}).rename_axis("tag")


def _confusion(true: list[set[Span]], predicted: list[dict[Span, float]]) -> pd.DataFrame:
    """Count the spans of each true type by the predicted one; "(none)" where the other side has no such span."""
    pairs = []
    for have, got in zip(true, predicted, strict=True):
        have_types, got_types = ({span[:2]: span[2] for span in spans} for spans in (have, got))
        pairs += [(have_types.get(at, NONE), got_types.get(at, NONE)) for at in have_types.keys() | got_types.keys()]
    names = [*distinct({name for pair in pairs for name in pair} - {NONE}), NONE]
    counts = confusion_matrix(*zip(*pairs, strict=True), labels=names) if pairs else np.zeros((1, 1), np.int64)
    return confusion_table(counts, names)


def _confusion_of_tags(true: list[list[str]], predicted: list[list[str]]) -> pd.DataFrame:
    """Count the tokens of each true tag by the predicted one."""
    flat = [list(chain.from_iterable(rows)) for rows in (true, predicted)]
    names = sorted({*flat[0], *flat[1]})
    return confusion_table(confusion_matrix(*flat, labels=names), names)


def _worst(
    true: list[set[Span]], predicted: list[dict[Span, float]], rows: ReportRows, tokens: list[list[str]]
) -> pd.DataFrame:
    """Return the sentences with the most missed and wrong entities."""
    missed = [sorted(have - got.keys()) for have, got in zip(true, predicted, strict=True)]
    wrong = [sorted(got.keys() - have) for have, got in zip(true, predicted, strict=True)]
    n_errors = np.array([len(a) + len(b) for a, b in zip(missed, wrong, strict=True)])

    def written(spans: list[list[Span]]) -> list[str]:
        return [
            ", ".join(f"{kind}: {' '.join(of_row[start:end])}" for start, end, kind in found)
            for found, of_row in zip(spans, tokens, strict=True)
        ]

    order = np.argsort(-n_errors, kind="stable")
    columns = {"n_errors": n_errors, "missed": written(missed), "wrong": written(wrong)}
    return rows.worst(order[n_errors[order] > 0], columns)
