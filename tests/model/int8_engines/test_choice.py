"""Which engine multiplies 8-bit weights on which device."""

import pytest
import torch

from skxlmr.model.int8_engines import choice
from skxlmr.model.int8_engines.choice import ENGINES, choose_engine
from skxlmr.system import bitsandbytes, triton


def test_choose_engine_auto_depends_on_device(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(choice, "avx_library", lambda: object())
    assert choose_engine("auto", cpu) is choose_engine("avx", cpu) is ENGINES["avx"]
    with pytest.raises(ValueError, match="engine='avx' runs on CPUs, but the device is 'mps'"):
        choose_engine("avx", torch.device("mps"))
    monkeypatch.setattr(choice, "avx_library", lambda: None)
    with pytest.raises(ImportError, match="install gcc or clang, then skxlmr again"):
        choose_engine("avx", cpu)
    monkeypatch.setattr(choice, "cpu_has_int8", lambda: True)
    assert choose_engine("auto", cpu) is ENGINES["int_mm"]
    monkeypatch.setattr(choice, "cpu_has_int8", lambda: False)
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
    choice.cpu_has_int8.cache_clear()
    assert choice.cpu_has_int8()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    choice.cpu_has_int8.cache_clear()
    assert not choice.cpu_has_int8()
    choice.cpu_has_int8.cache_clear()
