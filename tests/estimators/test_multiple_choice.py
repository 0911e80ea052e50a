"""Predictions, losses and exports of multiple choice, compared with transformers."""

import pickle

import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from choice_questions import CHOICES, PROMPTS, RIGHT, TEXTS, X
from sklearn.model_selection import GridSearchCV, cross_val_predict

import skxlmr
from skxlmr import Full, LoRA, XLMRXLMultipleChoice
from skxlmr.runtime.backbone import get_backbone
from skxlmr.training.gradients import accumulate_gradients


def chooser(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 30, "learning_rate": 3e-3, "device": "cpu"}
    return XLMRXLMultipleChoice(**(settings | parameters))


@pytest.fixture(scope="module")
def fitted():
    return chooser(tuning=Full()).fit(X, RIGHT)


def test_fit_learns_right_choices(fitted):
    assert fitted.score(X, RIGHT) == fitted.score(X, TEXTS) == 1
    assert fitted.predict(X).tolist() == RIGHT
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (6, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert [np.count_nonzero(row) for row in probabilities] == [2, 3, 2, 1, 3, 1]
    assert np.isneginf(fitted.decision_function(X)[0, 2])
    assert fitted.score(X, [1 - right if right < 2 else 0 for right in [0, 1, 0, 1, 1, 1]], [1, 1, 1, 0, 1, 0]) == 0


def test_predict_returns_form_of_targets():
    clf = chooser(tuning="head", max_epochs=2).fit(X, TEXTS)
    assert clf.target_form_ == "choice"
    assert all(text in choices for text, choices in zip(clf.predict(X), CHOICES, strict=True))
    index = chooser(tuning="head", max_epochs=2).fit(X, np.array(RIGHT, float))
    np.testing.assert_array_equal(index.decision_function(X), clf.decision_function(X))
    assert index.predict(X).dtype.kind == "i"


@pytest.mark.parametrize(
    ("form", "y"), [("digit", ["0", "1"] * 3), ("letter", ["B", "A"] * 3), ("label", ["x", "y"] * 3)], ids=str
)
def test_predict_and_grid_search_return_forms_of_texts(form, y):
    choices = [{"text": ["wet", "dry"], "label": ["x", "y"]}] * 6 if form == "label" else [["wet", "dry"]] * 6
    frame = pd.DataFrame({"prompt": PROMPTS, "choices": choices})
    search = GridSearchCV(chooser(tuning="head", max_epochs=2), {"learning_rate": [1e-2]}, scoring="accuracy", cv=2)
    clf = search.fit(frame, y).best_estimator_
    assert clf.target_form_ == form
    assert set(clf.predict(frame)) <= set(y)
    assert clf.score(frame, y) == np.mean(clf.predict(frame) == np.array(y))


def test_prompt_columns_of_fit_hold_for_columns_without_names(tmp_path):
    frame = pd.DataFrame(
        {"premise": PROMPTS, "question": ["effect", "cause"] * 3, "choice1": ["wet"] * 6, "choice2": ["dry"] * 6}
    )
    clf = chooser(tuning="head", max_epochs=2).fit(frame, RIGHT, X_val=frame, y_val=RIGHT)
    assert clf.prompt_columns_ == [0, 1]
    scores = clf.decision_function(frame)
    assert scores.shape == (6, 2)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(clf.decision_function(frame.to_numpy().tolist()), scores)
    joined = pd.DataFrame({"prompt": frame.premise + " " + frame.question, "choices": [["wet", "dry"]] * 6})
    of_joined = chooser(tuning="head", max_epochs=2).fit(joined, RIGHT)
    np.testing.assert_array_equal(of_joined.decision_function(joined), scores)
    assert of_joined.prompt_columns_ == [0]
    clf.save(tmp_path)
    np.testing.assert_array_equal(skxlmr.load(tmp_path).decision_function(frame), scores)
    chosen = chooser(tuning="head", max_epochs=2, prompt_columns=["premise"]).fit(frame, RIGHT)
    assert chosen.decision_function(frame).shape == (6, 3)
    with pytest.raises(ValueError, match="X has 2 columns, of which prompt_columns="):
        clf.predict(frame[["premise", "choice1"]].to_numpy().tolist())
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(frame[["premise", "choice1"]])


@pytest.mark.parametrize("tuning", [LoRA(rank=2), "head"], ids=str)
def test_multiple_choice_survives_pickle_and_save(tuning, tmp_path):
    clf = chooser(tuning=tuning, max_epochs=2).fit(X, TEXTS)
    clf.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path)):
        np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
        assert again.predict(X).tolist() == clf.predict(X).tolist()


def test_scores_and_loss_equal_transformers(fitted, tmp_path):
    fitted.export_pretrained(tmp_path)
    model = transformers.XLMRobertaXLForMultipleChoice.from_pretrained(tmp_path).eval()
    tokenizer = get_backbone("nano").tokenizer
    expected = []
    for prompt, choices in zip(PROMPTS, CHOICES, strict=True):
        batch = tokenizer([prompt] * len(choices), choices, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(**{name: value[None] for name, value in batch.items()}).logits[0].numpy())
    scores = fitted.decision_function(X)
    for row, logits in zip(scores, expected, strict=True):
        np.testing.assert_allclose(row[: len(logits)], logits, atol=1e-5)
    backbone, learned = get_backbone("nano"), fitted._finetuned
    rows, task = _rows(fitted)
    outputs = torch.from_numpy(learned.run(backbone, rows.plan, 10_000))
    windows, place = rows.plan.windows_of_rows(np.arange(len(RIGHT)))
    losses = task.losses(rows, torch.device("cpu"))(outputs[windows], windows, place)
    of_rows = np.array([losses[place == row].tolist() for row in range(len(RIGHT))], object)
    for each, logits, right in zip(of_rows, expected, RIGHT, strict=True):
        theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits)[None], torch.tensor([right])).item()
        assert each == pytest.approx([theirs] * len(each), abs=1e-5)


