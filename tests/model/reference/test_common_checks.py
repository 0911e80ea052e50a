"""What transformers 4.27.2 tests of its XLM-RoBERTa-XL models, as checks of ours, by the names of its tests.

`CHECKS` are run here, and `NOT_HELD` has those that do not hold, with the reason; those of generation are in
test_generation_checks.py.
"""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from padded_batches import batch
from reference_checks import checks_in, run
from torch import nn

import skxlmr.model as models
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import NewHeadWarning, XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.reference.padded import position_ids_from_input_ids

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "type_vocab_size": 16,
}
KINDS = ("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
KINDS += ("ForMultipleChoice", "ForQuestionAnswering")
CLASSES = [getattr(models, "XLMRobertaXL" + kind) for kind in KINDS]
DEPTH, WIDTH, HEADS, LENGTH = 3, 32, 4, 17


def config(**settings):
    return XLMRobertaXLConfig(**{**SHAPE, **settings})


def new(cls, **settings):
    torch.manual_seed(0)
    return cls(config(**settings)).eval()


def inputs(cls, **more):
    """Return ids, their mask and token types, with a dimension of choices where the class has one."""
    ids, mask = batch()
    types = torch.randint(16, ids.shape, generator=torch.Generator().manual_seed(2))
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if "Choice" in cls.__name__:
        given = {name: tensor[:, None].expand(-1, 3, -1) for name, tensor in given.items()}
    return {**given, **more}


def labels(cls):
    """Return labels of the four texts."""
    ids, mask = batch()
    if "Question" in cls.__name__:
        return {"start_positions": torch.zeros(4).long(), "end_positions": torch.ones(4).long()}
    if cls.__name__.endswith(("LM", "TokenClassification")):
        return {"labels": torch.where(mask.bool(), ids % 2, -100)}
    return {} if cls is XLMRobertaXLModel else {"labels": torch.tensor([0, 1, 0, 1])}


def first(outputs):
    return next(value for name, value in outputs.items() if name != "loss")


def again(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


# -- Of this model ----------------------------------------------------------------------------------------------------


def check_config(folder):
    made = config(num_labels=3)
    assert json.loads(made.to_json_string())["hidden_size"] == 32
    made.to_json_file(folder / "config.json")
    assert XLMRobertaXLConfig.from_json_file(folder / "config.json").to_dict() == made.to_dict()
    made.save_pretrained(folder / "sub")
    assert XLMRobertaXLConfig.from_pretrained(folder, subfolder="sub") == made
    made.num_labels = 5
    assert len(made.id2label) == len(made.label2id) == 5
    assert all(hasattr(XLMRobertaXLConfig(), name) for name in SHAPE)
    assert XLMRobertaXLConfig(hidden_size=64).hidden_size == 64


def check_model(folder):
    model, given = new(XLMRobertaXLModel), inputs(XLMRobertaXLModel)
    for names in (given.keys(), ("input_ids", "token_type_ids"), ("input_ids",)):
        result = model(**{name: given[name] for name in names})
        assert result.last_hidden_state.shape == (4, LENGTH, WIDTH)
        assert result.pooler_output.shape == (4, WIDTH)


def check_model_various_embeddings(folder):
    for kind in ("absolute", "relative_key", "relative_key_query"):
        result = new(XLMRobertaXLModel, position_embedding_type=kind)(**inputs(XLMRobertaXLModel))
        assert result.last_hidden_state.shape == (4, LENGTH, WIDTH)
        assert result.last_hidden_state.isfinite().all()


def check_model_as_decoder(folder, with_mask=True):
    model = new(XLMRobertaXLModel, is_decoder=True, add_cross_attention=True)
    given = inputs(XLMRobertaXLModel) if with_mask else {"input_ids": batch()[0]}
    states = torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(3))
    some = torch.ones(4, 6).tril(2)
    results = [
        model(**given, encoder_hidden_states=states, encoder_attention_mask=some),
        model(**given, encoder_hidden_states=states),
        model(**given),
    ]
    assert all(result.last_hidden_state.shape == (4, LENGTH, WIDTH) for result in results)
    assert all(result.pooler_output.shape == (4, WIDTH) for result in results)
    assert not torch.allclose(results[0][0], results[1][0])
    assert not torch.allclose(results[1][0], results[2][0])


def check_model_as_decoder_with_default_input_mask(folder):
    check_model_as_decoder(folder, with_mask=False)


def of_class(kind: str, shape: tuple[int, ...], **settings) -> Callable[[Path], None]:
    def check(folder):
        cls = getattr(models, "XLMRobertaXL" + kind)
        outputs = new(cls, **settings)(**inputs(cls, **labels(cls)))
        assert first(outputs).shape == shape
        assert outputs.loss.shape == ()
        assert outputs.loss.isfinite()

    return check


def check_decoder_model_past_with_large_inputs(folder):
    model = new(models.XLMRobertaXLForCausalLM, is_decoder=True, add_cross_attention=True)
    ids, mask = batch(left=True)
    more = torch.tensor([[5, 6, 7], [8, 9, 4], [6, 6, 6], [7, 8, 9]])
    states = {"encoder_hidden_states": torch.randn(4, 6, WIDTH), "encoder_attention_mask": torch.ones(4, 6).tril(2)}
    whole = {"input_ids": torch.cat([ids, more], 1), "attention_mask": torch.cat([mask, torch.ones_like(more)], 1)}
    positions = position_ids_from_input_ids(whole["input_ids"], 1)
    past = model(ids, mask, position_ids=positions[:, :-3], **states, use_cache=True).past_key_values
    expected = model(**whole, **states, position_ids=positions, output_hidden_states=True)
    got = model(
        more, whole["attention_mask"], position_ids=positions[:, -3:], **states, past_key_values=past,
        output_hidden_states=True,
    )  # fmt: skip
    for theirs, ours in zip(expected.hidden_states, got.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs[:, -3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.logits, expected.logits[:, -3:], rtol=0, atol=1e-4)


def check_create_position_ids_respects_padding_index(folder):
    ids = torch.tensor([[12, 31, 13, 1]])
    assert position_ids_from_input_ids(ids, 1).tolist() == [[2, 3, 4, 1]]
    model = new(XLMRobertaXLModel)
    given = model(ids, position_ids=torch.tensor([[2, 3, 4, 1]])).last_hidden_state
    torch.testing.assert_close(model(ids).last_hidden_state, given)


def check_create_position_ids_from_inputs_embeds(folder):
    model, embeds = new(XLMRobertaXLModel), torch.randn(2, 4, WIDTH)
    given = model(inputs_embeds=embeds, position_ids=torch.arange(2, 6).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(model(inputs_embeds=embeds).last_hidden_state, given)


# -- Common to all models ---------------------------------------------------------------------------------------------


def check_save_load(folder):
    for cls in CLASSES:
        model, given = new(cls), inputs(cls)
        torch.testing.assert_close(first(again(model, folder)(**given)), first(model(**given)), rtol=0, atol=0)
        content = json.loads((folder / "config.json").read_text())
        assert content["architectures"] == [cls.__name__]


def check_from_pretrained_no_checkpoint(folder):
    for cls in CLASSES:
        model = new(cls)
        loaded = cls.from_pretrained(None, config=model.config, state_dict=model.state_dict())
        for before, after in zip(model.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(before, after)


def check_save_load_keys_to_ignore_on_save(folder):
    from safetensors import safe_open

    new(models.XLMRobertaXLForMaskedLM).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    assert not {"lm_head.decoder.weight", "lm_head.decoder.bias", "roberta.embeddings.position_ids"} & saved
    assert models.XLMRobertaXLForMaskedLM.from_pretrained(folder, output_loading_info=True)[1]["missing_keys"] == set()


def check_gradient_checkpointing_enable_disable(folder):
    for cls in CLASSES:
        model = new(cls)
        assert not model.is_gradient_checkpointing
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing


def check_save_load_fast_init_from_base(folder):
    base = new(XLMRobertaXLModel, initializer_range=3.0)
    base.save_pretrained(folder)
    for cls in CLASSES[1:]:
        with pytest.warns(NewHeadWarning):
            model, info = cls.from_pretrained(folder, output_loading_info=True)
        loaded, drawn = dict(model.named_parameters()), {"bias": 0.0, "weight": 3.0}
        for name, parameter in base.named_parameters():
            if not name.startswith("pooler.") or model.base_model.pooler is not None:
                assert torch.equal(loaded["roberta." + name], parameter)
        for name in info["missing_keys"] - {"lm_head.layer_norm.weight"}:
            parameter = loaded[name.replace("layer_norm", "norm")]
            spread = parameter.std() if len(parameter) > 3 else torch.tensor(drawn[name.rpartition(".")[2]])
            assert spread.item() == pytest.approx(drawn[name.rpartition(".")[2]], abs=0.5)


def check_save_load_fast_init_to_base(folder):
    for cls in CLASSES[1:]:
        model = new(cls)
        model.save_pretrained(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NewHeadWarning)  # of the pooler
            base = XLMRobertaXLModel.from_pretrained(folder)
        loaded = dict(base.named_parameters())
        for name, parameter in model.roberta.named_parameters():
            assert torch.equal(loaded[name], parameter)


def check_initialization(folder):
    for cls in CLASSES:
        for name, parameter in new(cls, initializer_range=1e-10).named_parameters():
            assert round(parameter.mean().item(), 6) in (0.0, 1.0), name


def check_determinism(folder):
    for cls in CLASSES:
        model, given = new(cls), inputs(cls)
        assert torch.equal(first(model(**given)), first(model(**given)))


def check_forward_signature(folder):
    for cls in CLASSES:
        assert next(iter(inspect.signature(cls(config()).forward).parameters)) == "input_ids"


def check_training(folder, checkpointing=False):
    for cls in CLASSES[1:]:
        model = new(cls).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs(cls, **labels(cls))).loss.backward()
        unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not unused


def check_training_gradient_checkpointing(folder):
    check_training(folder, checkpointing=True)


def check_attention_outputs(folder):
    for cls in CLASSES:
        given, n_rows = inputs(cls), 12 if "Choice" in cls.__name__ else 4
        shape = (n_rows, HEADS, LENGTH, LENGTH)
        by_call = new(cls)(**given, output_attentions=True)
        by_config = new(cls, output_attentions=True)(**given)
        both = new(cls, output_attentions=True)(**given, output_hidden_states=True)
        for outputs in (by_call, by_config, both):
            assert [part.shape for part in outputs.attentions] == [shape] * DEPTH
            assert outputs[-1] is outputs.attentions
        assert len(both) == len(by_config) + 1


def check_headmasking(folder):
    for cls in CLASSES:
        mask = torch.ones(DEPTH, HEADS)
        mask[0, 0] = mask[-1, :-1] = 0
        mask.requires_grad_()
        outputs = new(cls)(**inputs(cls), head_mask=mask, output_attentions=True)
        first(outputs).sum().backward()
        assert mask.grad.shape == (DEPTH, HEADS)
        assert mask.grad.any()
        left = [part.sum((0, 2, 3)) != 0 for part in outputs.attentions]
        assert [row.tolist() for row in left] == (mask != 0).tolist()


def check_head_pruning(folder):
    for cls in CLASSES:
        model = new(cls)
        model.prune_heads({0: [1, 2, 3], -1: [0]})
        assert heads_of(model) == [1, HEADS, HEADS - 1]


def heads_of(model):
    return [part.shape[1] for part in model(**inputs(type(model)), output_attentions=True).attentions]


def check_head_pruning_save_load_from_pretrained(folder):
    for cls in CLASSES:
        model = new(cls)
        model.prune_heads({0: [1, 2, 3], -1: [0]})
        assert heads_of(again(model, folder)) == [1, HEADS, HEADS - 1]


def check_head_pruning_save_load_from_config_init(folder):
    for cls in CLASSES:
        model = new(cls, pruned_heads={0: [1, 2, 3], -1: [0]})
        assert heads_of(model) == heads_of(again(model, folder)) == [1, HEADS, HEADS - 1]


def check_head_pruning_integration(folder):
    for cls in CLASSES:
        model = new(cls, pruned_heads={0: [0], 1: [1, 2]})
        assert heads_of(model) == [HEADS - 1, HEADS - 2, HEADS]
        model = again(model, folder)
        model.prune_heads({0: [0], 2: [1, 2]})
        assert heads_of(model) == [HEADS - 1, HEADS - 2, HEADS - 2]
        assert model.config.pruned_heads == {0: [0], 1: [1, 2], 2: [1, 2]}


def check_hidden_states_output(folder):
    for cls in CLASSES:
        n_rows = 12 if "Choice" in cls.__name__ else 4
        by_call = new(cls)(**inputs(cls), output_hidden_states=True)
        by_config = new(cls, output_hidden_states=True)(**inputs(cls))
        for outputs in (by_call, by_config):
            assert [part.shape for part in outputs.hidden_states] == [(n_rows, LENGTH, WIDTH)] * (DEPTH + 1)


def check_retain_grad_hidden_states_attentions(folder):
    for cls in CLASSES:
        outputs = new(cls)(**inputs(cls), output_hidden_states=True, output_attentions=True)
        parts = [outputs.hidden_states[0], outputs.attentions[0]]
        for part in parts:
            part.retain_grad()
        first(outputs).flatten()[0].backward()
        assert all(part.grad is not None for part in parts)


def check_feed_forward_chunking(folder):
    for cls in CLASSES:
        plain, chunked = new(cls), new(cls)
        chunked.config.chunk_size_feed_forward = 1
        torch.testing.assert_close(first(chunked(**inputs(cls))), first(plain(**inputs(cls))))


def check_resize_tokens_embeddings(folder):
    for cls in CLASSES:
        model, before = new(cls), new(cls).get_input_embeddings().weight
        for n_tokens in (109, 94):
            assert model.resize_token_embeddings(n_tokens).num_embeddings == n_tokens == model.config.vocab_size
            kept = min(94, n_tokens)
            assert torch.equal(model.get_input_embeddings().weight[:kept], before[:kept])
            given = inputs(cls)
            model(**{**given, "input_ids": given["input_ids"].clamp(max=n_tokens - 1)})
        assert model.resize_token_embeddings(None, pad_to_multiple_of=64).num_embeddings == 128


def check_model_common_attributes(folder):
    for cls in CLASSES:
        model = new(cls)
        assert isinstance(model.get_input_embeddings(), nn.Embedding)
        model.set_input_embeddings(nn.Embedding(99, WIDTH))
        output = model.get_output_embeddings()
        assert isinstance(output, nn.Linear) if cls.__name__.endswith("LM") else output is None


def check_model_main_input_name(folder):
    for cls in CLASSES:
        assert list(inspect.signature(cls.forward).parameters)[1] == cls.main_input_name


def check_correct_missing_keys(folder):
    new(XLMRobertaXLModel).save_pretrained(folder)
    for cls in CLASSES[1:]:
        with pytest.warns(NewHeadWarning):
            _, info = cls.from_pretrained(folder, output_loading_info=True)
        assert info["missing_keys"]
        assert not any(key.startswith("roberta.") for key in info["missing_keys"])


def check_tied_model_weights_key_ignore(folder):
    for cls in CLASSES:
        model = new(cls)
        before = model.get_input_embeddings().weight
        model.tie_weights()
        assert model.get_input_embeddings().weight is before
        model.save_pretrained(folder)
        _, info = cls.from_pretrained(folder, output_loading_info=True)
        assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())


def check_model_outputs_equivalence(folder):
    for cls in CLASSES:
        model = new(cls)
        options = {"output_hidden_states": True, "output_attentions": True}
        for more in ({}, labels(cls), options, {**labels(cls), **options}):
            named, plain = model(**inputs(cls, **more)), model(**inputs(cls, **more), return_dict=False)
            assert isinstance(plain, tuple)
            for a, b in zip(flat(named.to_tuple()), flat(plain), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def flat(values):
    return [part for value in values for part in ([value] if torch.is_tensor(value) else flat(value))]


def check_inputs_embeds(folder):
    for cls in CLASSES:
        model, given = new(cls), inputs(cls)
        ids = given.pop("input_ids")
        embeds = model.get_input_embeddings()(ids)
        positions = position_ids_from_input_ids(ids.flatten(0, -2), 1).view(ids.shape)
        outputs = model(**given, inputs_embeds=embeds, position_ids=positions)
        torch.testing.assert_close(first(outputs), first(model(input_ids=ids, **given)))


def check_problem_types(folder):
    cls = models.XLMRobertaXLForSequenceClassification
    for kind, n_labels, target in (
        ("multi_label_classification", 2, torch.tensor([[1.0, 0.0]] * 4)),
        ("single_label_classification", 1, torch.zeros(4).long()),
        ("regression", 1, torch.rand(4, 1)),
    ):
        model = new(cls, problem_type=kind, num_labels=n_labels).train()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch's, of a target of another size
            model(**inputs(cls), labels=target).loss.backward()


def check_load_with_mismatched_shapes(folder):
    cls = models.XLMRobertaXLForSequenceClassification
    new(cls).save_pretrained(folder)
    for options in ({"num_labels": 42}, {"vocab_size": 10}):
        with pytest.raises(CheckpointError, match="shape"):
            cls.from_pretrained(folder, **options)
    with pytest.warns(NewHeadWarning, match="other sizes"):
        model = cls.from_pretrained(folder, num_labels=42, vocab_size=60, ignore_mismatched_sizes=True)
    assert model(**inputs(cls)).logits.shape == (4, 42)


def check_cpu_offload(folder):
    for cls in CLASSES:
        new(cls).save_pretrained(folder)
        cls.from_pretrained(folder, device_map="auto", max_memory={0: 1000, "cpu": "1GB"})


def check_gradient_checkpointing_backward_compatibility(folder):
    for cls in CLASSES:
        made = config()
        made.gradient_checkpointing = True
        assert cls(made).is_gradient_checkpointing


def check_resize_embeddings_untied(folder):
    for name in ("ForMaskedLM", "ForCausalLM"):
        cls = getattr(models, f"XLMRobertaXL{name}")
        untied = config(is_decoder=name == "ForCausalLM")
        untied.tie_word_embeddings = False
        model = cls(copy.deepcopy(untied)).eval()
        for n_tokens in (109, 94):  # more, and fewer
            model.resize_token_embeddings(n_tokens)
            words, decoder = model.get_input_embeddings(), model.get_output_embeddings()
            assert len(words.weight) == len(decoder.weight) == len(decoder.bias) == n_tokens
            assert model.config.vocab_size == n_tokens
            assert not torch.equal(decoder.weight, words.weight)
            assert model(torch.tensor([[0, 5, 93, 2]])).logits.shape == (1, 4, n_tokens)


def check_torchscript_simple(folder, **settings):
    for cls in CLASSES:
        torch.jit.trace(new(cls, return_dict=False, **settings), (inputs(cls)["input_ids"],))


def check_torchscript_output_attentions(folder):
    check_torchscript_simple(folder, output_attentions=True)


def check_torchscript_output_hidden_state(folder):
    check_torchscript_simple(folder, output_hidden_states=True)


def check_torch_fx(folder):
    for cls in CLASSES:
        torch.fx.symbolic_trace(new(cls))


def check_multi_gpu_data_parallel_forward(folder):
    for cls in CLASSES:
        outputs = nn.DataParallel(new(cls))(**inputs(cls))  # without a GPU the module itself
        torch.testing.assert_close(first(outputs), first(new(cls)(**inputs(cls))))


CHECKS = checks_in(globals()) | {
    "for_causal_lm": of_class("ForCausalLM", (4, LENGTH, 99), is_decoder=True),
    "for_masked_lm": of_class("ForMaskedLM", (4, LENGTH, 99)),
    "for_token_classification": of_class("ForTokenClassification", (4, LENGTH, 3), num_labels=3),
    "for_multiple_choice": of_class("ForMultipleChoice", (4, 3)),
    "for_question_answering": of_class("ForQuestionAnswering", (4, LENGTH)),
}

TRACED = "The trace would keep the lengths of its texts; torch.export keeps them free (test_graph.py)."
NO_OTHER_FRAMEWORK = "There are no models of TensorFlow and JAX here."
NOT_HELD = {
    "torchscript_simple": (NotImplementedError, TRACED),
    "torchscript_output_attentions": (NotImplementedError, TRACED),
    "torchscript_output_hidden_state": (NotImplementedError, TRACED),
    "torch_fx": (Exception, "Lengths of texts decide what is computed, which symbolic values do not have."),
    "cpu_offload": (TypeError, "A model is on one device; 8 bits and mapped word embeddings are what saves memory."),
}
# Without a check that could be run here.
NOT_APPLICABLE = {
    "torch_fx_output_loss": NOT_HELD["torch_fx"][1],
    "disk_offload": NOT_HELD["cpu_offload"][1],
    "model_parallelism": NOT_HELD["cpu_offload"][1],
    "pt_tf_model_equivalence": NO_OTHER_FRAMEWORK,
    "equivalence_pt_to_flax": NO_OTHER_FRAMEWORK,
    "equivalence_flax_to_pt": NO_OTHER_FRAMEWORK,
    "resize_position_vector_embeddings": "The reference skips it for this model.",
    "model_parallelization": "The reference skips it for this model.",
    "model_parallel_equal_results": "The reference skips it for this model.",
    "model_parallel_beam_search": "The reference skips it for this model.",
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name, request, tmp_path):
    run(CHECKS, NOT_HELD, name, request, tmp_path)


def test_table_is_complete():
    assert NOT_HELD.keys() <= CHECKS.keys()
    assert not NOT_APPLICABLE.keys() & CHECKS.keys()
    assert (len(CHECKS), len(CHECKS) - len(NOT_HELD)) == (50, 45)
