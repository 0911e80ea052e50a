import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skxlmr.columns.rows import check_n_rows, check_sample_weight, warn_of_other_order, warn_of_same_texts


def test_check_n_rows_names_both():
    check_n_rows([1, 2], ["a", "b"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples: X_val has 2 rows, but y_val has 1"):
        check_n_rows([1], ["a", "b"], "y_val")


def test_check_sample_weight_takes_what_scikit_learn_takes_and_names_the_row():
    texts = ["a", "b", "c"]
    for same in (None, 2.0, [2, 2, 2], pd.Series([2.0, 2.0, 2.0]), pl.Series([2, 2, 2])):
        np.testing.assert_array_equal(check_sample_weight(same, texts), np.full(3, 1.0 if same is None else 2.0))
    weights = pd.Series([1.0, -0.5, 1.0], index=["x", "y", "z"])
    assert check_sample_weight(weights, texts).tolist() == [1, -0.5, 1]
    with pytest.raises(ValueError, match=r"passed to `weights`: that of row 1 \(index 'y'\) is -0\.5\. Use 0"):
        check_sample_weight(weights, texts, "weights", non_negative=True)
    with pytest.raises(ValueError, match="sample_weight_val has 2 values, but X_val has 3 rows"):
        check_sample_weight([1, 1], texts, "sample_weight_val")
    with pytest.raises(ValueError, match="1D array or scalar"):
        check_sample_weight(np.ones((3, 1)), texts)


def test_same_texts_are_warned_of():
    with pytest.warns(UserWarning, match="All 3 rows of X are the same, 'a'"):
        warn_of_same_texts(["a"] * 3)
    warn_of_same_texts(["a"])
    warn_of_same_texts(["a", "a", "b"])


def test_rows_of_y_in_another_order_than_those_of_x_are_warned_of():
    df = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, 0, 2]}, index=["x", "y", "z"])
    with pytest.warns(UserWarning, match=r"row 0 is 'x' in X and 'y' in y\. .*y\.loc\[X\.index\]"):
        warn_of_other_order(df.text, df.label.sort_values())
    with pytest.warns(UserWarning, match="row 1 is 'z' in X and 'y' in y"):
        warn_of_other_order(df[["text"]].loc[["x", "z", "y"]], df[["label"]])
    with pytest.warns(UserWarning, match=r"row 0 is 'x' in X and 'z' in groups.*groups\.loc\[X\.index\]"):
        warn_of_other_order(df.text, df.label[::-1], "groups")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_order(df.text, df.label)
        warn_of_other_order(df.text, df.label.reset_index(drop=True))
        warn_of_other_order(df.text, df.label.set_axis(["y", "x", "x"]))
        warn_of_other_order(df.text, df.label.head(2))
        warn_of_other_order(df.text, df.label[::-1].to_numpy())
        warn_of_other_order(list(df.text), df.label[::-1])
