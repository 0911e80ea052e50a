"""From the columns of a table to the X and y of an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skxlmr.cli.parsing import CommandParser, UsageError
from skxlmr.cli.tables import DELIMITERS, FORMATS, Block
from skxlmr.system import nested_json

if TYPE_CHECKING:
    from skxlmr.estimators.base import XLMRXLEstimator


class Kind(NamedTuple):
    """How the estimators of a task read tables.

    Attributes
    ----------
    texts : tuple of tuple of str
        The columns of texts, if none are named: the first of these that the table has.
    labels : tuple of str
        The column of labels, if none is named: the first of these that the table has. () if there are no labels.
    of_texts : bool
        Whether each cell is one text.
    requires_labels : bool
    score : str
        What `score` returns.
    """

    texts: tuple[tuple[str, ...], ...] = (("text",),)
    labels: tuple[str, ...] = ("label",)
    of_texts: bool = True
    requires_labels: bool = True
    score: str = ""


TEXT_AND_ANSWER = ("answers", "answer")
KINDS = {
    "XLMRXLClassifier": Kind(score="accuracy"),
    "XLMRXLRegressor": Kind(score="R2"),
    "XLMRXLTagger": Kind((("tokens",), ("text",)), ("tags", "spans", "label", "labels"), False, score="F1"),
    "XLMRXLQA": Kind((("question", "context"),), TEXT_AND_ANSWER, score="F1"),
    "XLMRXLMultipleChoice": Kind((("prompt", "choices"),), ("label", "answer"), False, score="accuracy"),
    "XLMRXLEmbedder": Kind(requires_labels=False),
    "XLMRXLMaskedLM": Kind(labels=(), requires_labels=False),
    "XLMRXLGenerator": Kind(labels=(), requires_labels=False),
}


def kind_of(estimator: XLMRXLEstimator) -> Kind:
    """Return how an estimator, or one of a class that inherits from ours, reads tables."""
    return next((KINDS[cls.__name__] for cls in type(estimator).__mro__ if cls.__name__ in KINDS), Kind())


def add_table_options(parser: CommandParser, several: bool = True) -> None:
    """Add the argument of files, and the options of how they are read."""
    parser.add_argument(
        "inputs",
        nargs="*" if several else "+",
        metavar="INPUT",
        help="CSV, TSV, JSON lines (.jsonl), Parquet, or text files (.txt, one text per line), perhaps gzipped (.gz); "
        "default: standard input",
    )
    parser.add_argument("--input-format", choices=FORMATS, metavar="FORMAT", help=f"{', '.join(FORMATS)}")
    parser.add_argument("--delimiter", metavar="CHARACTER", help="what separates the columns of CSV; default: ,")
    parser.add_argument(
        "--text-column",
        action="append",
        metavar="NAME",
        help="the column of texts; twice for pairs of texts. Default: those of these names that the model was fitted "
        "on, or text",
    )


def delimiter_of(text: str | None) -> str | None:
    """Return the separator of columns that a user named.

    Raises
    ------
    UsageError
        If it is not one character.
    """
    text = "\t" if text in (r"\t", "tab") else text
    if text is not None and len(text) != 1:
        raise UsageError(f"--delimiter must be one character, got {text!r}.")
    return text


def text_columns(block: Block, asked: Sequence[str] | None, estimator: XLMRXLEstimator | None, kind: Kind) -> list[str]:
    """Return the names of the columns that an estimator reads.

    Raises
    ------
    ValueError
        If the table does not have them, or it is not clear which they are.
    """
    if asked:
        block.require(asked)
        return list(asked)
    names = list(block.columns)
    fitted = getattr(estimator, "feature_names_in_", None)
    for wanted in ([] if fitted is None else [tuple(fitted)]) + list(kind.texts):
        if set(wanted) <= set(names):
            return list(wanted)
    wanted = kind.texts[0] if fitted is None else tuple(fitted)
    shown = " and ".join(map(repr, wanted))
    raise ValueError(f"{block.file} has no column {shown}. {block.known(wanted[0])} Choose one with --text-column.")


def label_columns(block: Block, asked: Sequence[str] | None, kind: Kind) -> list[str]:
    """Return the names of the columns of labels; none if there are none, and none are required.

    Raises
    ------
    ValueError
        If the table does not have them.
    """
    if asked:
        block.require(asked)
        return list(asked)
    found = [name for name in kind.labels if name in block.columns][:1]
    if not found and kind.requires_labels:
        wanted = kind.labels[0]
        raise ValueError(
            f"{block.file} has no column {wanted!r}. {block.known(wanted)} Choose the column of labels with "
            f"--label-column."
        )
    return found


def features_of(block: Block, names: Sequence[str], kind: Kind, missing: str = "error") -> Any:
    """Return columns as an estimator reads them, with the place of each row as the index, for messages.

    Raises
    ------
    ValueError
        If a cell is missing, or is not a text; the message names the file, the line and the column.
    """
    import pandas as pd

    cells = {name: block.column(name) if kind.of_texts else with_lists(block, name) for name in names}
    if kind.of_texts:
        for name, column in cells.items():
            _check_texts(column, name, block.places, missing)
    index = pd.Index(block.places, dtype=object)
    series = {name: pd.Series(column, index=index, dtype=object) for name, column in cells.items()}
    return series[names[0]].rename(None) if len(names) == 1 else pd.DataFrame(series)


def _check_texts(column: list, name: str, places: Sequence[str], missing: str) -> None:
    for cell, place in zip(column, places, strict=True):
        if isinstance(cell, str):
            continue
        if is_missing(cell):
            if missing == "empty":
                continue
            raise ValueError(
                f"{place}, column {name!r}: the text is missing. Fill it, or leave the row out; "
                f"--param missing=empty reads missing texts as empty ones."
            )
        raise ValueError(f"{place}, column {name!r}: {cell!r:.60} is a {type(cell).__name__}, not a text. Quote it.")


def is_missing(cell: Any) -> bool:
    """Whether a cell is null, or a number that is not one."""
    return cell is None or (isinstance(cell, float) and cell != cell)


def with_lists(block: Block, name: str) -> list:
    """Return the cells of a column; of CSV, which has only texts, those that are lists or objects in JSON as such."""
    return [_from_json(cell) if block.format in DELIMITERS else cell for cell in block.column(name)]


def _from_json(cell: Any) -> Any:
    if isinstance(cell, str) and cell[:1] in ("[", "{"):
        try:
            return nested_json.loads(cell)
        except ValueError:
            pass
    return cell


def labels_of(block: Block, names: Sequence[str], estimator: XLMRXLEstimator, separator: str | None = None) -> Any:
    """Return labels as an estimator reads them, with the place of each row as the index, for messages.

    Parameters
    ----------
    block : Block
    names : sequence of str
        Several are the outputs of a regression, or labels of 0 and 1.
    estimator : estimator
        Fitted or not; a fitted classifier says of which type its labels are.
    separator : str, default=None
        What separates several labels in a cell.

    Raises
    ------
    ValueError
        If a label is missing, or not a number where one is needed; the message names the file, the line and the column.
    """
    import pandas as pd

    numbers = len(names) > 1 or _has_numbers(estimator)
    columns = {}
    for name in names:
        cells = with_lists(block, name)
        if kind_of(estimator).labels is not TEXT_AND_ANSWER:  # a missing answer says that there is none
            _check_labels(cells, name, block.places)
        if numbers:
            cells = [_number(cell, name, place) for cell, place in zip(cells, block.places, strict=True)]
        elif separator is not None:
            cells = [_split(cell, separator) for cell in cells]
        columns[name] = pd.Series(cells, index=pd.Index(block.places, dtype=object))
    return columns[names[0]] if len(names) == 1 else pd.DataFrame(columns)


def _has_numbers(estimator: Any) -> bool:
    classes = getattr(estimator, "classes_", None)
    if classes is not None and type(estimator).__name__ != "XLMRXLTagger":
        return classes.dtype.kind in "iuf" and estimator.multilabel_ is None
    return any(cls.__name__ == "XLMRXLRegressor" for cls in type(estimator).__mro__)


def _check_labels(cells: list, name: str, places: Sequence[str]) -> None:
    for cell, place in zip(cells, places, strict=True):
        if is_missing(cell) or cell == "":
            raise ValueError(f"{place}, column {name!r}: the label is missing. Fill it, or leave the row out.")


def _number(cell: Any, name: str, place: str) -> Any:
    if not isinstance(cell, str):
        return cell
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    raise ValueError(f"{place}, column {name!r}: {cell!r:.60} is not a number.")


def _split(cell: Any, separator: str) -> Any:
    if not isinstance(cell, str):
        return cell
    return [label for part in cell.split(separator) if (label := part.strip())]
