"""The command `train`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skxlmr.cli.columns import (
    Kind,
    add_table_options,
    delimiter_of,
    features_of,
    kind_of,
    label_columns,
    labels_of,
    text_columns,
)
from skxlmr.cli.parameters import add_parameter_options, parameters_of, set_parameters
from skxlmr.cli.parsing import CommandParser, UsageError, add_command, did_you_mean
from skxlmr.cli.tables import Block, read_table

if TYPE_CHECKING:
    from skxlmr.estimators.base import XLMRXLEstimator

TASKS = {
    "classify": "XLMRXLClassifier",
    "regress": "XLMRXLRegressor",
    "tag": "XLMRXLTagger",
    "answer": "XLMRXLQA",
    "choose": "XLMRXLMultipleChoice",
    "embed": "XLMRXLEmbedder",
    "mask": "XLMRXLMaskedLM",
    "generate": "XLMRXLGenerator",
}


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "train",
        _train,
        "train a model on a table of texts and labels, and save it",
        "The columns are text and label, unless others are named; for --task tag, tokens and tags, or text and spans; "
        "for --task answer, question, context and answers.",
        [
            "skxlmr train reviews.csv --model e5-small --output sentiment",
            "skxlmr train a.csv b.csv --text-column body --label-column topic --output topics --test test.csv",
            "skxlmr train pairs.jsonl --text-column premise --text-column hypothesis --output nli",
            "skxlmr train ner.conll --task tag --output tagger --param max_epochs=5 --param tuning__rank=16",
            "skxlmr train squad.json --task answer --output qa --validation-fraction 0.1",
        ],
    )
    add_table_options(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the directory for the trained model")
    parser.add_argument("--force", action="store_true", help="replace a model that is already in DIR")
    parser.add_argument(
        "--task", default="classify", metavar="TASK", help=f"{', '.join(TASKS)}, or an estimator; default: %(default)s"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the base model: a name on the hub or a directory; e5-small and nano are small ones. Default: "
        "facebook/xlm-roberta-xl, a download of 7 GB",
    )
    parser.add_argument(
        "--label-column", action="append", metavar="NAME", help="the column of labels; several for several outputs"
    )
    parser.add_argument(
        "--label-separator", metavar="TEXT", help="what separates several labels in one cell, such as ;"
    )
    _add_validation_options(parser)
    add_parameter_options(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_validation_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--validation-fraction",
        metavar="FRACTION",
        help="set this share of the rows aside, stop when their score no longer improves, and print it",
    )
    parser.add_argument("--validation", metavar="FILE", help="a table of rows to score after each epoch")
    parser.add_argument("--test", metavar="FILE", help="a table of rows to score at the end")


class Training(NamedTuple):
    """What a table is trained with: an estimator with its parameters, and the columns."""

    estimator: XLMRXLEstimator
    kind: Kind
    texts: list[str]
    labels: list[str]
    separator: str | None

    def data(self, block: Block) -> tuple[Any, Any]:
        """Return X and y of a table; y is None if there are no labels."""
        block.require([*self.texts, *self.labels])
        X = features_of(block, self.texts, self.kind, getattr(self.estimator, "missing", "error"))
        return X, labels_of(block, self.labels, self.estimator, self.separator) if self.labels else None


def _train(arguments: argparse.Namespace) -> None:
    estimator = _new_estimator(arguments)
    kind = kind_of(estimator)
    if not kind.requires_labels and (arguments.validation or arguments.test):
        raise UsageError(f"--task {arguments.task} has no labels by which --validation and --test could be scored.")
    _check_target(arguments.output, arguments.force)
    delimiter = delimiter_of(arguments.delimiter)
    table = read_table(arguments.inputs, arguments.input_format, delimiter)
    training = Training(
        estimator,
        kind,
        text_columns(table, arguments.text_column, None, kind),
        label_columns(table, arguments.label_column, kind),
        arguments.label_separator,
    )
    X, y = training.data(table)
    validation, test = (
        None if path is None else training.data(read_table([path], None, delimiter))
        for path in (arguments.validation, arguments.test)
    )
    _fit(training, X, y, validation)
    estimator.save(arguments.output)
    _print_summary(arguments, training, len(table), test)


def _fit(training: Training, X: Any, y: Any, validation: tuple[Any, Any] | None) -> None:
    settings: dict[str, Any] = {}
    if validation is not None:
        settings = {"X_val": validation[0], "y_val": validation[1]}
    fit: Any = training.estimator.fit
    if y is None:
        fit(X, **settings)
    else:
        fit(X, y, **settings)


def estimator_class(task: str) -> type[XLMRXLEstimator]:
    """Return the estimator of a task, or of a name.

    Raises
    ------
    UsageError
        If there is none; the message suggests one.
    """
    from skxlmr.estimators.base import estimators

    known = estimators()
    name = TASKS.get(task, task)
    if name not in known:
        names = [*TASKS, *TASKS.values()]
        hint = f"{did_you_mean(task, names)} Tasks: {', '.join(TASKS)}.".lstrip()
        raise UsageError(f"--task {task} is not a task. {hint}")
    return known[name]


def _new_estimator(arguments: argparse.Namespace) -> XLMRXLEstimator:
    estimator = estimator_class(arguments.task)()
    fraction = arguments.validation_fraction
    given = parameters_of(
        arguments,
        model=arguments.model,
        validation_fraction=fraction,
        early_stopping=None if fraction is None else "true",
    )
    set_parameters(estimator, {"verbose": 0 if arguments.quiet else 1, **given})
    return estimator


def _check_target(directory: str, force: bool) -> None:
    """Raise an error before the training if its result could not be saved."""
    path = Path(directory).expanduser()
    if path.is_dir() and not force and any(path.iterdir()):
        raise FileExistsError(f"{path} is there already. Choose another --output, or replace it with --force.")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file. Choose another --output.")
    if not os.access(next(each for each in path.absolute().parents if each.exists()), os.W_OK):
        raise PermissionError(f"{path} cannot be made: its folder is not writable. Choose another --output.")


def _print_summary(arguments: argparse.Namespace, training: Training, n_rows: int, test: Any) -> None:
    estimator: Any = training.estimator
    summary: dict[str, Any] = {
        "directory": arguments.output,
        "estimator": type(estimator).__name__,
        "model": str(estimator.model),
        "rows": n_rows,
        "text_columns": training.texts,
        "label_columns": training.labels,
        "epochs": getattr(estimator, "n_iter_", 0),
    }
    score = training.kind.score or "minus the loss"
    if getattr(estimator, "best_validation_score_", None) is not None:
        summary["validation_score"] = float(estimator.best_validation_score_)
    if test is not None:
        summary |= {"test_score": float(estimator.score(*test)), "test_rows": len(test[0])}
    if arguments.json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    print(
        f"{summary['directory']}: {summary['estimator']} of {summary['model']}, fitted on {n_rows:,} rows in "
        f"{summary['epochs']} epochs"
    )
    if "validation_score" in summary:
        of = "" if estimator.scoring is None else f" {estimator.scoring}"
        print(f"validation score ({of.strip() or score}): {summary['validation_score']:.4f}")
    if test is not None:
        print(f"test score ({score}): {summary['test_score']:.4f}, on {summary['test_rows']:,} rows")
