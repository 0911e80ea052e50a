"""Removal of what tells the languages of vectors apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data
from typing_extensions import Self

from skxlmr.columns import is_missing

MAX_SHOWN = 5  # names in a message


class LanguageCentering(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Subtract from each vector the mean of the vectors of its language.

    Vectors of texts in one language lie closer together than vectors of texts in several: clusters follow languages in
    place of topics, and a search finds texts in the language of the query first. Most of the difference is that of the
    languages' means.

    Parameters
    ----------
    unknown : {"error", "global"}, default="error"
        What to do about vectors of a language that `fit` has not seen: raise an error, or subtract the mean of all
        vectors that `fit` saw.

    Attributes
    ----------
    languages_ : ndarray of shape (n_languages,)
        The languages, sorted.
    means_ : ndarray of shape (n_languages, n_features), float64
        The mean of the vectors of each language.
    mean_ : ndarray of shape (n_features,), float64
        The mean of all vectors.
    counts_ : ndarray of shape (n_languages,), int64
        The number of vectors of each language.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if Z is a DataFrame whose columns have names.

    See Also
    --------
    skxlmr.XLMRXLEmbedder : Makes vectors of texts.

    Notes
    -----
    The means also hold what the texts of a language are about. Where each language has other topics, subtracting them
    removes this difference, too; fit on texts with similar topics, such as translations. Means of few texts (below
    about 50) are uncertain.

    In a pipeline the languages are metadata: `set_fit_request` and `set_transform_request`, and
    `sklearn.set_config(enable_metadata_routing=True)`, carry them to this step, as the second example shows.

    Examples
    --------
    >>> import numpy as np
    >>> from skxlmr.search import LanguageCentering
    >>> Z = np.array([[1.0, 5.0], [3.0, 5.0], [1.0, -5.0], [3.0, -5.0]])
    >>> LanguageCentering().fit_transform(Z, languages=["en", "en", "de", "de"])
    array([[-1.,  0.],
           [ 1.,  0.],
           [-1.,  0.],
           [ 1.,  0.]])

    >>> import sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skxlmr import XLMRXLEmbedder
    >>> texts, languages = ["yes", "no", "ja", "nein"], ["en", "en", "de", "de"]
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     centering = LanguageCentering().set_fit_request(languages=True).set_transform_request(languages=True)
    ...     pipeline = make_pipeline(XLMRXLEmbedder("nano"), centering, LogisticRegression())
    ...     pipeline.fit(texts, [1, 0, 1, 0], languages=languages).predict(["ja"], languages=["de"])
    array([1])
    """

    _parameter_constraints: dict = {"unknown": [StrOptions({"error", "global"})]}

    def __init__(self, *, unknown: str = "error") -> None:
        self.unknown = unknown

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, Z: Any, y: Any = None, *, languages: Any = None) -> Self:
        """Compute the mean of each language.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Vectors.
        y : None
            Ignored; it is here since pipelines pass the targets.
        languages : array-like of shape (n_samples,)
            The language of each vector, strings or integers. It has no default: without it an error is raised.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If there are no languages, another number of them than of vectors, or a missing one.
        """
        Z = validate_data(self, Z, dtype=FLOAT_DTYPES)
        names, which = np.unique(self._check_languages(languages, len(Z)), return_inverse=True)
        counts = np.bincount(which)
        sums = np.zeros((len(names), Z.shape[1]))
        for i in range(len(names)):
            sums[i] = Z[which == i].sum(0, dtype=np.float64)
        self.languages_, self.counts_ = names, counts
        self.means_, self.mean_ = sums / counts[:, None], sums.sum(0) / len(Z)
        return self

    def transform(self, Z: Any, languages: Any = None) -> np.ndarray:
        """Subtract from each vector the mean of its language.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Vectors.
        languages : array-like of shape (n_samples,)
            The language of each vector. It has no default: without it an error is raised.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 if Z is, otherwise float64.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        TypeError, ValueError
            As in `fit`; or, with unknown="error", if there are languages that `fit` has not seen.
        """
        check_is_fitted(self)
        Z = validate_data(self, Z, reset=False, dtype=FLOAT_DTYPES)
        languages = self._check_languages(languages, len(Z))
        which = pd.Index(self.languages_).get_indexer(pd.Index(languages))
        if self.unknown == "error" and (which < 0).any():
            self._refuse(languages[which < 0])
        means = np.vstack([self.means_, self.mean_])  # row -1 is that of unknown languages
        return Z - means.astype(Z.dtype)[which]

    def fit_transform(self, Z: Any, y: Any = None, *, languages: Any = None) -> np.ndarray:
        """Compute the means, and subtract them.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Vectors.
        y : None
            Ignored.
        languages : array-like of shape (n_samples,)
            The language of each vector.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 if Z is, otherwise float64.
        """
        return self.fit(Z, y, languages=languages).transform(Z, languages=languages)

    def _check_languages(self, languages: Any, n_samples: int) -> np.ndarray:
        """Return the languages, (n_samples,), as strings or integers."""
        if languages is None:
            raise TypeError(
                "LanguageCentering needs the language of each vector: pass languages=df.language by its name. In a "
                "pipeline, set_fit_request(languages=True) and set_transform_request(languages=True) on this step, "
                "sklearn.set_config(enable_metadata_routing=True), and languages=... in fit and predict carry them."
            )
        if isinstance(languages, str):
            raise TypeError(f"languages is one string, {languages!r}; it must have the language of each vector.")
        values = pd.Series(languages).reset_index(drop=True)
        if len(values) != n_samples:
            raise ValueError(f"There are {n_samples} vectors, but {len(values)} languages.")
        missing = [i for i, value in enumerate(values) if is_missing(value)]
        if missing:
            raise ValueError(f"languages, row {missing[0]}: is missing. Fill it, for example with 'unknown'.")
        kinds = {str if isinstance(value, str) else int for value in values}
        others = [v for v in values if not isinstance(v, str | int | np.integer | np.bool_)]
        if len(kinds) > 1 or others:
            raise TypeError(
                f"languages must be all strings or all integers, got {(others or list(values))[0]!r} and others."
            )
        return values.astype(object if kinds == {str} else np.int64).to_numpy()

    def _refuse(self, languages: np.ndarray) -> None:
        names = list(dict.fromkeys(languages.tolist()))
        shown = ", ".join(map(repr, names[:MAX_SHOWN])) + (", ..." if len(names) > MAX_SHOWN else "")
        raise ValueError(
            f"{len(languages)} vectors are in languages that fit has not seen: {shown}. Fit on vectors of these "
            f"languages, too, or set unknown='global' to subtract the mean of all vectors."
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
