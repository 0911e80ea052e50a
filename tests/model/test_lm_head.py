import contextlib

import pytest
import torch

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM, XLMRobertaXLModel, lm_head
from skxlmr.model.lm_head import DecoderCrossEntropy, LMHead, read_lm_head

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)


@pytest.mark.parametrize("words_at_once", [7, 25, 1000])
def test_decoder_cross_entropy_in_parts_equals_cross_entropy(words_at_once, monkeypatch):
    monkeypatch.setattr(lm_head, "WORDS_AT_ONCE", words_at_once)
    torch.manual_seed(0)
    x, words, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((9, 16), (50, 16), (50,)))
    targets = torch.tensor([0, 49, 7, 6, 24, 25, 7, 30, 1])
    weights = torch.rand(9, dtype=torch.float64)
    gradients = []
    for parts in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, words, bias)]
        if parts:
            losses = DecoderCrossEntropy.apply(*inputs, targets)
        else:
            losses = torch.nn.functional.cross_entropy(inputs[0] @ inputs[1].T + inputs[2], targets, reduction="none")
        (losses * weights).sum().backward()
        gradients.append((losses.detach(), *(tensor.grad for tensor in inputs)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *inputs: DecoderCrossEntropy.apply(*inputs, targets),
        [t.clone().requires_grad_() for t in (x, words, bias)],
    )


def test_decoder_cross_entropy_large_logits_and_frozen_16_bit_words(monkeypatch):
    monkeypatch.setattr(lm_head, "WORDS_AT_ONCE", 8)
    torch.manual_seed(0)
    x = (100 * torch.randn(3, 16)).requires_grad_()
    words, bias, targets = torch.randn(50, 16).bfloat16(), torch.zeros(50), torch.tensor([3, 11, 49])
    losses = DecoderCrossEntropy.apply(x, words, bias, targets)
    expected = torch.nn.functional.cross_entropy(x.detach() @ words.float().T, targets, reduction="none")
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-5, atol=1e-4)
    losses.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_with_16_bit_words_on_gpu_are_close_to_float64(gpu, dtype, monkeypatch):
    """Products in 16 bits, but hardly anything is rounded: products of rounded hidden states would fail here."""
    monkeypatch.setattr(lm_head, "WORDS_AT_ONCE", 30)
    torch.manual_seed(0)
    x, bias = 3 * torch.randn(20, 64), torch.randn(100)
    words, targets = torch.randn(100, 64).to(dtype), torch.randint(100, (20,))
    weights = torch.rand(20)
    weights[3] = 0
    weights *= 1e-3  # a row's share of the loss is small
    exact = [tensor.double().requires_grad_() for tensor in (x, bias)]
    expected = torch.nn.functional.cross_entropy(exact[0] @ words.double().T + exact[1], targets, reduction="none")
    (expected * weights).sum().backward()
    on_gpu = [tensor.cuda().requires_grad_() for tensor in (x, bias)]
    with contextlib.nullcontext() if gpu is None else gpu.counting() as counts:
        losses = DecoderCrossEntropy.apply(on_gpu[0], words.cuda(), on_gpu[1], targets.cuda())
        (losses * weights.cuda()).sum().backward()
    error = (losses.detach().cpu() - expected.detach()).abs().max()
    rounded = x.to(dtype).double() @ words.double().T + bias
    error_if_rounded = (torch.nn.functional.cross_entropy(rounded, targets, reduction="none") - expected).abs().max()
    assert error < 1e-3
    assert error < error_if_rounded / 50
    for ours, theirs in zip(on_gpu, exact, strict=True):
        torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=1e-3, atol=1e-4 * weights.max().item())
    if gpu is not None:
        assert {reason for reason, _ in counts.waits} == {"upload"}  # of this test's own tensors
        assert counts.kernels["product of 16 bits with float32 sums"] == 3 * 4  # of 4 parts, forward and twice back


def test_logits_with_16_bit_words_on_gpu_equal_cpu(gpu):
    torch.manual_seed(0)
    head, x, words = LMHead(CONFIG), torch.randn(7, 16), torch.randn(50, 16).bfloat16()
    expected = head(x, words)
    with torch.no_grad():
        found = head.cuda()(x.cuda(), words.cuda())
    torch.testing.assert_close(found.cpu(), expected.detach(), rtol=1e-4, atol=1e-4)
    with_gradient = head(x.cuda().requires_grad_(), words.cuda())
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.detach(), found, rtol=1e-4, atol=1e-4)


def test_read_lm_head_equals_head_of_model(tmp_path):
    torch.manual_seed(0)
    model = XLMRobertaXLForMaskedLM(CONFIG)
    model.lm_head.bias.data.normal_()
    model.save_pretrained(tmp_path / "with")
    head = read_lm_head(resolve(tmp_path / "with"), CONFIG)
    for name, value in model.lm_head.state_dict().items():
        torch.testing.assert_close(head.state_dict()[name], value, rtol=0, atol=0)
    XLMRobertaXLModel(CONFIG).save_pretrained(tmp_path / "without")
    assert read_lm_head(resolve(tmp_path / "without"), CONFIG) is None
    with pytest.raises(CheckpointError, match=r"lm_head\.bias"):
        read_lm_head(resolve(tmp_path / "with"), XLMRobertaXLConfig(**{**vars(CONFIG), "vocab_size": 60}))
    assert isinstance(head, LMHead)
