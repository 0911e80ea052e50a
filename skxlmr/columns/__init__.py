"""Validation of X: text columns of any library, the names of columns, and the rows."""

from skxlmr.columns.containers import SINGLE_TEXTS, as_unmasked, is_sequence, not_a_column, one_column, split_columns
from skxlmr.columns.names import check_feature_names, check_n_features, feature_names, input_names
from skxlmr.columns.reading import check_one_text, check_text_column
from skxlmr.columns.rows import (
    as_objects,
    check_n_rows,
    check_sample_weight,
    lengths,
    name_row,
    total_lengths,
    warn_of_other_order,
    warn_of_same_texts,
)
from skxlmr.columns.text_column import TextColumn
from skxlmr.columns.values import check_column_of_texts, is_missing, list_of_texts

__all__ = [
    "SINGLE_TEXTS",
    "TextColumn",
    "as_objects",
    "as_unmasked",
    "check_column_of_texts",
    "check_feature_names",
    "check_n_features",
    "check_n_rows",
    "check_one_text",
    "check_sample_weight",
    "check_text_column",
    "feature_names",
    "input_names",
    "is_missing",
    "is_sequence",
    "lengths",
    "list_of_texts",
    "name_row",
    "not_a_column",
    "one_column",
    "split_columns",
    "total_lengths",
    "warn_of_other_order",
    "warn_of_same_texts",
]
