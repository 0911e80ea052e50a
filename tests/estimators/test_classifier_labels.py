"""What the y of a classifier with one label per row may be."""

import collections
import enum

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from scipy.special import log_softmax
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.fixes import parse_version

from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)

TEXTS = [f"{word} {n}" for n in ("one", "two") for word in "good bad fine poor nice awful lovely dull".split()]
NAMES, NUMBERS, BOOLS = ["p", "n"] * 8, [2, 5] * 8, [True, False] * 8
ARROW = pd.ArrowDtype

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, "device": "cpu", **parameters})


CONTAINERS = {
    "object bools": (np.array(BOOLS, object), BOOLS),
    "Series of object bools": (pd.Series(BOOLS, dtype=object), BOOLS),
    "boolean": (pd.Series(BOOLS, dtype="boolean"), BOOLS),
    "Arrow bool": (pd.Series(BOOLS, dtype=ARROW(pa.bool_())), BOOLS),
    "object ints": (np.array(NUMBERS, object), NUMBERS),
    "NumPy numbers in a list": ([np.int64(n) for n in NUMBERS], NUMBERS),
    "Int64": (pd.Series(NUMBERS, dtype="Int64"), NUMBERS),
    "Arrow int": (pd.Series(NUMBERS, dtype=ARROW(pa.int32())), NUMBERS),
    "category of numbers": (pd.Series(NUMBERS, dtype="category"), NUMBERS),
    "float": (np.array(NUMBERS, float), NUMBERS),
    "object strings": (np.array(NAMES, object), NAMES),
    "np.str_ and str": ([np.str_(NAMES[0]), *NAMES[1:]], NAMES),
    "Series": (pd.Series(NAMES, index=range(5, 21)), NAMES),
    "string": (pd.Series(NAMES, dtype="string[python]"), NAMES),
    "string[pyarrow]": (pd.Series(NAMES, dtype="string[pyarrow]"), NAMES),
    "Arrow string": (pd.Series(NAMES, dtype=ARROW(pa.string())), NAMES),
    "Arrow dictionary": (pd.Series(NAMES).astype(ARROW(pa.dictionary(pa.int8(), pa.string()))), NAMES),
    "category": (pd.Series(NAMES, dtype="category"), NAMES),
    "Categorical": (pd.Categorical(NAMES), NAMES),
    "polars": (pl.Series(NAMES), NAMES),
    "polars categorical": (pl.Series(NAMES, dtype=pl.Categorical), NAMES),
    "polars bool": (pl.Series(BOOLS), BOOLS),
    "pyarrow": (pa.array(NAMES), NAMES),
    "pyarrow chunked": (pa.chunked_array([NAMES]), NAMES),
    "deque": (collections.deque(NAMES), NAMES),
    "UserList": (collections.UserList(NAMES), NAMES),
    "tuple": (tuple(NAMES), NAMES),
}


class Name(str, enum.Enum):  # `enum.StrEnum` differs: `str` of its members is their value
    P = "p"
    N = "n"


CONTAINERS["enum of strings"] = ([Name.P, Name.N] * 8, NAMES)
if hasattr(np.dtypes, "StringDType"):  # since NumPy 2.0
    CONTAINERS["StringDType"] = (np.array(NAMES, np.dtypes.StringDType()), NAMES)


