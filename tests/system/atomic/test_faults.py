"""A fault at every file operation, and several writers at once, of everything that the package writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="needs fork and flock, which Windows lacks")
import fault_sweep
import file_faults
import races
import writers

SUPPORT = Path(writers.__file__).parent


def run(script: str, *arguments: str, timeout: int) -> dict:
    """Run a script in a process of its own, since it forks, and torch has run here."""
    command = [sys.executable, str(SUPPORT / script), "--json", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert process.stdout, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def quick_sweep() -> dict:
    return run("fault_sweep.py", "--quick", timeout=600)


@pytest.mark.parametrize("fault", file_faults.FAULTS)
@pytest.mark.parametrize("name", writers.WRITERS)
def test_fault_in_some_operations_leaves_old_or_new(quick_sweep: dict, name: str, fault: str):
    number, lost = quick_sweep["results"][name][fault]
    problems = [text for text in quick_sweep["problems"] if text.startswith(f"{name}, {fault} at")]
    assert number > 10
    assert not problems
    assert lost == 0


@pytest.mark.slow
def test_fault_in_every_operation_leaves_old_or_new():
    assert run("fault_sweep.py", timeout=1200)["problems"] == []


class Careless(writers.Training):
    """Writes two files, one after the other, at once under their names."""

    def write(self, number):
        self.directory.mkdir(exist_ok=True)
        for name in ("a", "b"):
            with open(self.directory / name, "w") as file:
                file.write(str(number))

    def read(self):
        if not self.directory.exists():
            return None
        return writers.same([int((self.directory / name).read_text()) for name in ("a", "b")])


@pytest.mark.parametrize("fault", ["SIGINT before", "SIGINT after", "ENOSPC"])
def test_sweep_of_careless_writer_finds_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str):
    monkeypatch.setitem(writers.WRITERS, "careless", Careless)
    number, problems = fault_sweep.sweep("careless", file_faults.FAULTS[fault], tmp_path, replace=True)
    assert number > 1
    assert any("lost" in problem for problem in problems)


def check_races(results: dict) -> None:
    for key, counts in results.items():
        assert not set(counts) - races.GOOD, f"{key}: {counts}"
        assert counts["written"] > 0


def test_several_writers_leave_whole_files():
    check_races(run("races.py", "--rounds", "5", "--writers", "2", timeout=600))


@pytest.mark.slow
def test_many_rounds_of_several_writers_leave_whole_files():
    check_races(run("races.py", "--rounds", "200", timeout=1800))
