"""A process that predicts is killed again and again; what it has written stays, and nothing is lost or doubled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from skxlmr.system import atomic

KILLED = """
import os, signal, sys
from skxlmr.scale import predict_dataset
from skxlmr.scale.predictor import Predictor

directory, source, target, kills = sys.argv[1:]

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(descriptor, data, write=os.write):
    write(descriptor, data[: len(data) // 2])
    die()

def not_renamed(*args):
    die()

def renamed(old, new, replace=os.replace):
    replace(old, new)
    die()

Predictor(directory)({"text": ["loaded before the forks"]})
for kill in range(int(kills)):
    child = os.fork()
    if not child:
        name, function = [("write", half_written), ("replace", not_renamed), ("replace", renamed)][kill % 3]
        setattr(os, name, function)
        predict_dataset(directory, source, target, rows_per_part=4)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL, (kill, status)
print(len([name for name in os.listdir(target) if name.startswith("part-")]), "parts")
print(predict_dataset(directory, source, target, rows_per_part=4))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_15_kills_while_parts_are_written_lose_and_double_no_row(clf, saved, table, tmp_path: Path):
    table.to_parquet(tmp_path / "in.parquet")
    target = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(saved), str(tmp_path / "in.parquet"), str(target), "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    # Every third kill came after a file was renamed: the plan and four parts.
    assert done.stdout == f"4 parts\n40 of 40 rows are predicted, in 10 files in {target}.\n", done.stderr
    found = pd.read_parquet(target)
    assert found.id.tolist() == table.id.tolist()
    assert found.prediction.tolist() == clf.predict(table.text).tolist()
    assert not [path for path in target.iterdir() if atomic.is_temporary(path)]
