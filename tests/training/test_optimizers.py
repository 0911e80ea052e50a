"""AdamW that does not import torch's compiler."""

import subprocess
import sys

import pytest
import torch

from skxlmr import XLMRXLClassifier
from skxlmr.training.optimizers import AdamW, load_optimizer_state, optimizer_state

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


def test_fit_does_not_import_torch_dynamo():
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_optimizer_in_8_bits_on_cpu_raises():
    clf = XLMRXLClassifier("nano", tuning="head", optimizer="adamw8bit", device="cpu")
    with pytest.raises(ValueError, match="optimizer='adamw8bit' needs a CUDA device"):
        clf.fit(["good", "bad"], [1, 0])
