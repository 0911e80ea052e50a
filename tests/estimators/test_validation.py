"""Validation rows: their weights, their losses, and their scores by scorers of scikit-learn."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from sklearn.metrics import accuracy_score, f1_score, get_scorer, log_loss, make_scorer, max_error, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split

import skxlmr
from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.columns import check_text_column
from skxlmr.model import XLMRobertaXLForCausalLM, XLMRobertaXLForMaskedLM, XLMRobertaXLForQuestionAnswering
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.answers import first_span
from skxlmr.tasks.spans import target_units

# One epoch is enough to compare scores and losses with others.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TEXTS = [
    f"{word} {n}" for n in ("one", "two") for word in "good bad fine poor nice awful lovely dull great grim".split()
]
LABELS = [label for _ in range(4) for label in ("yes", "no", "no", "perhaps", "yes")]
X_VAL, Y_VAL = TEXTS[3:10], LABELS[3:10]
WEIGHTS = np.array([1.0, 0.5, 3.0, 0.0, 2.0, 1.0, 0.25])
TAGS = [["N" if word < "h" else "V", "Z" if n == "one" else "N"] for word, n in map(str.split, TEXTS)]
NAMES = ["Ada", "Bob", "Eve", "Li Wei"] * 2
QUESTIONS = [[f"Who is {i}?", f"Number {i} is {name}. " + "And so on. " * 3] for i, name in enumerate(NAMES)]
ANSWERS = ["Ada", "Bob", ["Eve"], "Li Wei"] * 2
CHOICES = [[f"It is {i}.", ["one", "two", "three"][: 2 + i % 2]] for i in range(8)]
RIGHT = [i % 2 for i in range(8)]
QUICK = {"model": "nano", "random_state": 0, "max_epochs": 1, "device": "cpu"}


def classifier(**parameters):
    return XLMRXLClassifier(**(QUICK | {"tuning": "head", "max_epochs": 3} | parameters))


def held_out(n, fraction, strata=None):
    """The rows that early stopping holds out with random_state=0."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    return np.sort(train_test_split(np.arange(n), test_size=fraction, stratify=strata, random_state=seed)[1])


def last(estimator):
    return estimator.history_.iloc[-1]


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda X: np.array(X, object),
        lambda X: pd.Series(X, index=range(100, 100 + len(X))),
        lambda X: pd.DataFrame({"text": X}, index=[f"row {i}" for i in range(len(X))]),
        lambda X: pl.DataFrame({"text": X}),
        lambda X: pa.table({"text": X}),
        lambda X: [[text, "other"] for text in X],
        lambda X: pd.DataFrame({"question": X, "context": X[::-1]}),
    ],
    ids="list array series frame polars pyarrow pairs frame_of_pairs".split(),
)
def test_scoring_with_early_stopping_scores_rows_that_are_held_out(make):
    X, y, seen = make(TEXTS), pd.Series(LABELS, index=range(7, 27)), []

    def scoring(estimator, X, y):
        seen.append((X, y))
        return f1_score(y, estimator.predict(X), average="macro")

    settings = {"early_stopping": True, "validation_fraction": 0.3, "init": "random"}
    clf = classifier(scoring=scoring, **settings).fit(X, y)
    rows = held_out(20, 0.3, LABELS)
    assert len(seen) == 3
    for some, labels in seen:
        assert type(some) is type(X)
        assert labels.equals(y.iloc[rows])
    assert clf.best_validation_score_ == max(clf.validation_scores_) == clf.history_.validation_score.max()
    assert clf.best_validation_score_ == scoring(clf, seen[0][0], seen[0][1])
    expected = [X[i] for i in rows] if isinstance(X, list) else None
    assert expected is None or seen[0][0] == expected
    by_name = classifier(scoring="f1_macro", **settings).fit(X, y)
    assert by_name.validation_scores_ == clf.validation_scores_


