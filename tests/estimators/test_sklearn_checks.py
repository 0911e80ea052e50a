"""The checks of scikit-learn, for every public estimator."""

from __future__ import annotations

import warnings

import pytest
from numbers_as_words import (
    WordsClassifier,
    WordsEmbedder,
    WordsGenerator,
    WordsMaskedLM,
    WordsMultipleChoice,
    WordsQA,
    WordsRegressor,
    WordsTagger,
)
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

import skxlmr
from skxlmr import LoRA

TUNED = {"model": "nano", "max_epochs": 1, "random_state": 0}
ADAPTED = [
    WordsClassifier(**TUNED),
    WordsRegressor(**TUNED),
    WordsEmbedder(model="nano"),
    WordsEmbedder(model="nano", n_components=1, random_state=0),
    WordsMaskedLM(**TUNED),
    WordsGenerator(**TUNED),
    WordsTagger(**TUNED),
    WordsQA(**TUNED),
    WordsMultipleChoice(**TUNED),
]
WEIGHTS = (
    "a row of weight 2 and a repeated row fall into different batches; that rows of weight 0 are left out is tested in "
    "test_classifier.py"
)
EXPECTED_FAILURES = {
    name: {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}
    for name in ("WordsClassifier", "WordsRegressor", "WordsTagger", "WordsMultipleChoice")
}

PUBLIC = [getattr(skxlmr, name)(model="nano") for name in skxlmr.__all__ if name.startswith("XLMRXL")]

# Those that need no data.
CHECKS_WITHOUT_DATA = [
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_parameters_default_constructible",
    "check_dont_overwrite_attributes_names",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_get_tags_default_keys",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_param_validation",
]


def checks_of(estimators, expected_failures):
    """Pairs of an estimator and each of its checks, for `pytest.mark.parametrize`."""
    params = []
    for estimator in estimators:
        with warnings.catch_warnings():  # scikit-learn has few checks for texts, and says so
            warnings.simplefilter("ignore", SkipTestWarning)
            expected = expected_failures.get(type(estimator).__name__, {})
            for param in estimator_checks_generator(estimator, expected_failed_checks=expected, mark="xfail"):
                values, marks = (param.values, param.marks) if hasattr(param, "values") else (param, ())
                check = values[1]
                name = getattr(check, "func", check).__name__
                params.append(pytest.param(*values, marks=marks, id=f"{type(estimator).__name__}-{name}"))
    return params


def test_adapters_and_expected_failures_name_public_estimators():
    adapted = {base.__name__ for estimator in ADAPTED for base in type(estimator).__mro__}
    assert {type(estimator).__name__ for estimator in PUBLIC} <= adapted
    assert EXPECTED_FAILURES.keys() <= {type(estimator).__name__ for estimator in ADAPTED}


@pytest.mark.parametrize(("estimator", "check"), checks_of(ADAPTED, EXPECTED_FAILURES))
def test_checks_with_numbers_as_words_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), checks_of(PUBLIC, {}))
def test_checks_for_text_input_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", [check for check in CHECKS_WITHOUT_DATA if hasattr(estimator_checks, check)])
@pytest.mark.parametrize("estimator", [*PUBLIC, skxlmr.XLMRXLClassifier(model="nano", tuning=LoRA(rank=2))], ids=repr)
def test_checks_without_data_pass(estimator, name):
    check = getattr(estimator_checks, name)
    if name == "check_parameters_default_constructible":
        check(type(estimator).__name__, type(estimator)())
    else:
        check(type(estimator).__name__, clone(estimator))
