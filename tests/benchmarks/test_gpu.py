"""benchmarks/gpu.py runs from start to end, and whatever ends a part leaves the lines before it and the other parts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import gpu_parts_that_fail
import pytest
import torch

import skxlmr
from skxlmr import LoRA, memory_estimate
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime import feature_cache

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("gpu", "gpu_runner", "gpu_parts", "gpu_peers", "gpu_session", "products", "random_models", "shared", "report")


@pytest.fixture(scope="module")
def gpu_script() -> Iterator[ModuleType]:
    """The script as a module; the files beside it can be imported while it is there."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu

        yield gpu
    finally:
        sys.path[:] = before
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def session(gpu_script: ModuleType, tmp_path: Path, own_cache: Path) -> Iterator[object]:
    """A session with tiny models on the CPU; quantised weights have a cache of their own."""
    (tmp_path / "models").mkdir()
    yield gpu_script.Session(torch.device("cpu"), tmp_path / "models", quick=True)
    skxlmr.set_feature_cache()


def read(folder: Path) -> dict:
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text())


PARTS = ("products", "xl bfloat16", "xl 8-bit triton", "xl 8-bit int_mm", "lora xl bfloat16", "latency xl bfloat16")


def run(gpu_script: ModuleType, session: object, out: Path, only: tuple[str, ...]) -> list:
    report = gpu_script.measure(session, gpu_script.InThisProcess(session), out, seconds=500, only=only)
    assert [line.remark for line in report.lines if line.status == "failed"] == []
    return report.lines


def test_script_on_cpu_measures_tiny_models_without_writing_weights(gpu_script, session, tmp_path, own_cache):
    lines = run(gpu_script, session, tmp_path / "out", PARTS)
    found = {(line.part, line.what): line for line in lines}
    assert found["xl bfloat16", "encoder"].value > 0
    assert found["xl 8-bit int_mm", "times bfloat16"].value > 0
    assert found["xl 8-bit triton", "tokens/s"].remark == "the kernels of Triton run on CUDA only"
    assert found["lora xl bfloat16", "LoRA step"].value > 0
    assert found["latency xl bfloat16", "one text of 200"].value > found["latency xl bfloat16", "encoder, 200"].value
    assert not own_cache.exists()
    assert len(feature_cache.cache) == 0  # each text was run whenever it was timed
    assert sum(path.stat().st_size for path in session.folder.rglob("*") if path.is_file()) < 2_000_000
    content = read(tmp_path / "out")
    assert content["quick"]
    assert len(content["lines"]) == len(lines)
    (table,) = (tmp_path / "out").glob("*.md")
    assert table.read_text().count("\n| xl bfloat16 |") == sum(line.part == "xl bfloat16" for line in lines)


@pytest.mark.parametrize("name", ["H100", "T4"])
def test_script_on_emulated_gpu_compares_memory_with_its_estimate(gpu_script, session, tmp_path, emulate, name):
    emulate(name)
    session = replace(session, device=torch.device("cuda"), _rates={})
    half = "float16" if name == "T4" else "bfloat16"
    only = (
        f"xl {half}",
        "xl 8-bit triton",
        "xl 8-bit float",
        f"lora xl {half}",
        *(["latency xl 8-bit"] if name == "H100" else []),
    )
    lines = run(gpu_script, session, tmp_path / "out", only)
    found = {(line.part, line.what): line for line in lines}
    for what in ("weights", "beside the weights"):
        line = found[f"xl {half}", what]
        (percent,) = re.findall(r"([+-][\d.]+) %", line.remark)
        assert abs(float(percent)) < 10, line
    assert found[f"lora xl {half}", "beside the weights"].value > 0
    if name == "T4":
        assert "8.0 or higher" in found["xl 8-bit triton", "tokens/s"].remark
        assert "8.9 or higher" in found["xl 8-bit float", "tokens/s"].remark
    else:
        assert found["xl 8-bit triton", "times bfloat16"].value > 0
        assert found["xl 8-bit float", "times bfloat16"].value > 0
        assert found["latency xl 8-bit auto", "one text of 20, without CUDA graphs"].value > 0


def test_training_takes_as_many_tokens_at_once_as_fit_beside_the_weights(gpu_script, session, emulate):
    from gpu_parts import training_tokens

    emulate("A10", 60_000_000)
    session.device = torch.device("cuda")
    with session.base("xl", "bfloat16") as base:
        tokens = training_tokens(base, LoRA(), 32_768)
        settings = {key: value for key, value in base.options.items() if key != "model"}
        needs = [
            memory_estimate(base.config, tuning=LoRA(), batch_tokens=n, **settings).total - base.estimate.weights
            for n in (tokens, 2 * tokens)
        ]
        available = memory_estimate(base.config, **settings).available
    assert 512 < tokens < 32_768
    assert needs[0] < available < needs[1] / 0.95


