"""Predictions, losses, metrics and exports of question answering, compared with transformers."""

import copy
import pickle

import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skxlmr
from skxlmr import XLMRXLQA, Full, LoRA
from skxlmr.checkpoints.resolve import resolve
from skxlmr.datasets import read_squad
from skxlmr.metrics import squad_scores
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.answers import first_span
from skxlmr.tasks.questions import check_questions, plan_questions
from skxlmr.tasks.spans import best_spans, target_units
from skxlmr.text.word_edges import word_edges

PEOPLE = ["Ada", "Bob", "Eve", "Li Wei"]
PLACES = ["Rome", "Oslo", "New York", "北京"]
ROWS = [
    (question.format(person=person, place=place), f"{person} lives in {place}.", person if "Who" in question else place)
    for person, place in zip(PEOPLE, PLACES, strict=True)
    for question in ("Who lives in {place}?", "Where does {person} live?")
]
X = pd.DataFrame(ROWS, columns=["question", "context", "answer"])[["question", "context"]]
ANSWERS = [answer for *_, answer in ROWS]


def qa(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 40, "learning_rate": 2e-3, "batch_size": 4}
    return XLMRXLQA(**(settings | {"tuning": Full()} | parameters))


@pytest.fixture(scope="module")
def fitted():
    return qa(device="cpu").fit(X, ANSWERS)


def test_fit_learns_to_answer(fitted):
    assert fitted.metrics(X, ANSWERS)["exact_match"] >= 0.75
    assert fitted.score(X, ANSWERS) == pytest.approx(fitted.metrics(X, ANSWERS)["f1"])
    assert not fitted.has_unanswerable_
    assert not fitted.predict_answers(X, null_threshold=-1e6).is_answered.any()
    assert set(clone(fitted).set_params(null_threshold=-1e6).fit(X, ANSWERS).predict(X)) == {""}
    for answer, context in zip(fitted.predict(X), X.context, strict=True):
        assert answer
        assert answer in context


@pytest.mark.parametrize("tuning", ["head", LoRA(rank=2)], ids=str)
def test_qa_with_each_tuning_survives_pickle_and_save(tuning, tmp_path):
    clf = qa(tuning=tuning, max_epochs=2, device="cpu").fit(X, ANSWERS)
    clf.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path)):
        pd.testing.assert_frame_equal(again.predict_answers(X), clf.predict_answers(X))


def test_predict_answers_returns_substrings_of_contexts(fitted):
    contexts = ["", " ", "a", "Ada lives in Rome. " * 300, "日本語の文章です。" * 50, "\ufb01ne \u200b e\u0301", "🎬🎬"]
    frame = pd.DataFrame({"question": ["Who?"] * len(contexts), "context": contexts})
    table = fitted.predict_answers(frame, top_k=4)
    for row in table.itertuples():
        assert row.answer == contexts[row.row][row.start : row.end]
        assert row.answer
        assert 0 <= row.score <= 1
    assert not table.duplicated(["row", "start", "end"]).any()
    assert table.groupby("row").score.apply(lambda s: s.is_monotonic_decreasing).all()
    assert (
        table.groupby("row").score.sum() + table.groupby("row").no_answer_score.first()
    ).to_numpy() == pytest.approx(1)
    predicted = fitted.predict(frame)
    assert predicted[0] == "", "an empty context holds no answer"
    best = table.drop_duplicates("row").set_index("row").answer
    assert [predicted[row] for row in best.index] == best.tolist()


