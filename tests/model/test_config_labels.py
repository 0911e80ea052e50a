import copy
import dataclasses
import pickle

import pytest

from skxlmr.model import BertConfig, XLMRobertaXLConfig


def test_label2id_in_the_constructor_names_the_outputs():
    config = XLMRobertaXLConfig(label2id={"a": 0, "b": 1, "c": 2})
    assert (config.num_labels, config.id2label) == (3, {0: "a", 1: "b", 2: "c"})
    both = XLMRobertaXLConfig(num_labels=2, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    assert both.label2id == {"a": 0, "b": 1}
    assert XLMRobertaXLConfig().label2id == {"LABEL_0": 0, "LABEL_1": 1}


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, dataclasses.replace, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_have_the_labels(copied):
    for config in (XLMRobertaXLConfig(label2id={"a": 0}), BertConfig(id2label={0: "same", 1: "same"})):
        again = copied(config)
        assert again == config
        assert again.label2id == config.label2id
        assert XLMRobertaXLConfig.from_dict(again.to_dict()) == config


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"id2label": {0: "a"}, "label2id": {"b": 0}}, r"label2id=\{'b': 0\} contradicts id2label=\{0: 'a'\}"),
        ({"label2id": {"a": 0, "b": 2}}, "label2id must map the names of the labels to 0, 1, 2..., got"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        XLMRobertaXLConfig(**labels)
