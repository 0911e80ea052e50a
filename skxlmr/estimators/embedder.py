"""Text embeddings for pipelines."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from typing_extensions import Self

from skxlmr.columns import TextColumn
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.parameters import FeatureMemory, Vocabulary
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import load_base, load_trimmed
from skxlmr.runtime.features import POOLINGS, frozen_features
from skxlmr.runtime.plan import Truncation, WindowPlan, Windows, plan_texts
from skxlmr.runtime.run import pool_windows
from skxlmr.runtime.sentence_settings import read_sentence_settings
from skxlmr.runtime.streaming import run_in_parts
from skxlmr.system.parameters import declare_parameters, parameter


@declare_parameters
class XLMRXLEmbedder(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, Truncation, Vocabulary, FeatureMemory, XLMRXLEstimator
):
    """Turn texts into vectors with XLM-RoBERTa-XL.

    Each distinct text is encoded once, in batches of texts of similar length.

    Parameters
    ----------
    pooling : {"auto", "mean", "cls", "max", "first_last_mean"}
        How the tokens of a text become one vector: their mean or maximum, the first token alone, or the mean over the
        tokens of the first and the last layer. The special tokens count as tokens. "auto" is what a directory of
        sentence-transformers says, otherwise the mean.
    layer : int
        The layer to read: -1 is the last one, 0 the embeddings below the first, `num_hidden_layers` the last again.
        Layers above it are not run.
    normalize : bool or "auto"
        Scale each vector to length 1. "auto" does so for "e5-small", for other models if a directory of
        sentence-transformers says so.
    prompt : str or None
        What is put before each text (of two, the first), such as "query: " or "passage: "; None is nothing. "auto" is
        what a directory of sentence-transformers says, and otherwise "query: " for the multilingual-e5 models, which
        were trained so (but for "-instruct").
    n_components : int
        Reduce the vectors to this many dimensions by PCA, fitted on the training texts; None keeps all.

    Attributes
    ----------
    pca_ : PCA or None
        None if `n_components` is None.
    pooling_ : str
    normalize_ : bool
    prompt_ : str
        The values that "auto" stood for.
    n_features_in_ : int
        1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if X had any.

    See Also
    --------
    XLMRXLClassifier : Fine-tune the model instead of using it frozen.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skxlmr import XLMRXLEmbedder
    >>> XLMRXLEmbedder(model="nano").fit_transform(["good morning", "早上好"]).shape
    (2, 192)
    >>> pipeline = make_pipeline(XLMRXLEmbedder(model="nano"), LogisticRegression())
    >>> pipeline.fit(["yes", "no"], [1, 0]).predict(["yes"])
    array([1])
    """

    pooling: str = parameter(default="auto", valid=[StrOptions({"auto", *POOLINGS})], order=10)
    layer: int = parameter(default=-1, valid=[Integral], order=10)
    normalize: bool | str = parameter(default="auto", valid=["boolean", StrOptions({"auto"})], order=10)
    prompt: str | None = parameter(default="auto", valid=[str, None], order=10)
    n_components: int | None = parameter(
        default=None, valid=[Interval(Integral, 1, None, closed="left"), None], order=10
    )

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the model and, with `n_components`, fit the PCA.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
            List, array, Series or DataFrame of str.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a column is not what it should be; the message names the column and the row.
        """
        self._fit(X, embed=self.n_components is not None)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit and return the vectors; the texts are encoded once.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : ignored

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
        """
        return self._finish(self._fit(X, embed=True))

    def transform(self, X: Any) -> np.ndarray:
        """Return the vectors of texts.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
        """
        column = self._check_fitted_column(X)
        return self._finish(self._embed(self._fitted_backbone(), column, self.pooling_, self.prompt_))

    def _fit(self, X: Any, embed: bool) -> np.ndarray:
        column = self._check_column(X)
        pooling, normalize, prompt = self._resolved()
        trims = self.vocabulary == "trim"
        backbone = load_trimmed(self, with_prompt(column, prompt)) if trims else load_base(self)
        self._layers(backbone, pooling)
        pca, width = None, backbone.model.config.hidden_size
        vectors = self._embed(backbone, column, pooling, prompt) if embed else np.empty((0, width), np.float32)
        if self.n_components is not None:
            if self.n_components > min(vectors.shape):
                raise ValueError(
                    f"n_components={self.n_components} is more than {len(vectors)} texts of {width} dimensions give; "
                    f"use at most {min(vectors.shape)}."
                )
            pca = PCA(self.n_components, random_state=self.random_state).fit(vectors)
            width = self.n_components
        self._set_fitted(
            self._fitted_attributes(
                backbone,
                column,
                pca_=pca,
                pooling_=pooling,
                normalize_=normalize,
                prompt_=prompt,
                _n_features_out=width,
            )
        )
        return vectors

    def _resolved(self) -> tuple[str, bool | str, str]:
        """Return pooling, normalize and prompt; "auto" as the model's own files say."""
        pooling, normalize, prompt = self.pooling, self.normalize, self.prompt or ""
        if "auto" in (pooling, normalize, prompt):
            own = read_sentence_settings(self.model, needs_pooling="auto" in (pooling, normalize))
            pooling = own.pooling if pooling == "auto" else pooling
            normalize = own.normalize if normalize == "auto" else normalize
            prompt = own.prompt if prompt == "auto" else prompt
        return pooling, normalize, prompt

    def _layers(self, backbone: Backbone, pooling: str) -> tuple[int, ...]:
        """Return the hidden states that the pooling reads."""
        depth = backbone.model.config.num_hidden_layers
        if not -depth - 1 <= self.layer <= depth:
            raise ValueError(f"layer={self.layer}, but {self.model!r} has layers 0 to {depth} (or -{depth + 1} to -1).")
        return (1, self.layer) if pooling == "first_last_mean" else (self.layer,)

    def _embed(self, backbone: Backbone, column: TextColumn, pooling: str, prompt: str) -> np.ndarray:
        """Return one vector per row, before PCA and scaling."""
        batch_tokens, layers = backbone.batch_tokens(self.batch_tokens), self._layers(backbone, pooling)

        def compute(plan: WindowPlan, description: str) -> np.ndarray:
            vectors = frozen_features(
                backbone,
                plan.windows,
                pooling,
                layers=layers,
                batch_tokens=batch_tokens,
                memory=self.memory,
                verbose=self.verbose,
                description=description,
            )
            weights = plan.lengths if "mean" in pooling else None
            how = "max" if pooling == "max" else "mean"
            return pool_windows(vectors, plan.text_of_window, how, weights)[plan.text_of_row]

        return run_in_parts(
            column,
            lambda rows: self._plan(backbone, with_prompt(rows, prompt)),
            compute,
            batch_tokens,
            description="embed",
            verbose=self.verbose,
        )

    def _plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        return plan_texts(backbone, column, Windows(self.max_length, self.stride, self.truncation))

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        if self.pca_ is not None:
            vectors = self.pca_.transform(vectors)
        return normalize(vectors, copy=False) if self.normalize_ else vectors

    def _fitted_names(self) -> tuple[str, ...]:
        return (*super()._fitted_names(), "pca_", "pooling_", "normalize_", "prompt_", "_n_features_out")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        return tags


def with_prompt(column: TextColumn, prompt: str) -> TextColumn:
    """Put the prompt before each text of a column."""
    return replace(column, texts=[prompt + text for text in column.texts])
