"""Hours and memory of a run."""

import json
from pathlib import Path

import pytest

from skxlmr import XLMRXLClassifier, memory_estimate
from skxlmr.scale import estimate_run
from skxlmr.scale.calculator import MEASURED, XL, XXL

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_hours_are_tokens_by_speed_and_devices():
    run = estimate_run(1_000, 36, tokens_per_second=10, overhead=0, model="nano", device="cpu")
    assert (run.tokens, run.hours, run.device_hours) == (36_000, 1.0, 1.0)
    four = estimate_run(1_000, 36, tokens_per_second=10, overhead=0.5, devices=4, model="nano", device="cpu")
    assert (four.hours, four.device_hours) == (0.375, 1.5)


def test_memory_is_that_of_memory_estimate():
    parameters = {"model": XL, "load_in_8bit": True, "tuning": "lora", "batch_tokens": 1024, "device": "cpu"}
    assert estimate_run(10, 10, **parameters).memory.total == memory_estimate(**parameters).total


@pytest.mark.parametrize(("tuning", "times"), [(None, 1), ("head", 1), ("lora", 6), ("full", 6)])
def test_tokens_count_epochs_and_fits_if_base_is_trained(tuning, times):
    run = estimate_run(100, 2.5, model="nano", tuning=tuning, epochs=3, fits=2, tokens_per_second=1, device="cpu")
    assert run.tokens == 250 * times


def test_epochs_by_default_are_those_of_a_fit():
    texts, labels = ["good", "bad"] * 6, ["yes", "no"] * 6
    clf = XLMRXLClassifier("nano", tuning="bias", random_state=0, device="cpu").fit(texts, labels)
    run = estimate_run(12, 1, model="nano", tuning="bias", tokens_per_second=1, device="cpu")
    assert run.tokens == 12 * len(clf.history_)


def measured_in(file):
    """The speeds in a file of benchmarks/results, by model, storage and whether the base model was trained."""
    content = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    if file == "scale-nano-cpu.json":
        return {("nano", "float32", False): content["rows"][-1]["tokens_per_second"]}
    if file == "embedding-e5-small-cpu.json":
        names = {"skxlmr, auto": "bfloat16", "skxlmr, 8-bit": "int8", "skxlmr, float32": "float32"}
        return {("e5-small", bits, False): content["engines"][n]["tokens_per_second"] for n, bits in names.items()}
    if file == "full-size-xl-cpu.json":
        steps = content["lora"]["steps"]  # seconds, of 8 texts of 64 tokens each
        return {
            (XL, "int8", False): content["batches"]["tokens_per_s"],
            (XL, "int8", True): 8 * 64 * len(steps) / sum(steps),
        }
    names = {"ours, 8-bit": "int8", "ours, bfloat16": "bfloat16", "ours, float32": "float32"}
    model = XXL if "xxl" in file else XL
    return {(model, names[n], False): run["tokens_per_s"] for n, run in content["runs"].items() if n in names}


@pytest.mark.parametrize("key", MEASURED, ids=str)
def test_measured_speeds_are_those_of_the_files(key):
    model, device, storage, trained = key
    assert device == "cpu"
    speed = MEASURED[key]
    assert speed.tokens_per_second == pytest.approx(measured_in(speed.file)[model, storage, trained], rel=2e-3)
    bits = {"int8": {"load_in_8bit": True}}.get(storage, {"dtype": storage, "load_in_8bit": False})
    run = estimate_run(10, 10, model=model, tuning="lora" if trained else None, device="cpu", **bits)
    assert run.tokens_per_second == speed.tokens_per_second
    assert speed.file in run.source


def test_speed_that_was_not_measured_raises():
    with pytest.raises(ValueError, match=r"'nano' \(cpu, float32, trained\) was not measured; give tokens_per_second"):
        estimate_run(10, 10, model="nano", tuning="lora", dtype="float32", device="cpu")


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"tokens_per_row": 0}, {"devices": 0}, {"overhead": -0.1}, {"epochs": 0}]
)
def test_invalid_parameter_raises(wrong):
    with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of estimate_run"):
        estimate_run(**{"rows": 10, "tokens_per_row": 10, "model": "nano", "device": "cpu", **wrong})


def test_printed_estimate_is_a_table():
    run = estimate_run(100_000_000, 40, devices=8, tokens_per_second=50_000, device="cpu", load_in_8bit=True)
    lines = str(run).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["tokens", "4,000,000,000"],
        ["tokens/s", "50,000.0"],
        ["devices", "8"],
        ["hours", "3.33"],
        ["memory", f"{run.memory.total / 1e9:.2f}"],
    ]
