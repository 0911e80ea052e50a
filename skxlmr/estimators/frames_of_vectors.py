"""Names and index of vectors of texts, where they are returned as a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted


class FramesOfVectors(ClassNamePrefixFeaturesOutMixin):
    """Mixin of transformers of text columns to vectors, whose dimensions are named after the column.

    Attributes
    ----------
    _input_names : list of str, or None
        Names of the columns that `fit` saw, of a DataFrame or a Series.
    _separate : bool
        Whether the texts of a row have a vector each.
    _n_features_out : int
        Number of all dimensions.
    """

    _separate: bool
    _n_features_out: int

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the dimensions: the name of the text column, and their number from 0.

        Names of two columns that are read as one are joined by an underscore. Without a name of the column, that of the
        class stands for it.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the columns; None takes those that `fit` saw, of a DataFrame or a Series.

        Returns
        -------
        ndarray of shape (n_features_out,) of str objects

        Raises
        ------
        NotFittedError
            If it is not fitted.
        ValueError
            If `input_features` has another length, or other names than the DataFrame that `fit` saw.

        Examples
        --------
        >>> import pandas as pd
        >>> from skxlmr import XLMRXLEmbedder
        >>> titles = pd.Series(["good", "bad"], name="title")
        >>> XLMRXLEmbedder("nano", n_dims=2).fit(titles).get_feature_names_out()
        array(['title_0', 'title_1'], dtype=object)
        """
        check_is_fitted(self)
        given = _check_feature_names_in(self, input_features, generate_names=False)
        names = getattr(self, "_input_names", None) if given is None else list(given)
        if names is None:
            return super().get_feature_names_out()
        groups = names if self._separate else ["_".join(map(str, names))]
        width = self._n_features_out // len(groups)
        return np.array([f"{name}_{i}" for name in groups for i in range(width)], object)

    def _with_index(self, vectors: np.ndarray, X: Any) -> Any:
        """Give vectors the index of a Series where pandas output is asked for: scikit-learn 1.6 drops it."""
        if isinstance(X, pd.Series) and _get_output_config("transform", self)["dense"] == "pandas":
            return pd.DataFrame(vectors, index=X.index)
        return vectors
