from __future__ import annotations

import copy
import json
import pickle
import re
import shutil

import pytest
import transformers

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

CHANGED = {
    "model_max_length": 64,
    "padding_side": "left",
    "truncation_side": "left",
    "model_input_names": ("input_ids", "token_type_ids", "attention_mask"),
    "clean_up_tokenization_spaces": True,
    "split_special_tokens": True,
}
LONG = "Hello world , it is a long text . " * 20


def written(tiny_spm, directory, config):
    shutil.copy(tiny_spm / "sentencepiece.bpe.model", directory)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def settings_of(tokenizer):
    return {name: getattr(tokenizer, name) for name in CHANGED}


def assert_changed(tokenizer):
    assert settings_of(tokenizer) == CHANGED
    assert tokenizer(LONG, truncation=True, padding="max_length").input_ids[-1] == tokenizer.eos_token_id
    assert len(tokenizer(LONG, truncation=True).input_ids) == 64
    assert "world, it is a long text. Hello" in tokenizer.decode(tokenizer.encode(LONG, verbose=False))


def test_settings_are_parameters_attributes_and_saved(tiny_spm, tmp_path):
    by_parameter = XLMRobertaXLTokenizer(tiny_spm / "sentencepiece.bpe.model", **CHANGED)
    by_attribute = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    assert settings_of(by_attribute) != CHANGED
    for name, value in CHANGED.items():
        setattr(by_attribute, name, value)
    by_attribute.save_pretrained(tmp_path)
    loaded = XLMRobertaXLTokenizer.from_pretrained(tmp_path)
    option = XLMRobertaXLTokenizer.from_pretrained(tiny_spm, **CHANGED)
    again = pickle.loads(pickle.dumps(by_attribute))
    for tokenizer in (by_parameter, by_attribute, loaded, option, again):
        assert_changed(tokenizer)
    assert XLMRobertaXLTokenizer.from_pretrained(tmp_path, padding_side="right").padding_side == "right"


def test_saved_settings_are_those_of_transformers(tiny_spm, tmp_path):
    ours = XLMRobertaXLTokenizer.from_pretrained(tiny_spm, **CHANGED)
    ours.save_pretrained(tmp_path)
    theirs = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    assert settings_of(theirs) == {**CHANGED, "model_input_names": list(CHANGED["model_input_names"])}
    options = {"truncation": True, "padding": "max_length", "max_length": 40}
    assert ours([LONG, "a"], **options) == theirs([LONG, "a"], **options).data
    ids = ours.encode(LONG, verbose=False)
    for cleans in (None, True, False):
        assert ours.decode(ids, clean_up_tokenization_spaces=cleans) == theirs.decode(
            ids, clean_up_tokenization_spaces=cleans
        )
    assert ours.batch_decode([ids], clean_up_tokenization_spaces=False) == [
        theirs.decode(ids, False, **{"clean_up_tokenization_spaces": False})
    ]
    theirs.save_pretrained(tmp_path / "again")
    assert settings_of(XLMRobertaXLTokenizer.from_pretrained(tmp_path / "again")) == CHANGED


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("padding_side", "both", "padding_side must be 'left' or 'right', got 'both'"),
        ("truncation_side", None, "truncation_side must be 'left' or 'right'"),
        ("model_max_length", 0, "model_max_length must be an integer from 1"),
        ("model_input_names", "input_ids", "model_input_names must be a list"),
        ("model_input_names", ["attention_mask"], "model_input_names must begin with 'input_ids'"),
        ("clean_up_tokenization_spaces", "yes", "clean_up_tokenization_spaces must be true or false"),
        ("pad_token", "</s>", "pad_token cannot be '</s>': the model was trained with '<pad>'"),
        ("mask_token_id", 5, "mask_token cannot be"),
    ],
)
def test_invalid_attribute_raises(tokenizer, name, value, message):
    other = copy.copy(tokenizer)
    with pytest.raises(ValueError, match=message):
        setattr(other, name, value)
    assert settings_of(other) == settings_of(tokenizer)


def test_own_special_tokens_may_be_set_to_themselves(tokenizer):
    other = copy.copy(tokenizer)
    other.pad_token = other.pad_token
    other.eos_token_id = other.eos_token_id
    assert XLMRobertaXLTokenizer.bos_token == "<s>"


def test_from_pretrained_options(tiny_spm, tmp_path):
    (tmp_path / "inside").mkdir()
    written(tiny_spm, tmp_path / "inside", {})
    options = {"subfolder": "inside", "extra_special_tokens": ["<ent>"], "bos_token": "<s>"}
    tokenizer = XLMRobertaXLTokenizer.from_pretrained(tmp_path, **options)
    assert tokenizer.extra_special_tokens == ["<ent>"]
    assert tokenizer.name_or_path == str(tmp_path)
    assert tokenizer.is_fast
    assert tokenizer.pad_token_type_id == 0
    assert (tokenizer.max_len_single_sentence, tokenizer.max_len_sentences_pair) == (510, 508)
    with pytest.raises(ValueError, match="bos_token cannot be '<b>'"):
        XLMRobertaXLTokenizer.from_pretrained(tiny_spm, bos_token="<b>")
    with pytest.raises(ValueError, match="padding_side must be"):
        XLMRobertaXLTokenizer.from_pretrained(tiny_spm, padding_side="up")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("pading_side", r"no parameter 'pading_side' \(did you mean 'padding_side'\?\): it takes cache_dir"),
        ("cachedir", r"did you mean 'cache_dir'"),
        ("use_fast", r"no parameter 'use_fast' \(leave it out: there is one tokenizer"),
    ],
)
def test_from_pretrained_with_unknown_option_raises(option, message):
    with pytest.raises(TypeError, match=message):
        XLMRobertaXLTokenizer.from_pretrained("nano", **{option: "left"})


