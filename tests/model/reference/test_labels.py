"""Labels of forward passes: every dtype that holds them, and shapes that are refused."""

import pytest
import torch
from padded_batches import batch, build

IDS, MASK = batch()
TEXTS = torch.tensor([0, 1, 0, 1])
TOKENS = torch.where(MASK.bool(), IDS % 2, -100)


def loss(model, **labels):
    choices = model.__class__.__name__.endswith("MultipleChoice")
    ids, mask = (IDS[:, None].expand(-1, 2, -1), MASK[:, None].expand(-1, 2, -1)) if choices else (IDS, MASK)
    return model(ids, attention_mask=mask, **labels).loss


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8])
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("ForSequenceClassification", {"labels": TEXTS}),
        ("ForMultipleChoice", {"labels": TEXTS}),
        ("ForTokenClassification", {"labels": TOKENS}),
        ("ForMaskedLM", {"labels": TOKENS}),
        ("ForCausalLM", {"labels": TOKENS}),
        ("ForQuestionAnswering", {"start_positions": TEXTS, "end_positions": TEXTS}),
    ],
)
def test_labels_may_be_any_integers(name, labels, dtype):
    model = build(name, is_decoder=name == "ForCausalLM", problem_type="single_label_classification")
    expected = loss(model, **labels)
    assert torch.equal(loss(model, **{key: value.to(dtype) for key, value in labels.items()}), expected)
    given = next(iter(labels))
    with pytest.raises(TypeError, match=f"{given} must be indices, which are integers, got torch.float32"):
        loss(model, **{key: value.float() for key, value in labels.items()})
    with pytest.raises(TypeError, match=f"{given} must be a tensor, not list"):
        loss(model, **{key: value.tolist() for key, value in labels.items()})
    with pytest.raises(ValueError, match=f"{given} must have shape"):
        loss(model, **{key: value[:3] for key, value in labels.items()})


@pytest.mark.parametrize(
    ("n_labels", "problem_type", "labels"),
    [
        (1, None, torch.rand(4)),
        (1, "regression", torch.rand(4, 1)),
        (3, "regression", torch.rand(4, 3).half()),
        (3, None, torch.rand(4, 3) > 0.5),
        (3, "multi_label_classification", torch.ones(4, 3).long()),
        (2, None, torch.tensor([True, False, True, False])),
    ],
)
def test_loss_of_texts(n_labels, problem_type, labels):
    model = build("ForSequenceClassification", num_labels=n_labels, problem_type=problem_type)
    logits, given = model(IDS, MASK).logits, labels.double()
    if n_labels == 1 or problem_type == "regression":
        expected = (logits - given.view_as(logits)).square().mean()
    elif labels.ndim == 2:
        expected = -(given * logits.sigmoid().log() + (1 - given) * (-logits).sigmoid().log()).mean()
    else:
        expected = -logits.log_softmax(1)[range(4), given.long()].mean()
    torch.testing.assert_close(loss(model, labels=labels), expected)


@pytest.mark.parametrize(
    ("n_labels", "problem_type", "labels"),
    [
        (3, "regression", torch.rand(4, 1)),  # torch would repeat them
        (4, "regression", torch.rand(4)),
        (3, "multi_label_classification", torch.rand(4)),
        (1, "regression", torch.rand(3)),
    ],
)
def test_labels_of_another_shape_are_refused(n_labels, problem_type, labels):
    model = build("ForSequenceClassification", num_labels=n_labels, problem_type=problem_type)
    with pytest.raises(ValueError, match=r"labels must have shape \(4, .*problem_type='"):
        loss(model, labels=labels)


def test_loss_of_a_causal_model_in_16_bits_is_float32():
    model = build("ForCausalLM", is_decoder=True).bfloat16()
    logits = model(IDS, MASK).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), TOKENS[:, 1:].flatten())
    assert torch.equal(loss(model, labels=TOKENS), expected)