@pytest.mark.filterwarnings("ignore")  # those of other libraries
def test_peers_run_on_an_emulated_gpu(gpu_script, session, tmp_path, emulate):
    emulate("H100")
    session = replace(session, device=torch.device("cuda"), _rates={})
    names = ("sentence-transformers e5-small float16", "bitsandbytes xl 8-bit")
    lines = run(gpu_script, session, tmp_path / "out", names)
    assert sorted((line.part, line.status) for line in lines) == sorted((name, "measured") for name in 3 * names)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_linear_layers_of_bitsandbytes_are_quantised_on_their_device(gpu_script, emulate, device):
    from gpu_peers import quantize

    if device == "cuda":
        emulate("H100")
    plain = torch.nn.Sequential(torch.nn.Linear(32, 16)).half().to(device)
    quantized = torch.nn.Sequential(torch.nn.Linear(32, 16)).half().to(device).requires_grad_(False)
    quantized.load_state_dict(plain.state_dict())
    quantize(quantized)
    assert quantized[0].weight.device.type == device
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).half()
    with torch.no_grad():
        expected, found = plain(x.to(device)).cpu(), quantized(x.to(device)).cpu()
    assert (found - expected).abs().max() < 0.05
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("error", [ImportError("flash_attn is not installed"), ValueError("not supported yet")])
def test_peers_get_the_fastest_attention_that_they_have(gpu_script, error):
    from gpu_peers import with_fastest_attention

    def make(attn_implementation="eager"):
        if attn_implementation not in has:
            raise error
        return attn_implementation

    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    has = ["flash_attention_2", "sdpa", "eager"]
    assert (with_fastest_attention(make, cuda), with_fastest_attention(make, cpu)) == ("flash_attention_2", "sdpa")
    has = ["sdpa", "eager"]
    assert with_fastest_attention(make, cuda) == "sdpa"
    has = ["eager"]
    assert with_fastest_attention(make, cuda) == "eager"


def test_peer_that_lacks_memory_for_a_batch_is_measured_with_the_others(gpu_script, session):
    import gpu_peers

    def encode(texts, size):
        if size > 32:
            raise torch.OutOfMemoryError("injected")

    lines = [
        gpu_peers.timed(session, "peer", "xl", size, partial(encode, size=size), "attention: sdpa")
        for size in (32, 128)
    ]
    assert [(line.status, line.value is not None) for line in lines] == [("measured", True), ("skipped", False)]
    assert "out of memory; attention: sdpa" in lines[1].remark


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_time_budgets_of_all_parts_and_the_start_of_their_process_are_below_ten_minutes(gpu_script, has_bfloat16):
    from gpu_runner import START_SECONDS

    parts = gpu_script.all_parts(has_bfloat16)
    assert sum(part.seconds for part in parts) <= gpu_script.SECONDS
    assert gpu_script.SECONDS + START_SECONDS < 600
    half = "bfloat16" if has_bfloat16 else "float16"
    first = [part.name for part in parts[1:4]]
    assert first == [f"xl {half}", "xl 8-bit triton", "sentence-transformers xl float16"]


def test_part_may_use_the_time_that_earlier_ones_left_and_no_time_of_later_ones(gpu_script):
    from gpu_runner import budget

    part = gpu_script.Part("", 20.0, None)
    assert budget(part, left=100, of_later=80) == 20
    assert budget(part, left=115, of_later=80) == 35
    assert budget(part, left=300, of_later=80) == 40
    assert budget(part, left=70, of_later=80) == 20  # a new process had to start
    assert budget(part, left=12, of_later=0) == 12


