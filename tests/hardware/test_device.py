import numpy as np
import pytest
import torch

from skxlmr.hardware import device as module
from skxlmr.hardware.device import choose_device, choose_dtype, choose_quantization
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.int8 import Int8

XL, NANO = XLMRobertaXLConfig.xl(), XLMRobertaXLConfig.from_pretrained("nano")
CPU = torch.device("cpu")
GB = 10**9


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"device='{device}'"):
        choose_device(device)


def test_cuda_that_is_absent_is_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no CUDA.*device='auto' or 'cpu'"):
        choose_device("cuda")


def test_auto_device():
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("config", "has_bfloat16", "expected"),
    [(XL, True, torch.bfloat16), (XL, False, torch.float32), (NANO, True, torch.float32)],
)
def test_auto_dtype_on_a_cpu(monkeypatch, config, has_bfloat16, expected):
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: has_bfloat16)
    assert choose_dtype("auto", CPU, config) == expected
    assert choose_dtype("float16", CPU, config) == torch.float16


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_bfloat16_is_read_from_the_capabilities(monkeypatch, name):
    monkeypatch.setattr(module, "cpu_capabilities", lambda: {name: True})
    module.cpu_has_bfloat16.cache_clear()
    assert module.cpu_has_bfloat16()
    monkeypatch.setattr(module, "cpu_capabilities", dict)
    module.cpu_has_bfloat16.cache_clear()
    assert not module.cpu_has_bfloat16()
    module.cpu_has_bfloat16.cache_clear()


def test_auto_is_8_bit_where_the_model_is_large():
    assert choose_quantization("auto", False, CPU, XL) == Int8()
    assert choose_quantization("auto", False, CPU, NANO) is None
    assert choose_quantization(False, False, CPU, XL) is None
    assert choose_quantization(True, False, CPU, NANO) == Int8()
    assert choose_quantization("auto", True, CPU, XL) == "nf4"


@pytest.mark.parametrize(("memory", "expected"), [(12 * GB, Int8()), (16 * GB, None), (80 * GB, None)])
def test_auto_on_a_gpu_depends_on_its_memory(monkeypatch, memory, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory, memory))
    assert choose_quantization("auto", False, torch.device("cuda", 0), XL) == expected


def test_8_and_4_bit_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        choose_quantization(True, True, CPU, XL)


def test_settings_are_checked():
    for wrong in (Int8(outliers="some"), Int8(engine="fast"), Int8(threshold=0)):
        with pytest.raises(ValueError, match="Int8"):
            choose_quantization(wrong, False, CPU, XL)


@pytest.mark.parametrize("config", [XL, NANO, XLMRobertaXLConfig(is_decoder=True, add_cross_attention=True)])
def test_parameters_are_counted_right(config):
    from skxlmr.model import XLMRobertaXLModel
    from skxlmr.model.quantized import linear_layers

    with torch.device("meta"):
        model = XLMRobertaXLModel(config, add_pooling_layer=False)
    assert config.num_parameters == sum(p.numel() for p in model.parameters())
    in_layers = [p.numel() for linear in linear_layers(model).values() for p in linear.parameters()]
    assert config.num_layer_parameters == np.sum(in_layers)
