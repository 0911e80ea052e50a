"""Tables of the figures in benchmarks/results, for the pages that quote them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def results(*names: str) -> pd.DataFrame:
    """Return the rows of result files of `benchmarks/quality.py`, one below the other."""
    rows = [row for name in names for row in json.loads((RESULTS / f"{name}.json").read_text())["results"]]
    return pd.DataFrame(rows)
