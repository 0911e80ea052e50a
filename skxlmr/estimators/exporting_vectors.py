"""Export of fitted embedders to sentence-transformers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_modules import SentenceModules
from skxlmr.estimators.cards import facts_of
from skxlmr.estimators.embedder_reading import fitted_reading, hidden_states
from skxlmr.estimators.exporting_served import ServingMixin
from skxlmr.model.sentence_layers import SentenceLayers
from skxlmr.runtime.backbone import find_checkpoint
from skxlmr.runtime.reading import Reading
from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.saving.cards import card_files
from skxlmr.saving.merged import BESIDE_MODEL, FittedWeights
from skxlmr.saving.sentence_transformers import DEFAULT_PROMPT, modules_of_vectors, write_sentence_model
from skxlmr.saving.serving.directory import Served

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


class VectorExportMixin(ServingMixin):
    """Mixin of the embedder: writes a directory of sentence-transformers."""

    @default_torch_state()
    def export_pretrained(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write a model that sentence-transformers loads, with the same vectors.

        `SentenceTransformer(directory).encode(texts)` returns what `transform(texts)` does, and adds the prompt itself;
        `encode_query` and `encode_document` return what the methods of these names do here. What an objective has
        trained is merged into the weights; `n_dims` and the PCA become dense layers. `XLMRXLEmbedder(model=directory)`
        has the same vectors.

        The vectors are those of this estimator if it runs in float32, too; if it runs in 8 or 4 bits, or in half
        precision, they differ by the rounding of that. Of texts longer than `max_length` sentence-transformers reads
        the beginning, as this estimator does with `truncation=True`.

        Parameters
        ----------
        directory : str or path
            A model that is there already is replaced as a whole when the new one is complete; see
            `XLMRXLClassifier.export_pretrained`.
        dtype : {"float32", "bfloat16", "float16"}, default="float32"
            Of the weights of the model; those of dense layers are always float32.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        NotImplementedError
            If sentence-transformers has no module for how texts are read; the message names the parameter.
        ValueError
            If `model` is another checkpoint now than it was fitted on, or one whose weights are in 8 bits; or if
            `directory` is where it lies.
        FileExistsError
            If `directory` holds a saved estimator or an adapter.
        OSError
            If the disk is full or not writable; an earlier model is then unchanged.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from skxlmr import XLMRXLEmbedder
        >>> embedder = XLMRXLEmbedder("nano", prompt="query: ", normalize=True).fit(["good morning"])
        >>> directory = tempfile.mkdtemp()
        >>> embedder.export_pretrained(directory)
        >>> again = XLMRXLEmbedder(directory).fit(["good morning"])
        >>> np.allclose(again.transform(["good night"]), embedder.transform(["good night"]), atol=1e-5)
        True
        """
        check_is_fitted(self, "_base")
        _export(self._snapshot(), directory, dtype)  # type: ignore[attr-defined]

    def _served(self: Any) -> Served:
        check_is_fitted(self, "_base")
        fitted = self._snapshot()
        reading = fitted_reading(fitted)
        files = find_checkpoint(fitted.model)
        fitted._base.check(files.fingerprint_as(fitted._base.fingerprint), fitted)
        modules = _modules(reading, fitted.pca_)
        layers = (*modules.layers, *([{"kind": "Normalize"}] if modules.normalize else []))
        n_modes = len(reading.pooling.split("+"))
        return Served(
            _weights(fitted, files),
            "embedding",
            "vectors",
            lambda width: SentenceLayers(layers, n_modes * width),
            reading.pooling,
            reading.prompt,
            reading.include_prompt,
            "joint" if getattr(fitted, "n_features_in_", 1) == 2 and not reading.separate else None,
            fitted.max_length or reading.max_length,
            layers=hidden_states(reading.pooling, fitted.layer),
        )


def _weights(fitted: Any, files: CheckpointFiles) -> FittedWeights:
    """Return what is needed to export the base model of an embedder."""
    trained = getattr(fitted, "_finetuned", None)
    return FittedWeights(files, fitted._base.pieces, trained, facts_of(fitted, files.directory))


def _modules(reading: Reading, pca: PCA | None) -> SentenceModules:
    """Return the modules that make the vectors of an embedder."""
    modules = SentenceModules(
        reading.pooling, reading.layers, reading.normalize, reading.include_prompt, reading.n_dims
    )
    return modules_of_vectors(modules, pca)


def _export(fitted: Any, directory: str | os.PathLike, dtype: str) -> None:
    """Export an embedder that no fit in another thread changes."""
    reading = fitted_reading(fitted)
    if getattr(fitted, "n_features_in_", 1) == 2 and not reading.separate:
        raise NotImplementedError(
            "sentence-transformers has no model for two texts that are read together. Fit on one column of texts, or "
            "on pairs with objective='pairs', or use save."
        )
    if reading.pooling == "first_last_mean":
        raise NotImplementedError(
            "sentence-transformers has no pooling over the first and the last layer. Fit with pooling='mean' to export,"
            " or use save."
        )
    files = find_checkpoint(fitted.model)
    fitted._base.check(files.fingerprint_as(fitted._base.fingerprint), fitted)
    weights = _weights(fitted, files)
    weights.check_destination(directory)
    weights.check_kind(directory, BESIDE_MODEL)
    merged, tokenizer = weights.merged(dtype)
    if fitted.layer not in (-1, merged.config.num_hidden_layers):
        raise NotImplementedError(
            f"sentence-transformers reads the last layer, not layer={fitted.layer}. Fit with layer=-1 to export, or "
            f"use save."
        )
    write_sentence_model(
        directory,
        merged,
        _modules(reading, fitted.pca_),
        prompts=fitted._exported_prompts(DEFAULT_PROMPT),
        max_length=fitted.max_length or reading.max_length,
        config={},
        other_files=tokenizer.files() | card_files(directory, weights.facts, "sentence-transformers"),
    )
