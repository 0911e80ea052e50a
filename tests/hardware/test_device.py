import numpy as np
import pytest
import torch

from skxlmr.hardware import device as module
from skxlmr.hardware.device import choose_device, choose_dtype, choose_quantization
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.tuning import Full

XL, NANO = XLMRobertaXLConfig.xl(), XLMRobertaXLConfig.from_pretrained("nano")
CPU = torch.device("cpu")
GB = 10**9


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu"])
def test_choose_device_with_an_unknown_device_raises(device):
    with pytest.raises(ValueError, match=f"device='{device}'"):
        choose_device(device)


def test_choose_device_without_cuda_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no CUDA.*device='auto' or 'cpu'"):
        choose_device("cuda")


@pytest.mark.parametrize("device", ["xpu", "meta", "privateuseone"])
def test_choose_device_of_another_kind_says_which_are_supported(device):
    with pytest.raises(ValueError, match=rf"device='{device}' is not supported: models run on CPUs, on CUDA devices"):
        choose_device(device)


@pytest.mark.parametrize(
    ("cuda", "hip", "visible", "expected"),
    [
        (
            "13.0",
            None,
            None,
            r"finds no GPU \(is the driver installed, and recent enough for CUDA 13.0 of this torch\?\)",
        ),
        ("13.0", None, "", r"for CUDA 13.0 .*CUDA_VISIBLE_DEVICES is ''"),
        (None, "7.0", None, r"for ROCm 7.0"),
    ],
)
def test_choose_device_without_a_gpu_says_what_to_look_for(monkeypatch, cuda, hip, visible, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ValueError, match=expected):
        choose_device("cuda")


def test_choose_device_auto_returns_a_device_of_this_machine():
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("config", "has_bfloat16", "expected"),
    [(XL, True, torch.bfloat16), (XL, False, torch.float32), (NANO, True, torch.float32)],
)
def test_choose_dtype_auto_on_a_cpu_depends_on_bfloat16_and_size(monkeypatch, config, has_bfloat16, expected):
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: has_bfloat16)
    assert choose_dtype("auto", CPU, config) == expected
    assert choose_dtype("float16", CPU, config) == torch.float16


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_cpu_has_bfloat16_reads_the_capabilities(monkeypatch, name):
    monkeypatch.setattr(module, "cpu_capabilities", lambda: {name: True})
    module.cpu_has_bfloat16.cache_clear()
    assert module.cpu_has_bfloat16()
    monkeypatch.setattr(module, "cpu_capabilities", dict)
    module.cpu_has_bfloat16.cache_clear()
    assert not module.cpu_has_bfloat16()
    module.cpu_has_bfloat16.cache_clear()


def test_choose_quantization_auto_on_a_cpu_is_8_bit_for_large_models():
    assert choose_quantization("auto", False, CPU, XL) == Int8()
    assert choose_quantization("auto", False, CPU, NANO) is None
    assert choose_quantization(False, False, CPU, XL) is None
    assert choose_quantization(True, False, CPU, NANO) == Int8()
    assert choose_quantization("auto", True, CPU, XL) == "nf4"


@pytest.mark.parametrize(("total_bytes", "expected"), [(12 * GB, Int8()), (16 * GB, None), (80 * GB, None)])
def test_choose_quantization_auto_on_a_gpu_depends_on_its_size(monkeypatch, total_bytes, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total_bytes, total_bytes))
    assert choose_quantization("auto", False, torch.device("cuda", 0), XL) == expected


def test_choose_quantization_with_8_and_4_bit_raises():
    with pytest.raises(ValueError, match="exclude each other"):
        choose_quantization(True, True, CPU, XL)


def test_choose_quantization_of_settings_is_these():
    for settings in (Int8(threshold=3.0), Float8()):
        assert choose_quantization(settings, False, CPU, NANO) is settings
        with pytest.raises(ValueError, match="tuning='full' trains every weight"):
            choose_quantization(settings, False, CPU, NANO, Full())


def test_choose_quantization_with_invalid_settings_raises():
    for wrong in (Int8(outliers="some"), Int8(engine="fast"), Int8(threshold=0)):
        with pytest.raises(ValueError, match="Int8"):
            choose_quantization(wrong, False, CPU, XL)


@pytest.mark.parametrize("config", [XL, NANO, XLMRobertaXLConfig(is_decoder=True, add_cross_attention=True)])
def test_config_num_parameters_equals_those_of_the_model(config):
    from skxlmr.model import XLMRobertaXLModel
    from skxlmr.model.quantized import linear_layers

    with torch.device("meta"):
        model = XLMRobertaXLModel(config, add_pooling_layer=False)
    assert config.num_parameters == sum(p.numel() for p in model.parameters())
    in_layers = [p.numel() for linear in linear_layers(model).values() for p in linear.parameters()]
    assert config.num_layer_parameters == np.sum(in_layers)