def _rows(clf, y=RIGHT, frame=X):
    column, weights = clf._check_column(frame), np.ones(len(y))
    task, targets = clf._new_task().find(y, column, weights)
    return task.rows(get_backbone("nano"), column, targets, weights), task


def test_micro_batches_keep_choices_of_row_together_and_gradient_equal(fitted):
    """The gradient does not depend on `batch_tokens`, also where rows are repeated."""
    long = pd.DataFrame({"prompt": ["word " * 700, "It rained."], "choices": [["so", "and so"], ["wet", "dry"]]})
    frame, y = pd.concat([X, long, X[:2]]), [*RIGHT, 1, 0, *RIGHT[:2]]
    rows, task = _rows(fitted, y, frame)
    assert rows.plan.n_choices.tolist() == [2, 3, 2, 1, 3, 1, 2]  # three rows repeat earlier ones
    assert np.bincount(rows.plan.choice_of_window).max() == 2
    torch.manual_seed(0)
    features = torch.randn(len(rows.plan.windows), 192)
    of_outputs, gradients = task.losses(rows, torch.device("cpu")), []
    for batch_tokens in (100_000, 60, 1):
        head = task.head(get_backbone("nano").model.config).eval()
        head.load_state_dict(fitted._finetuned.head.state_dict())

        def losses(windows, of_rows, recompute, head=head):
            assert all(np.isin(np.flatnonzero(rows.plan.text_of_window == t), windows).all() for t in
                       rows.plan.text_of_row[of_rows])  # fmt: skip
            return of_outputs(head(features[torch.from_numpy(windows)]), windows, of_rows)

        step = accumulate_gradients(losses, rows.plan, np.arange(len(y)), np.arange(1.0, len(y) + 1), batch_tokens)
        gradients.append((*step.read(), head.linear.weight.grad))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-5, atol=1e-7)


def test_fit_with_one_choice_in_every_row_raises():
    with pytest.raises(ValueError, match="only one choice in every row"):
        chooser().fit(X.iloc[[3, 5]], [0, 0])


def test_fit_with_early_stopping_scores_each_epoch():
    clf = chooser(tuning="head", max_epochs=3, early_stopping=True, validation_fraction=0.34).fit(X, RIGHT)
    assert len(clf.validation_scores_) == clf.n_iter_


def test_fit_with_zero_sample_weight_equals_leaving_rows_out():
    ignored = chooser(tuning="head", max_epochs=2).fit(X, RIGHT, sample_weight=[1, 1, 1, 0, 1, 0])
    without = chooser(tuning="head", max_epochs=2).fit(X.iloc[[0, 1, 2, 4]], [0, 1, 0, 1])
    np.testing.assert_allclose(ignored.decision_function(X), without.decision_function(X), atol=1e-5)


def test_grid_search_and_cross_val_predict_return_choices_of_rows():
    many = pd.concat([X] * 3, ignore_index=True)
    search = GridSearchCV(chooser(tuning="head", max_epochs=2), {"learning_rate": [1e-3, 1e-2]}, cv=3)
    search.fit(many, RIGHT * 3)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    predicted = cross_val_predict(chooser(tuning="head", max_epochs=1), many, TEXTS * 3, cv=3)
    assert all(text in choices for text, choices in zip(predicted, many.choices, strict=True))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft
def test_export_adapter_equals_peft(tmp_path):
    clf = chooser(tuning=LoRA(rank=2), max_epochs=3).fit(X, RIGHT)
    clf.export_adapter(tmp_path / "adapter")
    with pytest.warns(skxlmr.model.pretrained.NewHeadWarning):
        skxlmr.model.XLMRobertaXLForMultipleChoice.from_pretrained("nano").save_pretrained(tmp_path / "base")
    base = transformers.XLMRobertaXLForMultipleChoice.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    batch = get_backbone("nano").tokenizer([PROMPTS[1]] * 3, CHOICES[1], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**{name: value[None] for name, value in batch.items()}).logits[0].numpy()
    np.testing.assert_allclose(clf.decision_function(X)[1], logits, atol=1e-5)


@pytest.mark.parametrize("language", ["sw", "tr", "zh", "it"])
def test_predict_on_xcopa_keeps_row_order(language, shared_data):
    frame = pd.read_json(shared_data / "xcopa" / language / "val.jsonl", lines=True)[:24]
    columns = frame[["premise", "choice1", "choice2"]]
    clf = chooser(max_epochs=1).fit(columns, frame.label)
    predicted = clf.predict(columns)
    assert predicted.shape == (24,)
    assert set(predicted) <= {0, 1}
    order = np.random.RandomState(0).permutation(24)
    np.testing.assert_array_equal(clf.decision_function(columns.iloc[order]), clf.decision_function(columns)[order])
    assert clf.score(columns, frame.label) == np.mean(predicted == frame.label)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(columns), predicted)