@pytest.mark.slow
def test_all_parts_run_on_cpu(gpu_script, session, tmp_path):
    parts = gpu_script.all_parts(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries
        lines = run(gpu_script, session, tmp_path / "out", tuple(part.name for part in parts))
    assert {line.part for line in lines} == {part.name for part in parts}


@contextmanager
def second_process(gpu_script: ModuleType, session: object) -> Iterator[object]:
    runner = gpu_script.InSecondProcess(session)
    try:
        yield runner
    finally:
        runner.stop()


def test_parts_that_crash_or_hang_leave_their_lines_and_the_other_parts(gpu_script, session, tmp_path):
    report = gpu_script.Report(tmp_path / "gpu", {"device": "none"})
    parts = [
        gpu_script.Part(name, seconds, getattr(gpu_parts_that_fail, name))
        for name, seconds in (("crashes", 60.0), ("works", 60.0), ("hangs", 0.5))
    ]
    with second_process(gpu_script, session) as runner:
        gpu_script.run_parts(parts, runner, 500.0, report.record)
    assert [(line.part, line.value, line.remark) for line in report.lines] == [
        ("crashes", 0.0, ""),
        ("crashes", None, "its process ended with 3"),
        ("works", 1.0, ""),  # the new process knows what was measured
        ("hangs", 2.0, ""),
        ("hangs", None, "not done after 1 s, its time budget"),
    ]
    assert read(tmp_path)["done"] == ["works"]


def test_part_that_raises_is_recorded_with_the_first_line_of_its_error(gpu_script, session):
    part = gpu_script.Part("raises", 9.0, gpu_parts_that_fail.raises)
    *_, line = gpu_script.InThisProcess(session).lines(part, 9.0)
    assert (line.status, line.remark) == ("failed", "RuntimeError: CUDA error: an illegal memory access")


def test_each_line_is_written_at_once_and_resume_runs_what_is_missing(gpu_script, session, tmp_path, monkeypatch):
    n_written = []

    def looks(session: object, part: str) -> Iterator[object]:
        for number in range(2):
            yield gpu_script.Line(part, f"line {number}", float(number))
            n_written.append(len(read(tmp_path)["lines"]))

    parts = [gpu_script.Part("first", 9.0, looks), gpu_script.Part("second", 9.0, gpu_parts_that_fail.raises)]
    monkeypatch.setattr(gpu_script, "all_parts", lambda has_bfloat16: parts)
    measure = partial(gpu_script.measure, session, gpu_script.InThisProcess(session), tmp_path, seconds=500)
    measure()
    assert n_written == [1, 2]
    session.known.clear()
    parts[1] = gpu_script.Part("second", 9.0, gpu_parts_that_fail.works)
    report = measure(resume=True)
    assert n_written == [1, 2]
    assert [(line.part, line.value) for line in report.lines] == [("first", 0.0), ("first", 1.0), ("second", 2.0)]
    assert report.done == ["first", "second"]


def test_resume_without_an_earlier_run_begins(gpu_script, session, tmp_path, monkeypatch):
    part = gpu_script.Part("works", 9.0, gpu_parts_that_fail.works)
    monkeypatch.setattr(gpu_script, "all_parts", lambda has_bfloat16: [part])
    report = gpu_script.measure(session, gpu_script.InThisProcess(session), tmp_path, seconds=50, resume=True)
    assert report.done == ["works"]


def test_parts_without_time_left_are_skipped_with_that_reason(gpu_script, session):
    lines = []
    parts = [gpu_script.Part("works", 9.0, gpu_parts_that_fail.works)]
    gpu_script.run_parts(parts, gpu_script.InThisProcess(session), 5.0, lambda part, line: lines.append(line))
    assert [(line.status, line.remark) for line in lines] == [("skipped", "no time left: --resume runs it")]


def test_only_that_names_no_part_is_an_error(gpu_script, session, tmp_path):
    with pytest.raises(
        ValueError, match=r"No part begins with 'nothing'\. The parts: products, xl bfloat16, xl 8-bit triton, sentence"
    ):
        gpu_script.measure(session, gpu_script.InThisProcess(session), tmp_path, seconds=9, only=["nothing"])


def test_targets_are_judged_on_an_h200_only(gpu_script, tmp_path):
    line, part = gpu_script.Line("xl bfloat16", "encoder", 90_000.0, "tokens/s"), gpu_script.Part("", 0, None)
    for device, met in (("NVIDIA H200", False), ("NVIDIA L4", None)):
        report = gpu_script.Report(tmp_path / "gpu", {"device": device})
        report.record(part, line)
        assert (report.lines[0].target, report.lines[0].met) == ("at least 100,000", met)
    assert "target on an H200" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize("cut_off", [False, True])
def test_results_of_pytest_are_counted_also_when_it_is_cut_off(gpu_script, session, tmp_path, monkeypatch, cut_off):
    content = (
        "import pytest, time\n"
        "pytestmark = pytest.mark.gpu\n"
        "def test_a(): pass\n"
        "def test_b(): assert 0\n"
        f"def test_c(): time.sleep({600 * cut_off})\n"
    )
    (tmp_path / "test_it.py").write_text(content)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    import gpu_parts

    class EndsAfterTestB(subprocess.Popen):
        """A process whose time limit is over after `test_b`, however long pytest took until then."""

        def wait(self, timeout=None):
            while timeout is not None and self.poll() is None:
                if "test_b FAILED" in (session.folder / "pytest.txt").read_text():
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.01)
            return super().wait()

    if cut_off:
        monkeypatch.setattr(gpu_parts.subprocess, "Popen", EndsAfterTestB)
    session.quick = False
    options = [f"--rootdir={tmp_path}", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    passed, failed = gpu_parts.correctness(session, "tests", 60.0, options)
    assert (passed.value, failed.value) == ((1, 1) if cut_off else (2, 1))
    assert ("cut off after 60 s" in passed.remark) == cut_off
    assert re.search(r"test_it.py::test_b" + ("$" if cut_off else ": assert 0$"), failed.remark)


def test_flops_of_texts_count_products_and_attention(gpu_script):
    from products import model_flops

    config = XLMRobertaXLConfig(hidden_size=4, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
    weights = sum(
        p.numel() for name, p in skxlmr.model.XLMRobertaXLModel(config).named_parameters()
        if "layers." in name and p.ndim == 2
    )  # fmt: skip
    per_text = [2 * weights * n + 3 * 2 * (2 * n * n * 4) for n in (5, 7)]
    assert model_flops(config, [5, 7]) == sum(per_text)