def test_best_spans_over_windows_of_long_context_equal_exhaustive_search():
    clf = qa(max_epochs=2, max_length=32, stride=8, device="cpu").fit(X, ANSWERS)
    context = " ".join(f"{person} lives in {place}." for person in PEOPLE for place in PLACES)
    column = check_questions([["Where does Ada live?", context]])
    backbone = get_backbone("nano", device="cpu")
    plan = plan_questions(backbone.tokenizer, column, max_length=32, stride=8)
    assert len(plan.windows) > 5
    ids = backbone.tokenizer.encode_with_offsets(context)[0]
    for window, at, first in zip(plan.windows, plan.positions, plan.first_piece, strict=True):
        assert at[0] == 0
        assert window[at[1:]].tolist() == ids[first : first + len(at) - 1].tolist()
    outputs = clf._finetuned.run(backbone, plan, 1000)
    spans, null = best_spans(outputs, plan, 30, 3)
    expected: dict[tuple[int, int], float] = {}
    nulls, stop = [], 0
    for at, first in zip(plan.positions, plan.first_piece, strict=True):
        scores = outputs[stop : stop + len(at)]
        stop += len(at)
        nulls.append(scores[0].sum())
        for a in range(1, len(at)):
            for b in range(a, min(len(at), a + 30)):
                left, right = plan.offsets[0][first + a - 1][0], plan.offsets[0][first + b - 1][1]
                if right > left:
                    value = float(scores[a, 0] + scores[b, 1])
                    expected[left, right] = max(value, expected.get((left, right), -np.inf))
    best = sorted(((value, *span) for span, value in expected.items()), key=lambda s: -s[0])[:3]
    np.testing.assert_allclose([s[0] for s in spans[0]], [s[0] for s in best], rtol=1e-5)
    assert [s[1:] for s in spans[0]] == [s[1:] for s in best]
    assert null[0] == pytest.approx(min(nulls), rel=1e-6)


def test_predict_answers_with_max_answer_length_limits_pieces(fitted):
    tokenizer = get_backbone("nano").tokenizer
    frame = pd.DataFrame({"question": ["Who?"], "context": ["Ada Lovelace lives in Rome and Bob lives in New York."]})
    longest = []
    for most in (1, 3, 30):
        clf = copy.copy(fitted).set_params(max_answer_length=most)
        table = clf.predict_answers(frame, top_k=50)
        offsets = tokenizer.encode_with_offsets(frame.context[0])[1]
        n_pieces = [
            ((offsets[:, 0] >= a) & (offsets[:, 1] <= b)).sum() for a, b in zip(table.start, table.end, strict=True)
        ]
        assert max(n_pieces) <= most
        longest.append(max(n_pieces))
        assert clf.predict(frame)[0] == table.answer[0]
    assert longest[:2] == [1, 3]
    assert longest[2] > 3


def test_predict_answers_without_answers_keeps_dtypes(fitted):
    empty = fitted.predict_answers(pd.DataFrame({"question": ["Who?"], "context": [""]}))
    full = fitted.predict_answers(X)
    numbers = ["row", "start", "end", "score", "no_answer_score", "is_answered"]
    assert not len(empty)
    assert empty.dtypes[numbers].tolist() == full.dtypes[numbers].tolist()


def test_fit_without_any_answer_raises():
    with pytest.raises(ValueError, match="no answer in any row"):
        qa().fit(X, [None] * len(X))


def test_fit_with_ambiguous_answers_warns_once():
    with pytest.warns(UserWarning, match="more than once") as warned:
        qa(max_epochs=1, tuning="head").fit([["Who?", "Ada and Ada"]] * 2, ["Ada"] * 2)
    assert len([warning for warning in warned if "more than once" in str(warning.message)]) == 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft
