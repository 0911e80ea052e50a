"""The command `evaluate`."""

from __future__ import annotations

import argparse
import json
import math
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
    import pandas as pd

    from skxlmr.inspection import Report

# The tables of a report, and the name of the index in JSON; None if the index only counts the rows.
TABLES = {
    "summary": None,
    "by_class": "class",
    "by_group": "group",
    "by_length": "length",
    "confusion": "true",
    "calibration": None,
    "worst": "place",
}


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a trained model on a table with the right labels",
        "Prints the scores of all rows, of each class or kind of entity, of short and long texts, and with "
        "--group-column of each group; which labels are taken for which; and the worst errors with their texts, as "
        "skxlmr.inspection.report does.",
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
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="errors to list; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_parameter_options(parser)


def _evaluate(arguments: argparse.Namespace) -> None:
    estimator, _ = load_model(arguments)
    kind = kind_of(estimator)
    if not kind.score:
        raise UsageError(f"A {type(estimator).__name__} has no labels by which it could be scored.")
    table = read_table(arguments.inputs, arguments.input_format, delimiter_of(arguments.delimiter))
    names = text_columns(table, arguments.text_column, estimator, kind)
    X = features_of(table, names, kind, getattr(estimator, "missing", "error"))
    y = labels_of(table, label_columns(table, arguments.label_column, kind), estimator, arguments.label_separator)
    groups = None
    if arguments.group_column is not None:
        table.require([arguments.group_column])
        groups = table.column(arguments.group_column)
    if type(estimator).__name__ == "XLMRXLMultipleChoice":
        _print_accuracy(estimator, X, y, groups, arguments.json)
        return
    from skxlmr.inspection import report

    found = report(estimator, X, y, groups, n_worst=arguments.worst)
    print(json.dumps(as_json(found), ensure_ascii=False) if arguments.json else found)


def _print_accuracy(chooser: Any, X: Any, y: Any, groups: list | None, as_json: bool) -> None:
    """Print the accuracy of a model for multiple choice, which `skxlmr.inspection.report` does not take."""
    import pandas as pd

    scores: dict[str, Any] = {"summary": [{"n": len(X), "accuracy": chooser.score(X, y)}]}
    if groups is not None:
        rows_of = pd.Series(range(len(X))).groupby(pd.Series(groups).fillna("(missing)").astype(str))
        scores["by_group"] = [
            {"group": group, "n": len(rows), "accuracy": chooser.score(X.iloc[rows.to_list()], y.iloc[rows.to_list()])}
            for group, rows in rows_of
        ]
    if as_json:
        print(json.dumps(scores, ensure_ascii=False))
        return
    print(f"{type(chooser).__name__}: {len(X):,} rows")
    for table in scores.values():
        print(f"\n{pd.DataFrame(table).to_string(index=False, float_format='{:.3f}'.format)}")


def as_json(report: Report) -> dict[str, Any]:
    """Return the tables of a report as lists of objects; null for those that it does not have."""
    return {
        name: None if (table := getattr(report, name)) is None else records(table, index)
        for name, index in TABLES.items()
    }


def records(table: pd.DataFrame, index: str | None) -> list[dict[str, Any]]:
    """Return the rows of a table as objects, with the value of the index under its name, or else `index` if any."""
    table = table.rename_axis(columns=None)
    table = table.reset_index(drop=True) if index is None else table.reset_index(names=str(table.index.name or index))
    return [{str(key): _plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.tolist() if hasattr(value, "tolist") else str(value)
