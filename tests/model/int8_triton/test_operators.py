"""The operators around the kernels: which tiles they choose, and where they do not run."""

from types import SimpleNamespace

import pytest
import torch
from emulated_cuda import triton_kernels as reference
from torch._subclasses import FakeTensorMode

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
    operators_of_torch = torch.ops.skxlmr
    with pytest.raises(ValueError, match="run on CUDA devices only, not on 'cpu'"):
        operators_of_torch.quantize_rows(torch.ones(2, 3), torch.zeros(3), torch.empty(0), None, None, 0.0, False)


@pytest.mark.parametrize("columns", [[], [1, 4]])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("keep", [False, True])
def test_operators_have_shapes_for_torch_compile(columns, n_layers, keep):
    def run(operators_of_torch, *first):
        x, is_outlier, outliers = torch.ones(5, 2, 8, dtype=torch.bfloat16), torch.zeros(16), torch.tensor(columns)
        is_outlier[columns] = 1
        norm = torch.ones(16), torch.zeros(16)
        rows = operators_of_torch.quantize_rows(*first, x, is_outlier.bool(), outliers.long(), *norm, 1e-5, keep)
        weights, scbs = [torch.ones(7, 16).to(torch.int8)] * n_layers, [torch.ones(7)] * n_layers
        of_outliers = [torch.ones(len(columns), 7).to(torch.int8)] * n_layers if columns else []
        y = operators_of_torch.int8_linear(
            *first, *rows[:3], weights, scbs, of_outliers, scbs, None, torch.bfloat16, True
        )
        return [(t.shape if t.numel() else 0, t.dtype) for t in (*rows, y)]

    expected = run(reference, None)
    with FakeTensorMode():
        assert run(torch.ops.skxlmr) == expected
