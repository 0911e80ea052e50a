"""Text embeddings for pipelines."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from torch import nn
from typing_extensions import Self

from skxlmr.columns import TextColumn, input_names, warn_of_other_order
from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.estimators.embedder_objective import (
    TRAINED_POOLINGS,
    ObjectiveParameters,
    similarity_task,
    trained_dims,
)
from skxlmr.estimators.embedder_reading import (
    OF_READING,
    ReadingParameters,
    attributes_of_reading,
    check_continued,
    check_layer,
    fitted_reading,
    hidden_states,
    resolved_reading,
    with_valid_n_dims,
)
from skxlmr.estimators.exporting_vectors import VectorExportMixin
from skxlmr.estimators.finishing_vectors import check_n_components, finished, fitted_pca
from skxlmr.estimators.frames_of_vectors import FramesOfVectors
from skxlmr.estimators.parameters import (
    HISTORY,
    OF_ROWS,
    OF_TRAINING,
    FeatureMemory,
    MissingTexts,
    Tuned,
    Vocabulary,
    of_training,
)
from skxlmr.estimators.prompts import NamedPrompts
from skxlmr.model.sentence_layers import check_layers
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import load_base, load_trimmed
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import Truncation, Windows
from skxlmr.runtime.reading import Reading, embed_texts, with_prompt
from skxlmr.saving.checkpoints_with_heads import TrainedModel
from skxlmr.saving.estimators import SavedEstimator, SavedWeights
from skxlmr.scripts import scripts_of
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.system.schema import POSITIVE, parse
from skxlmr.training.fit import Fit
from skxlmr.training.processes import run_on_processes
from skxlmr.training.settings import TrainingParameters
from skxlmr.tuning import Tuning, as_tuning

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")


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
    ObjectiveParameters,
    ReadingParameters,
    Tuned,
    TrainingParameters,
    XLMRXLEstimator,
):
    """Turn texts into vectors with XLM-RoBERTa-XL.

    Each distinct text is encoded once, in batches of texts of similar length. With an `objective` the model is
    fine-tuned first, so that the cosines of the vectors follow labels or pairs; the parameters of the training, such
    as `tuning` and `learning_rate`, matter only then.

    Parameters
    ----------
    n_components : int or None
        Reduce the vectors to this many dimensions by PCA, fitted on the training texts, after `n_dims`; None keeps all.

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

    n_components: int | None = parameter(default=None, valid=[AT_LEAST_1, None], order=11)

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
            If `prompt_name` is not one of `prompts_`; the message lists them.
        """
        column = self._check_fitted_column(X)
        prompt = self.prompt_ if prompt_name is None else self._named_prompt(prompt_name)
        return self._with_index(self._vectors(column, prompt), X)

    def _vectors(self, column: TextColumn, prompt: str) -> np.ndarray:
        """Return the vectors of a column, (n_rows, n_features_out), with a prompt before each text."""
        reading, finetuned = replace(fitted_reading(self), prompt=prompt), getattr(self, "_finetuned", None)
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
        task = similarity_task(self, reading, self._windows(reading))
        weights = np.ones(len(column.texts))
        targets = np.empty(0)
        if task is not None:
            warn_of_other_order(X, y)
            task, targets = task.find(y, column, weights)
        start = getattr(self, "_finetuned", None) if self.warm_start and task is not None else None
        backbone = self._backbone(column, reading, start)
        config = backbone.model.config
        check_layer(self.layer, config.num_hidden_layers, self.model)
        reading = with_valid_n_dims(reading, config.hidden_size, self.n_dims, self.model)
        self._windows(reading).resolve(backbone)  # raises what transform would
        width = reading.width(config.hidden_size)
        check_n_components(self.n_components, len(reading.texts(column).texts), width)
        learned: dict[str, Any] = {}
        if task is not None:
            task = replace(task, dims=trained_dims(self.matryoshka_dims, width))
            outcome = Fit(backbone, task, as_tuning(self.tuning), self).learn(
                task.rows(backbone, column, targets, weights), start=start
            )
            learned = of_training(outcome, outcome.history)
            learned |= {"_n_rows": len(column.texts), "_scripts": scripts_of(column.strings)}
        vectors = np.empty((0, width), np.float32)
        if embed:
            vectors = self._embed(backbone, column, reading, learned.get("_finetuned"))
        pca = fitted_pca(vectors.reshape(-1, width), self.n_components, self.random_state)
        attributes = self._attributes_of(reading, width if pca is None else pca.n_components, pca, input_names(X))
        attributes["max_length_"] = self._windows(reading).default(backbone)
        return self._fitted_attributes(backbone, column, **attributes, **learned), vectors

    def _backbone(self, column: TextColumn, reading: Reading, start: Finetuned | None) -> Backbone:
        """Return the base model to fit on; if a fit is continued, that of the earlier one, with its vocabulary."""
        if start is not None:
            check_continued(reading, fitted_reading(self))
            return self._fitted_backbone(trains=True)
        if self.vocabulary == "trim":
            prompts = [reading.left_out, *self._prompts_of_model().values()]
            return load_trimmed(self, with_prompt(reading.texts(column), reading.prompt), prompts)
        return load_base(self)

    def _attributes_of(
        self, reading: Reading, width: int, pca: PCA | None = None, names: list[str] | None = None
    ) -> dict[str, Any]:
        """Return the fitted attributes that say how texts become vectors of a width."""
        return attributes_of_reading(reading) | {
            "pca_": pca,
            "prompts_": self._prompts_of_model(),
            "_input_names": names,
            "_n_features_out": 2 * width if reading.separate else width,
        }

    @property
    def _trained_by(self) -> Tuning | None:
        return None if self.objective is None else super()._trained_by

    def _resolved(self) -> Reading:
        return resolved_reading(self, self.model, separate=self.objective == "pairs")

    def _embed(
        self, backbone: Backbone, column: TextColumn, reading: Reading, finetuned: Finetuned | None
    ) -> np.ndarray:
        """Return the vectors before PCA and scaling: one per row, or (n_rows, 2, d) of separate pairs."""
        check_layer(self.layer, backbone.model.config.num_hidden_layers, self.model)
        return embed_texts(
            backbone,
            column,
            reading,
            self._windows(reading),
            finetuned,
            layers=hidden_states(reading.pooling, self.layer),
            batch_tokens=self.batch_tokens,
            memory=self.memory,
            verbose=self.verbose,
        )

    def _windows(self, reading: Reading) -> Windows:
        return Windows(self.max_length, self.stride, self.truncation, reading.max_length)

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        """Apply PCA and scaling; returns (n_rows, n_features_out)."""
        return finished(vectors, self.pca_, self.normalize_)

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
            "prompts_": dict[str, str],
            "_n_features_out": POSITIVE,
            "_input_names": list[Any] | None,
        }
        return super()._fitted_types() | OF_TRAINING | OF_ROWS | OF_READING | own

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
        hidden_size, longest = trained.config.hidden_size, trained.config.max_length
        reading = with_valid_n_dims(self._resolved(), hidden_size, self.n_dims, self.model)
        fitted = self._attributes_of(reading, reading.width(hidden_size))
        fitted["max_length_"] = min(reading.max_length or longest, longest)
        weights = None
        if trained.adapter:
            if reading.pooling not in TRAINED_POOLINGS or self.layer != -1:
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
