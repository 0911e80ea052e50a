import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

from skxlmr import XLMRXLEmbedder
from skxlmr.model import int8_engines
from skxlmr.model.int8 import Int8, Int8Linear, can_chain, chain, quantize_weight
from skxlmr.model.int8_engines import ENGINES, choose_engine
from skxlmr.system.bitsandbytes import bitsandbytes_ops

SLICES = [slice(0, 1), slice(0, 2), slice(5, 8), slice(3, 40), slice(11, 12)]


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(192, 96)


def inputs(outlier=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(41, 192, generator=generator)
    if outlier is not None:
        x[:, outlier] *= 60
    return x.to(dtype)


def quantized(linear, columns=(), **settings):
    layer = Int8Linear.from_linear(linear, Int8(**settings))
    layer.set_outliers(torch.tensor(columns, dtype=torch.int64))
    return layer


def relative(x, y):
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_values_and_scales_are_those_of_bitsandbytes(linear, dtype):
    weight = linear.weight.detach().to(dtype)
    values, absmax = quantize_weight(weight)
    theirs, their_absmax, _ = bitsandbytes_ops().int8_vectorwise_quant(weight)
    assert torch.equal(values, theirs)
    assert torch.equal(absmax, their_absmax)


def test_quantising_leaves_the_weight_alone(linear):
    before = linear.weight.detach().clone()
    quantize_weight(linear.weight.detach())
    assert torch.equal(linear.weight, before)


def test_a_row_of_zeros_stays_zero():
    values, absmax = quantize_weight(torch.zeros(2, 3))
    assert not values.any()
    assert not absmax.any()
    assert torch.equal(quantized(nn.Linear(192, 4, bias=False))(torch.zeros(3, 192)), torch.zeros(3, 4))


def test_state_dict_is_that_of_bitsandbytes(linear):
    import bitsandbytes as bnb

    theirs = bnb.nn.Linear8bitLt(192, 96, has_fp16_weights=False)
    theirs.load_state_dict({name: tensor.half() for name, tensor in linear.state_dict().items()})
    theirs = theirs.to("cpu")
    theirs(inputs(dtype=torch.float16))
    state = theirs.state_dict()
    layer = Int8Linear.from_linear(copy.deepcopy(linear).half())
    assert set(layer.state_dict()) == set(state) - {"weight_format"}
    for name, tensor in layer.state_dict().items():
        assert_close(tensor, state[name], rtol=0, atol=0, check_dtype=False)
    back = Int8Linear(192, 96)
    back.load_state_dict({name: tensor for name, tensor in state.items() if name != "weight_format"})
    x = inputs()
    assert_close(back(x), layer(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_multiplies(linear, engine, dtype):
    x = inputs(dtype=dtype)
    y = quantized(linear, engine=engine)(x)
    assert y.dtype == dtype
    assert relative(y, linear(x.float())) < 0.015


@pytest.mark.parametrize("settings", [{"outliers": "fixed"}, {"outliers": "dynamic"}])
@pytest.mark.parametrize("engine", ["int_mm", "bitsandbytes"])
def test_outliers_keep_their_precision(linear, engine, settings):
    x = inputs(outlier=7)
    expected = linear(x)
    assert relative(quantized(linear, engine=engine)(x), expected) > 0.02, "without them the error is large"
    assert relative(quantized(linear, [7], engine=engine, **settings)(x), expected) < 0.008


def test_integer_products_are_what_they_stand_for(linear):
    """Value by value: the input rounded to steps of its row, outliers to the same steps but in 16 bits."""
    x, layer = inputs(outlier=7).double(), quantized(linear, [7, 9], engine="int_mm")
    regular = x.index_fill(1, torch.tensor([7, 9]), 0).abs().amax(1, keepdim=True)
    steps = torch.maximum(regular, x[:, [7, 9]].abs().amax(1, keepdim=True) / 257) / 127
    expected = F.linear((x / steps).round() * steps, layer.dequantize(torch.float64), layer.bias.double())
    assert_close(layer(x.float()).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_huge_outlier_does_not_overflow(linear):
    x = inputs()
    x[:, 7] *= 1e6
    assert relative(quantized(linear, [7])(x), linear(x)) < 0.02


@pytest.mark.parametrize("columns", [(), (7,), (0, 7, 191)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_others(linear, columns, dtype):
    x, layer = inputs(outlier=7, dtype=dtype), quantized(linear, columns, engine="int_mm")
    whole = layer(x)
    for rows in SLICES:
        assert torch.equal(layer(x[rows]), whole[rows])


def test_the_dynamic_rule_does_depend_on_them(linear):
    x = inputs()
    x[0, 7], x[1:, 7] = 60, 5.5  # the largest of each row, but no outlier until the first row joins
    layer = quantized(linear, outliers="dynamic", engine="int_mm")
    assert not torch.equal(layer(x)[1:], layer(x[1:]))


def test_dynamic_outliers_are_those_of_bitsandbytes(linear):
    x = inputs(outlier=7)
    rows = quantized(linear, outliers="dynamic", engine="bitsandbytes").prepare(x)
    ours = quantized(linear, outliers="dynamic", engine="int_mm").prepare(x)
    assert torch.equal(rows.columns, ours.columns)
    assert rows.columns.tolist() == [7]


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_flow_to_the_input(linear, engine):
    layer = quantized(linear, [7], engine=engine)
    x, weights = inputs().requires_grad_(), torch.randn(41, 96)
    (layer(x) * weights).sum().backward()
    assert_close(x.grad, weights @ layer.dequantize(torch.float32), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in layer.parameters())


def test_gradients_in_half_precision(linear):
    layer = quantized(linear)
    expected = torch.ones(41, 96) @ layer.dequantize(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        x = inputs(dtype=dtype).requires_grad_()
        layer(x).sum().backward()
        assert relative(x.grad, expected) < 0.01


def test_inputs_of_any_shape(linear):
    layer, x = quantized(linear), inputs()[:40]
    assert torch.equal(layer(x.view(2, 4, 5, 192)), layer(x).view(2, 4, 5, 96))
    assert layer(x[0]).shape == (96,)


def test_without_bias():
    torch.manual_seed(0)
    linear = nn.Linear(64, 8, bias=False)
    x = torch.randn(5, 64)
    for engine in ENGINES:
        assert relative(quantized(linear, engine=engine)(x), linear(x)) < 0.03


def test_chained_layers_equal_one_after_the_other():
    torch.manual_seed(0)
    up = quantized(nn.Linear(192, 384), [3], engine="int_mm")
    down = quantized(nn.Linear(384, 192), [5, 6], engine="int_mm")
    x = inputs()
    with torch.no_grad():
        assert_close(chain(up, F.gelu, down, x), down(F.gelu(up(x))), rtol=1e-6, atol=1e-6)
    assert can_chain(up, down, x)
    assert not can_chain(up, down, x.clone().requires_grad_())
    assert not can_chain(up, quantized(nn.Linear(384, 192), outliers="dynamic"), x)
    assert not can_chain(up, nn.Linear(384, 192), x)


def test_blocks_do_not_show(linear, monkeypatch):
    layer, x = quantized(linear, [7], engine="int_mm"), inputs()
    whole = layer(x)
    monkeypatch.setitem(int8_engines.BLOCK, "cpu", 3 * 96)
    assert torch.equal(layer(x), whole)


@pytest.mark.parametrize("largest", [2**20, 100], ids=["kept", "too large to be kept"])
def test_memory_that_is_used_again_does_not_show(linear, largest, monkeypatch):
    monkeypatch.setattr(int8_engines, "_workspace", int8_engines.Workspace())
    monkeypatch.setattr(int8_engines, "LARGEST_WORKSPACE", largest)
    layer, wide = quantized(linear, [7], engine="int_mm"), quantized(nn.Linear(192, 300), engine="int_mm")
    x = inputs()
    with torch.inference_mode():
        first, kept = layer(x[:5]), wide(x).clone()
        assert torch.equal(layer(x)[:5], first)
    learning = x.clone().requires_grad_()  # the memory was taken in inference mode
    wide(learning).sum().backward()
    assert torch.equal(wide(learning).detach(), kept)
    assert (len(int8_engines._workspace.buffer) == 41 * 300) == (largest == 2**20)


def test_the_memory_is_on_the_cpu_whatever_the_default(linear, monkeypatch):
    monkeypatch.setattr(int8_engines, "_workspace", int8_engines.Workspace())
    layer, x = quantized(linear, engine="int_mm"), inputs()
    with torch.device("meta"):
        int8_engines._workspace.sums(*layer(x).shape, x.device)
    assert torch.equal(layer(x[:2]), layer(x)[:2])


def test_threads_have_memory_of_their_own(linear):
    layer, batches = quantized(linear, [7], engine="int_mm"), inputs().split(8)
    expected = [layer(x) for x in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            for y, right in zip(threads.map(layer, batches), expected, strict=True):
                assert torch.equal(y, right)


@pytest.mark.parametrize(("n_rows", "inner", "n_columns"), [(1, 192, 96), (17, 3, 40), (30, 7, 5), (40, 16, 32)])
def test_sizes_that_cublas_does_not_take_are_filled_up(n_rows, inner, n_columns, monkeypatch):
    a = torch.randint(-127, 128, (n_rows, inner), dtype=torch.int8)
    weight = torch.randint(-127, 128, (n_columns, inner), dtype=torch.int8)
    multiply = torch._int_mm

    def strict(a, b):
        assert len(a) > 16
        assert a.shape[1] % 8 == b.shape[1] % 8 == 0
        assert b.stride(0) == 1, "the other order of rows and columns has no kernel"
        return multiply(a, b)

    monkeypatch.setattr(torch, "_int_mm", strict)
    for b in (weight.t(), weight.t().contiguous()):
        assert torch.equal(int8_engines._filled_int_mm(a, b).long(), a.long() @ b.long())


def test_outliers_are_found_where_a_column_stands_out(linear):
    layer = quantized(linear)
    layer.find_outliers(inputs(outlier=7))
    assert layer.outliers.tolist() == [7]
    assert torch.equal(layer.outlier_weight, layer.weight[:, [7]].t())
    strict = quantized(linear, threshold=1e6)
    strict.find_outliers(inputs(outlier=7))
    assert not len(strict.outliers)
    assert 7 in strict.candidates


def test_the_engine_is_chosen_by_what_the_cpu_can_do(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(int8_engines, "cpu_has_int8", lambda: True)
    assert choose_engine("auto", cpu) is ENGINES["int_mm"]
    monkeypatch.setattr(int8_engines, "cpu_has_int8", lambda: False)
    assert choose_engine("auto", cpu) is ENGINES["dequantize"]
    assert choose_engine("auto", torch.device("cuda")) is ENGINES["bitsandbytes"]
    assert choose_engine("auto", torch.device("mps")) is ENGINES["dequantize"]


def test_int8_instructions_are_read_from_the_capabilities(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    int8_engines.cpu_has_int8.cache_clear()
    assert int8_engines.cpu_has_int8()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    int8_engines.cpu_has_int8.cache_clear()
    assert not int8_engines.cpu_has_int8()
    int8_engines.cpu_has_int8.cache_clear()


def test_casting_keeps_the_scales(linear):
    layer = quantized(linear, [7]).to(torch.bfloat16)
    assert layer.SCB.dtype == torch.float32
    assert layer.weight.dtype == torch.int8
    assert layer.bias.dtype == torch.bfloat16


def test_copies_and_pickles(linear):
    layer, x = quantized(linear, [7]), inputs(outlier=7)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


def test_two_threads_share_a_layer(linear):
    layer = quantized(linear, [7])
    xs = [inputs(outlier=7) * (1 + i) for i in range(8)]
    expected = [layer(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, e) for y, e in zip(pool.map(layer, xs), expected, strict=True))


def test_bitsandbytes_missing_is_said(linear, monkeypatch):
    import sys

    bitsandbytes_ops.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        quantized(linear, engine="bitsandbytes")(inputs())
    bitsandbytes_ops.cache_clear()


def test_settings_behave_as_parameters():
    embedder = XLMRXLEmbedder(model="nano", load_in_8bit=Int8(threshold=4.0))
    assert embedder.get_params()["load_in_8bit__threshold"] == 4.0
    twin = clone(embedder.set_params(load_in_8bit__outliers="none"))
    assert twin.load_in_8bit == Int8(threshold=4.0, outliers="none")
    assert twin.load_in_8bit is not embedder.load_in_8bit
    with pytest.raises(ValueError, match="no parameter 'rank'"):
        Int8().set_params(rank=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [(), (7,)])
@pytest.mark.parametrize("engine", ["auto", "int_mm"])
def test_cuda_multiplies_as_the_cpu_does(linear, engine, columns, dtype):
    x = inputs(outlier=7 if columns else None, dtype=dtype)
    expected = quantized(linear, columns)(x.float())
    layer = quantized(linear, columns, engine=engine)
    layer = layer.to("cuda")
    x = x.cuda().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert relative(y.cpu(), expected) < 0.02
    assert relative(x.grad.cpu(), torch.ones(41, 96) @ layer.dequantize(torch.float32).cpu()) < 0.02