def test_from_pretrained_passes_hub_options(tiny_spm, monkeypatch):
    asked = {}

    def fetch(repo_id, **options):
        asked[repo_id] = options
        return tiny_spm

    monkeypatch.setattr("skxlmr.checkpoints.hub.fetch", fetch)
    options = {"revision": "v1", "cache_dir": "here", "token": "t", "local_files_only": True, "subfolder": "en"}
    XLMRobertaXLTokenizer.from_pretrained("organisation/model", **options)
    only = asked["organisation/model"].pop("only")
    assert asked == {"organisation/model": options}
    assert "model.safetensors" not in only


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"padding_side": "up"}, "padding_side must be 'left' or 'right', got 'up'"),
        ({"pad_token": "[PAD]"}, r"has pad_token='\[PAD\]', which is not supported: XLM-RoBERTa has '<pad>'"),
        ({"mask_token": {"content": "[M]"}}, "has mask_token"),
        ({"add_prefix_space": False}, "has add_prefix_space=False"),
        ({"add_eos_token": False}, "has add_eos_token=False"),
        ({"model_max_length": "512"}, "model_max_length='512', which must be a number"),
        ({"model_max_length": -1}, "model_max_length must be an integer from 1"),
        ({"model_input_names": [3]}, "model_input_names"),
        ({"extra_special_tokens": [3]}, "extra special tokens that are not strings"),
    ],
)
def test_from_directory_with_unsupported_config_raises(tiny_spm, tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        XLMRobertaXLTokenizer.from_directory(written(tiny_spm, tmp_path, config))
    assert re.search("tokenizer_config.json", str(raised.value))


@pytest.mark.parametrize("name", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("tokens", [["<ent>", {"content": "[E1]"}, "<s>"], {"entity_token": "<ent>", "b": "[E1]"}])
def test_from_directory_adds_special_tokens_of_config(tiny_spm, tmp_path, name, tokens):
    tokenizer = XLMRobertaXLTokenizer.from_directory(written(tiny_spm, tmp_path, {name: tokens}))
    size = tokenizer.vocab_size
    assert tokenizer.extra_special_tokens == ["<ent>", "[E1]"]
    assert tokenizer("[E1]<ent>", add_special_tokens=False).input_ids == [size + 1, size]


def test_from_directory_reads_sides_of_tokenizer_json(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "right"}))
    ours = XLMRobertaXLTokenizer.from_directory(tmp_path)
    theirs = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    assert (ours.padding_side, ours.truncation_side) == ("left", "right")
    assert (theirs.padding_side, theirs.truncation_side) == ("left", "right")


def test_save_vocabulary(tokenizer, tiny_spm, tmp_path):
    assert tokenizer.save_vocabulary(tmp_path / "new") == (tmp_path / "new" / "sentencepiece.bpe.model",)
    (path,) = tokenizer.save_vocabulary(tmp_path, filename_prefix="a")
    assert path.name == "a-sentencepiece.bpe.model"
    assert path.read_bytes() == (tiny_spm / "sentencepiece.bpe.model").read_bytes()


def test_build_inputs_with_special_tokens(tokenizer):
    a, b = tokenizer.encode("Hello", add_special_tokens=False), tokenizer.encode("a b", add_special_tokens=False)
    assert tokenizer.build_inputs_with_special_tokens(a) == tokenizer.encode("Hello")
    assert tokenizer.build_inputs_with_special_tokens(a, b) == tokenizer.encode("Hello", "a b")
    assert tokenizer.create_token_type_ids_from_sequences(a, b) == [0] * len(tokenizer.encode("Hello", "a b"))
    expected = tokenizer("Hello", "a b", return_special_tokens_mask=True).special_tokens_mask
    assert tokenizer.get_special_tokens_mask(a, b) == expected
    with pytest.raises(ValueError, match="token_ids_1 must be None"):
        tokenizer.get_special_tokens_mask(a, b, already_has_special_tokens=True)


def test_convert_tokens_to_string_equals_transformers(tokenizer, reference):
    for text in ("Hello world", "a <mask> b", ""):
        tokens = tokenizer.tokenize(text)
        assert tokenizer.convert_tokens_to_string(tokens) == reference.convert_tokens_to_string(tokens)


def test_clean_up_equals_transformers(shared_tokenizers):
    ours, theirs = shared_tokenizers
    text = "Well , it 's I 'm we 've they 're do n't what ? yes ! the dogs ' bones ."
    ids = ours.encode(text)
    cleaned = ours.decode(ids, clean_up_tokenization_spaces=True)
    assert cleaned == theirs.decode(ids, clean_up_tokenization_spaces=True)
    assert cleaned == "<s> Well, it's I'm we've they're don't what? yes! the dogs'bones.</s>"


@pytest.fixture
def shared_tokenizers(tmp_path):
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(tmp_path)
    return XLMRobertaXLTokenizer.from_pretrained("nano"), transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
