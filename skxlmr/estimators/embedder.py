"""Text embeddings for pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from sklearn.base import TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import assert_all_finite
from torch import nn
from typing_extensions import Self

from skxlmr.columns import TextColumn, input_names
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.exporting_vectors import VectorExportMixin
from skxlmr.estimators.frames_of_vectors import FramesOfVectors
from skxlmr.estimators.parameters import HISTORY, OF_ROWS, OF_TRAINING, FeatureMemory, MissingTexts, Tuned, Vocabulary
from skxlmr.estimators.prompts import NamedPrompts
from skxlmr.model.sentence_layers import check_layers
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import load_base, load_trimmed
from skxlmr.runtime.features import POOLING, POOLINGS
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import Truncation, Windows
from skxlmr.runtime.reading import Reading, embed_texts, with_prompt
from skxlmr.runtime.sentence_settings import read_sentence_settings
from skxlmr.saving.checkpoints_with_heads import TrainedModel
from skxlmr.saving.estimators import SavedEstimator, SavedWeights
from skxlmr.scripts import scripts_of
from skxlmr.sklearn_defaults import sklearn_defaults
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.system.schema import POSITIVE, parse
from skxlmr.tasks.similarity import SimilarityLearning
from skxlmr.training.fit import Fit
from skxlmr.training.processes import run_on_processes
from skxlmr.training.rows import Rows
from skxlmr.training.settings import TrainingParameters
from skxlmr.tuning import Head, Tuning, as_tuning

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")

# Attributes that estimators of earlier versions do not have, and what stands for them then.
FOUND_LATER: dict[str, Any] = {"_after_pooling": (), "_include_prompt": True, "max_length_": None}


@declare_parameters
class XLMRXLEmbedder(
    FramesOfVectors,
    NamedPrompts,
    VectorExportMixin,
    TransformerMixin,
    MissingTexts,
    Truncation,
    Vocabulary,
    FeatureMemory,
    Tuned,
    TrainingParameters,
    XLMRXLEstimator,
):
    """Turn texts into vectors with XLM-RoBERTa-XL.

    Each distinct text is encoded once, in batches of texts of similar length. With an `objective` the model is
    fine-tuned first, so that the cosines of the vectors follow labels or pairs; the parameters of the training, from
    `tuning` on, matter only then.

    Parameters
    ----------
    pooling : {"auto", "mean", "cls", "max", "first_last_mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}
        How the tokens of a text become one vector: their mean or maximum, the first token alone, or the mean over the
        tokens of the first and the last layer; their sum divided by the square root of their number; the mean weighted
        by their positions; the last token alone. The special tokens count as tokens. "auto" is what a directory of
        sentence-transformers says, with its dense layers and its `truncate_dim`, and without the tokens of the prompt
        if it excludes them (`include_prompt`); otherwise the mean. Of a directory with a Router it is the default
        route, by which `SentenceTransformer.encode` reads texts.
    layer : int
        The layer to read: -1 is the last one, 0 the embeddings below the first, `num_hidden_layers` the last again.
        Layers above it are not run.
    normalize : bool or "auto"
        Scale each vector to length 1. "auto" does so for "e5-small", for other models if a directory of
        sentence-transformers says so.
    prompt : str or None
        What is put before each text (of two that are read together, the first), such as "query: " or "passage: "; None
        is nothing. "auto" is what a directory of sentence-transformers says, and otherwise "query: " for the
        multilingual-e5 models, which were trained so (but for "-instruct").
    n_dims : int
        Keep only this many of the first dimensions, before the vectors are scaled; None keeps all. Training learns
        vectors of this size, so that little is lost; for several sizes see `matryoshka_dims`.
    n_components : int
        Reduce the vectors to this many dimensions by PCA, fitted on the training texts, after `n_dims`; None keeps all.
    objective : {"classes", "pairs"} or None
        What `fit` learns; None leaves the model as it is and ignores y. With "classes", y has one label per row: texts
        of a class are pulled together, and away from the others of the batch, by the supervised contrastive loss
        (arXiv:2004.11362); with a classifier on the vectors this is the recipe of SetFit (arXiv:2209.11055). Two texts
        in a row are read together, as one. With "pairs", X has two columns of texts, which are read separately. Without
        y each row is a pair that belongs together, such as a question and its answer, and is told apart from those of
        the other rows of the batch (arXiv:1705.00652); with numbers in y the order of the cosines follows theirs, and
        their unit does not matter (the CoSENT loss).
    matryoshka_dims : sequence of int or None
        Also learn vectors that are truncated to each of these numbers of dimensions, such as (64, 128): the loss is
        the mean over them and the whole vector (arXiv:2205.13147).
    max_epochs : int or "auto"
        Passes over the rows. "auto" is 10 for few rows, and down to 3 for thousands.

    Attributes
    ----------
    pca_ : PCA or None
        None if `n_components` is None.
    pooling_ : str
    normalize_ : bool
    prompt_ : str
        The values that "auto" stood for.
    prompts_ : dict of str
        The prompts by their names that the checkpoint has for queries, documents and other tasks; {} if it has none.
        `encode_query`, `encode_document` and the `prompt_name` of `transform` choose among them.
    $history

    See Also
    --------
    XLMRXLClassifier : Fine-tune the model and a classification head together.

    Notes
    -----
    `history_`, `loss_curve_`, `n_iter_` and the attributes of the validation exist only with an `objective`. The
    validation score is minus the loss.

    With objective="pairs" `transform` takes one column, for example the questions and then the answers, or both at
    once: then the vectors of both texts of a row are side by side.

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

    Vectors that follow the labels, from a few examples of each:

    >>> embedder = XLMRXLEmbedder("nano", objective="classes", max_epochs=2, random_state=0)
    >>> pipeline = make_pipeline(embedder, LogisticRegression())
    >>> pipeline.fit(["good", "great", "bad", "awful"], ["yes", "yes", "no", "no"]).predict(["great"])
    array(['yes'], dtype='<U3')
    """

    pooling: str = parameter(default="auto", valid=[StrOptions({"auto", *POOLINGS})], order=10)
    layer: int = parameter(default=-1, valid=[Integral], order=10)
    normalize: bool | str = parameter(default="auto", valid=["boolean", StrOptions({"auto"})], order=10)
    prompt: str | None = parameter(default="auto", valid=[str, None], order=10)
    n_dims: int | None = parameter(default=None, valid=[AT_LEAST_1, None], order=10)
    n_components: int | None = parameter(default=None, valid=[AT_LEAST_1, None], order=10)
    objective: str | None = parameter(default=None, valid=[StrOptions({"classes", "pairs"}), None], order=10)
    matryoshka_dims: Sequence[int] | None = parameter(default=None, valid=["array-like", None], order=10)
    max_epochs: int | Literal["auto"] = parameter(default="auto", valid=[AT_LEAST_1, StrOptions({"auto"})], order=30)

    _documentation: ClassVar[dict[str, str]] = {"history": HISTORY}

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the model, fine-tune it if there is an `objective`, and fit the PCA if there are `n_components`.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
            List, array, Series or DataFrame of str.
        y : array-like of shape (n_samples,), default=None
            Labels with objective="classes"; None or numbers with objective="pairs"; ignored without an objective.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a column is not what it should be; the message names the column and the row.
        FloatingPointError
            If the loss diverges; the message names the rows. An earlier fit stays usable.

        Warns
        -----
        UserWarning
            If a KeyboardInterrupt ended training; the model so far is fitted.
        """
        self._fit(X, y, embed=self.n_components is not None)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit and return the vectors; without an `objective`, the texts are encoded once.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : array-like of shape (n_samples,), default=None
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
        """
        return self._with_index(self._finish(self._fit(X, y, embed=True)), X)

    def transform(self, X: Any, *, prompt_name: str | None = None) -> np.ndarray:
        """Return the vectors of texts.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
            As in `fit`; with objective="pairs" one column is enough.
        prompt_name : str, default=None
            The name of one of `prompts_` to put before the texts; None is `prompt_`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
            Of one column, where `fit` had pairs, half as many columns.

        Raises
        ------
        ValueError
            If there is no prompt of this name; the message lists the names.
        """
        column = self._check_fitted_column(X)
        prompt = self.prompt_ if prompt_name is None else self._named_prompt(prompt_name)
        return self._with_index(self._vectors(column, prompt), X)

    def _vectors(self, column: TextColumn, prompt: str) -> np.ndarray:
        """Return the vectors of a column, (n_rows, n_features_out), with a prompt before each text."""
        reading, finetuned = replace(self._fitted_reading(), prompt=prompt), getattr(self, "_finetuned", None)
        return self._finish(self._embed(self._backbone_to_run(), column, reading, finetuned))

    def _fit(self, X: Any, y: Any, embed: bool) -> np.ndarray:
        """Fit, on several processes if anything is trained; returns the vectors if they are wanted, or none."""
        if self.objective is None:
            attributes, vectors = self._learn(X, y, embed)
        else:
            attributes, vectors = run_on_processes(self, "_learn", X, y, embed)
        self._set_fitted(attributes)
        return vectors

    def _learn(self, X: Any, y: Any, embed: bool) -> tuple[dict[str, Any], np.ndarray]:
        """Do what `fit` does, and return the attributes that it sets, and the vectors."""
        column = self._check_column(X)
        reading = self._resolved()
        task = self._task(reading)
        weights = np.ones(len(column.texts))
        targets = np.empty(0)
        if task is not None:
            task, targets = task.find(y, column, weights)
        start = getattr(self, "_finetuned", None) if self.warm_start and task is not None else None
        if start is not None:
            self._check_reading(reading)
            backbone = self._fitted_backbone(trains=True)  # with the vocabulary of the earlier fit
        elif self.vocabulary == "trim":
            prompts = [reading.left_out, *self._prompts_of_model().values()]
            backbone = load_trimmed(self, with_prompt(reading.texts(column), reading.prompt), prompts)
        else:
            backbone = load_base(self)
        self._check_layer(backbone.model.config.num_hidden_layers)
        reading = self._check_n_dims(backbone.model.config.hidden_size, reading)
        self._windows(reading).resolve(backbone)  # raises what transform would
        width = reading.width(backbone.model.config.hidden_size)
        self._check_components(len(reading.texts(column).texts), width)
        learned: dict[str, Any] = {}
        if task is not None:
            task = replace(task, dims=self._dims(width))
            learned = self._fine_tune(backbone, task, task.rows(backbone, column, targets, weights), start)
        vectors = np.empty((0, width), np.float32)
        if embed:
            vectors = self._embed(backbone, column, reading, learned.get("_finetuned"))
        pca = None
        if self.n_components is not None:
            from sklearn.decomposition import PCA  # with it scikit-learn imports its linear models

            with sklearn_defaults():
                pca = PCA(self.n_components, random_state=self.random_state).fit(vectors.reshape(-1, width))
            width = self.n_components
        attributes = self._attributes_of(reading, width, pca, input_names(X))
        attributes["max_length_"] = self._windows(reading).default(backbone)
        if task is not None:
            learned |= {"_n_rows": len(column.texts), "_scripts": scripts_of(column.strings)}
        return self._fitted_attributes(backbone, column, **attributes, **learned), vectors

    def _attributes_of(
        self, reading: Reading, width: int, pca: PCA | None = None, names: list[str] | None = None
    ) -> dict[str, Any]:
        """Return the fitted attributes that say how texts become vectors of a width."""
        return {
            "pca_": pca,
            "pooling_": reading.pooling,
            "normalize_": reading.normalize,
            "prompt_": reading.prompt,
            "prompts_": self._prompts_of_model(),
            "_n_dims": reading.n_dims,
            "_after_pooling": reading.layers,
            "_include_prompt": reading.include_prompt,
            "_separate": reading.separate,
            "_input_names": names,
            "_n_features_out": 2 * width if reading.separate else width,
        }

    def _fine_tune(
        self, backbone: Backbone, task: SimilarityLearning, rows: Rows, start: Finetuned | None
    ) -> dict[str, Any]:
        """Fine-tune; returns the fitted attributes."""
        outcome = Fit(backbone, task, as_tuning(self.tuning), self).learn(rows, start=start)
        history, scores = outcome.history, outcome.validation_scores
        return {
            "history_": history,
            "loss_curve_": history["loss"].tolist(),
            "validation_scores_": scores,
            "best_validation_score_": None if scores is None else max(scores),
            "n_iter_": int(history["epoch"].max()),
            "_finetuned": outcome.finetuned,
        }

    def _task(self, reading: Reading) -> SimilarityLearning | None:
        """Make the task of the objective; raises ValueError if other parameters do not go with it."""
        if self.objective is None:
            if self.matryoshka_dims is not None:
                raise ValueError("matryoshka_dims needs an objective to train with, such as objective='classes'.")
            return None
        last = "is trained on the last layer; use "
        if reading.pooling not in ("mean", "cls", "max") or reading.layers:
            raise ValueError(f"objective={self.objective!r} {last}pooling='mean', 'cls' or 'max', or objective=None.")
        if self.layer != -1:
            raise ValueError(f"objective={self.objective!r} {last}layer=-1 (it is {self.layer}), or objective=None.")
        if isinstance(as_tuning(self.tuning), Head):
            raise ValueError(
                "tuning='head' trains nothing here, since vectors have no head. Use tuning='lora', 'bias' or 'full', "
                "or objective=None."
            )
        if self.scoring is not None:
            raise ValueError(
                "scoring is of no use for vectors: their validation score is minus the loss. Leave it None."
            )
        return SimilarityLearning(
            self._windows(reading),
            pooling=reading.pooling,
            goal=self.objective,
            prompt=reading.prompt,
            include_prompt=reading.include_prompt,
        )

    @property
    def _trained_by(self) -> Tuning | None:
        return None if self.objective is None else super()._trained_by

    def _check_n_dims(self, hidden_size: int, reading: Reading) -> Reading:
        """Return the reading with no more dimensions than there are, which a checkpoint may ask for, but no user."""
        whole = reading.whole_width(hidden_size)
        if self.n_dims is not None and self.n_dims > whole:
            raise ValueError(f"n_dims={self.n_dims}, but the vectors of {self.model!r} have {whole} dimensions.")
        return reading if reading.n_dims is None else replace(reading, n_dims=min(reading.n_dims, whole))

    def _dims(self, width: int) -> tuple[int, ...]:
        """Return the numbers of dimensions of the vectors that are trained; the last one is `width`."""
        smaller = () if self.matryoshka_dims is None else tuple(self.matryoshka_dims)
        for n_dims in smaller:
            if not isinstance(n_dims, Integral) or not 1 <= n_dims <= width:
                raise ValueError(f"matryoshka_dims must be integers from 1 to {width}, got {n_dims!r}.")
        return tuple(sorted({*map(int, smaller), width}))

    def _check_components(self, n_texts: int, width: int) -> None:
        if self.n_components is not None and self.n_components > min(n_texts, width):
            raise ValueError(
                f"n_components={self.n_components} is more than {n_texts} texts of {width} dimensions give; "
                f"use at most {min(n_texts, width)}."
            )

    def _resolved(self) -> Reading:
        """Return how texts are read; "auto" as the model's own files say."""
        is_own = self.pooling == "auto"
        own = read_sentence_settings(self.model, needs_pooling=is_own or self.normalize == "auto")
        prompt = own.prompt if self.prompt == "auto" else self.prompt or ""
        return Reading(
            own.pooling if is_own else self.pooling,
            own.normalize if self.normalize == "auto" else bool(self.normalize),
            prompt,
            own.truncate_dim if is_own and self.n_dims is None else self.n_dims,
            self.objective == "pairs",
            own.layers if is_own else (),
            own.include_prompt or not is_own,
            own.max_length,
        )

    def _fitted_reading(self) -> Reading:
        return Reading(
            self.pooling_,
            self.normalize_,
            self.prompt_,
            self._n_dims,
            self._separate,
            *(getattr(self, name, default) for name, default in FOUND_LATER.items()),
        )

    def _check_reading(self, reading: Reading) -> None:
        """Raise a ValueError if the earlier fit, which training continues, read texts in another way."""
        earlier = self._fitted_reading()
        for name in ("pooling", "prompt", "include_prompt"):
            now, before = getattr(reading, name), getattr(earlier, name)
            if now != before:
                raise ValueError(
                    f"The earlier fit read texts with {name}={before!r}, now it is {now!r}: training can continue with "
                    f"the same only. Set it back, or fit anew with warm_start=False."
                )

    def _check_layer(self, depth: int) -> None:
        if not -depth - 1 <= self.layer <= depth:
            raise ValueError(f"layer={self.layer}, but {self.model!r} has layers 0 to {depth} (or -{depth + 1} to -1).")

    def _layers(self, pooling: str) -> tuple[int, ...]:
        """Return the hidden states that the pooling reads."""
        return (1, self.layer) if pooling == "first_last_mean" else (self.layer,)

    def _embed(
        self, backbone: Backbone, column: TextColumn, reading: Reading, finetuned: Finetuned | None
    ) -> np.ndarray:
        """Return the vectors before PCA and scaling: one per row, or (n_rows, 2, d) of separate pairs."""
        self._check_layer(backbone.model.config.num_hidden_layers)
        return embed_texts(
            backbone,
            column,
            reading,
            self._windows(reading),
            finetuned,
            layers=self._layers(reading.pooling),
            batch_tokens=self.batch_tokens,
            memory=self.memory,
            verbose=self.verbose,
        )

    def _windows(self, reading: Reading) -> Windows:
        return Windows(self.max_length, self.stride, self.truncation, reading.max_length)

    @sklearn_defaults()
    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        """Apply PCA and scaling; returns (n_rows, n_features_out)."""
        n_rows, vectors = len(vectors), vectors.reshape(-1, vectors.shape[-1])
        if self.pca_ is not None:
            vectors = self.pca_.transform(vectors)
        vectors = scaled_to_unit_length(vectors) if self.normalize_ else vectors
        return vectors.reshape(n_rows, -1)

    def _needs_all_features(self, n_features: int) -> bool:
        """Where the texts of pairs are read separately, one column is enough."""
        return super()._needs_all_features(n_features) and (n_features > 1 or not self._separate)

    def _fitted_names(self) -> tuple[str, ...]:
        own = ("pca_", "pooling_", "normalize_", "prompt_", "_n_dims", "_separate", "_n_features_out")
        return (*super()._fitted_names(), *own)

    def _fitted_types(self) -> dict[str, Any]:
        from sklearn.decomposition import PCA

        own = {
            "pca_": PCA | None,
            "pooling_": POOLING,
            "normalize_": bool,
            "prompt_": str,
            "prompts_": dict[str, str],
            "_n_dims": POSITIVE | None,
            "_separate": bool,
            "_n_features_out": POSITIVE,
            "_input_names": list[Any] | None,
            "_after_pooling": tuple[Any, ...],
            "_include_prompt": bool,
        }
        return super()._fitted_types() | OF_TRAINING | OF_ROWS | own

    def _restore(self, saved: SavedEstimator) -> None:
        super()._restore(saved)
        if hasattr(self, "n_iter_") and saved.finetuned is None:
            raise ValueError("it has no trained weights")

    def _check_restored(self) -> None:
        super()._check_restored()
        check_layers(getattr(self, "_after_pooling", ()))
        if getattr(self, "n_features_in_", 1) > 2:
            raise ValueError(f"X had {self.n_features_in_} columns, but one or two are read")
        n_vectors = 2 if self._separate else 1
        width, rest = divmod(self._n_features_out, n_vectors)
        if self.pca_ is not None:  # run it: it has many attributes of its own
            width = parse(POSITIVE, self.pca_.n_features_in_, "pca_.n_features_in_")
        if rest or self._n_dims not in (None, width):
            raise ValueError(f"its vectors have {width} dimensions, but _n_dims is {self._n_dims}")
        if self._finish(np.zeros((1, n_vectors, width), np.float32)).shape != (1, self._n_features_out):
            raise ValueError(f"its vectors have not {self._n_features_out} dimensions")

    def _restore_pretrained(self, trained: TrainedModel) -> None:
        """Become what `fit` makes without an objective."""
        if self.objective is not None or self.n_components is not None:
            raise ValueError("objective and n_components need training texts. Leave them out, and call fit.")
        reading = self._resolved()
        reading = self._check_n_dims(trained.config.hidden_size, reading)
        fitted = self._attributes_of(reading, reading.width(trained.config.hidden_size))
        fitted["max_length_"] = min(reading.max_length or trained.config.max_length, trained.config.max_length)
        weights = None
        if trained.adapter:
            if reading.pooling not in ("mean", "cls", "max") or self.layer != -1:
                raise ValueError("its adapter runs with pooling='mean', 'cls' or 'max', and layer=-1.")
            weights = trained.weights(nn.Identity())
        self._restore(SavedEstimator(type(self).__name__, {}, fitted, trained.files.fingerprint, None, weights))

    def _build(self, weights: SavedWeights) -> Finetuned:
        return weights.build(lambda config: nn.Identity(), self.pooling_, causal=False)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        tags.target_tags.required = self.objective == "classes"
        return tags


def scaled_to_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors (n, d) by their lengths, in place if possible; vectors of zeros stay.

    It is `sklearn.preprocessing.normalize`, without the time that its import takes.
    """
    assert_all_finite(vectors)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    lengths[lengths < 10 * np.finfo(lengths.dtype).eps] = 1
    return np.divide(vectors, lengths, out=vectors if vectors.flags.writeable else None)