def test_export_adapter_equals_peft(tmp_path):
    clf = qa(tuning=LoRA(rank=3), max_epochs=2, device="cpu").fit(X, ANSWERS)
    clf.export_adapter(tmp_path)
    base = transformers.XLMRobertaXLForQuestionAnswering.from_pretrained(resolve("nano").directory, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert model.peft_config["default"].task_type == "QUESTION_ANS"
    plan = clf._new_task().plan(clf._fitted_backbone(), check_questions(X))
    outputs = clf._finetuned.run(clf._fitted_backbone(), plan, batch_tokens=512)
    stop = 0
    for window, at in zip(plan.windows, plan.positions, strict=True):
        with torch.no_grad():
            theirs = model(input_ids=torch.from_numpy(window)[None].long())
        logits = np.stack([theirs.start_logits[0], theirs.end_logits[0]], 1)[at]
        np.testing.assert_allclose(outputs[stop : stop + len(at)], logits, atol=1e-5)
        stop += len(at)


def test_plan_with_stride_overlaps_windows_by_stride(fitted):
    clf = copy.copy(fitted).set_params(max_length=32, stride=5)
    column = check_questions([["Who?", "Ada lives in Rome. " * 20]])
    plan = clf._new_task().plan(get_backbone("nano", device="cpu"), column)
    shown = plan.counts - 1
    assert (plan.first_piece[:-1] + shown[:-1] - plan.first_piece[1:] == 5).all()
    assert plan.lengths[:-1].tolist() == [32] * (len(plan.windows) - 1)


def test_score_with_sample_weight_equals_weighted_f1(fitted):
    y = [[context] if i % 2 else [answer] for i, (*_, context, answer) in enumerate(ROWS)]
    weights = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 1.0, 3.0, 0.5])
    each = [squad_scores([answer], [right])["f1"] for answer, right in zip(fitted.predict(X), y, strict=True)]
    expected = np.average(each, weights=weights)
    assert abs(expected - np.mean(each)) > 0.01
    assert fitted.score(X, y, sample_weight=weights) == pytest.approx(expected)
    backbone, column = get_backbone("nano", device="cpu"), check_questions(X)
    task = fitted._task()
    rows = task.rows(backbone, column, task.targets(y, column), weights)
    validated = task.evaluate(fitted._finetuned, backbone, rows, 1000)["validation_score"]
    assert validated == pytest.approx(expected)


def test_loss_equals_transformers(tmp_path):
    clf = qa(max_epochs=1, device="cpu").fit(X, ANSWERS)
    clf.export_pretrained(tmp_path)
    model = transformers.XLMRobertaXLForQuestionAnswering.from_pretrained(tmp_path).eval()
    column = clf._check_column(X)
    task, targets = clf._new_task().find(ANSWERS, column, np.ones(len(X)))
    backbone = get_backbone("nano", device="cpu")
    rows = task.rows(backbone, column, targets)
    outputs = torch.from_numpy(clf._finetuned.run(backbone, rows.plan, 1000))
    losses = task.losses(rows, torch.device("cpu"))
    every = np.arange(len(rows.plan.windows))
    got = losses(outputs, every, every)
    units = target_units(rows.plan, [first_span(target) for target in targets])
    stop = 0
    for window, at, (start, end), loss in zip(rows.plan.windows, rows.plan.positions, units, got, strict=True):
        with torch.no_grad():
            theirs = model(input_ids=torch.from_numpy(window)[None].long())
        logits = torch.stack([theirs.start_logits[0], theirs.end_logits[0]], 1)[torch.from_numpy(at)]
        torch.testing.assert_close(outputs[stop : stop + len(at)], logits, rtol=0, atol=1e-5)
        stop += len(at)
        log_p = logits.log_softmax(0)
        assert loss.item() == pytest.approx(-(log_p[start, 0] + log_p[end, 1]).item() / 2, abs=1e-5)


def test_fit_with_unanswerable_questions_predicts_empty_answers():
    frame = pd.concat([X, pd.DataFrame({"question": ["Why is it?"] * 4, "context": X.context[::2]})], ignore_index=True)
    answers = [*ANSWERS, None, "", {"text": [], "answer_start": []}, float("nan")]
    clf = qa(max_epochs=60).fit(frame, answers)
    assert clf.has_unanswerable_
    assert clf.predict(frame)[8:].tolist().count("") >= 3
    assert (clf.predict_answers(frame, null_threshold=1e6).is_answered).all()
    assert set(clf.set_params(null_threshold=-1e6).predict(frame)) == {""}
    assert clf.score(frame, answers) == pytest.approx(4 / 12)


