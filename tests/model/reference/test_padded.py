import pytest
import torch
from padded_batches import batch, build

from skxlmr import model as models
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.reference.padded import PaddedBatch, position_ids_from_input_ids

HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForCausalLM")


@pytest.mark.parametrize("name", ["Model", *HEADS])
def test_forward_packed_equals_eager(name):
    model = build(name)
    ids, mask = batch()
    with torch.no_grad():
        packed = model(ids, mask, output_hidden_states=True)
        eager = model(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
        three = model(ids, attention_mask=mask[:, None, :].expand(-1, ids.shape[1], -1), output_hidden_states=True)
    assert eager.attentions[0].shape == (4, 2, 17, 17)
    assert packed.attentions is None
    real = mask.bool()
    for other in (eager, three):
        for key in packed:
            for a, b in zip(flat(packed[key]), flat(other[key]), strict=True):
                if a.shape[:2] == ids.shape:
                    a, b = a[real], b[real]
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def flat(value):
    return [value] if torch.is_tensor(value) else list(value)


def test_forward_attention_ignores_padding():
    model = build("Model")
    ids, mask = batch()
    with torch.no_grad():
        attentions = model(ids, mask, output_attentions=True).attentions
    for probs in attentions:
        torch.testing.assert_close(probs.sum(-1), torch.ones(4, 2, 17).double())
        assert not probs[0, :, :, 5:].any()


@pytest.mark.parametrize("asked", [{}, {"output_attentions": True}])
def test_gradient_checkpointing_keeps_gradients(asked):
    model = build("ForSequenceClassification").train()
    ids, mask = batch()
    labels = torch.tensor([0, 1, 0, 1])
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        (model.gradient_checkpointing_enable if enable else model.gradient_checkpointing_disable)()
        model(ids, mask, labels=labels, **asked).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=1e-12)


def test_gradient_checkpointing_runs_each_layer_twice():
    model, calls = build("Model").train(), []
    model.layers[1].register_forward_pre_hook(lambda *args: calls.append(1))
    model.gradient_checkpointing_enable()
    model(torch.tensor([[0, 7, 2]])).last_hidden_state.sum().backward()
    assert len(calls) == 2


def test_forward_callable_activation_equals_named_one(tmp_path):
    named, called = build("Model"), build("Model", hidden_act=torch.nn.functional.gelu)
    ids, _ = batch()
    torch.testing.assert_close(called(ids).last_hidden_state, named(ids).last_hidden_state)
    with pytest.raises(TypeError, match="hidden_act is a callable"):
        called.save_pretrained(tmp_path)


def test_forward_cross_attention_without_layers_raises():
    with pytest.raises(ValueError, match="add_cross_attention=True needs is_decoder=True"):
        XLMRobertaXLConfig(add_cross_attention=True)
    with pytest.raises(ValueError, match="encoder_hidden_states need a model with add_cross_attention"):
        build("Model", is_decoder=True)(torch.tensor([[0, 7]]), encoder_hidden_states=torch.zeros(1, 3, 16).double())


def test_from_pretrained_encoder_as_decoder_warns_of_new_layers(tmp_path):
    build("ForMaskedLM").save_pretrained(tmp_path)
    config = XLMRobertaXLConfig.from_pretrained(tmp_path)
    config.is_decoder = config.add_cross_attention = True
    with pytest.warns(models.NewHeadWarning, match="cross_attention"):
        model = models.XLMRobertaXLForCausalLM.from_pretrained(tmp_path, config=config)
    states = torch.randn(1, 3, 16)
    assert model(torch.tensor([[0, 7, 8]]), encoder_hidden_states=states).logits.shape == (1, 3, 50)


def test_forward_text_of_only_padding_is_finite():
    model: XLMRobertaXLModel = build("Model")
    ids, mask = batch()
    mask[2] = 0
    with torch.no_grad():
        states = model(ids, mask).last_hidden_state
    assert states.isfinite().all()
    assert states[2].any()


def test_forward_too_long_text_raises():
    with pytest.raises(ValueError, match="513 tokens is too long: this model takes 512"):
        build("Model", max_position_embeddings=514)(torch.full((1, 513), 7))


def test_forward_without_ids_and_embeddings_raises():
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        build("Model")()


def test_padded_batch_mask_with_gaps():
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    batch = PaddedBatch.from_mask(mask, (2, 4), torch.device("cpu"))
    x = torch.arange(1, 9).view(2, 4)
    assert batch.pack(x).tolist() == [2, 3, 5, 8]
    assert torch.equal(batch.unpack(batch.pack(x)), x * mask)


def test_padded_batch_invalid_mask_raises():
    with pytest.raises(ValueError, match="no real token in row 1"):
        PaddedBatch.from_mask(torch.tensor([[1, 1], [0, 0]]), (2, 2), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"must have shape \(2, 2\)"):
        PaddedBatch.from_mask(torch.ones(2, 3), (2, 2), torch.device("cpu"))


def test_position_ids_start_after_pad_id_and_skip_pads():
    ids = torch.tensor([[0, 5, 2, 1], [1, 0, 5, 2]])
    assert position_ids_from_input_ids(ids, 1).tolist() == [[2, 3, 4, 1], [1, 2, 3, 4]]


IDS, MASK = batch()
MASKS = torch.ones(4, 2, 17, 17).tril() * MASK[:, None, None, :]


@pytest.mark.parametrize("mask", [MASKS[:, :1].bool(), MASKS[:, :1].long(), (1 - MASKS[:, :1].double()) * -1e30])
@pytest.mark.parametrize("name", ["Model", "ForSequenceClassification", "ForMaskedLM"])
def test_mask_of_four_dimensions_equals_one_of_three(name, mask):
    model = build(name)
    expected = model(IDS, MASKS[:, 0].long())[0]
    torch.testing.assert_close(model(IDS, mask)[0], expected, rtol=0, atol=1e-12)
    each = model(IDS, mask.expand(-1, 2, -1, -1))[0]  # one for each head
    torch.testing.assert_close(each, expected, rtol=0, atol=1e-12)
    alone = model(IDS, mask[:1])[0]  # for all texts
    torch.testing.assert_close(alone[0], expected[0], rtol=0, atol=1e-12)
