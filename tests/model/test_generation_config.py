"""Defaults of generate in generation_config.json and config.json, compared with transformers."""

import json
import shutil
import warnings
from dataclasses import fields

import pytest
import torch
from decoders import decoder_pair, prompts, reference_generate

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.model import GenerationConfig, XLMRobertaXLForCausalLM, XLMRobertaXLModel
from skxlmr.model.reference.generation_options import GenerationOptions


@pytest.fixture(scope="module")
def pair():
    return decoder_pair("XLMRobertaXL")


@pytest.fixture(scope="module")
def checkpoint(pair, tmp_path_factory):
    directory = tmp_path_factory.mktemp("decoder")
    pair[0].save_pretrained(directory)
    return directory


@pytest.fixture
def saved(checkpoint, tmp_path):
    """A function that writes a checkpoint with a generation_config.json, and entries of config.json."""

    def write(generation=None, **config):
        directory = tmp_path / "model"
        shutil.copytree(checkpoint, directory)
        (directory / "skxlmr.json").unlink()
        if generation is not None:
            text = generation if isinstance(generation, str) else json.dumps(generation)
            (directory / "generation_config.json").write_text(text)
        content = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**content, **config}))
        return directory

    return write


def load(directory, **options):
    return XLMRobertaXLForCausalLM.from_pretrained(directory, dtype=torch.float64, **options)


def reference(directory, **options):
    import transformers

    model = transformers.XLMRobertaXLForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    ids, mask = prompts()
    top_k = {} if model.generation_config.top_k is None else {"top_k": model.generation_config.top_k}
    torch.manual_seed(0)
    return reference_generate(model, ids, mask, **{**top_k, **options})


def generated(model, **options):
    torch.manual_seed(0)
    return model.generate(*prompts(), **options)


IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
FILES = [
    {"max_new_tokens": 9, "eos_token_id": [2, 11, 17]},
    {"max_length": 12, "min_length": 10, "num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"max_new_tokens": 6, "do_sample": True, "temperature": 0.7, "top_k": 7, "top_p": 0.9, "num_return_sequences": 2},
    {
        "max_new_tokens": 7,
        "do_sample": True,
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.02,
        "top_h": 0.9,
        "top_k": 20,
        "renormalize_logits": True,
    },
    {
        "max_new_tokens": 8,
        "sequence_bias": [[[11], 2.5], [[26, 26], -3.0]],
        "forced_eos_token_id": [2],
        "encoder_repetition_penalty": 1.1,
        "encoder_no_repeat_ngram_size": 3,
        "exponential_decay_length_penalty": [3, 1.1],
        "remove_invalid_values": False,
    },
    {"max_new_tokens": 8, "guidance_scale": 1.5},
    {"max_new_tokens": 8, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[26]]},
    {
        "max_new_tokens": 5,
        "do_sample": False,
        "temperature": 0.6,
        "top_k": 50,
        "top_p": 0.9,
        "transformers_version": "4",
    },
]


@pytest.mark.parametrize("content", FILES, ids=str)
def test_generate_with_file_equals_transformers(saved, content):
    directory = saved({**IDS, **content})
    model = load(directory)
    assert torch.equal(generated(model), reference(directory))
    model.save_pretrained(directory / "again")
    assert load(directory / "again").generation_config == model.generation_config
    assert json.loads((directory / "again" / "generation_config.json").read_text()) == {**IDS, **content}


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 4},
        {"max_new_tokens": 4, "num_beams": 1},
        {"max_new_tokens": 4, "do_sample": False, "num_beams": 2},
        {"max_new_tokens": 4, "do_sample": True, "top_k": 3, "num_beams": 1},
    ],
    ids=str,
)
def test_given_arguments_replace_those_of_the_file(saved, pair, given):
    directory = saved({**IDS, "max_length": 30, "num_beams": 3, "length_penalty": 2.0, "top_k": 5})
    model = load(directory)
    assert torch.equal(generated(model, **given), reference(directory, **given))
    own = {"length_penalty": 2.0} if given.get("num_beams", 3) > 1 else {}
    assert torch.equal(generated(model, **given), generated(pair[0], **{"num_beams": 3, **given}, **own))


def test_given_max_length_replaces_max_new_tokens_of_the_file(saved):
    model = load(saved({**IDS, "eos_token_id": -1, "max_new_tokens": 9}))
    assert generated(model).shape[1] == 16
    assert generated(model, max_length=10).shape[1] == 10


def test_entries_of_config_json_count_without_a_file_as_in_transformers(saved, pair):
    entries = {"num_beams": 3, "max_length": 12, "no_repeat_ngram_size": 2, "diversity_penalty": 0.0, "top_k": 50}
    directory = saved(**entries)
    model = load(directory)
    assert model.config.max_length == 58  # of the positions
    assert torch.equal(generated(model), reference(directory))
    assert torch.equal(generated(model), generated(pair[0], num_beams=3, max_length=12, no_repeat_ngram_size=2))
    assert load(directory, num_beams=2).generation_config.num_beams == 2
    model.save_pretrained(directory / "again")
    assert not (directory / "again" / "generation_config.json").exists()
    assert load(directory / "again").generation_config == model.generation_config


def test_file_replaces_entries_of_config_json(saved):
    model = load(saved({"max_new_tokens": 3}, num_beams=3, max_length=12))
    assert model.generation_config == GenerationConfig(max_new_tokens=3)
    assert generated(model, eos_token_id=-1).shape[1] == 10


