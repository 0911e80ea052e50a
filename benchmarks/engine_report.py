"""The figures of `engines.py`: kept from run to run, as tables and as a chart."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from report import Row, draw, number

FIRST = "first vector"  # of a fresh process with e5-small; beside the sizes of models
COLUMNS = {  # figure: title and format
    "tokens_per_s": ("tokens/s", number),
    "ratio": ("of the fastest peer", "{:.2f}".format),
    "batch_size": ("texts in a batch", str),
    "least_cosine": ("least cosine", "{:.4f}".format),
    "mean_cosine": ("mean cosine", "{:.5f}".format),
    "ms_20": ("one text of 20 tokens, ms", "{:.1f}".format),
    "ms_200": ("of 200, ms", "{:.1f}".format),
    "seconds": ("seconds", "{:.2f}".format),
    "peak_mb": ("peak memory, MB", number),
    "missing": ("", "not measured: {}".format),
    "failed": ("", "failed: {}".format),
}
CHARTED = {  # figure: title, unit, and whether more of it is better
    "tokens_per_s": ("batches", "tokens/s", True),
    "ms_20": ("one text of 20 tokens", "ms", False),
    "ms_200": ("one text of 200 tokens", "ms", False),
    "seconds": ("fresh process", "s", False),
}


def line(figures: dict) -> str:
    """Return figures in one line."""
    shown = [f"{COLUMNS[name][0]} {COLUMNS[name][1](figures[name])}" for name in COLUMNS if name in figures]
    return ", ".join(text.strip() for text in shown)


def is_peer(name: str) -> bool:
    """Whether the name is that of another engine, not ours or of imports alone."""
    return not name.startswith(("skxlmr", "import"))


class Report:
    """Figures of engines by size, or of fresh processes; with a stem, they are written to files."""

    def __init__(self, about: dict[str, str], stem: Path | None = None) -> None:
        self.about, self.stem = about, stem
        self.results: dict[str, dict[str, dict]] = {}

    @classmethod
    def read(cls, about: dict[str, str], folder: Path) -> Report:
        """Return the figures of earlier runs on this device."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", about["device"]).strip("-").lower()
        report = cls(about, folder / f"engines-{name}")
        file = report.stem.with_suffix(".json")
        if file.exists():
            report.results = json.loads(file.read_text())["results"]
        return report

    def add(self, size: str, name: str, figures: dict) -> None:
        """Keep new figures of an engine, and the old ones that were not measured again."""
        known = self.results.setdefault(size, {}).setdefault(name, {})
        for reason in ("missing", "failed"):
            known.pop(reason, None)
        known |= figures | {"measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}

    def write(self) -> None:
        """Write figures, tables and chart."""
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.about | {"results": self.results}, indent=1)
        self.stem.with_suffix(".json").write_text(content + "\n")
        self.stem.with_suffix(".md").write_text(self.table())
        title = f"How often as fast as the fastest peer ({self.about['device']})"
        draw(list(self.rows()), title, self.stem.with_suffix(".png"))

    def table(self) -> str:
        """Return a table for each size."""
        lines = ["# Comparison with engines for CPUs", "", ", ".join(" ".join(each) for each in self.about.items())]
        for size, engines in self.results.items():
            fastest = self.best_peer(size, "tokens_per_s")
            titles = [name for name in COLUMNS if any(name in figures for figures in engines.values())]
            if fastest:
                titles.insert(titles.index("tokens_per_s") + 1, "ratio")
            lines += ["", f"## {size}", "", f"| engine | {' | '.join(COLUMNS[name][0] for name in titles)} |"]
            lines += ["|---" * (len(titles) + 1) + "|"]
            for engine, figures in engines.items():
                if fastest and "tokens_per_s" in figures:
                    figures = figures | {"ratio": figures["tokens_per_s"] / fastest}
                cells = [COLUMNS[name][1](figures[name]) if name in figures else "" for name in titles]
                lines.append(f"| {engine} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def best_peer(self, size: str, figure: str) -> float | None:
        """Return the best figure of all engines but ours; None without one."""
        found = [f[figure] for name, f in self.results[size].items() if figure in f and is_peer(name)]
        return (max if CHARTED[figure][2] else min)(found, default=None)

    def rows(self) -> Iterator[Row]:
        """Yield the bars of the chart: each figure as its ratio to that of the best peer."""
        for figure, (title, unit, more_is_better) in CHARTED.items():
            for size, engines in self.results.items():
                best = self.best_peer(size, figure)
                for name, figures in engines.items():
                    if figure in figures and best:
                        ratio = figures[figure] / best if more_is_better else best / figures[figure]
                        yield Row(title, size, name, figures[figure], unit, ratio)
