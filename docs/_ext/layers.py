"""A drawing of the layers of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PRIVATE = ("__main__",)


def read_layers() -> list[list[str]]:
    """Return the packages of each layer, the highest first, as import-linter reads them."""
    contracts = tomllib.loads(PROJECT.read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers if layer not in PRIVATE]


def draw(ax: Axes | None = None) -> Axes:
    """Draw a row for each layer, with a box for each package."""
    layers = read_layers()
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.42 * len(layers)), layout="constrained")
    colors = plt.get_cmap("viridis")
    for row, names in enumerate(layers):
        for i, name in enumerate(names):
            left, width = i / len(names), 1 / len(names)
            shade = colors(0.25 + 0.6 * row / len(layers))
            ax.barh(row, width - 0.01, height=0.82, left=left, color=shade)
            ax.text(left + width / 2, row, name, ha="center", va="center", color="white", weight="bold")
    ax.set_xlim(0, 1)
    ax.invert_yaxis()
    ax.axis("off")
    return ax