@pytest.mark.parametrize(("y", "plain"), CONTAINERS.values(), ids=CONTAINERS)
def test_labels_of_every_dtype_work_everywhere(y, plain):
    clf, expected = classifier().fit(TEXTS, y), classifier().fit(TEXTS, plain)
    assert clf.classes_.tolist() == expected.classes_.tolist()
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), expected.predict_proba(TEXTS))
    wrong = [*plain[1:], plain[1]]
    assert clf.score(TEXTS, y) == expected.score(TEXTS, plain) == 1 - clf.score(TEXTS, wrong) + 1 / 16
    assert clf.score(TEXTS, y) == np.mean(clf.predict(TEXTS) == np.array(plain))
    begun = classifier().partial_fit(TEXTS, y, classes=clf.classes_).partial_fit(TEXTS, y)
    again = classifier().partial_fit(TEXTS, plain, classes=clf.classes_).partial_fit(TEXTS, plain)
    np.testing.assert_array_equal(begun.predict_proba(TEXTS), again.predict_proba(TEXTS))
    for scoring in (None, "f1_macro"):
        stopping = {"early_stopping": True, "validation_fraction": 0.25, "scoring": scoring, "max_epochs": 2}
        one, other = (classifier(**stopping).fit(TEXTS, labels) for labels in (y, plain))
        assert one.validation_scores_ == other.validation_scores_
        given, same = (classifier(**stopping).fit(TEXTS, v, X_val=TEXTS, y_val=v) for v in (y, plain))
        assert given.validation_scores_ == same.validation_scores_


@pytest.mark.parametrize(("y", "plain"), CONTAINERS.values(), ids=CONTAINERS)
def test_labels_of_every_dtype_can_be_cross_validated(y, plain):
    if isinstance(y, pa.Array | pa.ChunkedArray) and parse_version(sklearn.__version__) < parse_version("1.7"):
        pytest.skip("scikit-learn 1.6 does not index pyarrow's arrays")
    # scikit-learn itself cannot stratify NumPy's StringDType.
    splitter = KFold(2) if getattr(getattr(y, "dtype", None), "kind", "") == "T" else 2
    scores = cross_val_score(classifier(), TEXTS, y, cv=splitter, error_score="raise")
    np.testing.assert_array_equal(scores, cross_val_score(classifier(), TEXTS, plain, cv=splitter))
    search = GridSearchCV(classifier(), {"label_smoothing": [0.0, 0.1]}, cv=splitter, error_score="raise")
    assert search.fit(TEXTS, y).best_estimator_.classes_.tolist() == sorted(set(plain))


def test_labels_that_fit_has_not_seen_are_wrong_but_other_types_are_refused():
    clf = classifier().fit(TEXTS, NAMES)
    assert clf.score(TEXTS, ["other", *clf.predict(TEXTS)[1:]]) == 15 / 16
    with pytest.raises(ValueError, match="y has labels such as 0, but the classes are such as 'n'"):
        clf.score(TEXTS, [0, 1] * 8)
    with pytest.raises(ValueError, match="y, row 1: None is not a label"):
        clf.score(TEXTS, ["p", None] * 8)


def test_table_of_one_column_warns_in_fit_only():
    y = pd.DataFrame({"label": NAMES})
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        clf = classifier().fit(TEXTS, y)
    assert clf.score(TEXTS, y) == clf.score(TEXTS, NAMES)
    assert clf.fit(TEXTS, NAMES, X_val=TEXTS, y_val=y).best_validation_score_ == clf.score(TEXTS, y)


def test_missing_labels_and_mixed_types_in_lists_are_refused():
    for missing in (None, float("nan"), pd.NA):
        with pytest.raises(ValueError, match=r"y, row 15: .* is not a label"):
            classifier().fit(TEXTS, [*NAMES[:-1], missing])
    with pytest.raises(TypeError, match=r"several types \(int and str\)"):
        classifier().fit(TEXTS, [*NAMES[:-1], 1])
    with pytest.raises(ValueError, match="y, row 1: None is not a label"):
        classifier().fit(TEXTS, np.ma.array(NUMBERS, mask=[0, 1] * 8))


def test_texts_that_look_like_lists_warn():
    written = ["[1, 0, 0]", "['a', 'b']"] * 8
    with pytest.warns(UserWarning, match=r"look like lists, such as '\[1, 0, 0\]'.*ast.literal_eval"):
        assert classifier().fit(TEXTS, pd.Series(written)).classes_.tolist() == sorted(set(written))


