"""Long columns go through a model in parts; the results equal those of a single part."""

import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import skxlmr
from skxlmr import XLMRXLQA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLMultipleChoice, XLMRXLRegressor, XLMRXLTagger
from skxlmr.columns import check_text_column
from skxlmr.runtime.plan import WindowPlan, Windows, plan_texts
from skxlmr.runtime.streaming import ahead, part_bounds, run_in_parts

SETTINGS = {"model": "nano", "max_epochs": 1, "random_state": 0}
SMALL = {"batch_tokens": 512}  # makes parts of 4,096 characters


@pytest.fixture(scope="module")
def texts():
    """About 15,000 characters; some rows are equal and one is empty."""
    random = np.random.RandomState(0)
    words = np.array(["river", "夜", "bread", "שלום", "fast", "улица", "of", "!"])
    rows = [" ".join(random.choice(words, random.randint(1, 60))) for _ in range(90)]
    rows = [*rows, *rows[10:30], "", *["river"] * 5, "bread " * 700]
    return [rows[i] for i in random.permutation(len(rows))]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("skxlmr.runtime.streaming.BATCHES_IN_A_PART", 2)
    skxlmr.runtime.feature_cache.clear_features()


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_transform_in_parts_equals_one_part(texts, pooling):
    whole = XLMRXLEmbedder("nano", pooling=pooling).fit_transform(texts)
    skxlmr.runtime.feature_cache.clear_features()
    embedder = XLMRXLEmbedder("nano", pooling=pooling, **SMALL)
    assert sum(map(len, set(texts))) > 3 * 4096
    np.testing.assert_allclose(embedder.fit_transform(texts), whole, atol=2e-5)
    np.testing.assert_allclose(
        embedder.transform(pd.Series(texts, index=np.arange(len(texts))[::-1])), whole, atol=2e-5
    )


def test_predict_in_parts_equals_one_part(texts):
    labels = np.arange(len(texts)) % 3
    frame = pd.DataFrame({"a": texts, "b": texts[::-1]})
    for cls, X, method, tuning in (
        (XLMRXLClassifier, texts, "predict_proba", "head"),
        (XLMRXLClassifier, texts, "decision_function", "lora"),
        (XLMRXLRegressor, frame, "predict", "lora"),
    ):
        fitted = cls(**SETTINGS, tuning=tuning).fit(X[:10], labels[:10])
        whole = getattr(fitted, method)(X)
        skxlmr.runtime.feature_cache.clear_features()
        np.testing.assert_allclose(getattr(fitted.set_params(**SMALL), method)(X), whole, atol=2e-5)


def test_tagger_in_parts_equals_one_part(texts):
    sentences = [text.split() or ["empty"] for text in texts]
    tags = [[f"T{i % 3}" for i in range(len(row))] for row in sentences]
    tagger = XLMRXLTagger(**SETTINGS).fit(sentences[:10], tags[:10])
    whole = tagger.predict_proba(sentences)
    found = tagger.set_params(**SMALL).predict_proba(sentences)
    for row, of_row in zip(whole, found, strict=True):
        np.testing.assert_allclose(of_row, row, atol=2e-5)
    predicted = tagger.predict(sentences)
    assert [len(row) for row in predicted] == [len(row) for row in sentences]
    assert len({id(row) for row in predicted}) == len(sentences), "each row has a list of its own"


def test_qa_in_parts_equals_one_part(texts):
    frame = pd.DataFrame(
        {"question": [f"Where is {text[:5]}?" for text in texts], "context": [t or "?" for t in texts]}
    )
    qa = XLMRXLQA(align_to_words=False, **SETTINGS).fit(
        frame[:10], [(context[:3], 0) for context in frame.context[:10]]
    )
    whole = qa.predict_answers(frame, top_k=2)
    found = qa.set_params(**SMALL).predict_answers(frame, top_k=2)
    assert whole.row.nunique() > 100
    pd.testing.assert_frame_equal(found, whole, atol=2e-5)
    np.testing.assert_array_equal(qa.predict(frame), qa.set_params(batch_tokens="auto").predict(frame))


def test_multiple_choice_in_parts_equals_one_part(texts):
    choices = [[text[-i:] or "-" for i in range(1, 2 + row % 4)] for row, text in enumerate(texts)]
    frame = pd.DataFrame({"prompt": texts, "choices": choices})
    chooser = XLMRXLMultipleChoice(**SETTINGS).fit(frame[:10], [0] * 10)
    whole = chooser.decision_function(frame)
    assert whole.shape[1] == 4
    np.testing.assert_allclose(chooser.set_params(**SMALL).decision_function(frame), whole, atol=2e-5)


