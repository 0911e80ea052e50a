"""Hidden states on the graph of autograd, and what records a forward pass: torch.jit.trace and torch.export."""

import pytest
import torch
from padded_batches import batch, build

KINDS = ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eager", [False, True], ids=["packed", "eager"])
def test_hidden_states_have_gradients(kind, eager):
    model, (ids, mask) = build(kind).double(), batch()
    outputs = model(ids, mask, output_hidden_states=True, output_attentions=eager)
    parts = [*outputs.hidden_states, *(outputs.attentions or ())]
    gradients = torch.autograd.grad(outputs.logits[0].sum(), parts, retain_graph=True)
    for part in parts:
        part.retain_grad()
    outputs.logits[0].sum().backward()
    for part, gradient in zip(parts, gradients, strict=True):
        torch.testing.assert_close(part.grad, gradient)
        assert gradient[0].any()
        assert not gradient[1:].any()
    # The gradient is the slope of the logits along a change of the hidden states of the first text.
    step = 1e-6 * torch.randn(int(mask[0].sum()), 16, dtype=torch.float64)

    def change(layer, arguments):
        x = arguments[0].clone()
        x[: len(step)] += step
        return (x, *arguments[1:])

    with model.roberta.layers[1].register_forward_pre_hook(change):
        difference = model(ids, mask, output_attentions=eager).logits[0].sum() - outputs.logits[0].sum()
    torch.testing.assert_close(difference, (gradients[1][0, : len(step)] * step).sum(), rtol=1e-3, atol=1e-9)


def test_hidden_states_without_gradients_are_the_same():
    model, (ids, mask) = build("Model"), batch()
    outputs = model(ids, mask, output_hidden_states=True)
    with torch.inference_mode():
        again = model(ids, mask, output_hidden_states=True)
    for a, b in zip(outputs.hidden_states, again.hidden_states, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(outputs.last_hidden_state, outputs.hidden_states[-1])
    torch.testing.assert_close(outputs.last_hidden_state, model(ids, mask).last_hidden_state)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Model", *KINDS])
def test_jit_trace_is_refused(kind):
    model, (ids, mask) = build(kind), batch()
    model.config.return_dict = False
    with pytest.raises(NotImplementedError, match="would record the lengths of these texts"):
        torch.jit.trace(model, (ids, mask), check_trace=False)


@pytest.mark.parametrize("kind", ["Model", *KINDS, "ForQuestionAnswering"])
@pytest.mark.parametrize("masked", [True, False])
def test_exported_model_takes_other_lengths(kind, masked):
    model, given = build(kind), batch()[: 1 + masked]
    names = ("input_ids", "attention_mask")[: len(given)]
    sizes = {0: torch.export.Dim("texts", min=2), 1: torch.export.Dim("length", min=2, max=38)}
    exported = torch.export.export(
        model, (), dict(zip(names, given, strict=True)), dynamic_shapes=dict.fromkeys(names, sizes)
    ).module()
    for other in (given, batch((4, 3, 9, 1, 2, 30))[: len(given)], batch((3, 6), left=True)[: len(given)]):
        inputs = dict(zip(names, other, strict=True))
        expected, got = model(**inputs), exported(**inputs)
        assert list(got) == list(expected)
        real = inputs.get("attention_mask", torch.ones_like(other[0])).bool()
        for name, value in expected.items():
            at = real if value.shape[:2] == real.shape else ...
            torch.testing.assert_close(got[name][at], value[at])