def test_column_of_pairs_that_equals_y_is_refused():
    frame = pd.DataFrame({"text": TEXTS, "label": NAMES})
    with pytest.raises(ValueError, match="X, column 'label': it is the same as y"):
        classifier().fit(frame, frame.label)
    with pytest.raises(ValueError, match="X, column 'label': it is the same as y"):
        XLMRXLRegressor("nano").fit(frame.assign(label=[str(n) for n in NUMBERS]), NUMBERS)
    with pytest.raises(ValueError, match="X, column 'label': it is the same as y"):
        XLMRXLEmbedder("nano", objective="classes").fit(frame, frame.label)
    with pytest.warns(UserWarning, match="X, column 'label': it has one text for each class of y, so it may be the an"):
        assert classifier().fit(frame, NUMBERS).n_features_in_ == 2
    few_texts = frame.assign(text=["a", "b", "b", "a"] * 4)
    assert classifier().fit(few_texts, NUMBERS).n_features_in_ == 2


@pytest.mark.parametrize("y", [NAMES, [["p"], ["p", "n"]] * 8], ids=["single", "several"])
def test_predict_log_proba_is_the_logarithm_of_predict_proba(y):
    clf = classifier().fit(TEXTS, y)
    assert clf.predict_log_proba(TEXTS).dtype == np.float32
    np.testing.assert_allclose(clf.predict_log_proba(TEXTS), np.log(clf.predict_proba(TEXTS)), rtol=1e-5, atol=1e-6)


def test_predict_log_proba_of_cross_validation_of_taggers_and_of_choices():
    found = cross_val_predict(classifier(), TEXTS, NAMES, cv=2, method="predict_log_proba")
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    tagger = XLMRXLTagger("nano", max_epochs=1, random_state=0).fit([["a", "b"], ["c"]], [["x", "y"], ["y"]])
    for logs, shares in zip(
        *(m([["a", "c"], ["b"]]) for m in (tagger.predict_log_proba, tagger.predict_proba)), strict=True
    ):
        np.testing.assert_allclose(logs, np.log(shares), rtol=1e-4, atol=1e-6)
    X = [["a", ["b", "c", "d"]], ["a", ["d", "b"]]]
    chooser = XLMRXLMultipleChoice("nano", max_epochs=1, random_state=0).fit(X, [0, 1])
    np.testing.assert_allclose(
        chooser.predict_log_proba(X), log_softmax(chooser.decision_function(X), axis=1), rtol=1e-5
    )
    assert chooser.predict_log_proba(X)[1, 2] == -np.inf


def test_target_tags_say_who_needs_y():
    needs = {cls: get_tags(cls()).target_tags.required for cls in (
        XLMRXLClassifier, XLMRXLRegressor, XLMRXLTagger, XLMRXLQA, XLMRXLMultipleChoice,
        XLMRXLMaskedLM, XLMRXLGenerator, XLMRXLEmbedder,
    )}  # fmt: skip
    without = {XLMRXLMaskedLM, XLMRXLGenerator, XLMRXLEmbedder}
    assert needs == {cls: cls not in without for cls in needs}
    assert get_tags(XLMRXLEmbedder(objective="classes")).target_tags.required


@pytest.mark.parametrize("rare", ["rare", True, 7.0], ids=["str", "bool", "float"])
def test_early_stopping_names_the_class_that_is_too_small(rare):
    common = {"rare": ["a", "b"], True: [False, False], 7.0: [1.0, 2.0]}[rare]
    y = [rare, *(common * 8)[:15]]
    with pytest.raises(
        ValueError, match=rf"early_stopping=True cannot.*needs two rows or more, but \['?{rare}'?\] have one"
    ):
        classifier(early_stopping=True, validation_fraction=0.25).fit(TEXTS, y)
    with pytest.raises(
        ValueError, match=rf"early_stopping=True cannot.*needs two rows or more, but \['?{rare}'?\] have one"
    ):
        XLMRXLEmbedder("nano", objective="classes", early_stopping=True, validation_fraction=0.25).fit(TEXTS, y)
