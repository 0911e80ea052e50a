"""Declared constructor parameters: signatures, documentation, suggestions, and short names of nested objects."""

import inspect
import pickle

import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.system.parameters import (
    DeclaredParameters,
    declare_parameters,
    parameter,
    suggest,
    suggest_value,
    suggesting_values,
)


class Solver(BaseEstimator):
    """A nested object with parameters."""

    def __init__(self, steps=5):
        self.steps = steps


class Start(Solver):
    """Another one."""


@declare_parameters
class Loading:
    """Parameters of loading.

    Parameters
    ----------
    path : str
        Where the file is.
    mode : {"r", "w"}
        How to open it.
    """

    path: str = parameter(default="here", valid=[str], kw_only=False, order=1)
    mode: str = parameter(default="r", order=9)


@declare_parameters
class Reader(DeclaredParameters, Loading, BaseEstimator):
    """A $kind of files.

    Parameters
    ----------
    mode : {"r", "a"}
        Replaces the text of the base class.
    solver : {"fast"} or Solver
        The method,
        on two lines.

    Attributes
    ----------
    n_features_in_ : int
    """

    solver: object = parameter(default="fast", valid=[str, Solver], order=5)

    _named = {"solver": {"fast": Solver, "start": Start}}
    _documentation = {"kind": "reader"}

    def fit(self, X, y=None):
        return self

    def score(self, X, y=None):
        return getattr(self.solver, "steps", 0)


@declare_parameters
class Child(Reader):
    """A child.

    Parameters
    ----------
    $parameters
    """


def test_declare_parameters_sorts_signature_by_order():
    parameters = inspect.signature(Reader).parameters
    assert [(p.name, p.default) for p in parameters.values()] == [("path", "here"), ("solver", "fast"), ("mode", "r")]
    kinds = [p.kind for p in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD, *[inspect.Parameter.KEYWORD_ONLY] * 2]


def test_declare_parameters_merges_documentation_of_base_classes():
    assert inspect.cleandoc(Reader.__doc__) == inspect.cleandoc(
        """A reader of files.

        Parameters
        ----------
        path : str, default="here"
            Where the file is.
        solver : {"fast"} or Solver, default="fast"
            The method,
            on two lines.
        mode : {"r", "a"}, default="r"
            Replaces the text of the base class.

        Attributes
        ----------
        n_features_in_ : int
        """
    )
    parameters = Reader.__doc__.partition("Parameters")[2].partition("\n\n")[0]
    assert Child.__doc__ == f"A child.\n\nParameters{parameters}"


def test_declare_parameters_collects_constraints_of_checked_parameters():
    assert Reader._parameter_constraints == {"path": [str], "solver": [str, Solver]}


def test_declare_parameters_of_public_estimator_documents_each_parameter_once():
    for cls in (XLMRXLClassifier, XLMRXLEmbedder):
        documented = [line.split(" : ")[0] for line in cls.__doc__.splitlines() if ", default=" in line]
        assert documented == list(inspect.signature(cls).parameters)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pth", "Reader has no parameter 'pth'. Did you mean 'path'?"),
        ("colour", "Reader has no parameter 'colour'. Its parameters are path, solver, mode."),
    ],
)
def test_constructor_with_unknown_parameter_raises_and_suggests(name, message):
    with pytest.raises(TypeError) as caught:
        Reader(**{name: 1})
    assert str(caught.value) == message


def test_constructor_with_name_of_other_library_raises_and_suggests():
    with pytest.raises(TypeError, match="Did you mean 'max_epochs'"):
        XLMRXLClassifier(num_train_epochs=3)
    with pytest.raises(TypeError, match="Did you mean 'rank'"):
        LoRA(r=8)


def test_set_params_with_unknown_parameter_raises_and_suggests():
    reader = Reader()
    with pytest.raises(ValueError, match=r"Invalid parameter 'mod' for estimator Reader. Did you mean 'mode'\?"):
        reader.set_params(path="there", mod="w")
    assert reader.path == "here"
    with pytest.raises(ValueError, match="Invalid parameter 'solvr'"):
        reader.set_params(solvr__steps=3)


def test_get_params_with_short_name_lists_nested_parameters():
    assert Reader().get_params() == {"path": "here", "mode": "r", "solver": "fast", "solver__steps": 5}
    assert Reader().get_params(deep=False) == {"path": "here", "mode": "r", "solver": "fast"}
    assert Reader(solver="other").get_params() == {"path": "here", "mode": "r", "solver": "other"}
    assert XLMRXLClassifier(tuning="lora").get_params()["tuning__rank"] == LoRA().rank


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"load_in_8bit__threshold": 5.0}, "load_in_8bit='auto' has no parameters. Pass an object: load_in_8bit=Int8"),
        ({"load_in_8bit": True, "load_in_8bit__threshold": 5.0}, "load_in_8bit=True has no parameters"),
        ({"tuning": "other", "tuning__rank": 4}, r"tuning=LoRA\(...\) or Bias\(...\) or Head\(...\) or Full\(...\)"),
        ({"class_weight__a": 1}, "class_weight=None has no parameters. class_weight is never an object"),
        ({"max_length__a": 1}, "max_length is never an object"),
    ],
)
def test_set_params_of_nested_parameter_without_an_object_raises(params, message):
    with pytest.raises(ValueError, match=message):
        XLMRXLClassifier().set_params(**params)


