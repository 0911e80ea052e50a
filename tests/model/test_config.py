import json

import pytest
from transformers import AutoConfig

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import BertConfig, XLMRobertaConfig, XLMRobertaXLConfig


def test_config_presets_have_published_sizes():
    xl, xxl = XLMRobertaXLConfig.xl(), XLMRobertaXLConfig.xxl()
    assert (xl.hidden_size, xl.num_hidden_layers, xl.num_attention_heads, xl.intermediate_size) == (2560, 36, 32, 10240)
    assert (xxl.hidden_size, xxl.num_hidden_layers, xxl.num_attention_heads) == (4096, 48, 32)
    assert (xl.vocab_size, xl.max_length, xl.head_size) == (250880, 512, 80)
    base, large = XLMRobertaConfig.base(), XLMRobertaConfig.large()
    assert (base.num_parameters // 10**6, large.num_parameters // 10**6) == (277, 558)  # without a pooler
    for relative in (XLMRobertaConfig, BertConfig):  # the same from any config class
        assert (relative.xl(), relative.xxl()) == (xl, xxl)
    assert BertConfig.base() == base


def test_config_round_trip_keeps_unknown_keys():
    config = XLMRobertaXLConfig.from_dict({"model_type": "xlm-roberta-xl", "hidden_size": 64, "finetuning_task": "x"})
    assert config.extra == {"finetuning_task": "x"}
    assert XLMRobertaXLConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["finetuning_task"] == "x"


@pytest.mark.parametrize("kind", ["xlm-roberta-xl", "xlm-roberta", "bert"])
def test_config_missing_keys_equal_transformers(kind, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    ours, theirs = XLMRobertaXLConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)
    for name in ("layer_norm_eps", "hidden_act", "pad_token_id", "num_attention_heads"):  # not visible in any shape
        assert getattr(ours, name) == getattr(theirs, name)
    assert XLMRobertaConfig().layer_norm_eps == 1e-5  # that of xlm-roberta-base


def test_config_id2label_sets_num_labels():
    config = XLMRobertaXLConfig.from_dict({"id2label": {"0": "a", "1": "b", "2": "c"}})
    assert config.num_labels == 3
    assert config.to_dict()["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert XLMRobertaXLConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100}, "multiple of num_attention_heads"),
        ({"hidden_act": "swish9"}, "hidden_act must be one of"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type must be one of"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be an integer"),
        ({"vocab_size": 10**12}, "vocab_size must be an integer from 1 to"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be a probability"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must be a positive number"),
        ({"pad_token_id": 300_000}, "pad_token_id"),
        ({"pad_token_id": None}, "pad_token_id must be an id of the vocabulary, got None"),
        ({"max_position_embeddings": 3}, "max_position_embeddings"),
        ({"problem_type": "ranking"}, "problem_type must be one of"),
    ],
)
def test_config_invalid_values_raise(values, message):
    with pytest.raises(ValueError, match=message):
        XLMRobertaXLConfig(**values)


def test_number_and_names_of_labels_stay_linked(tmp_path):
    config = XLMRobertaXLConfig()
    config.num_labels = 5
    assert config.id2label == {i: f"LABEL_{i}" for i in range(5)}
    config.id2label = {0: "no", "1": "yes", 2: "perhaps"}
    assert (config.num_labels, config.label2id) == (3, {"no": 0, "yes": 1, "perhaps": 2})
    config.num_labels = 3
    assert config.id2label[2] == "perhaps"
    config.label2id = {"b": 1, "a": 0}
    assert (config.num_labels, config.id2label) == (2, {0: "a", 1: "b"})
    config.save_pretrained(tmp_path)
    assert XLMRobertaXLConfig.from_pretrained(tmp_path).id2label == {0: "a", 1: "b"}
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.num_labels, theirs.label2id) == (2, {"a": 0, "b": 1})
    config.id2label = None
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    for name, value in (("num_labels", 0), ("num_labels", "3"), ("id2label", {}), ("label2id", {"a": 1})):
        with pytest.raises(ValueError, match=r"num_labels must be|label2id must map"):
            setattr(config, name, value)
    assert config.num_labels == len(config.id2label) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": {}}, "model_type is {}"),
        ({"model_type": ["bert"]}, r"model_type is \['bert'\]"),
        ({"id2label": []}, "id2label must be an object or null, got"),
        ({"id2label": {"0": None}}, "id2label.0 must be a string or an integer.*, got None"),
        ({"id2label": {"zero": "a"}}, "id2label must map the numbers of the outputs to names, got the key .zero."),
        ({"hidden_size": "64"}, "hidden_size must be an integer of 64 bits, got '64'"),
        ({"layer_norm_eps": [1e-5]}, "layer_norm_eps must be a number"),
        ({"use_cache": "false"}, "use_cache must be true or false, got 'false'"),
        ({"problem_type": {"a": [[[[]]]]}}, "problem_type must be a string or null"),
        ({"eos_token_id": "2"}, "eos_token_id must be an integer of 64 bits or a list of integers or null"),
        ({"bos_token_id": 2**70}, "bos_token_id must be an integer of 64 bits or null"),
    ],
)
def test_config_file_with_value_of_other_type_raises(values, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta-xl", **values}))
    with pytest.raises(CheckpointError, match=message) as caught:
        XLMRobertaXLConfig.from_file(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(caught.value)
    with pytest.raises(CheckpointError):
        XLMRobertaXLConfig.from_pretrained(tmp_path)


def test_config_file_without_ids_of_begin_and_end_is_read(tmp_path):
    content = {"model_type": "bert", "bos_token_id": None, "eos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert XLMRobertaXLConfig.from_file(tmp_path / "config.json").eos_token_id is None