@pytest.mark.parametrize("scoring", ["f1_macro", "neg_log_loss", "roc_auc_ovr", "balanced_accuracy"])
def test_scoring_by_name_equals_scorer_of_sklearn(scoring):
    clf = classifier(scoring=scoring).fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=WEIGHTS)
    expected = get_scorer(scoring)(clf, X_VAL, Y_VAL, sample_weight=WEIGHTS)
    unweighted = get_scorer(scoring)(clf, X_VAL, Y_VAL)
    assert clf.validation_scores_[-1] == pytest.approx(expected)
    assert clf.best_validation_score_ >= max(clf.validation_scores_), "the start is scored, too"
    if scoring == "neg_log_loss":
        assert abs(expected - unweighted) > 1e-3
    plain = classifier(scoring=scoring).fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert plain.validation_scores_[-1] == pytest.approx(unweighted)


def test_scoring_does_not_change_training_and_restores_best_epoch():
    scripted, seen = iter([0.5, 0.75, 0.75, 0.7]), []

    def scoring(estimator, X, y):
        seen.append(estimator.predict_proba(X))
        return np.float32(next(scripted))

    settings = {"tuning": skxlmr.LoRA(rank=2, dropout=0.1), "init": "random", "learning_rate": 1e-2, "max_epochs": 9}
    clf = classifier(scoring=scoring, early_stopping=True, n_iter_no_change=1, **settings)
    clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert clf.validation_scores_ == pytest.approx([0.5, 0.75, 0.75, 0.7])
    assert clf.best_validation_score_ == 0.75
    np.testing.assert_array_equal(clf.predict_proba(X_VAL), seen[1])
    assert np.abs(seen[1] - seen[3]).max() > 1e-3
    plain = classifier(**settings).fit(TEXTS, LABELS)
    assert plain.loss_curve_[:4] == clf.loss_curve_


def test_scoring_passes_weights_to_scorers_that_take_them():
    seen = []

    def scoring(estimator, X, y, sample_weight=None):
        seen.append(sample_weight)
        return 0.0

    val = {"X_val": X_VAL, "y_val": Y_VAL}
    classifier(max_epochs=1, init="random", scoring=scoring).fit(TEXTS, LABELS, **val, sample_weight_val=WEIGHTS)
    classifier(max_epochs=1, init="random", scoring=scoring).fit(TEXTS, LABELS, **val)
    assert seen[0].tolist() == WEIGHTS[WEIGHTS > 0].tolist(), "rows of weight zero are left out"
    assert seen[1:] == [None]
    numbers = np.arange(20.0)
    reg = XLMRXLRegressor(**QUICK, scoring=make_scorer(max_error, greater_is_better=False))  # has no sample_weight
    reg.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    used = WEIGHTS > 0
    expected = -max_error(numbers[3:10][used], reg.predict(X_VAL)[used])
    assert reg.validation_scores_[-1] == pytest.approx(expected)


def test_early_stopping_passes_sample_weights_of_held_out_rows_without_class_weights():
    weights, rows = np.linspace(0.5, 3, 20), held_out(20, 0.3, LABELS)
    settings = {"early_stopping": True, "validation_fraction": 0.3, "max_epochs": 1, "class_weight": "balanced"}
    clf = classifier(scoring="accuracy", **settings).fit(TEXTS, LABELS, sample_weight=weights)
    own = classifier(**settings).fit(TEXTS, LABELS, sample_weight=weights)
    X, y = [TEXTS[i] for i in rows], [LABELS[i] for i in rows]
    for one in (clf, own):
        assert one.best_validation_score_ == pytest.approx(one.score(X, y, sample_weight=weights[rows]))


