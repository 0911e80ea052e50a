"""The operators around the kernels: which tiles they choose, and where they do not run."""

import pytest
import torch

from skxlmr.model.int8_triton import operators
from skxlmr.model.int8_triton.operators import TILES, candidates


@pytest.fixture
def no_choices(monkeypatch):
    monkeypatch.setattr(operators, "_fastest", {})


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("n_rows", [2**i for i in range(20)])
def test_candidates_are_one_to_three(capability, n_rows):
    chosen = candidates(n_rows, capability)
    assert 1 <= len(chosen) <= 3
    assert any(tiles.hopper for tiles in chosen) == (n_rows >= 1024 and capability[0] in (9, 10))


def test_choose_tiles_times_each_candidate_once_per_size(emulate, no_choices, monkeypatch):
    emulate("H100")
    device, launched = torch.device("cuda", 0), []
    monkeypatch.setattr(operators, "_time", lambda run: run() or {64: 2.0, 128: 1.0}[launched[-1].m])
    fastest = operators._choose_tiles(device, 300, 2560, 2560, launched.append)
    assert len(launched) > 1
    assert fastest.m == 128
    n_launched = len(launched)
    assert operators._choose_tiles(device, 400, 2560, 2560, launched.append) is fastest, "rounded up, the same size"
    assert len(launched) == n_launched
    operators._choose_tiles(device, 300, 10240, 2560, launched.append)
    assert len(launched) == 2 * n_launched


def test_time_waits_for_the_gpu(emulate, monkeypatch):
    from types import SimpleNamespace

    emulate("H100")
    steps = []

    def event(**_):
        return SimpleNamespace(
            record=lambda: steps.append("record"), synchronize=lambda: steps.append("wait"), elapsed_time=lambda _: 7.0
        )

    monkeypatch.setattr(torch.cuda, "Event", event)
    assert operators._time(lambda: steps.append("run")) == 7.0
    assert steps == ["run", "record", *["run"] * operators.REPEATS, "record", "wait"]


def test_choose_tiles_with_one_candidate_times_nothing(emulate, no_choices, monkeypatch):
    emulate("A100")
    monkeypatch.setattr(operators, "candidates", lambda *_: TILES[:1])
    assert operators._choose_tiles(torch.device("cuda", 0), 3, 8, 8, pytest.fail) is TILES[0]


def test_operators_on_a_cpu_raise():
    pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    operators_of_torch = torch.ops.skxlmr
    with pytest.raises(ValueError, match=r"runs on CUDA devices, and this model is on 'cpu'"):
        operators_of_torch.quantize_rows(torch.ones(2, 3), torch.zeros(3), torch.empty(0), None, None, 0.0, False)