def test_file_with_groups_of_beams_or_contrastive_search_sets_their_arguments(saved, pair):
    content = {
        "max_new_tokens": 4,
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 3.0,
        "penalty_alpha": 0.9,
        "top_k": 4,
    }
    model = load(saved({**IDS, **content}))
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 3.0}
    for given, expected in (
        ({}, groups),
        ({"num_beam_groups": 1}, {"num_beams": 4}),
        ({"num_beams": 1}, {"penalty_alpha": 0.9, "top_k": 4}),
        ({"num_beams": 1, "penalty_alpha": 0.0}, {}),
        ({"num_beams": 1, "do_sample": True}, {"do_sample": True, "top_k": 4}),
    ):
        assert torch.equal(generated(model, **given), generated(pair[0], max_new_tokens=4, **expected))
        arguments = model.generation_config.completed(given)
        assert {name for name, value in arguments.items() if value} - IDS.keys() - {"max_new_tokens", *given} == (
            expected.keys() - given.keys()
        )


@pytest.mark.parametrize("name", ["num_beams", "num_beam_groups"])
def test_given_number_of_another_type_raises_and_is_named(pair, name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got '2'"):
        generated(pair[0], **{name: "2"})


def test_outputs_are_those_of_the_file(saved):
    content = {"max_new_tokens": 2, "output_scores": True, "output_hidden_states": True}
    model = load(saved({**content, "return_dict_in_generate": True}))
    assert list(generated(model)) == ["sequences", "scores", "hidden_states"]
    assert torch.is_tensor(generated(model, return_dict_in_generate=False))


def test_start_token_is_that_of_the_file(saved):
    assert load(saved({"bos_token_id": 9, "max_new_tokens": 1})).generate()[0, 0] == 9


def test_unsupported_entries_warn_and_neutral_ones_do_not(saved):
    neutral = {
        "encoder_repetition_penalty": 1.0,
        "guidance_scale": 1.0,
        "sequence_bias": None,
        "cache_implementation": "static",
    }
    model = load(saved({**IDS, **neutral, "token_healing": True, "watermarking_config": {"bias": 2}, "new_one": [1]}))
    with pytest.warns(UserWarning, match=r"has new_one=\[1\], token_healing=True, watermarking_config=\{.*, which"):
        generated(model, max_new_tokens=1)
    model.generation_config = GenerationConfig.from_dict(neutral)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generated(model, max_new_tokens=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"num_beams": "3"}, "num_beams must be an integer"),
        ({"bad_words_ids": [3]}, "bad_words_ids"),
        ({"num_beams": 10**9}, "num_beams must be at most 1000"),
        ({"penalty_alpha": 0.6, "top_k": 1001}, "top_k must be at most 1000"),
        ({"eos_token_id": [2, "a"]}, "eos_token_id"),
        ({"sequence_bias": [[11, 2.5]]}, "sequence_bias"),
        ({"exponential_decay_length_penalty": [1]}, "exponential_decay_length_penalty must be a list of 2 values"),
        ("[1]", "contains a JSON list"),
        ("{", "not valid JSON"),
    ],
    ids=str,
)
def test_damaged_file_raises_and_is_named(saved, content, message):
    directory = saved(content)
    with pytest.raises(CheckpointError, match=rf"generation_config.json.*{message}"):
        load(directory)
    XLMRobertaXLModel.from_pretrained(directory, add_pooling_layer=False)  # which does not generate


def test_biases_of_a_dict_are_written_as_pairs(saved, pair):
    config = GenerationConfig(sequence_bias={(11,): 2.5, (26, 26): -3.0}, max_new_tokens=5)
    assert json.loads(config.to_json())["sequence_bias"] == [[[11], 2.5], [[26, 26], -3.0]]
    model = load(saved(config.to_dict()))
    expected = generated(pair[0], max_new_tokens=5, sequence_bias={(11,): 2.5, (26, 26): -3.0})
    assert torch.equal(generated(model), expected)
    import transformers

    theirs = transformers.GenerationConfig(sequence_bias={(11,): 2.5, (26, 26): -3.0}, max_new_tokens=5)
    assert torch.equal(generated(pair[0], generation_config=theirs), expected)


def test_damaged_entry_of_config_json_raises_and_is_named(saved):
    with pytest.raises(CheckpointError, match=r"config\.json: num_beams must be an integer"):
        load(saved(num_beams="3"))


def test_value_out_of_range_raises_when_it_is_used(saved):
    model = load(saved({"temperature": 0.0}))
    generated(model, max_new_tokens=1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        generated(model, do_sample=True)


def test_file_that_links_out_of_the_checkpoint_is_refused(saved, tmp_path):
    directory = saved()
    (tmp_path / "other.json").write_text("{}")
    (directory / "generation_config.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(UnsafeCheckpointError, match="outside"):
        load(directory)


def test_save_removes_file_of_an_older_model(saved, pair):
    directory = saved({"max_new_tokens": 3})
    pair[0].save_pretrained(directory)
    assert not (directory / "generation_config.json").exists()


def test_file_may_be_edited_after_save(saved):
    directory = saved({"max_new_tokens": 3})
    load(directory).save_pretrained(directory)
    (directory / "generation_config.json").write_text('{"max_new_tokens": 4}')
    assert load(directory).generation_config.max_new_tokens == 4


def test_every_entry_is_an_argument_of_generate():
    names = {f.name for f in fields(GenerationConfig)} - {"extra", "bos_token_id", "use_cache"}
    of_python = {"prefix_allowed_tokens_fn", "logits_processor", "stopping_criteria", "streamer", "generator"}
    of_python |= {"negative_prompt_ids", "negative_prompt_attention_mask", "tokenizer"}
    assert names == {f.name for f in fields(GenerationOptions)} - of_python
