"""Ray for real: its processes are killed, each time in a network and among processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray_driver

from skxlmr.scale import predict_dataset, ray_engine
from skxlmr.system import atomic

UNSHARE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
LOOPBACK_ONLY = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
SECONDS = 300  # on a busy machine; a minute on an idle one


@pytest.fixture(scope="module")
def isolated() -> list[str]:
    """The beginning of a command that runs in a network of its own, which has the loopback interface only."""
    pytest.importorskip("ray", reason="Ray is not installed; make test-scale installs it")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are needed, so that Ray listens on the loopback interface only")
    for command in (UNSHARE, [UNSHARE[0], "--user", "--map-root-user", *UNSHARE[1:]]):
        done = subprocess.run([*command, *LOOPBACK_ONLY, "true"], capture_output=True)
        if done.returncode == 0:
            return [*command, *LOOPBACK_ONLY]
    pytest.skip(f"no network namespace: {done.stderr.decode().strip()}")


@pytest.fixture
def drive(isolated, saved, table, tmp_path):
    """A function that runs `ray_driver` over the table, and returns what it prints."""

    def run(what: str, **environment: str) -> str:
        table.to_parquet(tmp_path / "in.parquet")
        paths = [str(path) for path in (saved, tmp_path / "in.parquet", tmp_path / "out")]
        command = [*isolated, sys.executable, ray_driver.__file__, what, *paths]
        support = str(Path(ray_driver.__file__).parent)
        inherited = os.environ.get("PYTHONPATH", "")
        variables = {"PYTHONPATH": f"{support}:{inherited}", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        started = time.monotonic()
        done = subprocess.run(
            command, env=os.environ | variables | environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(what, f"{time.monotonic() - started:.0f} s")
        return done.stdout

    return run


def check(clf, table, target: Path, failed: tuple[int, ...] = ()) -> None:
    """No id is lost or doubled, the predictions are those of the estimator, and only some rows failed."""
    found = pd.read_parquet(target)
    assert found.id.tolist() == table.id.tolist()
    good = ~table.id.isin(failed)
    assert found.prediction[good].tolist() == clf.predict(table.text[good]).tolist()
    assert found.id[found.error.notna()].tolist() == list(failed)
    assert found.prediction[~good].isna().all()
    assert found.dtypes.astype(str).tolist()[:2] == ["int64", "str"]


@pytest.mark.ray
def test_ray_predicts_what_the_estimator_does_in_a_cluster_of_its_own(drive, clf, table, tmp_path):
    table.loc[4, "text"] = None
    assert "39 of 40 rows are predicted, in 5 files" in drive("own cluster")
    check(clf, table, tmp_path / "out", failed=(104,))
    names = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    predict_dataset(clf, tmp_path / "in.parquet", tmp_path / "local", rows_per_part=ray_driver.ROWS_PER_PART)
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.ray
@pytest.mark.parametrize(("what", "n"), [("one actor", 1), ("all actors", 2)])
def test_killed_actors_lose_and_double_no_row(drive, clf, table, tmp_path, what, n):
    printed = drive(what, TEST_SECONDS="0.8")
    assert f"killed {n}\n" in printed
    assert "40 of 40 rows are predicted" in printed
    check(clf, table, tmp_path / "out")


@pytest.mark.ray
def test_15_kills_of_writers_lose_and_double_no_row(drive, clf, table, tmp_path):
    (tmp_path / "deaths").mkdir()
    for i in range(15):
        (tmp_path / "deaths" / f"{i:02}").touch()
    printed = drive("two actors", TEST_DEATHS=str(tmp_path / "deaths"), TEST_ROWS_PER_PART="2")
    assert "40 of 40 rows are predicted, in 20 files" in printed
    assert not list((tmp_path / "deaths").iterdir())
    check(clf, table, tmp_path / "out")


@pytest.mark.ray
def test_killed_driver_is_resumed(drive, clf, table, tmp_path):
    printed = drive("driver", TEST_SECONDS="0.8")
    assert re.search("killed with [3-5] parts", printed)
    assert "40 of 40 rows are predicted" in printed
    check(clf, table, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if atomic.is_temporary(path)]


@pytest.mark.ray
def test_row_that_kills_its_process_is_the_only_one_that_fails(drive, clf, table, tmp_path):
    table.loc[21, "text"] = ray_driver.POISON
    printed = drive("two actors")
    assert "1 rows have an error, in the column 'error': 121" in printed
    check(clf, table, tmp_path / "out", failed=(121,))
    error = pd.read_parquet(tmp_path / "out").error[21]
    assert error == ray_engine.DEATH.format(ray_engine.ATTEMPTS)


def test_cut_returns_pieces_that_cover_a_range():
    for start, stop in ((0, 1), (3, 8), (0, 16), (5, 4101)):
        pieces = ray_engine._cut(start, stop)
        assert np.concatenate([range(*piece) for piece in pieces]).tolist() == list(range(start, stop))
        assert len(pieces) <= ray_engine.PIECES
