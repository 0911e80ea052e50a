"""Measure a fresh process up to its first vector: seconds and peak memory, beside the imports that every user pays for.

    python benchmarks/cold_start.py [MODEL] [--runs 5]

The floor imports torch, sklearn.base and pandas alone. Processes take turns, so that drift of the machine meets all
alike; a first round, which fills the caches, does not count. Prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

PROGRAM = """
import time
started = time.perf_counter()
{body}
seconds = time.perf_counter() - started
import resource
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
IMPORTS = "import torch, sklearn.base, pandas"
ESTIMATOR = """
from skxlmr import XLMRXLEmbedder
XLMRXLEmbedder(model={model!r}{parameters}).fit(["a text"]).transform(["a text of some tokens"])
"""


def measure(body: str) -> tuple[float, float]:
    """Run a fresh process; return its seconds and its peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="e5-small")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    bodies = {
        "floor: torch, sklearn.base, pandas": IMPORTS,
        "floor, without garbage collection": f"import gc; gc.disable(); {IMPORTS}",
        "import XLMRXLEmbedder": "from skxlmr import XLMRXLEmbedder",
        "first vector": ESTIMATOR.format(model=arguments.model, parameters=""),
        "first vector, load_in_8bit": ESTIMATOR.format(model=arguments.model, parameters=", load_in_8bit=True"),
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in bodies}
    for run in range(1 + arguments.runs):
        for name, body in bodies.items():
            result = measure(body)
            if run:
                measured[name].append(result)
    floor = statistics.median(seconds for seconds, _ in measured[next(iter(bodies))])
    print(f"{'':<38}{'seconds':>9}{'over floor':>12}{'peak MB':>9}")
    for name, results in measured.items():
        seconds, megabytes = (statistics.median(values) for values in zip(*results, strict=True))
        print(f"{name:<38}{seconds:>9.2f}{seconds - floor:>+12.2f}{megabytes:>9.0f}")


if __name__ == "__main__":
    main()
