"""The command `evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skxlmr.cli.columns import (
    add_table_options,
    delimiter_of,
    features_of,
    kind_of,
    label_columns,
    labels_of,
    text_columns,
)
from skxlmr.cli.loading import load_model
from skxlmr.cli.parameters import add_parameter_options
from skxlmr.cli.parsing import UsageError, add_command
from skxlmr.cli.tables import read_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Scores = dict[str, float]


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a trained model on a table with the right labels",
        "Prints the scores of all rows, of each class or kind of entity, and with --group-column those of each group.",
        [
            "skxlmr evaluate sentiment test.csv",
            "skxlmr evaluate sentiment test.csv --label-column topic --group-column language",
            "skxlmr evaluate tagger test.conll --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="a directory that `skxlmr train` or save wrote, or a checkpoint")
    add_table_options(parser)
    parser.add_argument(
        "--label-column", action="append", metavar="NAME", help="the column of labels; several for several outputs"
    )
    parser.add_argument("--label-separator", metavar="TEXT", help="what separates several labels in one cell")
    parser.add_argument("--group-column", metavar="NAME", help="a column, such as language, whose groups are scored")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_parameter_options(parser)


def _evaluate(arguments: argparse.Namespace) -> None:
    estimator, _ = load_model(arguments)
    kind = kind_of(estimator)
    if not kind.score:
        raise UsageError(f"A {type(estimator).__name__} has no labels by which it could be scored.")
    table = read_table(arguments.inputs, arguments.input_format, delimiter_of(arguments.delimiter))
    X = features_of(
        table,
        text_columns(table, arguments.text_column, estimator, kind),
        kind,
        getattr(estimator, "missing", "error"),
    )
    labels = label_columns(table, arguments.label_column, kind)
    y = labels_of(table, labels, estimator, arguments.label_separator)
    report: dict[str, Any] = {"rows": len(table)}
    if arguments.group_column is not None:
        table.require([arguments.group_column])
    groups = None if arguments.group_column is None else table.column(arguments.group_column)
    report |= evaluation(estimator, X, y, groups)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_report(report, arguments.group_column)


def evaluation(estimator: Any, X: Any, y: Any, groups: Sequence[Any] | None = None) -> dict[str, Any]:
    """Return the scores of a fitted estimator.

    Returns
    -------
    dict
        scores: a dict of numbers by names. by_class, of a classifier or tagger: such a dict by the name of each class.
        by_group, if there are groups: by the name of each group its rows and scores.
    """
    name = next(cls.__name__ for cls in type(estimator).__mro__ if cls.__name__ in EVALUATIONS)
    score, by_class = EVALUATIONS[name](estimator, X, y)
    report: dict[str, Any] = {"scores": score(slice(None))}
    if by_class is not None:
        report["by_class"] = by_class
    if groups is not None:
        rows_of: dict[str, list[int]] = {}
        for row, group in enumerate(groups):
            rows_of.setdefault("" if group is None else str(group), []).append(row)
        report["by_group"] = {group: {"rows": len(rows), **score(rows)} for group, rows in sorted(rows_of.items())}
    return report


def _of_classifier(clf: Any, X: Any, y: Any) -> tuple[Any, dict[str, Scores]]:
    from sklearn.metrics import accuracy_score, f1_score

    true, predicted, names = _as_metrics_take(clf, y, clf.predict(X))

    def score(rows: Any) -> Scores:
        f1 = f1_score(true[rows], predicted[rows], average="macro", zero_division=0.0)
        return {"accuracy": float(accuracy_score(true[rows], predicted[rows])), "f1_macro": float(f1)}

    return score, _by_class(true, predicted, names)


def _as_metrics_take(clf: Any, y: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Return true and predicted labels as arrays, and the names of the columns of an indicator or None.

    Labels are compared as texts, since a file may have other types than the table that the classifier was fitted on.
    """
    import numpy as np
    from sklearn.preprocessing import MultiLabelBinarizer

    if clf.multilabel_ is None:
        return np.array([str(label) for label in y]), predicted.astype(str), None
    names = [str(label) for label in clf.classes_]
    if clf.multilabel_ == "indicator":
        true = y.to_numpy() if y.ndim == 2 else np.array(y.tolist())
        return true.astype(int), predicted, names
    sets = [{str(label) for label in ([row] if isinstance(row, str) else row)} for row in y]
    binarizer = MultiLabelBinarizer(classes=sorted(set(names).union(*sets)))
    found = [{str(label) for label in row} for row in predicted]
    return binarizer.fit_transform(sets), binarizer.transform(found), list(binarizer.classes_)


