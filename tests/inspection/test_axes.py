"""Axes of displays: new figures, places of others, matplotlib that is missing."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.pyplot as plt
import pytest

from skxlmr.inspection.axes import import_pyplot, make_panels


def test_make_panels_without_ax_makes_a_figure_of_rows():
    figure, axes = make_panels(None, 5, "Display", n_cols=3)
    assert [ax.get_subplotspec().num1 for ax in axes] == [0, 1, 2, 3, 4]
    assert figure.axes == axes


def test_make_panels_divides_the_place_of_an_axes():
    figure, (left, right) = plt.subplots(1, 2)
    same, axes = make_panels(right, 2, "Display")
    assert same is figure
    assert not right.axison
    assert all(ax.get_position().x0 > left.get_position().x1 for ax in axes)


def test_make_panels_takes_an_axes_as_it_is_for_one_panel():
    _, ax = plt.subplots()
    assert make_panels(ax, 1, "Display") == (ax.figure, [ax])


def test_make_panels_takes_one_axes_for_each_panel():
    figure, axes = plt.subplots(2, 2)
    assert make_panels(axes, 4, "Display") == (figure, list(axes.ravel()))
    with pytest.raises(ValueError, match=r"ax must be one Axes of matplotlib, or 3 of them, got 4 value"):
        make_panels(axes, 3, "Display")
    with pytest.raises(ValueError, match="ax must be one Axes"):
        make_panels(["no axes"], 1, "Display")


def test_make_panels_axes_without_a_grid_is_an_error():
    ax = plt.figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"ax is not in a grid.*Give 2 Axes"):
        make_panels(ax, 2, "Display")


def test_import_pyplot_without_matplotlib_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"SomeDisplay needs matplotlib. Install it: pip install 'skxlmr\[plot\]'"):
        import_pyplot("SomeDisplay")


def test_inspection_does_not_import_matplotlib():
    code = "import sys, skxlmr.inspection; assert not any(name.startswith('matplotlib') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
