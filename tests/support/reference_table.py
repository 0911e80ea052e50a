"""Count how many checks and probes of the interface of transformers hold, and print those that do not with the reason.

Run it from the repository: `python tests/support/reference_table.py`. It takes a minute.
"""

import sys
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

MODULES = {
    "test_common_checks.py": "tests of models in transformers",
    "test_generation_checks.py": "tests of generation in transformers",
    "test_surface.py": "probes of configs, models and outputs",
}
FOLDER = Path(__file__).parents[1] / "model" / "reference"


class Outcomes:
    """A plugin of pytest that collects whether each check or probe holds."""

    def __init__(self):
        self.held = defaultdict(list)
        self.not_held = defaultdict(list)  # names and reasons
        self.failed = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when != "call" or "[" not in report.nodeid:
            return
        path, _, name = report.nodeid.partition("[")
        module = Path(path.partition("::")[0]).name
        if report.passed:
            self.held[module].append(name[:-1])
        elif report.skipped and hasattr(report, "wasxfail"):
            self.not_held[module].append((name[:-1], report.wasxfail))


def main() -> int:
    outcomes = Outcomes()
    with redirect_stdout(StringIO()):
        pytest.main([*(str(FOLDER / module) for module in MODULES), "-q"], [outcomes])
    print(f"{'':42} {'hold':>5} {'of':>5}")
    for module, title in MODULES.items():
        held, not_held = outcomes.held[module], outcomes.not_held[module]
        print(f"{title:42} {len(held):5} {len(held) + len(not_held):5}")
    for module, title in MODULES.items():
        print(f"\n{title}: not held")
        for name, reason in outcomes.not_held[module]:
            print(f"  {name}: {reason}")
    for name in outcomes.failed:
        print(f"FAILED {name}")
    return len(outcomes.failed) > 0


if __name__ == "__main__":
    sys.exit(main())