def test_set_params_of_parameter_that_the_tuning_lacks_raises():
    with pytest.raises(ValueError, match="Invalid parameter 'rank' for estimator Head"):
        XLMRXLClassifier(tuning="head").set_params(tuning__rank=4)


@pytest.mark.parametrize("tuning", ["lora", LoRA(), LoRA(rank=1)], ids=repr)
def test_grid_search_over_nested_parameters_of_the_tuning_fits_each(tuning):
    clf = XLMRXLClassifier("nano", tuning=tuning, max_epochs=1, random_state=0)
    grid = GridSearchCV(clf, {"tuning__rank": [2, 4], "tuning__alpha": [8]}, cv=2)
    grid.fit(["good", "bad", "fine", "poor"], ["yes", "no"] * 2)
    assert grid.best_estimator_.tuning.get_params()["rank"] == grid.best_params_["tuning__rank"]
    assert {p.shape[0] for name, p in grid.best_estimator_._finetuned.named_parameters() if name.endswith(".a")} == {
        grid.best_params_["tuning__rank"]
    }
    search = GridSearchCV(clf, {"tuning": [LoRA(rank=1), "bias"], "max_epochs": [1, 2]}, cv=2)
    assert len(search.fit(["good", "bad", "fine", "poor"], ["yes", "no"] * 2).cv_results_["params"]) == 4


def test_set_params_of_nested_parameter_replaces_short_name_by_object():
    reader = Reader().set_params(solver__steps=3)
    assert (type(reader.solver), reader.solver.steps) == (Solver, 3)
    reader = Reader().set_params(solver="start", solver__steps=4)
    assert (type(reader.solver), reader.solver.steps) == (Start, 4)
    reader = Reader(solver=Start(1)).set_params(solver__steps=2)
    assert (type(reader.solver), reader.solver.steps) == (Start, 2)
    classifier = XLMRXLClassifier(tuning="lora").set_params(tuning__rank=3)
    assert classifier.tuning.get_params() == LoRA(rank=3).get_params()


def test_grid_search_over_short_name_sets_nested_parameter():
    search = GridSearchCV(Reader(), {"solver__steps": [1, 7, 2]}, cv=2).fit([[0], [1]], [0, 1])
    assert search.best_params_ == {"solver__steps": 7}
    assert search.best_estimator_.solver.steps == 7


def test_declared_estimator_clones_and_pickles():
    reader = Reader("there", solver=Solver(2))
    for copied in (clone(reader), pickle.loads(pickle.dumps(reader))):
        assert repr(copied) == repr(reader) == "Reader(path='there', solver=Solver(steps=2))"


def test_suggest_without_parameters_says_so():
    assert suggest("name", []) == "It has no parameters."


class Options:
    """A constraint of scikit-learn by its attribute."""

    options = {"float16", "float32", "bfloat16"}


@pytest.mark.parametrize(
    ("value", "constraints", "suggestion"),
    [
        ("fp16", [Options()], "'float16'"),
        ("Float32", [Options()], "'float32'"),
        ("bfloat_16", [Options()], "'bfloat16'"),
        ("qlora", [Options()], ""),  # is a value of another parameter
        ("int9", [Options()], ""),
        ("", [Options()], ""),
        ("8", [int], "8, a number"),
        ("8", [Options()], ""),
        ("many", [int], ""),
        (print, [list, None], "Put it into a list"),
        (-1, [int], ""),
    ],
)
def test_suggest_value_suggests_what_is_close(value, constraints, suggestion):
    found = suggest_value(value, constraints)
    assert suggestion in found
    assert bool(found) == bool(suggestion)


def test_error_of_a_value_keeps_its_type_and_has_no_cause():
    class InvalidError(ValueError):
        pass

    constraints, message = {"dtype": [Options()]}, "The 'dtype' parameter of Loading is wrong."
    with pytest.raises(InvalidError) as caught, suggesting_values(constraints, {"dtype": "fp16"}):
        raise InvalidError(message)
    assert str(caught.value) == f"{message} Did you mean 'float16'?"
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match=r"^something else$"), suggesting_values({}, {}):
        raise ValueError("something else")
