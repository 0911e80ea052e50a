"""The commands `predict` and `embed`, which add columns to a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skxlmr.cli.columns import add_table_options, delimiter_of, kind_of, text_columns, with_lists
from skxlmr.cli.loading import ROWS_FAILED, load_model
from skxlmr.cli.parameters import parameters_of, set_parameters
from skxlmr.cli.parsing import CommandParser, UsageError, add_command
from skxlmr.cli.streaming import Failures, RowCount, add_output_options, check_output, first_of
from skxlmr.cli.tables import Block, read_blocks

if TYPE_CHECKING:
    from skxlmr.estimators.base import XLMRXLEstimator
    from skxlmr.scale.outputs import Column

ERROR = "error"  # the column of errors
OF_PARTS = ("engine", "resume", "rows_per_part", "workers", "id_column")  # options; None if they are not given


def add_commands(commands: Any) -> None:
    """Add the commands."""
    _add_predict(commands)
    _add_embed(commands)


def _add_predict(commands: Any) -> None:
    parser = add_command(
        commands,
        "predict",
        _predict,
        "predict the rows of a table",
        "Prints the table with these columns added: prediction (or proba_LABEL, ..., by --method), and error, which is "
        "empty where a row was predicted. Exits with 3 if rows have an error. With --output-dir the predictions of "
        "large files are written in parts, as Parquet, and a run that was killed can be resumed; this needs the extra: "
        "pip install 'skxlmr[scale]'.",
        [
            "skxlmr predict sentiment new.csv > predicted.csv",
            "skxlmr predict sentiment new.parquet --output predicted.parquet --method predict_proba",
            "cat new.jsonl | skxlmr predict sentiment --text-column body --json",
            "echo 'A lovely film.' | skxlmr predict sentiment --input-format text",
            "skxlmr predict sentiment logs/*.parquet --output-dir predicted --id-column id --resume",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="a directory that `skxlmr train` or save wrote, or a checkpoint")
    add_table_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--method",
        default="predict",
        metavar="METHOD",
        help="a method of the estimator: predict, predict_proba, predict_log_proba, decision_function, transform, "
        "...; default: %(default)s",
    )
    _add_part_options(parser)


def _add_embed(commands: Any) -> None:
    parser = add_command(
        commands,
        "embed",
        _embed,
        "turn the texts of a table into vectors",
        "Prints the table with these columns added: vector, a list (in CSV vector_0, vector_1, ...), and error. MODEL "
        "is an embedder that save wrote, or a base model.",
        [
            "skxlmr embed e5-small documents.csv --output vectors.parquet",
            "skxlmr embed e5-small queries.txt --param 'prompt=query: ' --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="a base model such as e5-small, or a directory of an embedder")
    add_table_options(parser)
    add_output_options(parser)
    _add_part_options(parser)
    parser.set_defaults(method="transform")


def _add_part_options(parser: CommandParser) -> None:
    parts = parser.add_argument_group("large files, in parts")
    parts.add_argument("--output-dir", metavar="DIR", help="a folder for the predictions, as files of Parquet")
    parts.add_argument(
        "--resume", action="store_true", default=None, help="continue an earlier run in DIR, if there is one"
    )
    parts.add_argument("--id-column", metavar="NAME", help="the column of ids; default: id")
    parts.add_argument("--rows-per-part", type=int, metavar="N", help="rows written at once; default: 4096")
    parts.add_argument("--engine", metavar="ENGINE", help="local or ray; default: local")
    parts.add_argument("--workers", type=int, metavar="N", help="actors of the engine ray; default: what fits")


def _predict(arguments: argparse.Namespace) -> int:
    estimator, parameters = load_model(arguments)
    return _run(arguments, estimator, arguments.model, parameters)


def _embed(arguments: argparse.Namespace) -> int:
    from skxlmr.saving.estimators import NAME

    if (Path(arguments.model).expanduser() / NAME).is_file():
        estimator, parameters = load_model(arguments)
        return _run(arguments, estimator, arguments.model, parameters)
    embedder = new_embedder(arguments)
    return _run(arguments, embedder, embedder, {})


def new_embedder(arguments: argparse.Namespace) -> XLMRXLEstimator:
    """Return an embedder of a base model.

    Raises
    ------
    UsageError
        If it would have to be trained first.
    """
    from skxlmr.estimators.embedder import XLMRXLEmbedder

    embedder = XLMRXLEmbedder()
    set_parameters(embedder, parameters_of(arguments, model=arguments.model))
    for name in ("objective", "n_components"):
        if getattr(embedder, name) is not None:
            raise UsageError(f"{name} is learned from data: train an embedder first, by `skxlmr train --task embed`.")
    return embedder.fit(["a"])


def _run(arguments: argparse.Namespace, estimator: Any, source: Any, parameters: dict[str, Any]) -> int:
    """Predict with an estimator, which in other processes is read from `source` with `parameters`."""
    if arguments.output_dir is not None:
        return _in_parts(arguments, estimator, source, parameters)
    for name in OF_PARTS:
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for --output-dir only.")
    return _in_blocks(arguments, estimator, source, parameters)


def _in_parts(arguments: argparse.Namespace, estimator: Any, source: Any, parameters: dict[str, Any]) -> int:
    from skxlmr.scale.dataset import predict_dataset

    for name in ("output", "output_format", "keep", "input_format", "delimiter"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} does not go with --output-dir.")
    if not arguments.inputs or "-" in arguments.inputs:
        raise UsageError("--output-dir reads files, or folders of them, and not standard input: name them.")
    fitted = getattr(estimator, "feature_names_in_", kind_of(estimator).texts[0])
    columns = arguments.text_column or list(fitted)
    given = {name: value for name in OF_PARTS if (value := getattr(arguments, name)) is not None}
    manifest = predict_dataset(
        source,
        arguments.inputs,
        arguments.output_dir,
        column=columns[0] if len(columns) == 1 else columns,
        method=arguments.method,
        parameters=parameters,
        verbose=0 if arguments.quiet else 1,
        **{"resume": False, **given},
    )
    print(manifest)
    return 0 if manifest.complete else ROWS_FAILED


def _in_blocks(arguments: argparse.Namespace, estimator: Any, source: Any, parameters: dict[str, Any]) -> int:
    """Predict block after block, so that memory is bounded and the first rows come early."""
    from skxlmr.cli.writing import open_writer, output_format
    from skxlmr.scale.predictor import Predictor

    check_output(arguments)
    first, blocks = first_of(read_blocks(arguments.inputs, arguments.input_format, delimiter_of(arguments.delimiter)))
    format = output_format(arguments.output, arguments.output_format, first.format)
    names = text_columns(first, arguments.text_column, estimator, kind_of(estimator))
    if arguments.keep:
        first.require(arguments.keep)
    column = names[0] if len(names) == 1 else names
    predictor = Predictor(source, method=arguments.method, column=column, parameters=parameters)
    failures = Failures()
    with open_writer(arguments.output, format) as writer, RowCount(arguments.quiet) as count:
        for block in blocks:
            results, errors = predictor.predict_columns(_cells(block, names, estimator))
            kept = {name: block.column(name) for name in arguments.keep or block.columns}
            _check_names(block, kept, [*results, ERROR])
            added = {name: plain(result, format) for name, result in results.items()}
            writer.write({**kept, **added, ERROR: errors}, block.places)
            failures.add(block.places, errors)
            count.add(len(block))
    return failures.report()


def _check_names(block: Block, kept: dict[str, list], added: Sequence[str]) -> None:
    for name in added:
        if name in kept:
            raise ValueError(
                f"{block.file} has already a column {name!r}. Choose the columns to write, too, with --keep."
            )


def _cells(block: Block, names: Sequence[str], estimator: Any) -> list[list]:
    if kind_of(estimator).of_texts:
        return [block.column(name) for name in names]
    return [with_lists(block, name) for name in names]


def plain(column: Column, format: str) -> Any:
    """Return results as a list of values of Python, None where a row failed; for CSV, vectors as a matrix.

    Numbers in single precision are those with the fewest digits that round to them.
    """
    import numpy as np

    values = column.values
    if values.dtype == np.float32:
        values = values.astype(str).astype(np.float64)
    if values.ndim == 2 and format in ("csv", "tsv"):
        rows = np.full((len(column.predicted), values.shape[1]), np.nan)
        rows[column.predicted] = values
        return rows
    items = iter([_plain(value) for value in values] if values.dtype == object else values.tolist())
    return [next(items) if predicted else None for predicted in column.predicted.tolist()]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