def test_scoring_that_is_wrong_raises_before_training(monkeypatch):
    monkeypatch.setattr("skxlmr.estimators.learner.load_base", None)  # nothing must be loaded
    with pytest.raises(ValueError, match=r"The 'scoring' parameter of XLMRXLClassifier must be a str among .*f1_macro"):
        classifier(scoring="f1_makro").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="looks like it is a metric function rather than a scorer"):
        classifier(scoring=accuracy_score).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "returned NaN for the validation rows.*larger validation_fraction"),
        (np.array(np.nan), "returned NaN"),
        (None, r"must return a number, got None \(NoneType\)"),
        ("0.5", r"must return a number, got '0.5' \(str\)"),
        (np.array([0.5, 0.5]), r"must return a number, got array.*\(ndarray\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_scoring_without_a_number_raises(value, message, early_stopping):
    clf = classifier(scoring=lambda estimator, X, y: value, early_stopping=early_stopping)
    with pytest.raises(ValueError, match=message):
        clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert not hasattr(clf, "classes_")


def test_scoring_with_names_of_one_column_only_does_not_warn():
    frame = pd.DataFrame({"text": TEXTS})
    clf = classifier(scoring="accuracy", max_epochs=1)
    clf.fit(frame, LABELS, X_val=X_VAL, y_val=Y_VAL)
    assert clf.feature_names_in_.tolist() == ["text"]
    clf.fit(TEXTS, LABELS, X_val=frame[3:10], y_val=Y_VAL)
    assert clf.validation_scores_[-1] == clf.score(X_VAL, Y_VAL)


def test_scoring_of_several_labels_equals_scorer_of_sklearn():
    indicator = np.stack([np.array(LABELS) == "yes", np.arange(20) % 3 > 0], axis=1).astype(int)
    settings = {"scoring": "f1_macro", "early_stopping": True, "validation_fraction": 0.4, "max_epochs": 1}
    rows = held_out(20, 0.4)
    for y in (indicator, pd.DataFrame(indicator, columns=["a", "b"]), coo_matrix(indicator)):
        clf = classifier(**settings).fit(TEXTS, y)
        expected = f1_score(indicator[rows], clf.predict([TEXTS[i] for i in rows]), average="macro")
        assert clf.best_validation_score_ == pytest.approx(expected)


def test_scoring_of_regressor_equals_scorer_of_sklearn():
    numbers = np.arange(20.0)
    reg = XLMRXLRegressor(**QUICK, scoring="neg_mean_absolute_error")
    reg.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    error = np.average(abs(reg.predict(X_VAL) - numbers[3:10]), weights=WEIGHTS)
    assert reg.validation_scores_[-1] == pytest.approx(-error)
    plain = XLMRXLRegressor(**QUICK)
    plain.fit(TEXTS, numbers, X_val=X_VAL, y_val=numbers[3:10], sample_weight_val=WEIGHTS)
    expected = r2_score(numbers[3:10], plain.predict(X_VAL), sample_weight=WEIGHTS)
    assert plain.validation_scores_[-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimator", "X", "y"),
    [
        (XLMRXLTagger, [text.split() for text in TEXTS], TAGS),
        (XLMRXLTagger, pd.Series([text.split() for text in TEXTS], index=range(5, 25)), pd.Series(TAGS)),
        (XLMRXLQA, QUESTIONS, ANSWERS),
        (XLMRXLQA, pd.DataFrame(QUESTIONS, columns=["question", "context"]), pd.Series(ANSWERS)),
        (XLMRXLMultipleChoice, CHOICES, RIGHT),
        (XLMRXLMultipleChoice, pd.DataFrame(CHOICES, columns=["prompt", "choices"]), RIGHT),
    ],
    ids="tagger tagger_series qa qa_frame choice choice_frame".split(),
)
def test_scoring_of_other_estimators_takes_functions(estimator, X, y):
    n_predicted = []

    def scoring(estimator, X, y):
        n_predicted.append(len(estimator.predict(X)))
        return 1 + estimator.score(X, y)

    settings = {"early_stopping": True, "validation_fraction": 0.4, "tuning": "head", "scoring": scoring}
    one = estimator(**QUICK, **settings).fit(X, y)
    own = estimator(**(QUICK | settings | {"scoring": None})).fit(X, y)
    assert set(n_predicted) == {round(0.4 * len(y) + 0.4)}
    assert one.validation_scores_ == pytest.approx([1 + score for score in own.validation_scores_])


@pytest.mark.parametrize("estimator", [XLMRXLMaskedLM, XLMRXLGenerator])
def test_scoring_of_language_models_takes_functions_without_y(estimator):
    seen = []

    def scoring(estimator, X):
        seen.append(X)
        return estimator.score(X) if isinstance(estimator, XLMRXLMaskedLM) else estimator.log_likelihood(X).mean()

    lm = estimator(**QUICK, early_stopping=True, validation_fraction=0.2, scoring=scoring).fit(["", *TEXTS])
    assert len(seen[0]) == 4
    assert "" not in seen[0]
    assert lm.best_validation_score_ == pytest.approx(scoring(lm, seen[0]))


def test_estimator_with_scoring_survives_save_if_it_is_a_name(tmp_path):
    clf = classifier(scoring="f1_macro", max_epochs=1).fit(TEXTS, LABELS)
    clf.save(tmp_path / "named")
    assert skxlmr.load(tmp_path / "named").scoring == "f1_macro"
    with pytest.raises(TypeError, match="scoring cannot be saved"):
        clf.set_params(scoring=get_scorer("f1_macro")).save(tmp_path / "object")


# -- weights ----------------------------------------------------------------------------------------------------------


def test_sample_weight_val_that_does_not_fit_raises():
    val = {"X_val": X_VAL, "y_val": Y_VAL}
    with pytest.raises(ValueError, match=r"sample_weight_val has 6 values, but X_val has 7 rows"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=WEIGHTS[:-1])
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight_val`: that of row"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=-WEIGHTS)
    with pytest.raises(ValueError, match=r"sample_weight_val .*zero"):
        classifier().fit(TEXTS, LABELS, **val, sample_weight_val=0 * WEIGHTS)
    for early_stopping in (False, True):
        with pytest.raises(ValueError, match="sample_weight_val has the weights of the rows of X_val, but there is no"):
            classifier(early_stopping=early_stopping).fit(TEXTS, LABELS, sample_weight_val=WEIGHTS)
    with pytest.raises(ValueError, match="there is no X_val"):
        XLMRXLMaskedLM(**QUICK).fit(TEXTS, sample_weight_val=WEIGHTS)


def test_zero_sample_weight_val_equals_leaving_rows_out():
    kept = np.flatnonzero(WEIGHTS)
    weighted, absent = (
        classifier(max_epochs=1).fit(TEXTS, LABELS, X_val=X, y_val=y, sample_weight_val=weights)
        for X, y, weights in [
            (X_VAL, Y_VAL, WEIGHTS),
            ([X_VAL[i] for i in kept], [Y_VAL[i] for i in kept], WEIGHTS[kept]),
        ]
    )
    columns = ["validation_score", "validation_loss"]
    pd.testing.assert_frame_equal(weighted.history_[columns], absent.history_[columns])


def test_sample_weight_val_with_metadata_routing_reaches_fit():
    val = {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": WEIGHTS}
    with sklearn.config_context(enable_metadata_routing=True):
        clf = classifier(max_epochs=1, init="random").set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        grid = GridSearchCV(clf, {"learning_rate": [1e-3]}, cv=2).fit(TEXTS, LABELS, **val)
    expected = classifier(max_epochs=1, init="random", learning_rate=1e-3).fit(TEXTS, LABELS, **val)
    assert grid.best_estimator_.validation_scores_ == expected.validation_scores_
    assert grid.best_estimator_.score(X_VAL, Y_VAL, WEIGHTS) == pytest.approx(expected.validation_scores_[-1])


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, "balanced", {"yes": 3.0, "no": 0.5}], ids=str)
def test_validation_loss_of_classifier_equals_weighted_log_loss(class_weight):
    clf = classifier(class_weight=class_weight, max_epochs=1)
    clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=WEIGHTS)
    shares = {"yes": 8 / 20, "no": 8 / 20, "perhaps": 4 / 20}
    balanced = {label: 1 / (3 * share) for label, share in shares.items()}
    of_classes = (
        {None: {}, "balanced": balanced}.get(class_weight) if not isinstance(class_weight, dict) else class_weight
    )
    weights = WEIGHTS * [of_classes.get(label, 1.0) for label in Y_VAL]
    expected = log_loss(Y_VAL, clf.predict_proba(X_VAL), sample_weight=weights, labels=clf.classes_)
    assert last(clf).validation_loss == pytest.approx(expected, rel=1e-5)
    assert last(clf).validation_score == pytest.approx(clf.score(X_VAL, Y_VAL, WEIGHTS)), "without class weights"
    assert abs(log_loss(Y_VAL, clf.predict_proba(X_VAL), labels=clf.classes_) - expected) > 1e-4


def test_validation_loss_of_long_texts_equals_mean_over_windows():
    texts = ["good " * 3, "bad " * 20, "fine"]
    clf = classifier(max_epochs=1, max_length=8, stride=0)
    clf.fit(TEXTS, LABELS, X_val=texts, y_val=["yes", "no", "no"], sample_weight_val=[1, 2, 3])
    task, backbone = clf._task(), get_backbone("nano", device="cpu")
    plan = task.plan(backbone, check_text_column(texts))
    logits = clf._finetuned.run(backbone, plan, 1000)
    each = F.cross_entropy(torch.from_numpy(logits), torch.tensor([2, 0, 0])[plan.text_of_window], reduction="none")
    of_texts = [each[plan.text_of_window == i].mean().item() for i in range(3)]
    assert max(plan.windows_per_text) > 1
    assert clf.classes_.tolist() == ["no", "perhaps", "yes"]
    assert last(clf).validation_loss == pytest.approx(np.average(of_texts, weights=[1, 2, 3]), rel=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"b": 5.0}], ids=str)
def test_validation_loss_of_several_labels_equals_weighted_mean_over_entries(class_weight):
    indicator = np.stack([np.array(LABELS) == "yes", np.arange(20) % 4 == 0], axis=1).astype(int)
    y, y_val = pd.DataFrame(indicator, columns=["a", "b"]), pd.DataFrame(indicator[3:10], columns=["a", "b"])
    clf = classifier(class_weight=class_weight, max_epochs=1)
    clf.fit(TEXTS, y, X_val=X_VAL, y_val=y_val, sample_weight_val=WEIGHTS)
    entries = np.ones((7, 2))
    if class_weight == "balanced":
        shares = indicator.mean(axis=0)
        entries = np.where(y_val, 1 / (2 * shares), 1 / (2 * (1 - shares)))
    elif class_weight is not None:
        entries[:, 1] = np.where(y_val["b"], 5.0, 1.0)
    p = clf.predict_proba(X_VAL).astype(float)
    each = -np.where(y_val, np.log(p), np.log(1 - p))
    expected = np.average((entries * each).mean(axis=1), weights=WEIGHTS)
    assert last(clf).validation_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_validation_loss_of_regressor_equals_mean_error_in_standard_deviations(loss):
    y = np.stack([np.arange(20.0), np.arange(20.0) ** 2], axis=1)
    reg = XLMRXLRegressor(**QUICK, loss=loss)
    reg.fit(TEXTS, y, X_val=X_VAL, y_val=y[3:10], sample_weight_val=WEIGHTS)
    errors = abs(reg.predict(X_VAL) - y[3:10]) / y.std(axis=0)
    each = (errors**2 if loss == "squared_error" else errors).mean(axis=1)
    assert last(reg).validation_loss == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-5)


@pytest.mark.parametrize("class_weight", [None, {"N": 3.0, "V": 0.5}], ids=str)
def test_validation_loss_of_tagger_equals_weighted_mean_over_tokens(class_weight):
    X, y = [text.split() * (1 + i % 3) for i, text in enumerate(TEXTS)], [t * (1 + i % 3) for i, t in enumerate(TAGS)]
    tagger = XLMRXLTagger(**QUICK, scheme="plain", class_weight=class_weight)
    tagger.fit(X, y, X_val=[*X[3:9], []], y_val=[*y[3:9], []], sample_weight_val=WEIGHTS)
    losses, weights = [], []
    for row, tags, weight in zip(tagger.predict_proba(X[3:9]), y[3:9], WEIGHTS[:6], strict=True):
        of_tokens = tagger.classes_.searchsorted(tags)
        losses += (-np.log(row[range(len(tags)), of_tokens])).tolist()
        weights += [weight * (class_weight or {}).get(tag, 1.0) for tag in tags]
    assert last(tagger).validation_loss == pytest.approx(np.average(losses, weights=weights), rel=1e-5)
    assert last(tagger).validation_score == pytest.approx(tagger.score(X[3:9], y[3:9], WEIGHTS[:6]))


def test_validation_loss_of_qa_equals_mean_over_windows(tmp_path):
    qa = XLMRXLQA(**QUICK, max_length=24, stride=4)
    weights = [1.0, 2.0, 0.5, 3.0]
    qa.fit(QUESTIONS, ANSWERS, X_val=QUESTIONS[:4], y_val=ANSWERS[:4], sample_weight_val=weights)
    qa.export_pretrained(tmp_path)
    model = XLMRobertaXLForQuestionAnswering.from_pretrained(tmp_path).eval()
    task, column = qa._task(), qa._check_column(QUESTIONS[:4])
    plan = task.plan(get_backbone("nano", device="cpu"), column)
    ends = target_units(plan, [first_span(row) for row in task.targets(ANSWERS[:4], column)])
    of_windows = []
    for window, at, (start, end) in zip(plan.windows, plan.positions, ends, strict=True):
        with torch.no_grad():
            output = model(input_ids=torch.from_numpy(window)[None].long())
        log_p = [logits[0, at].log_softmax(0) for logits in (output.start_logits, output.end_logits)]
        of_windows.append(-(log_p[0][start] + log_p[1][end]).item() / 2)
    of_rows = np.bincount(plan.text_of_window, of_windows) / plan.windows_per_text
    assert max(plan.windows_per_text) > 1
    assert last(qa).validation_loss == pytest.approx(np.average(of_rows, weights=weights), rel=1e-4)
    assert last(qa).validation_score == pytest.approx(qa.score(QUESTIONS[:4], ANSWERS[:4], weights))


def test_validation_loss_of_multiple_choice_equals_weighted_log_loss():
    chooser = XLMRXLMultipleChoice(**QUICK)
    weights = [1.0, 2.0, 0.5, 3.0]
    chooser.fit(CHOICES, RIGHT, X_val=CHOICES[:4], y_val=RIGHT[:4], sample_weight_val=weights)
    each = -np.log(chooser.predict_proba(CHOICES[:4])[range(4), RIGHT[:4]])
    assert last(chooser).validation_loss == pytest.approx(np.average(each, weights=weights), rel=1e-5)
    assert last(chooser).validation_score == pytest.approx(chooser.score(CHOICES[:4], RIGHT[:4], weights))


@pytest.mark.parametrize(
    ("estimator", "model_class"),
    [(XLMRXLMaskedLM, XLMRobertaXLForMaskedLM), (XLMRXLGenerator, XLMRobertaXLForCausalLM)],
    ids=["masked", "generator"],
)
def test_validation_loss_of_language_models_equals_weighted_mean_over_tokens(estimator, model_class, tmp_path):
    texts, weights = [*X_VAL, "a much longer text than all of the others, " * 3, ""], [*WEIGHTS, 2.0, 5.0]
    lm = estimator(**QUICK).fit(TEXTS, X_val=texts, sample_weight_val=weights)
    lm.export_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path).eval()
    kept = [i for i, weight in enumerate(weights) if weight and texts[i]]
    backbone, task = get_backbone("nano", device="cpu"), lm._new_task()
    plan = task.plan(backbone, check_text_column([texts[i] for i in kept]))
    examples = task.examples(plan, backbone.tokenizer, np.random.RandomState(0))
    losses, of_tokens = [], []
    for i, window, at, targets in zip(kept, examples.windows, examples.positions, examples.targets, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(window)[None].long()).logits[0, at]
        losses += F.cross_entropy(logits, torch.from_numpy(targets), reduction="none").tolist()
        of_tokens += [weights[i]] * len(at)
    expected = np.average(losses, weights=of_tokens)
    assert abs(expected - np.mean(losses)) > 1e-3
    assert last(lm).validation_loss == pytest.approx(expected, rel=1e-4)
    assert last(lm).validation_score == -last(lm).validation_loss
    assert lm.score(texts, sample_weight=weights) == pytest.approx(-expected, rel=1e-4)
