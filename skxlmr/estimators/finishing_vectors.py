"""What is done with vectors after the model: PCA, and scaling to length 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils.validation import assert_all_finite

from skxlmr.sklearn_defaults import sklearn_defaults

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


def check_n_components(n_components: int | None, n_texts: int, width: int) -> None:
    """Raise a ValueError if there are too few texts, or too few dimensions, for a PCA."""
    if n_components is not None and n_components > min(n_texts, width):
        raise ValueError(
            f"n_components={n_components} is more than {n_texts} texts of {width} dimensions give; "
            f"use at most {min(n_texts, width)}."
        )
    if n_components is not None and n_texts == 1:
        raise ValueError(f"n_components={n_components} needs at least 2 texts, but X has 1 sample.")


@sklearn_defaults()
def fitted_pca(
    vectors: np.ndarray, n_components: int | None, random_state: int | np.random.RandomState | None
) -> PCA | None:
    """Fit a PCA on vectors (n, d); None without `n_components`."""
    if n_components is None:
        return None
    from sklearn.decomposition import PCA  # with it scikit-learn imports its linear models

    return PCA(n_components, random_state=random_state).fit(vectors)


@sklearn_defaults()
def finished(vectors: np.ndarray, pca: PCA | None, normalize: bool) -> np.ndarray:
    """Apply PCA and scaling to the one or two vectors of each row, (n_rows, d) or (n_rows, 2, d), side by side."""
    n_rows, vectors = len(vectors), vectors.reshape(-1, vectors.shape[-1])
    if pca is not None:
        vectors = pca.transform(vectors)
    vectors = scaled_to_unit_length(vectors) if normalize else vectors
    return vectors.reshape(n_rows, -1)


def scaled_to_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors (n, d) by their lengths, in place if possible; vectors of zeros stay.

    It is `sklearn.preprocessing.normalize`, without the time that its import takes.
    """
    assert_all_finite(vectors)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    lengths[lengths < 10 * np.finfo(lengths.dtype).eps] = 1
    return np.divide(vectors, lengths, out=vectors if vectors.flags.writeable else None)
