"""Outliers that are found in each input: with and without guessing how many there are, the results are the same."""

import pytest
import torch

from skxlmr.model.dynamic_outliers import OutlierColumns, guessing
from skxlmr.model.int8 import Int8, Int8Linear


def layer_and_input(engine, n_outliers, dtype=torch.bfloat16):
    torch.manual_seed(0)
    layer = Int8Linear(512, 48, settings=Int8(outliers="dynamic", engine=engine))
    layer.load("weight", torch.randn(48, 512))
    layer.bias.data.normal_()
    x = torch.randn(40, 512).clamp(-4, 4)
    x[:, torch.randperm(512)[:n_outliers]] *= 30
    return layer.cuda(), x.cuda().to(dtype)


def test_guessing_on_cpu_changes_nothing():
    x = torch.tensor([[1.0, 7.0, 2.0, 8.0]])
    with guessing() as guess:
        outliers = OutlierColumns.find(x, 6.0)
    assert outliers.columns.tolist() == [1, 3]
    assert outliers.poison is None
    assert not guess.used


@pytest.mark.parametrize("n_outliers", [0, 1, 7, 32])
@pytest.mark.parametrize("engine", ["int_mm", "bitsandbytes"])
def test_product_with_a_right_guess_is_equal_without_waits(emulate, engine, n_outliers):
    gpu = emulate("A10")
    layer, x = layer_and_input(engine, n_outliers)
    with gpu.counting() as waiting:
        expected = layer(x).cpu()
    with gpu.counting() as counts, guessing() as guess:
        found = layer(x)
    assert guess.used
    assert waiting.n_waits == 2  # and the download
    assert counts.n_waits == 0
    if engine == "int_mm":
        assert torch.equal(found.cpu(), expected)
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("engine", ["int_mm", "bitsandbytes"])
def test_product_with_a_wrong_guess_is_nan(emulate, engine):
    emulate("A10")
    layer, x = layer_and_input(engine, n_outliers=33)
    assert layer(x).isfinite().all()
    with guessing():
        assert layer(x).isnan().all()


def test_guessing_inside_can_be_forbidden(emulate):
    emulate("A10")
    layer, x = layer_and_input("int_mm", n_outliers=33)
    with guessing() as outer:
        with guessing(False) as inner:
            assert layer(x).isfinite().all()
        assert not inner.used
        layer(x)
    assert outer.used
    assert layer(x).isfinite().all()
