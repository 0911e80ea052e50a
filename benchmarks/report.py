"""Tables and a chart of the results of `bench.py`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Row:
    """One row of a table: a speed, and its ratio to the speed that it is compared with."""

    section: str
    setting: str
    how: str
    value: float
    unit: str
    ratio: float
    remark: str = ""


def as_markdown(rows: list[Row], about: dict[str, object]) -> str:
    """Return a table for each setting."""
    lines = ["# Comparison with other libraries", "", ", ".join(f"{name} {value}" for name, value in about.items())]
    frame = pd.DataFrame([asdict(row) for row in rows])
    for (section, setting), part in frame.groupby(["section", "setting"], sort=False):
        lines += ["", f"## {section}: {setting}", "", f"| how | {part.unit.iloc[0]} | ratio | |", "|---|---|---|---|"]
        lines += [f"| {row.how} | {number(row.value)} | {row.ratio:.2f} | {row.remark} |" for row in part.itertuples()]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Format a number with its significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(rows: list[Row], title: str, file: Path) -> None:
    """Draw bars of the ratios, one panel per setting; draw nothing if no setting has several rows."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    frame = pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(Row)])
    panels = [(key, part) for key, part in frame.groupby(["section", "setting"], sort=False) if len(part) > 1]
    if not panels:
        return
    heights = [len(part) + 1.5 for _, part in panels]
    figure, axes = plt.subplots(
        len(panels), figsize=(10, 0.32 * sum(heights) + 1), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for ((section, setting), part), axis in zip(panels, axes[:, 0], strict=True):
        ours = part.how.str.startswith("skxlmr")
        bars = axis.barh(part.how, part.ratio, color=np.where(ours, "#1f6f8b", "#b8b8b8"))
        labels = [f"{row.ratio:.2f}x   {number(row.value)} {row.unit}" for row in part.itertuples()]
        axis.bar_label(bars, labels, padding=4, fontsize=8)
        axis.set_xlim(0, part.ratio.max() * 1.25)
        axis.invert_yaxis()
        axis.set_title(f"{section}: {setting}", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=110)
    plt.close(figure)