def test_truncation_in_parts_warns_once(texts):
    embedder = XLMRXLEmbedder("nano", max_length=32, truncation=True, **SMALL).fit(texts)
    n_long = sum(len(ids) > 30 for ids in embedder._fitted_backbone().tokenizer.encode_batch(list(set(texts))))
    with pytest.warns(UserWarning, match=f"^{n_long} of {len(set(texts))} distinct texts were cut at 32") as caught:
        embedder.transform(texts)
    assert len(caught) == 1
    assert n_long > 10


@pytest.mark.parametrize("settings", [{}, SMALL], ids=["one part", "parts"])
def test_long_questions_in_parts_warn_once(settings):
    questions, contexts = ["why " * 40] * 4 + ["who?"] * 90, [f"{i} of " * 20 for i in range(94)]
    frame = pd.DataFrame({"question": questions, "context": contexts})
    answering = XLMRXLQA(**SETTINGS, max_length=32, **settings).fit(frame[-4:], [("of", 3)] * 4)
    frame.loc[3, "context"] = frame.context[0]
    with pytest.warns(UserWarning, match="^3 rows have questions of more than 14 pieces") as caught:
        answering.predict(frame)
    assert len(caught) == 1


def test_run_in_parts_of_repeated_rows_runs_each_once():
    rows = [f"row {i % 7} {'x' * 50}" for i in range(200)]
    seen = []

    def plan(column):
        seen.extend(column.texts)
        return WindowPlan([np.zeros(3, np.int32)] * len(column.texts), *[np.arange(len(column.texts))] * 2)

    found = run_in_parts(
        check_text_column(rows),
        plan,
        lambda plan, part: np.array([len(plan.windows)] * plan.n_texts),
        64,
        description="run",
    )
    assert sorted(seen) == sorted(set(rows))
    assert found.shape == (200,)


def test_ahead_computes_one_item_in_advance():
    asked, threads = [], set()

    def function(item):
        asked.append(item)
        threads.add(threading.current_thread())
        return item

    results = ahead(function, range(10))
    assert next(results) == 0
    while len(asked) < 2:  # wait for the thread
        pass
    assert next(results) == 1
    assert len(asked) <= 3
    results.close()
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_run_in_parts_with_an_error_in_the_thread_raises_it(texts):
    def plan(column):
        raise ValueError("no tokens")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no tokens"):
        run_in_parts(check_text_column(texts), plan, lambda plan, part: np.zeros(1), 16, description="run")
    assert threading.active_count() == before


def test_run_in_parts_with_an_error_of_the_model_ends_the_thread(texts):
    before = threading.active_count()
    embedder = XLMRXLEmbedder("nano", **SMALL).fit(texts)
    column, backbone, windows = check_text_column(texts), embedder._fitted_backbone(), Windows()

    def fail(plan, part):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_parts(column, lambda rows: plan_texts(backbone, rows, windows), fail, 16, description="run")
    assert threading.active_count() == before


@pytest.mark.parametrize("begin", ["threading.Thread(target=run).start()", "atexit.register(run)"])
def test_ahead_after_the_main_thread_still_works(begin):
    program = (
        "import atexit, threading\n"
        "from skxlmr.runtime.streaming import ahead\n"
        "def run():\n"
        "    if threading.current_thread() is not threading.main_thread():\n"
        "        threading.main_thread().join()\n"
        "    print(list(ahead(abs, [-1, -2, -3])))\n"
        f"{begin}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[1, 2, 3]", "")


def test_progress_in_parts_keeps_one_bar(texts, monkeypatch):
    embedder, bars, tqdm = XLMRXLEmbedder("nano", verbose=1, **SMALL).fit(texts), [], skxlmr.system.progress._tqdm()
    monkeypatch.setattr(
        skxlmr.system.progress, "_tqdm", lambda: lambda **settings: bars.append(settings) or tqdm(**settings)
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    embedder.transform(texts)
    whole, *parts = bars
    assert (whole["desc"], whole["leave"], whole["total"]) == ("embed", True, sum(map(len, set(texts))))
    assert [part["desc"] for part in parts] == [f"part {i + 1} of {len(parts)}" for i in range(len(parts))]
    assert not any(part["leave"] for part in parts)
    assert len(parts) > 3


def test_part_bounds_cover_all_rows_within_the_size():
    assert part_bounds(np.array([100]), 5) == [0, 1]
    assert part_bounds(np.array([0, 0, 0]), 5) == [0, 3]
    sizes = np.random.RandomState(0).randint(0, 50, 1000)
    bounds = part_bounds(sizes, 200)
    assert bounds[0] == 0
    assert bounds[-1] == 1000
    assert min(np.diff(bounds)) > 0
    assert max(sizes[a:b].sum() for a, b in pairwise(bounds)) < 250
