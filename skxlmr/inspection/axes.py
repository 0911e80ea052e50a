"""Axes of matplotlib, which is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def import_pyplot(what: str) -> Any:
    """Return matplotlib.pyplot.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message says how to install it.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"{what} needs matplotlib. Install it: pip install 'skxlmr[plot]'.") from error
    return pyplot


def make_panels(
    ax: Any,
    n: int,
    what: str,
    *,
    n_cols: int | None = None,
    size: tuple[float, float] = (4.0, 3.5),
    heights: Sequence[float] | None = None,
    sharex: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and `n` axes in it, by rows.

    `ax` is None for a new figure, in which a panel has `size` inches; one Axes, whose place is divided among the
    panels; or as many Axes as there are panels.
    """
    pyplot = import_pyplot(what)
    n_cols = min(n, n if n_cols is None else n_cols)
    n_rows = -(-n // n_cols)
    if ax is not None and not hasattr(ax, "get_subplotspec"):
        axes = list(np.asarray(ax, object).ravel())
        if len(axes) != n or not all(hasattr(one, "get_subplotspec") for one in axes):
            raise ValueError(f"ax must be one Axes of matplotlib, or {n} of them, got {len(axes)} value(s).")
        return axes[0].figure, axes
    if n == 1:
        ax = pyplot.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
        return ax.figure, [ax]
    if ax is None:
        figure = pyplot.figure(figsize=(size[0] * n_cols, size[1] * n_rows), layout="constrained")
        grid = figure.add_gridspec(n_rows, n_cols, height_ratios=heights)
    else:
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError(f"ax is not in a grid, so that it can't be divided among {n} panels. Give {n} Axes.")
        figure, grid = ax.figure, place.subgridspec(n_rows, n_cols, height_ratios=heights)
        ax.set_axis_off()
    axes = [figure.add_subplot(grid[0, 0])]
    for i in range(1, n):
        axes.append(figure.add_subplot(grid[i // n_cols, i % n_cols], sharex=axes[0] if sharex else None))
    return figure, axes
