import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from quantized_layers import quantized_layer
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

from skxlmr import XLMRXLEmbedder
from skxlmr.model import int8_engines
from skxlmr.model.avx.library import library
from skxlmr.model.int8 import Int8, Int8Linear, can_chain, chain, quantize_weight
from skxlmr.model.int8_engines import ENGINES, choose_engine
from skxlmr.system import bitsandbytes, triton
from skxlmr.system.bitsandbytes import bitsandbytes_ops

NEEDS_KERNELS = pytest.mark.skipif(library() is None, reason="the kernels were not compiled, or not for this CPU")
ON_CPU = [pytest.param(name, marks=NEEDS_KERNELS if name == "avx" else ()) for name in ENGINES if name != "triton"]
INTEGER = [pytest.param("avx", marks=NEEDS_KERNELS), "int_mm"]
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


def quantized(linear, columns=(), asymmetric=False, **settings):
    layer = quantized_layer(linear, Int8(**settings), asymmetric)
    layer.set_outliers(torch.tensor(columns, dtype=torch.int64))
    return layer


def relative(x, y):
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_quantize_weight_equals_bitsandbytes(linear, dtype):
    weight = linear.weight.detach().to(dtype)
    values, absmax = quantize_weight(weight)
    theirs, their_absmax, _ = bitsandbytes_ops().int8_vectorwise_quant(weight)
    assert torch.equal(values, theirs)
    assert torch.equal(absmax, their_absmax)


def test_quantize_weight_does_not_change_input(linear):
    before = linear.weight.detach().clone()
    quantize_weight(linear.weight.detach())
    assert torch.equal(linear.weight, before)


def test_quantize_weight_zero_row_stays_zero():
    values, absmax = quantize_weight(torch.zeros(2, 3))
    assert not values.any()
    assert not absmax.any()
    assert torch.equal(quantized(nn.Linear(192, 4, bias=False))(torch.zeros(3, 192)), torch.zeros(3, 4))