def test_metrics_score_and_validation_score_equal_squad_scores(fitted):
    clf = qa(max_epochs=3).fit(X, ANSWERS, X_val=X, y_val=ANSWERS)
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X, ANSWERS), abs=1e-6)
    several = [[answer, context] for answer, context in zip(ANSWERS, X.context, strict=True)]
    expected = squad_scores(fitted.predict(X), several)
    assert fitted.score(X, several) == pytest.approx(expected["f1"])
    assert fitted.metrics(X, several, "de") == squad_scores(fitted.predict(X), several, "de")
    for top_k in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"top_k must be an integer of at least 1, got {top_k!r}"):
            fitted.predict_answers(X, top_k=top_k)
    with pytest.raises(ValueError, match="null_threshold must be a number, got 'high'"):
        fitted.predict_answers(X, null_threshold="high")


def test_language_sets_rules_of_scores_and_of_early_stopping(fitted):
    frame = pd.DataFrame({"question": ["谁？"] * 8, "context": [f"{i}号是王小明和李雷。" for i in range(8)]})
    answers = ["王小明和李雷"] * 8
    clf = qa(max_epochs=2, tuning="head", language="zh", max_answer_length=3)
    clf.fit(frame, answers, X_val=frame, y_val=answers)
    predicted = clf.predict(frame)
    in_chinese, as_squad = (squad_scores(predicted, [[a] for a in answers], language) for language in ("zh", None))
    assert in_chinese["f1"] > as_squad["f1"] + 0.1
    assert clf.score(frame, answers) == pytest.approx(in_chinese["f1"])
    assert clf.validation_scores_[-1] == pytest.approx(in_chinese["f1"])
    assert clf.metrics(frame, answers) == in_chinese
    assert clf.metrics(frame, answers, "en") == squad_scores(predicted, [[a] for a in answers], "en")
    clf.set_params(language=None)
    assert clf.score(frame, answers) == pytest.approx(as_squad["f1"])
    assert clf.metrics(frame, answers) == as_squad


def test_score_and_validation_do_not_need_answers_in_contexts(fitted):
    y = [*ANSWERS[:6], ["Mallory"], ("Oslo", 99)]
    expected = squad_scores(fitted.predict(X), [[a] for a in ANSWERS[:6]] + [["Mallory"], ["Oslo"]])
    assert fitted.metrics(X, y) == expected
    assert fitted.score(X, y) == pytest.approx(expected["f1"])
    clf = qa(tuning="head", max_epochs=2).fit(X, ANSWERS, X_val=X, y_val=y)
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X, y))
    with pytest.raises(ValueError, match="y, row 6: the answer 'Mallory' does not stand in its context"):
        qa().fit(X, y)


def test_fit_with_dropped_answers_equals_leaving_rows_out():
    y = [*ANSWERS[:6], "Mallory", ("Oslo", 99)]
    with pytest.warns(
        UserWarning, match=r"y, row 6: .*\ny, row 7: .*\n2 of 8 rows have wrong answers. They are not learn"
    ):
        dropped = qa(max_epochs=2, errors="drop", device="cpu").fit(X, y)
    without = qa(max_epochs=2, device="cpu").fit(X[:6], y[:6])
    pd.testing.assert_frame_equal(dropped.predict_answers(X), without.predict_answers(X))
    assert not dropped.has_unanswerable_
    with pytest.warns(UserWarning, match="8 of 8 rows"), pytest.raises(ValueError, match="no answer in any row"):
        qa(errors="drop").fit(X, ["Mallory"] * 8)


