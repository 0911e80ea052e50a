"""Equality with transformers, whose random weights are loaded with `from_pretrained`."""

import pytest
import torch
import transformers

from skxlmr import model as ours
from skxlmr.model.key_maps import key_map

SHAPE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 514,
}
RAGGED = ([5, 512, 1, 37], [1], [512], [9, 9], [3])
NAMES = [
    *(f"XLMRobertaXL{kind}" for kind in ("Model", "ForSequenceClassification", "ForMaskedLM")),
    *(f"XLMRoberta{kind}" for kind in ("Model", "ForSequenceClassification", "ForMaskedLM")),
    *("BertModel", "BertForSequenceClassification"),
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def save_reference(cls, directory, **config):
    """Save a model of transformers in float64, with random weights instead of zeros and ones."""
    torch.manual_seed(0)
    reference = cls(cls.config_class(**SHAPE, **config)).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    reference.save_pretrained(directory)
    return reference


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of the reference and our model, by class name, both in float64."""
    result = {}
    for name in NAMES:
        directory = tmp_path_factory.mktemp(name)
        config = {"num_labels": 3} if "Sequence" in name else {}
        reference = save_reference(getattr(transformers, name), directory, **config)
        result[name] = reference, getattr(ours, name).from_pretrained(directory, dtype=torch.float64)
    return result


def batch_of(lengths):
    """Return padded ids and the mask of random texts."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.full((len(lengths), max(lengths)), 1)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, SHAPE["vocab_size"], (length,), generator=generator)
    return ids, (ids != 1).long()


def run_both(pair, dtype, with_labels=True, **inputs):
    reference, native = (model.to(dtype) for model in pair)
    ids = inputs["input_ids"]
    if with_labels and "Sequence" in type(native).__name__:
        inputs["labels"] = torch.arange(len(ids)) % 3
    if with_labels and "Masked" in type(native).__name__:
        inputs["labels"] = torch.where(ids % 3 == 0, ids, -100)
        inputs["labels"][:, 0] = 7
    outputs = [model(**inputs, output_hidden_states=True) for model in (reference, native)]
    for model in (reference, native):
        model.zero_grad()
    return outputs


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("lengths", RAGGED, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_reference(pairs, name, dtype, lengths, masked):
    ids, mask = batch_of(lengths)
    expected, got = run_both(pairs[name], dtype, input_ids=ids, attention_mask=mask if masked else None)
    real = mask.bool() if masked else torch.ones_like(mask).bool()
    assert list(expected.keys()) == list(got.keys())
    for key, value in expected.items():
        values = [(value, got[key])] if torch.is_tensor(value) else list(zip(value, got[key], strict=True))
        for theirs, mine in values:
            if theirs.shape[:2] == ids.shape:
                theirs, mine = theirs[real], mine[real]
            scale = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if "For" in name])
def test_backward_equals_reference(pairs, name, dtype):
    reference, native = pairs[name]
    ids, mask = batch_of([5, 40, 1, 17])
    expected, got = run_both(pairs[name], dtype, input_ids=ids, attention_mask=mask)
    expected.loss.backward()
    got.loss.backward()
    names = key_map(native.config.model_type)
    theirs = {names.to_ours(n): p.grad for n, p in reference.named_parameters(remove_duplicate=False)}
    compared = 0
    for key, parameter in native.named_parameters():
        scale = max(1.0, theirs[key].abs().max().item())
        torch.testing.assert_close(parameter.grad, theirs[key], rtol=0, atol=TOLERANCE[dtype] * scale)
        compared += 1
    assert compared == len(list(reference.parameters()))


