"""benchmarks/engines.py: engines are timed and checked, those not installed are named, and figures are kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import skxlmr
from skxlmr.runtime import feature_cache

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OURS = "skxlmr, 8 bits"


@pytest.fixture(scope="module")
def engines() -> Iterator[ModuleType]:
    """The script as a module; the files beside it can be imported while it is there."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    known = set(sys.modules)
    try:
        import engines

        yield engines
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
                del sys.modules[name]


@pytest.fixture(scope="module")
def model(engines: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Nano and a few texts, without conversions for other engines."""
    prepared = engines.Model("nano", tmp_path_factory.mktemp("nano"))
    for what, make in prepared.prepare():
        if what in ("checkpoint", "texts", "reference"):  # that of a padded encoder equals ours, or it raises
            make()
    return prepared


@pytest.fixture
def no_features() -> Iterator[None]:
    """Give the cache of features its size back, which the script sets to 0."""
    yield
    skxlmr.set_feature_cache()


def test_ours_is_timed_and_compared_with_float32(engines, model, no_features):
    engine = engines.ENGINES[OURS]
    embed = engine.load(model)
    figures = engines.batches(engine, embed, model) | engines.one(engine, embed, model)
    assert figures["tokens_per_s"] == pytest.approx(max(figures["turns"]), abs=1)
    assert 0.99 < figures["least_cosine"] <= figures["mean_cosine"] < 1.0
    assert 0 < figures["ms_20"] < figures["ms_200"]
    assert len(feature_cache.cache) == 0  # each text was run whenever it was timed


def test_texts_are_ragged_and_others_are_kept_for_calibration(model):
    lengths = {len(ids) for ids in model.ids}
    assert len(lengths) > 10
    assert max(lengths) <= 300
    timed = {ids.tobytes() for ids in model.ids}
    assert not timed & {ids.tobytes() for ids in model.calibration}
    assert [len(model.one_text(n)) for n in (20, 200)] == [20, 200]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_give_the_vectors_in_the_order_of_the_texts(engines, workers):
    ids = [np.full(n, n) for n in (3, 9, 1, 7, 2)]
    shapes = []

    def embed(rows: list[np.ndarray]) -> np.ndarray:
        shapes.append([len(row) for row in rows])
        return np.array([[row[0], len(row)] for row in rows], np.float32)

    engine = engines.Engine(lambda _: embed, workers=workers)
    vectors = engines.in_batches(engine, embed, ids, 2)
    np.testing.assert_array_equal(vectors, [[n, n] for n in (3, 9, 1, 7, 2)])
    assert sorted(shapes) == [[1], [3, 2], [9, 7]]


def test_an_engine_that_is_not_installed_is_reported(engines, tmp_path, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "Absent", engines.Engine(None, ("numpy", "package_that_is_absent")))
    figures = engines.in_process("nano", "Absent", ["batches"], tmp_path)
    report = engines.Report({})
    report.add("nano", "Absent", figures)
    assert "| Absent | not measured: not installed: package_that_is_absent |" in report.table()


def test_a_process_that_fails_is_reported_with_its_error(engines, tmp_path):
    figures = engines.in_process("nano", OURS, ["batches"], tmp_path / "nothing is prepared here")
    assert "nothing is prepared here" in figures["failed"]
    assert figures["failed"].endswith("(exit status 1)")


def test_figures_of_two_runs_are_joined(engines, tmp_path):
    about = {"device": "a CPU"}
    first = engines.Report.read(about, tmp_path)
    first.add("base", OURS, {"tokens_per_s": 300.0})
    first.add("base", "Peer", {"failed": "no memory"})
    first.write()
    second = engines.Report.read(about, tmp_path)
    second.add("base", OURS, {"ms_20": 2.0, "ms_200": 9.0})
    second.add("base", "Peer", {"tokens_per_s": 200.0, "ms_20": 4.0})
    second.write()
    found = json.loads((tmp_path / "engines-a-cpu.json").read_text())["results"]["base"]
    assert found[OURS]["tokens_per_s"] == 300.0
    assert found[OURS]["ms_20"] == 2.0
    assert "failed" not in found["Peer"]
    table = (tmp_path / "engines-a-cpu.md").read_text()
    assert f"| {OURS} | 300 | 1.50 | 2.0 | 9.0 |" in table
    assert "| Peer | 200 | 1.00 | 4.0 |  |" in table
    bars = {(row.section, row.how): row.ratio for row in second.rows()}
    assert bars["batches", OURS] == 1.5
    assert bars["one text of 20 tokens", OURS] == 2.0
    assert (tmp_path / "engines-a-cpu.png").stat().st_size > 0


def test_a_program_of_a_fresh_process_is_timed(engines, tmp_path, monkeypatch):
    import engine_first

    monkeypatch.setattr(engine_first, "RUNS", 2)
    monkeypatch.setitem(engine_first.PROGRAMS, "Trivial", ("assert '{folder}'.endswith('here')", ()))
    monkeypatch.setitem(engine_first.PROGRAMS, "Broken", ("raise SystemError('broken')", ()))
    figures = engine_first.first_vector("Trivial", tmp_path / "here")
    assert 0 < figures["seconds"] < 60
    assert 1 < figures["peak_mb"] < 10_000
    assert "broken" in engine_first.first_vector("Broken", tmp_path)["failed"]
