from __future__ import annotations

from argparse import Namespace

import pytest

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.cli.parameters import parameters_of, set_parameters
from skxlmr.cli.parsing import UsageError


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("max_epochs", "3", 3),
        ("max_epochs", "auto", "auto"),
        ("learning_rate", "5e-3", 5e-3),
        ("learning_rate", "1", 1),
        ("early_stopping", "True", True),
        ("load_in_8bit", "false", False),
        ("load_in_8bit", "auto", "auto"),
        ("max_grad_norm", "None", None),
        ("max_length", "none", None),
        ("prompt", "None", None),
        ("prompt", "query: ", "query: "),
        ("prompt", "5", "5"),  # a text, since the parameter takes no numbers
        ("class_weight", '{"good": 2.5}', {"good": 2.5}),
        ("class_weight", "balanced", "balanced"),
        ("random_state", "7", 7),
        ("scoring", "f1_macro", "f1_macro"),
    ],
)
def test_texts_become_values_that_the_constraints_allow(name, text, expected):
    clf = XLMRXLClassifier()
    assert set_parameters(clf, {name: text}) == {name: expected}
    value = getattr(clf, name)
    assert value == expected
    assert type(value) is type(expected)


def test_nested_parameters_are_set_after_their_object():
    clf = XLMRXLClassifier(tuning="head")
    set_parameters(clf, {"tuning__rank": "16", "tuning": "lora", "tuning__layers": "[0, 1]"})
    assert isinstance(clf.tuning, LoRA)
    assert (clf.tuning.rank, clf.tuning.layers) == (16, [0, 1])


def test_lists_are_json():
    embedder = XLMRXLEmbedder()
    set_parameters(embedder, {"matryoshka_dims": "[64, 128]"})
    assert embedder.matryoshka_dims == [64, 128]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": "3"}, "Did you mean 'max_epochs'?"),
        ({"tuning__rnk": "3"}, "rank"),
        ({"max_epochs": "many"}, "'max_epochs' parameter of XLMRXLClassifier must be"),
        ({"max_epochs": "0"}, "'max_epochs' parameter of XLMRXLClassifier must be"),
        ({"tuning": "lara"}, "'tuning' parameter of XLMRXLClassifier must be"),
    ],
    ids=str,
)
def test_wrong_parameters_are_wrong_usage(given, expected):
    with pytest.raises(UsageError) as caught:
        set_parameters(XLMRXLClassifier(), given)
    assert expected in str(caught.value)


def test_parameters_of_options():
    arguments = Namespace(param=["max_epochs=3", "prompt=a=b"], device="cpu")
    expected = {"max_epochs": "3", "prompt": "a=b", "device": "cpu", "model": "nano"}
    assert parameters_of(arguments, model="nano", validation_fraction=None) == expected
    for wrong, message in ((["max_epochs"], "write name=value"), (["device=cuda"], "device is set twice")):
        with pytest.raises(UsageError, match=message):
            parameters_of(Namespace(param=wrong, device="cpu"))