def test_forward_with_embeddings_and_positions_equals_reference(pairs):
    reference, native = (model.double() for model in pairs["XLMRobertaXLModel"])
    ids, mask = batch_of([4, 9])
    embeds = reference.embeddings.word_embeddings(ids)
    positions = torch.arange(9).flip(0)[None] + 20
    inputs = {"attention_mask": mask, "position_ids": positions, "token_type_ids": torch.zeros_like(ids)}
    expected = reference(inputs_embeds=embeds, **inputs).last_hidden_state
    got = native(inputs_embeds=embeds, **inputs).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-9)
    got = native(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    expected = reference(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (1, torch.tensor([0.5, -1.0])),
        (2, torch.tensor([0, 1])),
        (2, torch.tensor([[1.0, 0.0], [1.0, 1.0]])),
    ],
    ids=["regression", "single label", "multilabel"],
)
def test_sequence_loss_equals_reference(tmp_path, num_labels, labels):
    cls = transformers.XLMRobertaXLForSequenceClassification
    reference = save_reference(cls, tmp_path, num_labels=num_labels)
    native = ours.XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    ids, mask = batch_of([4, 9])
    expected = reference(ids, attention_mask=mask, labels=labels.double() if labels.is_floating_point() else labels)
    got = native(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(got.loss, expected.loss, rtol=0, atol=1e-9)
    named = native(ids, attention_mask=mask, labels=labels, return_dict=False)
    assert isinstance(named, tuple)
    assert torch.equal(named[0], got.loss)
    assert torch.equal(named[1], got.logits)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Model", {}),
        ("ForCausalLM", {"is_decoder": True, "add_cross_attention": True}),
        ("ForMaskedLM", {}),
        ("ForSequenceClassification", {"num_labels": 3}),
        ("ForMultipleChoice", {}),
        ("ForTokenClassification", {"num_labels": 3}),
        ("ForQuestionAnswering", {}),
    ],
)
def test_save_pretrained_round_trip_through_transformers(name, config, tmp_path):
    name = "XLMRobertaXL" + name
    first = getattr(ours, name)(ours.XLMRobertaXLConfig(**SHAPE, **config)).double().eval()
    first.save_pretrained(tmp_path / "ours")
    theirs, report = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", dtype=torch.float64, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    second = getattr(ours, name).from_pretrained(tmp_path / "theirs", dtype=torch.float64)
    for (key, before), (_, after) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(before, after), key
    ids, mask = batch_of([4, 9])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "Choice" in name:
        inputs = {key: value[None] for key, value in inputs.items()}
    with torch.no_grad():
        expected, got, again = theirs.eval()(**inputs), first(**inputs), second(**inputs)
    key = next(iter(got))
    assert torch.equal(got[key], again[key])
    real = mask.bool() if got[key].shape[:2] == ids.shape else ...
    torch.testing.assert_close(got[key][real], expected[key][real], rtol=0, atol=1e-9)


def test_forward_is_independent_of_batch(pairs):
    native = pairs["XLMRobertaXLModel"][1].double()
    ids, mask = batch_of([5, 60, 17])
    with torch.no_grad():
        together = native(ids, attention_mask=mask).last_hidden_state
        for row, length in enumerate((5, 60, 17)):
            alone = native(ids[row : row + 1, :length]).last_hidden_state
            torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-12)
            assert not together[row, length:].any()


def test_forward_left_padding_classifies_first_real_token(pairs):
    native = pairs["XLMRobertaXLForSequenceClassification"][1].double()
    ids, _ = batch_of([6])
    padded = torch.cat([torch.ones(1, 3, dtype=torch.long), ids], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(native(padded, attention_mask=(padded != 1)).logits, native(ids).logits)


LABELLED = [
    f"{family}For{kind}"
    for family in ("XLMRobertaXL", "XLMRoberta")
    for kind in ("MaskedLM", "TokenClassification", "QuestionAnswering")
]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", LABELLED)
def test_loss_of_labels_on_padding_equals_reference(name, left, tmp_path):
    reference = save_reference(getattr(transformers, name), tmp_path)
    native = getattr(ours, name).from_pretrained(tmp_path, dtype=torch.float64)
    ids, mask = batch_of([5, 9, 1])
    if left:
        ids, mask = ids.flip(1), mask.flip(1)
    generator = torch.Generator().manual_seed(0)
    if "Question" in name:
        labels = {"start_positions": torch.tensor([7, 1, 4]), "end_positions": torch.tensor([8, 2, 99])}
    else:
        labels = {"labels": torch.randint(0, 2, ids.shape, generator=generator)}
        labels["labels"][:, ::3] = -100
    for given in (mask, None):
        expected, got = (model(ids, attention_mask=given, **labels) for model in (reference, native))
        torch.testing.assert_close(got.loss, expected.loss)
        gradients = [
            torch.autograd.grad(outputs.loss, model.get_parameter(key))[0]
            for outputs, model, key in (
                (expected, reference, "roberta.embeddings.word_embeddings.weight"),
                (got, native, "roberta.embeddings.word.weight"),
            )
        ]
        torch.testing.assert_close(gradients[1], gradients[0])
