"""The figures of `engines.py`: kept from run to run, as tables and as a chart."""

from __future__ import annotations

import json
import re
from pathlib import Path

from report import number

FIRST = "first"  # beside the sizes
COLUMNS = {  # figure: title and format
    "tokens_per_s": ("tokens/s", number),
    "of_fastest_peer": ("of the fastest peer", "{:.2f}".format),
    "batch_size": ("texts in a batch", str),
    "least_cosine": ("least cosine", "{:.4f}".format),
    "mean_cosine": ("mean cosine", "{:.5f}".format),
    "ms_20": ("20 tokens, ms", "{:.1f}".format),
    "ms_200": ("200 tokens, ms", "{:.1f}".format),
    "seconds": ("first vector, s", "{:.2f}".format),
    "peak_mb": ("peak, MB", number),
}
REASONS = ("missing", "failed")


def line(figures: dict) -> str:
    """Return figures in one line."""
    shown = [f"{title} {write(figures[name])}" for name, (title, write) in COLUMNS.items() if name in figures]
    return ", ".join(shown + [f"{reason}: {figures[reason]}" for reason in REASONS if reason in figures])


class Report:
    """Figures of engines by size; with a stem, they are written to files."""

    def __init__(self, about: dict[str, str], stem: Path | None = None) -> None:
        self.about, self.stem = about, stem
        self.results: dict[str, dict[str, dict]] = {}

    @classmethod
    def read(cls, about: dict[str, str], folder: Path) -> Report:
        """Return the figures of earlier runs on this device."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", about["device"]).strip("-").lower()
        report = cls(about, folder / f"engines-{name}")
        if report.file.exists():
            report.results = json.loads(report.file.read_text())["results"]
        return report

    @property
    def file(self) -> Path:
        return self.stem.with_name(self.stem.name + ".json")

    def add(self, size: str, name: str, figures: dict) -> None:
        """Keep new figures; old ones stay that were not measured again."""
        known = self.results.setdefault(size, {}).setdefault(name, {})
        for reason in REASONS:
            known.pop(reason, None)
        known |= figures

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.about | {"results": self.results}, indent=1) + "\n")

    def table(self) -> str:
        """Return a table for each size."""
        lines = []
        for size, engines in self.results.items():
            with_ratios = self.with_ratios(engines)
            names = [name for name in COLUMNS if any(name in figures for figures in with_ratios.values())]
            lines += ["", f"## {size}", "", f"| engine | {' | '.join(COLUMNS[name][0] for name in names)} |"]
            lines += ["|---" * (len(names) + 1) + "|"]
            for engine, figures in with_ratios.items():
                cells = [COLUMNS[name][1](figures[name]) if name in figures else "" for name in names]
                reason = next((f" ({figures[reason]})" for reason in REASONS if reason in figures), "")
                lines.append(f"| {engine}{reason} | {' | '.join(cells)} |")
        return "\n".join(lines)

    @staticmethod
    def with_ratios(engines: dict[str, dict]) -> dict[str, dict]:
        """Add the ratio to the fastest engine that is not ours."""
        peers = [f["tokens_per_s"] for name, f in engines.items() if not name.startswith("skxlmr") and "tokens_per_s" in f]
        if not peers:
            return engines
        return {
            name: f | ({"of_fastest_peer": f["tokens_per_s"] / max(peers)} if "tokens_per_s" in f else {})
            for name, f in engines.items()
        }