def test_validation_loss_leaves_out_answers_that_are_not_in_contexts():
    settings = {"tuning": "head", "max_epochs": 1}
    some = qa(**settings).fit(X, ANSWERS, X_val=X[:6], y_val=ANSWERS[:6])
    more = qa(**settings).fit(X, ANSWERS, X_val=X, y_val=[*ANSWERS[:6], "Mallory", "Mallory"])
    none = qa(**settings).fit(X, ANSWERS, X_val=X, y_val=["Mallory"] * 8)
    assert more.history_.validation_loss[0] == pytest.approx(some.history_.validation_loss[0])
    assert more.history_.validation_score[0] < some.history_.validation_score[0] or not some.score(X[:6], ANSWERS[:6])
    assert np.isnan(none.history_.validation_loss[0])
    assert none.history_.validation_score[0] == 0


def test_score_takes_language_and_grid_search_uses_that_of_the_estimator():
    frame = pd.DataFrame({"question": ["谁？"] * 8, "context": [f"{i}号是王小明和李雷。" for i in range(8)]})
    answers = ["王小明和李雷"] * 8
    search = GridSearchCV(
        qa(max_epochs=1, tuning="head", language="zh", max_answer_length=3), {"learning_rate": [1e-3]}, cv=2
    ).fit(frame, answers)
    clf = search.best_estimator_
    scores = {
        language: squad_scores(clf.predict(frame), [[a] for a in answers], language)["f1"] for language in ("zh", "de")
    }
    assert scores["zh"] > scores["de"]
    assert clf.score(frame, answers) == pytest.approx(scores["zh"])
    assert clf.score(frame, answers, language="de") == pytest.approx(scores["de"])
    assert search.cv_results_["mean_test_score"][0] > scores["de"]


def test_fit_learns_answers_of_other_composition_and_white_space():
    frame = pd.DataFrame(
        {"question": X.question, "context": X.context.str.replace("lives in", "lives  in  Cafe\u0301")}
    )
    answers = ["lives in Café"] * len(frame)
    clf = qa(device="cpu", max_epochs=12).fit(frame, answers)
    assert clf.predict(frame).tolist() == ["lives  in  Cafe\u0301"] * len(frame)
    assert clf.score(frame, answers) == 1


def test_align_to_words_predicts_whole_words(fitted):
    contexts = ["Counterproductively lives Lovelace-like in Oslostadtbezirk.", "Ada lives in New York."] * 4
    frame = pd.DataFrame({"question": X.question, "context": contexts})
    for aligned in (True, False):
        table = copy.copy(fitted).set_params(align_to_words=aligned).predict_answers(frame, top_k=20)
        edges = [word_edges(contexts[row]) for row in table.row]
        whole = [b[i] and e[j] for (b, e), i, j in zip(edges, table.start, table.end, strict=True)]
        assert all(whole) == aligned


def test_fit_with_parts_of_words_as_answers_warns():
    with pytest.warns(UserWarning, match="8 of 8 answers begin or end within a word, as 'ive' does"):
        qa(max_epochs=1, tuning="head").fit(X, ["ive"] * 8)
    qa(max_epochs=1, tuning="head", align_to_words=False).fit(X, ["ive"] * 8)


def test_predict_always_answers_where_fit_saw_answers_only(fitted):
    frame = pd.DataFrame({"question": ["Who?"], "context": ["Donaudampfschifffahrtsgesellschaft" * 20]})
    clf = copy.copy(fitted).set_params(max_answer_length=1)
    assert clf.predict(frame)[0]


def test_predict_answers_on_xquad_returns_substrings_of_contexts(shared_data):
    frame = read_squad(shared_data / "xquad" / "xquad.zh.json")
    train, test = frame[:24], frame[600:640]
    clf = qa(tuning="head", max_epochs=2, max_length=256).fit(train[["question", "context"]], train.answers)
    for row in clf.predict_answers(test[["question", "context"]]).itertuples():
        assert row.answer == test.context.iloc[row.row][row.start : row.end]
