"""Reports: where an estimator is right and where it is wrong."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_regressor

from skxlmr.columns import TextColumn, check_text_column, split_columns, warn_of_other_order
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.qa import XLMRXLQA
from skxlmr.estimators.tagger import XLMRXLTagger
from skxlmr.inspection.arguments import check_choice, check_count, check_fitted, check_groups, steps_of, unwrapped
from skxlmr.inspection.report_of_answers import tables_of_answers
from skxlmr.inspection.report_of_classifiers import tables_of_classifier
from skxlmr.inspection.report_of_regressors import tables_of_regressor
from skxlmr.inspection.report_of_taggers import tables_of_tagger
from skxlmr.inspection.tables import ReportRows

UNITS = ("characters", "tokens")
TITLES = {
    "summary": "All rows",
    "by_class": "By {name}",
    "by_group": "By group",
    "by_length": "By length in {name}",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "worst": "Worst errors",
}
CLASS = "skxlmr-texts"  # of the table of errors, where notebooks would align texts at the right
STYLE = f"<style>div.{CLASS} table tr td, div.{CLASS} table tr th {{text-align: left}}</style>"
SHOWN_OF_TEXT = {"text": 60, "html": 300}  # characters of a text; the table itself has all of it


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The tables of `report`, which prints as text and renders as HTML in a notebook.

    Attributes
    ----------
    title : str
    summary : DataFrame
        The scores of all rows.
    by_class : DataFrame or None
        One row per class, label, type of entity, output or kind of question; None for one number per row.
    by_group : DataFrame or None
        One row per group; None without `groups`.
    by_length : DataFrame
        One row per range of lengths.
    confusion : DataFrame or None
        Counts; rows are true classes, columns predicted ones. For several labels per row, one row per label. None for
        numbers.
    worst : DataFrame
        The worst errors, with their texts and their positions in X.
    calibration : DataFrame or None
        One row per bin of confidence; None where there are no probabilities.
    """

    title: str
    summary: pd.DataFrame
    by_class: pd.DataFrame | None
    by_group: pd.DataFrame | None
    by_length: pd.DataFrame
    confusion: pd.DataFrame | None
    worst: pd.DataFrame
    calibration: pd.DataFrame | None

    def _tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Return the title of each table that there is, and the table."""
        for name, title in TITLES.items():
            table = getattr(self, name)
            if table is not None and len(table):
                yield title.format(name=table.index.name), table

    def __str__(self) -> str:
        parts = [self.title]
        for title, table in self._tables():
            shown = _aligned(_shortened(table, SHOWN_OF_TEXT["text"]))
            with pd.option_context("display.unicode.east_asian_width", True, "display.max_colwidth", None):
                text = shown.to_string(float_format="{:.3f}".format, index_names=table.columns.name is not None)
            parts.append("\n".join(line.rstrip() for line in [title, *text.splitlines()]))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<h3>{html.escape(self.title)}</h3>"]
        for title, table in self._tables():
            shown = _shortened(table, SHOWN_OF_TEXT["html"])
            with pd.option_context("display.max_colwidth", None):
                rendered = shown.to_html(
                    float_format="{:.3f}".format, escape=True, index_names=table.columns.name is not None
                )
            name = CLASS if table is self.worst else ""
            parts.append(f'<h4>{html.escape(title)}</h4>\n<div class="{name}">{rendered}</div>')
        return f"<div>\n{STYLE}\n{''.join(parts)}\n</div>"


def report(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    length: str = "characters",
    n_lengths: int = 4,
    n_worst: int = 10,
    n_bins: int = 10,
    texts: Any = None,
) -> Report:
    """Report where a fitted estimator is right and where it is wrong: by class, by group, by length, and by example.

    X is predicted once.

    Parameters
    ----------
    estimator : classifier, regressor, XLMRXLTagger or XLMRXLQA
        Fitted; classifiers and regressors may be those of scikit-learn, pipelines and searches.
    X : text column of shape (n_samples,), or what the estimator takes
    y : array-like of shape (n_samples,)
        True labels, numbers, tags or answers, as `fit` of the estimator takes them. Labels that `fit` has not seen
        count as wrong.
    groups : array-like of shape (n_samples,), default=None
        The group of each row, such as its language; missing values are the group "(missing)".
    length : {"characters", "tokens"}, default="characters"
        What lengths of texts are measured in. Tokens are pieces of the vocabulary of the model; for a tagger they are
        what tags belong to.
    n_lengths : int, default=4
        Number of ranges of length, with about equally many rows each.
    n_worst : int, default=10
        Maximum number of errors that are listed.
    n_bins : int, default=10
        Number of bins of confidence.
    texts : text column of shape (n_samples,), default=None
        The texts to measure and to list; needed if X is a frame with other columns beside the texts. None is X.

    Returns
    -------
    Report
        Its attributes are DataFrames. For classifiers it has precision, recall, F1 and support by class; accuracy,
        macro F1 and calibration error by group and length; and the most confident errors. For regressors it has R2,
        mean absolute and root mean squared error, and bias, the mean of predicted minus true. For taggers it has the
        strict scores of `skxlmr.metrics.entity_report`, by type of entity, group and length. For question answering it
        has exact match and F1 of `skxlmr.metrics.squad_scores`, for questions with and without an answer, by group and
        length.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError, ValueError
        If there is no report for such an estimator, a column is not what it should be, or an argument has another
        value than these; the message names the argument.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.inspection import report
    >>> texts = ["what a lovely film", "很好看", "dreadful and dull", "难看死了"] * 4
    >>> labels, languages = ["good", "good", "bad", "bad"] * 4, ["en", "zh", "en", "zh"] * 4
    >>> clf = XLMRXLClassifier("nano", tuning="head", random_state=0).fit(texts, labels)
    >>> found = report(clf, texts, labels, groups=languages)
    >>> found.by_class["f1"].to_dict()
    {'bad': 1.0, 'good': 1.0, 'macro avg': 1.0, 'weighted avg': 1.0}
    >>> found.by_group["accuracy"].to_dict()
    {'en': 1.0, 'zh': 1.0}
    """
    check_fitted(estimator, "predict")
    check_choice(length, UNITS, "length")
    for name, value, least in (("n_lengths", n_lengths, 1), ("n_worst", n_worst, 0), ("n_bins", n_bins, 1)):
        check_count(value, name, least)
    if y is None:
        raise ValueError("y is None: a report compares predictions with the true values of y.")
    for name, values in (("y", y), ("groups", groups)):
        warn_of_other_order(X, values, name)
    best = unwrapped(estimator)
    tables_of = _tables_of(best)
    column, shown = _texts(best, X, texts)
    sizes = _sizes(best, column, length)
    n_rows = len(column.texts)
    rows = ReportRows(column, shown, sizes, length, check_groups(groups, n_rows), _index(X), n_lengths, n_worst, n_bins)
    return Report(f"{type(best).__name__}: {n_rows:,} rows", **tables_of(best, X, y, rows))


def _tables_of(estimator: Any) -> Callable[[Any, Any, Any, ReportRows], dict[str, Any]]:
    """Return the function that makes the tables of such an estimator."""
    if isinstance(estimator, XLMRXLTagger):
        return tables_of_tagger
    if isinstance(estimator, XLMRXLQA):
        return tables_of_answers
    if is_classifier(estimator):
        return tables_of_classifier
    if is_regressor(estimator):
        return tables_of_regressor
    raise TypeError(
        f"estimator is a {type(estimator).__name__}; there are reports for classifiers, regressors, XLMRXLTagger and "
        f"XLMRXLQA."
    )


def _texts(estimator: Any, X: Any, texts: Any) -> tuple[TextColumn, dict[str, list[str]]]:
    """Return the column of texts, and what to show of each row."""
    if isinstance(estimator, XLMRXLTagger):
        tokens = estimator._check_fitted_column(X)
        return tokens, {"text": [" ".join(row) for row in tokens.texts] if tokens.sources is None else tokens.sources}
    if isinstance(estimator, XLMRXLQA):
        column = estimator._check_fitted_column(X)
    elif texts is None:
        try:
            column = check_text_column(X, missing="empty")
        except (TypeError, ValueError) as error:
            if not isinstance(X, pd.DataFrame):
                raise
            raise type(error)(f"{error} Or pass texts=, the texts to list, such as df['text'].") from error
    else:
        column = check_text_column(texts, name="texts", missing="empty")
        n_rows = len(split_columns(X, "X")[0][0]) if isinstance(X, list) else len(X)
        if len(column.texts) != n_rows:
            raise ValueError(f"texts has {len(column.texts)} values, but X has {n_rows} rows.")
    if column.pairs is None:
        return column, {"text": column.texts}
    names = ("text", "second_text") if column.feature_names is None else column.feature_names.tolist()
    return column, dict(zip(names, (column.texts, column.pairs), strict=True))


def _sizes(estimator: Any, column: TextColumn, length: str) -> np.ndarray:
    """Return the length of each row, (n_rows,); of two texts the sum of both."""
    if isinstance(estimator, XLMRXLTagger):
        characters = np.array([sum(map(len, row)) for row in column.texts], np.int64)
        return characters if length == "characters" else np.array([len(row) for row in column.texts], np.int64)
    if length == "characters":
        return column.sizes
    models = [step for step in steps_of(estimator) if isinstance(step, XLMRXLEstimator)]
    if not models:
        raise ValueError(
            f"length='tokens' needs an estimator of skxlmr, which has a tokenizer; estimator is a "
            f"{type(estimator).__name__}. Use length='characters'."
        )
    tokenizer = models[0]._fitted_backbone().tokenizer
    parts = [column.texts] if column.pairs is None else [column.texts, column.pairs]
    return np.sum([[len(ids) for ids in tokenizer.encode_batch(texts)] for texts in parts], axis=0)


def _index(X: Any) -> pd.Index | None:
    return X.index if isinstance(X, pd.Series | pd.DataFrame) else None


def _shortened(table: pd.DataFrame, n_characters: int) -> pd.DataFrame:
    """Return a table whose texts are in one line of at most so many characters."""

    def short(value: Any) -> Any:
        if isinstance(value, str):
            text = " ".join(value.split())
            return text if len(text) <= n_characters else f"{text[: n_characters - 3]}..."
        return value

    texts = [i for i in range(table.shape[1]) if table.dtypes.iloc[i].kind not in "biuf"]
    if not texts:
        return table
    columns = {
        name: table.iloc[:, i].map(short) if i in texts else table.iloc[:, i] for i, name in enumerate(table.columns)
    }
    changed = pd.DataFrame(columns, index=table.index)
    changed.columns.name = table.columns.name
    return changed


def _aligned(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts and their titles have spaces at their ends: pandas then shows them at the left."""
    columns = {}
    for i, name in enumerate(table.columns):
        values, title = table.iloc[:, i], name
        if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
            width = max(map(_width, [str(name), *values]))
            values = values.map(lambda value, width=width: value + " " * (width - _width(value)))
            title = str(name) + " " * (width - _width(str(name)))
        columns[title] = values
    changed = pd.DataFrame(columns, index=table.index)
    changed.columns.name = table.columns.name
    return changed


def _width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)
