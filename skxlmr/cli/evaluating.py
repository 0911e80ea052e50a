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

TABLES = ("summary", "by_class", "by_group", "by_length", "confusion", "calibration", "worst")


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a trained model on a table with the right labels",
        "Prints the scores of all rows, of each class or kind of entity, of short and long texts, and with --group-column of "
        "each group; which labels are taken for which; and the worst errors with their texts. See skxlmr.inspection.report.",
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
    """Print the accuracy of a model for multiple choice, for which there is no report."""
    import pandas as pd

    right = pd.Series(chooser.predict(X) == y.to_numpy())
    scores: dict[str, Any] = {"summary": {"rows": len(right), "accuracy": float(right.mean())}}
    if groups is not None:
        by_group = right.groupby(pd.Series(groups, dtype=object).fillna("(missing)").astype(str))
        table = pd.DataFrame({"rows": by_group.size(), "accuracy": by_group.mean()})
        scores["by_group"] = records(table, "group")
    if as_json:
        print(json.dumps(scores, ensure_ascii=False))
        return
    print(f"{type(chooser).__name__}: {len(right):,} rows\n\naccuracy {right.mean():.3f}")
    if groups is not None:
        print(f"\nBy group\n{table.to_string(float_format='{:.3f}'.format)}")


def as_json(report: Report) -> dict[str, Any]:
    """Return the tables of a report as lists of objects; null for those that it does not have."""
    return {name: None if (table := getattr(report, name)) is None else records(table, name) for name in TABLES}


def records(table: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table as objects; that of the index is called as it is, or else by the name of the table."""
    named = table.rename_axis(index=table.index.name or name.removeprefix("by_"), columns=None)
    rows = named.reset_index().to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.tolist() if hasattr(value, "tolist") else str(value)