def test_int8_linear_state_dict_equals_bitsandbytes(linear):
    import bitsandbytes as bnb

    theirs = bnb.nn.Linear8bitLt(192, 96, has_fp16_weights=False)
    theirs.load_state_dict({name: tensor.half() for name, tensor in linear.state_dict().items()})
    theirs = theirs.to("cpu")
    theirs(inputs(dtype=torch.float16))
    state = theirs.state_dict()
    layer = quantized_layer(copy.deepcopy(linear).half())
    assert set(layer.state_dict()) == set(state) - {"weight_format"}
    for name, tensor in layer.state_dict().items():
        assert_close(tensor, state[name], rtol=0, atol=0, check_dtype=False)
    back = Int8Linear(192, 96)
    back.load_state_dict({name: tensor for name, tensor in state.items() if name != "weight_format"})
    x = inputs()
    assert_close(back(x), layer(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", ON_CPU)
def test_int8_linear_equals_float_with_every_engine(linear, engine, dtype):
    x = inputs(dtype=dtype)
    y = quantized(linear, engine=engine)(x)
    assert y.dtype == dtype
    assert relative(y, linear(x.float())) < 0.015


@pytest.mark.parametrize("settings", [{"outliers": "fixed"}, {"outliers": "dynamic"}])
@pytest.mark.parametrize("engine", ["auto", "int_mm", "bitsandbytes"])
def test_int8_linear_with_outliers_is_precise(linear, engine, settings):
    x = inputs(outlier=7)
    expected = linear(x)
    assert relative(quantized(linear, engine=engine)(x), expected) > 0.02, "without them the error is large"
    assert relative(quantized(linear, [7], engine=engine, **settings)(x), expected) < 0.008


@pytest.mark.parametrize("engine", INTEGER)
def test_integer_engine_equals_definition(linear, engine):
    """Inputs are rounded to the step of their row, outliers to the same step but with 16 bits."""
    x, layer = inputs(outlier=7).double(), quantized(linear, [7, 9], engine=engine)
    regular = x.index_fill(1, torch.tensor([7, 9]), 0).abs().amax(1, keepdim=True)
    steps = torch.maximum(regular, x[:, [7, 9]].abs().amax(1, keepdim=True) / 257) / 127
    expected = F.linear((x / steps).round() * steps, layer.dequantize(torch.float64), layer.bias.double())
    assert_close(layer(x.float()).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", INTEGER)
@pytest.mark.parametrize("columns", [[], [7, 9]])
def test_asymmetric_layer_equals_definition(linear, columns, engine):
    """The range of a row, without outliers, has 254 steps about its middle; zero is in it if there are outliers."""
    x = F.gelu(inputs(outlier=7)).double()
    layer = quantized(linear, columns, asymmetric=True, engine=engine)
    columns = torch.tensor(columns, dtype=torch.int64)
    least, most = x.index_fill(1, columns, 0).aminmax(dim=1, keepdim=True)
    middle, steps = (least + most) / 2, (most - least) / 254
    if len(columns):
        steps = torch.maximum(steps, (x[:, columns] - middle).abs().amax(1, keepdim=True) / 257 / 127)
    rounded = ((x - middle) / steps).round() * steps + middle
    expected = F.linear(rounded, layer.dequantize(torch.float64), layer.bias.double())
    assert_close(layer(x.float()).double(), expected, rtol=1e-5, atol=1e-5)


@NEEDS_KERNELS
@pytest.mark.parametrize("settings", [{"outliers": "fixed"}, {"outliers": "dynamic"}])
@pytest.mark.parametrize("columns", [[], [7, 9]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_round_inputs_of_asymmetric_layer_as_torch_does(linear, dtype, columns, settings):
    x = F.gelu(inputs(outlier=7)).to(dtype)
    layers = [quantized(linear, columns, True, engine=engine, **settings) for engine in ("avx", "int_mm")]
    found, expected = (layer.prepare(x) for layer in layers)
    for name in ("values", "scales", "middles", "columns"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
    if expected.high is not None:
        assert torch.equal(found.high[:, : expected.high.shape[1]], expected.high)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-5}
    assert_close(layers[0](x), layers[1](x), **tolerance)


@pytest.mark.parametrize("engine", INTEGER)
def test_asymmetric_layer_halves_the_error_after_gelu(linear, engine):
    x = F.gelu(3 * inputs())
    symmetric, asymmetric = (quantized(linear, asymmetric=asymmetric, engine=engine) for asymmetric in (False, True))
    exact = F.linear(x, symmetric.dequantize(torch.float32), symmetric.bias)
    assert relative(asymmetric(x), exact) < 0.6 * relative(symmetric(x), exact)


@pytest.mark.parametrize("engine", INTEGER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_asymmetric_layer_of_constant_rows_is_exact(linear, dtype, engine):
    layer = quantized(linear, asymmetric=True, engine=engine)
    x = torch.tensor([0.0, 2.0, -3.0]).expand(192, 3).t().to(dtype)
    expected = F.linear(x.float(), layer.dequantize(torch.float32), layer.bias)
    assert_close(
        layer(x).float(), expected.to(dtype).float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )


def test_asymmetric_layer_converted_keeps_weight_sums(linear):
    layer = quantized(linear, asymmetric=True)
    assert torch.equal(layer.weight_sums, layer.weight.sum(1, dtype=torch.int32))
    assert layer.to(torch.bfloat16).weight_sums.dtype == torch.int32
    assert "weight_sums" not in layer.state_dict()


@pytest.mark.parametrize("engine", INTEGER)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_int8_linear_huge_outlier_does_not_overflow(linear, asymmetric, engine):
    x = inputs()
    x[:, 7] *= 1e6
    assert relative(quantized(linear, [7], asymmetric, engine=engine)(x), linear(x)) < 0.02


@pytest.mark.parametrize(
    ("engine", "columns"),
    [
        ("auto", (7,)),
        ("int_mm", ()),
        ("int_mm", (7,)),
        ("int_mm", (0, 7, 191)),
        ("bitsandbytes", ()),
    ],
)
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_linear_row_is_independent_of_batch(linear, engine, columns, dtype, asymmetric):
    x, layer = inputs(outlier=7, dtype=dtype), quantized(linear, columns, asymmetric, engine=engine)
    whole = layer(x)
    for rows in SLICES:
        assert torch.equal(layer(x[rows]), whole[rows])


def test_int8_linear_with_dynamic_outliers_depends_on_batch(linear):
    x = inputs()
    x[0, 7], x[1:, 7] = 60, 5.5  # only an outlier together with the first row
    layer = quantized(linear, outliers="dynamic", engine="int_mm")
    assert not torch.equal(layer(x)[1:], layer(x[1:]))


def test_dynamic_outliers_equal_bitsandbytes(linear):
    x = inputs(outlier=7)
    rows = quantized(linear, outliers="dynamic", engine="bitsandbytes").prepare(x)
    ours = quantized(linear, outliers="dynamic", engine="int_mm").prepare(x)
    assert torch.equal(rows.columns, ours.columns)
    assert rows.columns.tolist() == [7]


@pytest.mark.parametrize("engine", ON_CPU)
def test_int8_linear_gradient_reaches_input_only(linear, engine):
    layer = quantized(linear, [7], engine=engine)
    x, weights = inputs().requires_grad_(), torch.randn(41, 96)
    (layer(x) * weights).sum().backward()
    assert_close(x.grad, weights @ layer.dequantize(torch.float32), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in layer.parameters())


def test_int8_linear_gradient_in_16_bits(linear):
    layer = quantized(linear)
    expected = torch.ones(41, 96) @ layer.dequantize(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        x = inputs(dtype=dtype).requires_grad_()
        layer(x).sum().backward()
        assert relative(x.grad, expected) < 0.01


def test_int8_linear_accepts_any_shape(linear):
    layer, x = quantized(linear), inputs()[:40]
    assert torch.equal(layer(x.view(2, 4, 5, 192)), layer(x).view(2, 4, 5, 96))
    assert layer(x[0]).shape == (96,)


def test_int8_linear_without_bias():
    torch.manual_seed(0)
    linear = nn.Linear(64, 8, bias=False)
    x = torch.randn(5, 64)
    for engine in ("auto", "int_mm", "bitsandbytes", "dequantize"):
        assert relative(quantized(linear, engine=engine)(x), linear(x)) < 0.03


@pytest.mark.parametrize("asymmetric", [False, True])
def test_chain_equals_sequential_layers(asymmetric):
    torch.manual_seed(0)
    up = quantized(nn.Linear(192, 384), [3], engine="int_mm")
    down = quantized(nn.Linear(384, 192), [5, 6], asymmetric, engine="int_mm")
    x = inputs()
    with torch.no_grad():
        assert_close(chain(up, F.gelu, down, x), down(F.gelu(up(x))), rtol=1e-6, atol=1e-6)
    assert can_chain(up, down, x)
    assert not can_chain(up, down, x.clone().requires_grad_())
    assert not can_chain(up, quantized(nn.Linear(384, 192), outliers="dynamic"), x)
    assert not can_chain(up, nn.Linear(384, 192), x)


def test_int_mm_engine_in_blocks_equals_whole(linear, monkeypatch):
    layer, x = quantized(linear, [7], engine="int_mm"), inputs()
    whole = layer(x)
    monkeypatch.setitem(int8_engines.BLOCK, "cpu", 3 * 96)
    assert torch.equal(layer(x), whole)


@pytest.mark.parametrize("largest", [2**20, 100], ids=["kept", "too large to be kept"])
def test_workspace_reused_does_not_change_results(linear, largest, monkeypatch):
    monkeypatch.setattr(int8_engines, "_workspace", int8_engines.Workspace())
    monkeypatch.setattr(int8_engines, "LARGEST_WORKSPACE", largest)
    layer, wide = quantized(linear, [7], engine="int_mm"), quantized(nn.Linear(192, 300), engine="int_mm")
    x = inputs()
    with torch.inference_mode():
        first, kept = layer(x[:5]), wide(x).clone()
        assert torch.equal(layer(x)[:5], first)
    learning = x.clone().requires_grad_()  # the buffer was allocated in inference mode
    wide(learning).sum().backward()
    assert torch.equal(wide(learning).detach(), kept)
    assert (len(int8_engines._workspace.buffer) == 41 * 300) == (largest == 2**20)


def test_workspace_ignores_default_device(linear, monkeypatch):
    monkeypatch.setattr(int8_engines, "_workspace", int8_engines.Workspace())
    layer, x = quantized(linear, engine="int_mm"), inputs()
    with torch.device("meta"):
        int8_engines._workspace.sums(*layer(x).shape, x.device)
    assert torch.equal(layer(x[:2]), layer(x)[:2])


def test_workspace_is_separate_per_thread(linear):
    layer, batches = quantized(linear, [7], engine="int_mm"), inputs().split(8)
    expected = [layer(x) for x in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            for y, right in zip(threads.map(layer, batches), expected, strict=True):
                assert torch.equal(y, right)


@pytest.mark.parametrize(("n_rows", "inner", "n_columns"), [(1, 192, 96), (17, 3, 40), (30, 7, 5), (40, 16, 32)])
def test_filled_int_mm_pads_to_cublas_sizes(n_rows, inner, n_columns, monkeypatch):
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


def test_find_outliers_selects_large_column(linear):
    layer = quantized(linear)
    layer.find_outliers(inputs(outlier=7))
    assert layer.outliers.tolist() == [7]
    assert torch.equal(layer.outlier_weight, layer.weight[:, [7]].t())
    strict = quantized(linear, threshold=1e6)
    strict.find_outliers(inputs(outlier=7))
    assert not len(strict.outliers)
    assert 7 in strict.candidates


def test_choose_engine_auto_depends_on_device(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(int8_engines, "avx_library", lambda: object())
    assert choose_engine("auto", cpu) is choose_engine("avx", cpu) is ENGINES["avx"]
    with pytest.raises(ValueError, match="engine='avx' runs on CPUs, but the device is 'mps'"):
        choose_engine("avx", torch.device("mps"))
    monkeypatch.setattr(int8_engines, "avx_library", lambda: None)
    with pytest.raises(ImportError, match="install gcc or clang, then skxlmr again"):
        choose_engine("avx", cpu)
    monkeypatch.setattr(int8_engines, "cpu_has_int8", lambda: True)
    assert choose_engine("auto", cpu) is ENGINES["int_mm"]
    monkeypatch.setattr(int8_engines, "cpu_has_int8", lambda: False)
    assert choose_engine("auto", cpu) is ENGINES["dequantize"]
    assert choose_engine("auto", torch.device("mps")) is ENGINES["dequantize"]


@pytest.mark.parametrize(
    ("gpu_name", "engine"),
    [("V100", "dequantize"), ("T4", "bitsandbytes"), ("A100", "triton"), ("L4", "triton"), ("H100", "triton")],
)
def test_choose_engine_auto_on_cuda_depends_on_capability(emulate, gpu_name, engine, monkeypatch):
    gpu, cuda = emulate(gpu_name), torch.device("cuda", 0)
    assert choose_engine("auto", cuda) is ENGINES[engine]
    for name, least in (("int_mm", (7, 5)), ("bitsandbytes", (7, 5)), ("triton", (8, 0))):
        if gpu.capability < least:
            message = (
                rf"engine='{name}' needs a GPU .*{least[0]}\.{least[1]}.*, which {gpu_name} does not .* is '{engine}'"
            )
            with pytest.raises(ValueError, match=message):
                choose_engine(name, cuda)
        else:
            assert choose_engine(name, cuda) is ENGINES[name]
    monkeypatch.setattr(triton, "missing", lambda: "triton, which is not installed: run `pip install triton`")
    assert choose_engine("auto", cuda) is ENGINES["bitsandbytes" if engine == "triton" else engine]
    monkeypatch.setattr(bitsandbytes, "has_cuda", lambda: False)
    assert choose_engine("auto", cuda) is ENGINES["dequantize" if engine == "dequantize" else "int_mm"]


def test_choose_engine_auto_on_a_gpu_of_amd_multiplies_in_floating_point(emulate, monkeypatch):
    emulate("A100")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose_engine("auto", torch.device("cuda", 0)) is ENGINES["dequantize"]


def test_choose_engine_auto_for_a_gpu_that_is_not_there(monkeypatch):
    """Memory is estimated for CUDA on machines without it."""

    def fail(_: object) -> None:
        raise RuntimeError("no NVIDIA driver")

    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    monkeypatch.setattr(triton, "missing", lambda: None)
    assert choose_engine("auto", torch.device("cuda")) is ENGINES["triton"]


def test_choose_engine_triton_not_installed_raises(monkeypatch):
    monkeypatch.setattr(triton, "missing", lambda: "triton, which is not installed: run `pip install triton`")
    with pytest.raises(ImportError, match="pip install triton"):
        choose_engine("triton", torch.device("cuda"))


def test_cpu_has_int8_reads_capabilities(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    int8_engines.cpu_has_int8.cache_clear()
    assert int8_engines.cpu_has_int8()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    int8_engines.cpu_has_int8.cache_clear()
    assert not int8_engines.cpu_has_int8()
    int8_engines.cpu_has_int8.cache_clear()


def test_int8_linear_cast_keeps_scales_in_float32(linear):
    layer = quantized(linear, [7]).to(torch.bfloat16)
    assert layer.SCB.dtype == torch.float32
    assert layer.weight.dtype == torch.int8
    assert layer.bias.dtype == torch.bfloat16


def test_int8_linear_copied_or_pickled_is_equal(linear):
    layer, x = quantized(linear, [7]), inputs(outlier=7)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


def test_int8_linear_shared_by_threads(linear):
    layer = quantized(linear, [7])
    xs = [inputs(outlier=7) * (1 + i) for i in range(8)]
    expected = [layer(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, e) for y, e in zip(pool.map(layer, xs), expected, strict=True))


def test_bitsandbytes_engine_missing_package_raises(linear, monkeypatch):
    import sys

    bitsandbytes_ops.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        quantized(linear, engine="bitsandbytes")(inputs())
    bitsandbytes_ops.cache_clear()


def test_int8_settings_are_sklearn_parameters():
    embedder = XLMRXLEmbedder(model="nano", load_in_8bit=Int8(threshold=4.0))
    assert embedder.get_params()["load_in_8bit__threshold"] == 4.0
    twin = clone(embedder.set_params(load_in_8bit__outliers="none"))
    assert twin.load_in_8bit == Int8(threshold=4.0, outliers="none")
    assert twin.load_in_8bit is not embedder.load_in_8bit
    with pytest.raises(ValueError, match="no parameter 'rank'"):
        Int8().set_params(rank=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [(), (7,)])
@pytest.mark.parametrize("engine", ["auto", "int_mm"])
def test_int8_linear_on_cuda_equals_cpu(gpu, linear, engine, columns, dtype):
    if engine == "int_mm" and torch.cuda.get_device_capability() < (7, 5):
        pytest.skip("this GPU does not multiply integers")
    x = inputs(outlier=7 if columns else None, dtype=dtype)
    expected = quantized(linear, columns)(x.float())
    layer = quantized(linear, columns, engine=engine)
    layer = layer.to("cuda")
    x = x.cuda().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert relative(y.cpu(), expected) < 0.02
    assert relative(x.grad.cpu(), torch.ones(41, 96) @ layer.dequantize(torch.float32).cpu()) < 0.02


@pytest.mark.parametrize("engine", ["int_mm", "bitsandbytes"])
def test_outlier_weight_on_cuda_is_prepared_once_until_it_changes(emulate, linear, engine):
    gpu, x = emulate("A10"), inputs(outlier=7).cuda()
    layer = quantized(linear, (7,), engine=engine).cuda()
    layer(x)
    (prepared,) = layer._derived.values()
    with gpu.counting() as counts:
        y = layer(x)
    assert [each is prepared for each in layer._derived.values()] == [True]
    assert counts.operators["pad"] + counts.operators["constant_pad_nd"] == 0
    with torch.no_grad():
        other = quantized(torch.nn.Linear(192, 96), (7,), engine=engine).cuda()
    layer.load_state_dict(other.state_dict())
    layer.set_outliers(torch.tensor([7]))
    torch.testing.assert_close(layer(x).cpu(), other(x).cpu(), rtol=0, atol=0)
    layer.set_outliers(torch.tensor([5]))
    assert relative(layer(x).cpu(), y.cpu()) > 0.1
    assert layer._derived.keys()
    assert not copy.deepcopy(layer)._derived


@pytest.mark.parametrize("scale", [1.0, 1e4, 3e5])
@pytest.mark.parametrize("columns", [(), (7,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("gpu")
def test_int8_linear_on_cuda_with_numbers_beyond_float16_is_finite(linear, dtype, columns, scale):
    """Inputs and outputs of 3e5 are infinite in float16, which the kernels of bitsandbytes take and return."""
    x = inputs(dtype=dtype) * scale
    layer = quantized(linear, columns).to("cuda")
    y = layer(x.cuda()).cpu()
    assert y.isfinite().all()
    assert relative(y, linear(x.float())) < 0.015
    large = quantized(nn.Linear(192, 96, bias=False), columns)
    large.SCB.data *= 3e5
    small = inputs(dtype=dtype)
    assert (
        relative(large.to("cuda")(small.cuda()).cpu(), small.float() @ large.cpu().dequantize(torch.float32).t())
        < 0.015
    )


@pytest.mark.parametrize("inner", [7, 192])
def test_integer_products_on_cuda_are_exact_for_any_size(emulate, inner):
    """Of sizes that are not multiples of 4, bitsandbytes computes them in float32, and rounds large ones."""
    gpu = emulate("T4")
    layer, x = quantized(nn.Linear(inner, 8)), torch.randn(20, inner)
    expected = layer(x)
    with gpu.counting() as counts:
        y = layer.to("cuda")(x.cuda())
    assert set(counts.kernels) == {"int8 product"}
    assert relative(y.cpu(), expected) < 0.02
