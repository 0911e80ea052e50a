"""Layers with 8-bit weights in few kernels, on a CUDA device or an emulated one."""

import pytest
import torch
from quantized_layers import quantized_layer
from torch import nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.config import XLMRobertaConfig
from skxlmr.model.int8 import Int8
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import int8_layers, linear_layers
from skxlmr.tuning import Bias, LoRA

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160,
    "max_position_embeddings": 40,
}  # fmt: skip
XL, ROBERTA = XLMRobertaXLConfig(**SIZES), XLMRobertaConfig(**SIZES)
LENGTHS = [20, 4, 1]
FUSED, UNFUSED = {"quantize_rows", "int8_linear"}, {"int8_linear_matmul", "int8_vectorwise_quant"}


@pytest.fixture(autouse=True)
def needs_triton(gpu):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("Triton compiles no integer products for this GPU")


def model_of(config, dtype=torch.float32, device="cuda", **settings):
    """Return the same model each time, with random LayerNorms and two outliers in each layer."""
    torch.manual_seed(0)
    model = XLMRobertaXLModel(config, add_pooling_layer=False)
    shared = Int8(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for name, linear in linear_layers(model).items():
        layer = quantized_layer(linear, shared)
        layer.set_outliers(torch.tensor([1, 5]))
        model.set_submodule(name, layer)
    return model.eval().requires_grad_(False).to(dtype).to(device)


def adapter_of(tuning, config, device="cuda"):
    """Return an adapter as after some training."""
    torch.manual_seed(1)
    adapter = tuning.build(config).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return adapter.to(device)


def encode(model, adapter=None):
    device = model.device
    ids = (torch.arange(sum(LENGTHS)) % 40 + 4).to(device)
    positions = torch.cat([torch.arange(n) for n in LENGTHS]).to(device) + 2
    packing = Packing.from_lengths(LENGTHS, device)
    return model.encode(ids, positions, packing, adapter=adapter)[-1].float().cpu()


def relative(x, y):
    return float((x - y).norm() / y.norm())


def operators(gpu, run):
    if gpu is None:
        pytest.skip("operators are counted on an emulated device")
    with gpu.counting() as counts:
        run()
    return counts.operators_of_layers


@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
@pytest.mark.parametrize(
    "tuning", [None, LoRA(rank=2, layers=1), LoRA(rank=2, targets=["key", "down"]), Bias()], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_layers_equal_layers_on_the_cpu(config, tuning, dtype):
    def run(device, dtype, engine):
        model = model_of(config, dtype, device, engine=engine)
        adapter = None if tuning is None else adapter_of(tuning, config, device)
        with torch.inference_mode():
            return encode(model, adapter)

    expected = run("cpu", torch.float32, "int_mm")
    assert relative(run("cuda", dtype, "triton"), expected) < (2e-3 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_fused_layers_with_another_activation_equal_layers_on_the_cpu(activation):
    config = XLMRobertaXLConfig(**SIZES, hidden_act=activation)
    on_cpu, on_gpu = model_of(config, device="cpu", engine="int_mm"), model_of(config)
    with torch.inference_mode():
        assert relative(encode(on_gpu), encode(on_cpu)) < 2e-3


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
def test_fused_layer_runs_at_most_12_operators(config, mode, gpu):
    model = model_of(config, torch.bfloat16)
    with mode():
        layers = operators(gpu, lambda: encode(model))
    for layer in layers:
        assert layer.total() <= 12, layer
        assert layer["int8_linear"] == 4
        assert layer["quantize_rows"] == 4


def test_layer_with_adapter_is_fused(gpu):
    model, adapter = model_of(XL, torch.bfloat16), adapter_of(LoRA(rank=2, layers=1), XL)
    with torch.inference_mode():
        first, second = operators(gpu, lambda: encode(model, adapter))
    assert first.total() <= 12
    assert second["int8_linear"] == 4


def with_dropout(model):
    model.train()


def with_dynamic_outliers(model):
    for layer in int8_layers(model).values():
        layer.settings.outliers = "dynamic"


def with_a_layer_in_floating_point(model):
    model.layers[0].ffn.set_submodule("up", nn.Linear(64, 160, device="cuda", dtype=torch.bfloat16))


def with_an_observer(model):
    model.layers[0].ffn.down.observer = lambda x: None


def with_a_hook(model):
    model.layers[0].ffn.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    "change", [with_dropout, with_dynamic_outliers, with_a_layer_in_floating_point, with_an_observer, with_a_hook]
)
def test_layer_that_cannot_be_fused_runs_as_it_is(change, gpu):
    model = model_of(XL, torch.bfloat16)
    change(model)
    with torch.inference_mode():
        first, _ = operators(gpu, lambda: encode(model))
    assert first["layer_norm"] == 2
    assert first["int8_linear"] in (5, 6)


def test_layer_that_runs_unfused_is_close_to_fused():
    model = model_of(XL, torch.float32)
    with torch.inference_mode():
        expected = encode(model)
        with_an_observer(model)
        assert relative(encode(model), expected) < 1e-5


def test_asymmetric_layers_run_as_symmetric_ones():
    model = model_of(XL, torch.float32)
    with torch.inference_mode():
        expected = encode(model)
        for layer in int8_layers(model).values():
            layer.asymmetric = True
            layer.set_outliers(layer.outliers)  # which computes `weight_sums`
        assert torch.equal(encode(model), expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_an_adapter_equal_those_on_the_cpu(recompute):
    def gradients(device, engine):
        model, adapter = model_of(XL, device=device, engine=engine), adapter_of(LoRA(rank=2, layers=None), XL, device)
        model.gradient_checkpointing = recompute
        encode(model, adapter).square().sum().backward()
        return [p.grad.cpu() for p in adapter.parameters()]

    for gradient, expected in zip(gradients("cuda", "auto"), gradients("cpu", "int_mm"), strict=True):
        assert relative(gradient, expected) < 0.02


def test_values_above_the_range_of_float16_stay_finite_in_bfloat16():
    model = model_of(XL, torch.bfloat16)
    with torch.inference_mode():
        model.layers[0].attention_norm.weight *= 1e4
        model.layers[0].ffn.down.bias.fill_(1e6)
        hidden = model.encode(
            torch.arange(4, device="cuda"),
            torch.arange(4, device="cuda") + 2,
            Packing.from_lengths([4], "cuda"),
            layers=[1],
        )[0]
    assert hidden.float().cpu().isfinite().all()
    assert hidden.float().cpu().abs().max() > 65504
