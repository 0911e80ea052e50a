"""AdamW that does not import torch's compiler, and the states of optimizers."""

import json
import subprocess
import sys

import pytest
import torch

from skxlmr import XLMRXLClassifier
from skxlmr.system.bitsandbytes import bitsandbytes_ops
from skxlmr.training.optimizers import AdamW, check_optimizer_state, load_optimizer_state, optimizer_state

FIT = """
import sys
from skxlmr import XLMRXLClassifier
XLMRXLClassifier("nano", max_epochs=1, random_state=0).fit(["good", "bad"], [1, 0])
assert "torch._dynamo" not in sys.modules
"""


def test_adamw_steps_equal_torch():
    def train(cls):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
        optimizer = cls([{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}], lr=0.01)
        for i in range(5):
            loss = (torch.randn(2, 4) @ parameters[0] + parameters[1]).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert all(p.grad is None for p in parameters)
            if i == 2:
                numbers, tensors = optimizer_state(optimizer)
                optimizer = cls([{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}], lr=0.01)
                load_optimizer_state(optimizer, numbers, tensors)
        return parameters

    for ours, theirs in zip(train(AdamW), train(torch.optim.AdamW), strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def eight_bit():
    """An 8-bit AdamW of bitsandbytes after a step, with a large and a small parameter; it runs on a CPU as well."""
    bitsandbytes_ops()
    import bitsandbytes.optim

    def make():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(100, 60)), torch.nn.Parameter(torch.randn(3))]
        return parameters, bitsandbytes.optim.AdamW8bit(parameters, lr=1e-2)

    def step(parameters, optimizer):
        for p in parameters:
            p.grad = torch.ones_like(p) + p.detach()
        optimizer.step()

    return make, step


def test_optimizer_state_in_8_bits_is_flat_and_continues(eight_bit):
    make, step = eight_bit
    ours, optimizer = make()
    step(ours, optimizer)
    numbers, tensors = optimizer_state(optimizer)
    assert json.loads(json.dumps(numbers)) == {"0.step": 1, "1.step": 1}
    assert {key for key in tensors if key.startswith("1.")} == {"1.state1", "1.state2"}
    assert tensors["0.state1"].dtype == torch.uint8
    other, resumed = make()
    check_optimizer_state(resumed, numbers, tensors)
    load_optimizer_state(resumed, numbers, tensors)
    with torch.no_grad():
        for p, q in zip(other, ours, strict=True):
            p.copy_(q)
    for parameters, each in ((ours, optimizer), (other, resumed)):
        step(parameters, each)
    assert all(torch.equal(p, q) for p, q in zip(ours, other, strict=True))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("0.qmap1"), "not complete"),
        (lambda t: t.update({"1.qmap1": torch.zeros(256)}), "not complete"),
        (lambda t: t.update({"0.absmax2": torch.zeros(3)}), r"'0.absmax2' of shape \(3,\)"),
        (lambda t: t.update({"0.qmap2": torch.zeros(2)}), r"'0.qmap2' of shape \(2,\)"),
        (lambda t: t.update({"0.state2": torch.zeros(100, 60)}), r"'0.state2' of shape .* and torch.float32"),
        (lambda t: t.update({"1.state1": torch.zeros(3, dtype=torch.float64)}), r"'1.state1' .* torch.float64"),
    ],
)
def test_check_optimizer_state_in_8_bits_of_damaged_file_raises(eight_bit, damage, message):
    make, step = eight_bit
    parameters, optimizer = make()
    step(parameters, optimizer)
    numbers, tensors = optimizer_state(optimizer)
    damage(tensors)
    with pytest.raises(ValueError, match=message):
        check_optimizer_state(make()[1], numbers, tensors)


def test_fit_does_not_import_torch_dynamo():
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_optimizer_in_8_bits_on_cpu_raises():
    clf = XLMRXLClassifier("nano", tuning="head", optimizer="adamw8bit", device="cpu")
    with pytest.raises(ValueError, match="optimizer='adamw8bit' needs a CUDA device"):
        clf.fit(["good", "bad"], [1, 0])