def _by_class(true: np.ndarray, predicted: np.ndarray, names: list[str] | None) -> dict[str, Scores]:
    from sklearn.metrics import classification_report

    named: dict[str, Any] = {} if names is None else {"target_names": names}
    report = classification_report(true, predicted, output_dict=True, zero_division=0.0, **named)
    report.pop("accuracy", None)  # it is no class, and among the scores
    return {
        label: {"precision": s["precision"], "recall": s["recall"], "f1": s["f1-score"], "support": int(s["support"])}
        for label, s in report.items()
    }


def _of_regressor(reg: Any, X: Any, y: Any) -> tuple[Any, None]:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    true, predicted = y.to_numpy(), reg.predict(X)

    def score(rows: Any) -> Scores:
        of_rows = true[rows], predicted[rows]
        scores = {"r2": r2_score(*of_rows)} if len(of_rows[0]) > 1 else {}
        scores |= {"mae": mean_absolute_error(*of_rows), "rmse": root_mean_squared_error(*of_rows)}
        return {name: float(value) for name, value in scores.items()}

    return score, None


def _of_tagger(tagger: Any, X: Any, y: Any) -> tuple[Any, dict[str, Scores] | None]:
    def score(rows: Any) -> Scores:
        metric = "accuracy" if tagger.scheme_ == "plain" else "f1"
        return {metric: float(tagger.score(X.iloc[rows], y.iloc[rows]))}

    if tagger.scheme_ == "plain":
        return score, None
    report: pd.DataFrame = tagger.entity_report(X, y)
    return score, {str(name): _numbers(row) for name, row in report.to_dict("index").items()}


def _numbers(row: dict[Any, Any]) -> Scores:
    return {str(name): int(value) if name == "support" else float(value) for name, value in row.items()}


def _of_answers(qa: Any, X: Any, y: Any) -> tuple[Any, None]:
    return lambda rows: {name: float(value) for name, value in qa.metrics(X.iloc[rows], y.iloc[rows]).items()}, None


def _of_choices(chooser: Any, X: Any, y: Any) -> tuple[Any, None]:
    return lambda rows: {"accuracy": float(chooser.score(X.iloc[rows], y.iloc[rows]))}, None


# Each returns a function from rows to scores, and the scores of each class or None.
EVALUATIONS = {
    "XLMRXLClassifier": _of_classifier,
    "XLMRXLRegressor": _of_regressor,
    "XLMRXLTagger": _of_tagger,
    "XLMRXLQA": _of_answers,
    "XLMRXLMultipleChoice": _of_choices,
}


def print_report(report: dict[str, Any], group_column: str | None = None) -> None:
    """Print scores as tables."""
    print("  ".join([f"rows {report['rows']:,}", *(f"{name} {value:.4f}" for name, value in report["scores"].items())]))
    for key, title in (("by_class", "class"), ("by_group", group_column or "group")):
        if key in report:
            print()
            _print_table(report[key], title)


def _print_table(rows: dict[str, dict[str, float]], title: str) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(len(title), *map(len, rows))
    print(title.ljust(width) + "".join(name.rjust(11) for name in names))
    for label, row in rows.items():
        cells = [_shown(row[name]) if name in row else "" for name in names]
        print(label.ljust(width) + "".join(cell.rjust(11) for cell in cells))


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
