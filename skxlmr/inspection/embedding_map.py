"""Maps of vectors in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils import check_array
from typing_extensions import Self

from skxlmr.inspection.arguments import check_choice, check_column, check_fitted, check_groups, distinct, rows_by
from skxlmr.inspection.axes import import_pyplot, make_panels
from skxlmr.sklearn_defaults import sklearn_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

METHODS = ("pca", "tsne")
MARKERS = "o^sDvPX*<>pd"
MAX_LABELS_OF_LEGEND = 20
DIMENSIONS_OF_TSNE = 50  # to which PCA reduces wider vectors first, as the documentation of TSNE recommends
PERPLEXITY = 30.0  # scikit-learn's default; lower for few rows, which it demands


class EmbeddingMapDisplay:
    """Show vectors as points in two dimensions: labels by colour, groups, such as languages, by marker.

    Use `from_estimator` or `from_vectors` to create one.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
    labels, groups : array-like of shape (n_samples,), default=None
        As in `from_vectors`.
    axis_names : tuple of str, default=("", "")
        Names of the two dimensions.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    scatters_ : list of PathCollection
        The points of each group.

    See Also
    --------
    skxlmr.XLMRXLEmbedder : Texts as vectors.

    Examples
    --------
    >>> from skxlmr import XLMRXLEmbedder
    >>> from skxlmr.inspection import EmbeddingMapDisplay
    >>> texts, languages = ["good morning", "早上好", "good night", "晚安"], ["en", "zh", "en", "zh"]
    >>> embedder = XLMRXLEmbedder("nano").fit(texts)
    >>> display = EmbeddingMapDisplay.from_estimator(embedder, texts, groups=languages)
    >>> display.points.shape
    (4, 2)
    """

    ax_: Axes
    figure_: Figure
    scatters_: list[PathCollection]

    def __init__(
        self, points: np.ndarray, *, labels: Any = None, groups: Any = None, axis_names: tuple[str, str] = ("", "")
    ) -> None:
        self.points = points
        self.labels = labels
        self.groups = groups
        self.axis_names = axis_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        labels: Any = None,
        groups: Any = None,
        method: str = "pca",
        random_state: Any = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the map of texts.

        Parameters
        ----------
        estimator : transformer
            Fitted, with `transform`: an embedder, or a pipeline that ends in a transformer.
        X : text column of shape (n_samples,)
        labels, groups, method, random_state, ax
            As in `from_vectors`.

        Returns
        -------
        EmbeddingMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If the estimator has no `transform`, or as `from_vectors`.
        """
        check_fitted(estimator, "transform")
        check_choice(method, METHODS, "method")
        if hasattr(X, "__len__"):  # before minutes of computation
            _check_names(labels, groups, len(X), "X")
        vectors = np.asarray(estimator.transform(X))
        return cls._map(vectors, labels, groups, method, random_state, "X").plot(ax=ax)

    @classmethod
    def from_vectors(
        cls,
        Z: Any,
        *,
        labels: Any = None,
        groups: Any = None,
        method: str = "pca",
        random_state: Any = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the map of vectors.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Vectors, such as `transform` of an embedder returns them.
        labels : array-like of shape (n_samples,), default=None
            Shown by colour: classes or, if they are floats, a scale.
        groups : array-like of shape (n_samples,), default=None
            Shown by marker, of which there are 12; such as languages.
        method : {"pca", "tsne"}, default="pca"
            How the vectors become two dimensions: by `sklearn.decomposition.PCA`, which keeps large distances and is
            fast, or by `sklearn.manifold.TSNE`, which keeps neighbours together and distorts distances.
        random_state : int, RandomState instance or None, default=0
            Of the method; with an int the same vectors always give the same map.
        ax : Axes, default=None
            None makes a new figure.

        Returns
        -------
        EmbeddingMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If lengths differ, there are fewer than 3 vectors or more than 12 groups, or an argument has another value
            than these.
        """
        return cls._map(Z, labels, groups, method, random_state, "Z").plot(ax=ax)

    @classmethod
    def _map(cls, Z: Any, labels: Any, groups: Any, method: str, random_state: Any, name: str) -> Self:
        """Reduce vectors, whose argument messages call `name`."""
        check_choice(method, METHODS, "method")
        vectors = check_array(Z, dtype=np.float64, ensure_min_samples=3, ensure_min_features=2, input_name=name)
        labels, groups = _check_names(labels, groups, len(vectors), name)
        with sklearn_defaults():
            if method == "pca":
                pca = PCA(2, svd_solver="full").fit(vectors)
                first, second = (
                    f"Component {i + 1}, {r:.0%} of variance" for i, r in enumerate(pca.explained_variance_ratio_)
                )
                return cls(pca.transform(vectors), labels=labels, groups=groups, axis_names=(first, second))
            if min(vectors.shape) > DIMENSIONS_OF_TSNE:
                vectors = PCA(DIMENSIONS_OF_TSNE, svd_solver="full").fit_transform(vectors)
            perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
            points = TSNE(2, perplexity=perplexity, init="pca", random_state=random_state).fit_transform(vectors)
        return cls(points, labels=labels, groups=groups, axis_names=("t-SNE 1", "t-SNE 2"))

    def plot(self, *, cmap: Any = None, size: float | None = None, legend: bool = True, ax: Any = None) -> Self:
        """Draw the points.

        Parameters
        ----------
        cmap : str or Colormap, default=None
            Colours of the labels. None is "tab10", or "tab20" for more than 10 labels, "turbo" for more than 20, and
            "viridis" for floats.
        size : float, default=None
            Area of a point, in points squared; None is smaller for many points.
        legend : bool, default=True
            Name the groups, and the labels if there are at most 20; floats have a colour bar.
        ax : Axes, default=None
            None makes a new figure.

        Returns
        -------
        EmbeddingMapDisplay
        """
        n = len(self.points)
        labels, groups = _check_names(self.labels, self.groups, n, "points")
        self.figure_, (self.ax_,) = make_panels(ax, 1, type(self).__name__, size=(5.2, 4.2))
        shown = _colors(labels, n, cmap)
        parts = {"": np.arange(n)} if groups is None else rows_by(groups)
        size = float(np.clip(6000 / n, 8, 60)) if size is None else size
        self.scatters_ = []
        for marker, rows in zip(MARKERS, parts.values(), strict=False):
            x, y = self.points[rows].T
            colors = shown.points[rows]
            self.scatters_.append(self.ax_.scatter(x, y, s=size, marker=marker, c=colors, alpha=0.7, linewidths=0))
        self.ax_.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1], xticks=[], yticks=[])
        if legend:
            self._name_points(shown, [] if groups is None else list(parts))
        return self

    def _name_points(self, shown: _Colors, groups: list[Any]) -> None:
        """Add the legend, or the colour bar."""
        from matplotlib.lines import Line2D

        names = shown.names
        if shown.scale is not None:
            self.figure_.colorbar(shown.scale, ax=self.ax_, label="labels")
        elif len(names) > MAX_LABELS_OF_LEGEND:
            names = {}
        entries = [("o", color, name) for name, color in names.items()]
        entries += [(marker, "dimgray", group) for marker, group in zip(MARKERS, groups, strict=False)]
        handles = [
            Line2D([], [], linestyle="", marker=marker, color=color, label=str(name)) for marker, color, name in entries
        ]
        if handles:
            self.ax_.legend(handles=handles, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


@dataclass(frozen=True, eq=False)
class _Colors:
    """The colour of each point, (n, 4); those of classes by name; or what a colour bar shows."""

    points: np.ndarray
    names: dict[Any, Any] = field(default_factory=dict)
    scale: ScalarMappable | None = None


def _check_names(labels: Any, groups: Any, n_rows: int, rows_of: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Check labels and groups of rows."""
    groups = check_groups(groups, n_rows, rows_of=rows_of)
    if groups is not None and len(distinct(groups)) > len(MARKERS):
        raise ValueError(
            f"groups has {len(distinct(groups))} groups, but there are {len(MARKERS)} markers. Pass them as labels, "
            f"which are colours, or leave some rows out."
        )
    return None if labels is None else check_column(labels, n_rows, "labels", rows_of), groups


def _colors(labels: np.ndarray | None, n_rows: int, cmap: Any) -> _Colors:
    """Choose the colours of points: of classes, of numbers on a scale, or the same for all."""
    pyplot = import_pyplot("EmbeddingMapDisplay")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import to_rgba

    if labels is None:
        return _Colors(np.tile(to_rgba("C0"), (n_rows, 1)))
    if all(isinstance(label, float | np.floating) for label in labels):
        scale = ScalarMappable(cmap=cmap or "viridis")
        scale.set_array(labels.astype(np.float64))
        scale.autoscale()
        return _Colors(scale.to_rgba(labels.astype(np.float64)), scale=scale)
    names = distinct(labels)
    if cmap is None:
        cmap = "tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "turbo"
    colors = pyplot.get_cmap(cmap)
    is_list = len(names) <= colors.N < 256  # of which the first colours are taken
    of_name = dict(zip(names, colors(np.arange(len(names)) if is_list else np.linspace(0, 1, len(names))), strict=True))
    return _Colors(np.array([of_name[label] for label in labels]), of_name)
