"""Results do not depend on the global settings of torch, and these are left as they were."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV

import skxlmr
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
from skxlmr.runtime.torch_state import default_torch_state

TEXTS = ["a good film", "a bad film", "good", "bad"] * 2
LABELS = ["yes", "no"] * 4
SENTENCES = [["Ada", "is", "old"], ["Rome", "is", "old"]] * 4
TAGS = [["B-PER", "O", "O"], ["B-LOC", "O", "O"]] * 4
PAIRS = pd.DataFrame({"question": ["Who?", "Where?"] * 4, "context": ["Ada did.", "In Rome."] * 4})
CHOICES = pd.DataFrame({"prompt": ["It rained.", "The sun shone."] * 4, "choices": [["wet", "dry"]] * 8})
SETTINGS = {"model": "nano", "max_epochs": 1, "random_state": 0, "device": "cpu"}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES = {
    "float64": lambda: [default_dtype(torch.float64)],
    "float16": lambda: [default_dtype(torch.float16)],
    "no gradients": lambda: [torch.no_grad()],
    "inference mode": lambda: [torch.inference_mode()],
    "autocast": lambda: [torch.autocast("cpu", torch.bfloat16)],
    "device of a block": lambda: [torch.device("meta")],
    "default device": lambda: [default_device("meta")],
    "all": lambda: [
        default_dtype(torch.float64),
        torch.inference_mode(),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        torch.device("meta"),
    ],
}


def settings_of_torch():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    )


@contextmanager
def entered(state):
    with ExitStack() as stack:
        for context in STATES[state]():
            stack.enter_context(context)
        yield


def flat(values):
    """One array of all numbers that a list of results has, however they are nested."""
    return np.concatenate([np.asarray(v, np.float64).ravel() for result in values for v in result])


ESTIMATORS = {
    **{
        f"classifier, {tuning}": (
            XLMRXLClassifier(**SETTINGS, tuning=tuning), (TEXTS, LABELS), "predict_proba", TEXTS)
        for tuning in ("lora", "bias", "head", "full")
    },
    "early stopping": (
        XLMRXLClassifier(**SETTINGS, scoring="accuracy"),
        (TEXTS, LABELS, None, TEXTS, LABELS), "decision_function", TEXTS),
    "full in half precision": (
        XLMRXLClassifier(**SETTINGS | {"max_epochs": 2}, tuning="full", dtype="bfloat16", batch_size=4),
        (TEXTS, LABELS), "predict_proba", TEXTS),
    "8 bits": (XLMRXLClassifier(**SETTINGS, load_in_8bit=True), (TEXTS, LABELS), "predict_proba", TEXTS),
    "4 bits": (XLMRXLClassifier(**SETTINGS, load_in_4bit=True), (TEXTS, LABELS), "predict_proba", TEXTS),
    "regressor": (XLMRXLRegressor(**SETTINGS), (TEXTS, [1.0, 2.0] * 4), "predict", TEXTS),
    "tagger": (XLMRXLTagger(**SETTINGS), (SENTENCES, TAGS), "predict_proba", SENTENCES),
    "answers": (XLMRXLQA(**SETTINGS), (PAIRS, ["Ada", "Rome"] * 4), "predict_answers", PAIRS),
    "choices": (XLMRXLMultipleChoice(**SETTINGS), (CHOICES, ["wet", "dry"] * 4), "predict_proba", CHOICES),
    "masked LM": (XLMRXLMaskedLM(**SETTINGS), (TEXTS,), "pseudo_log_likelihood", TEXTS),
    "generator": (XLMRXLGenerator(**SETTINGS), (TEXTS,), "log_likelihood", TEXTS),
    "embedder": (XLMRXLEmbedder("nano", device="cpu"), (TEXTS,), "transform", TEXTS),
    "trained embedder": (XLMRXLEmbedder(**SETTINGS, objective="classes"), (TEXTS, LABELS), "transform", TEXTS),
}  # fmt: skip


def results(kind, directory):
    """Fit, load the model again from its files, predict; then save, load and predict again."""
    estimator, data, method, X = ESTIMATORS[kind]
    skxlmr.release_models()
    estimator = estimator.fit(*data)
    estimator.save(directory)
    again = skxlmr.load(directory)
    found = []
    for fitted in (estimator, again):
        result = getattr(fitted, method)(X)
        if isinstance(result, pd.DataFrame):
            result = result.select_dtypes("number").to_numpy()
        found.append(list(np.atleast_1d(result)))
    return flat(found)


@pytest.fixture
def _no_feature_cache():
    skxlmr.set_feature_cache(0)
    yield
    skxlmr.set_feature_cache()


@pytest.mark.usefixtures("_no_feature_cache")
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_results_do_not_depend_on_settings_of_torch(kind, tmp_path):
    expected = results(kind, tmp_path / "default")
    for state in ("all", "float16") if kind != "classifier, lora" else STATES:
        with entered(state):
            before = settings_of_torch()
            found = results(kind, tmp_path / state)
            assert settings_of_torch() == before, state
        np.testing.assert_array_equal(found, expected, err_msg=state)


def test_other_methods_do_not_depend_on_settings_of_torch():
    def found():
        begun = XLMRXLClassifier("nano", random_state=0, device="cpu").partial_fit(TEXTS, LABELS, classes=["no", "yes"])
        begun.partial_fit(TEXTS, LABELS)
        writer = XLMRXLGenerator(**SETTINGS).fit(TEXTS)
        lm = XLMRXLMaskedLM("nano", device="cpu")
        return (
            begun.predict_log_proba(TEXTS).tolist(),
            begun.score(TEXTS, LABELS, sample_weight=np.arange(8.0)),
            writer.generate(TEXTS[:2], 5, do_sample=True).tolist(),
            lm.fill_mask(["a <mask> film"], 2).to_dict("list"),
            lm.score(TEXTS),
            GridSearchCV(XLMRXLClassifier(**SETTINGS), {"tuning": ["head"]}, cv=2).fit(TEXTS, LABELS).best_score_,
        )

    expected = found()
    with entered("all"):
        before = settings_of_torch()
        assert found() == expected
        assert settings_of_torch() == before


def test_exports_do_not_depend_on_settings_of_torch(tmp_path):
    clf = XLMRXLClassifier(**SETTINGS, pooling="cls").fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path / "default")
    clf.export_adapter(tmp_path / "adapter")
    with entered("all"):
        clf.export_pretrained(tmp_path / "all")
        clf.export_adapter(tmp_path / "adapter of all")
    for a, b in (("default", "all"), ("adapter", "adapter of all")):
        files = sorted(path.name for path in (tmp_path / a).glob("*.safetensors"))
        assert files
        for name in files:
            assert (tmp_path / a / name).read_bytes() == (tmp_path / b / name).read_bytes()


def test_settings_are_restored_after_an_error():
    with entered("all"):
        before = settings_of_torch()
        with pytest.raises(ValueError, match="missing"):
            XLMRXLClassifier(**SETTINGS).fit(["a", None], LABELS[:2])
        assert settings_of_torch() == before


def test_default_dtype_is_restored_when_the_last_of_several_threads_is_done():
    inside, may_leave = threading.Event(), threading.Event()

    def stay():
        with default_torch_state():
            inside.set()
            may_leave.wait(60)

    with default_dtype(torch.float64):
        thread = threading.Thread(target=stay)
        with default_torch_state():
            thread.start()
            inside.wait(60)
        assert torch.get_default_dtype() == torch.float32  # the thread still needs it
        may_leave.set()
        thread.join(60)
        assert torch.get_default_dtype() == torch.float64


def test_weights_trained_in_half_precision_are_not_taken_from_the_autocast_cache_of_the_user():
    """`torch.autocast` keeps copies of weights until its outermost block ends."""
    linear = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16), default_torch_state():
        for value in (1.0, 2.0):
            torch.nn.init.constant_(linear.weight, value)
            torch.nn.init.zeros_(linear.bias)
            with torch.autocast("cpu", torch.bfloat16):
                assert linear(torch.ones(1, 2)).tolist() == [[2 * value, 2 * value]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_default_torch_state_in_child_forgets_blocks_of_other_threads():
    program = """
import os, threading, torch
from skxlmr.runtime.torch_state import default_torch_state
torch.set_default_dtype(torch.float64)
inside, done = threading.Event(), threading.Event()
def work():
    with default_torch_state():
        inside.set()
        done.wait()
threading.Thread(target=work, daemon=True).start()
inside.wait()
def dtypes():
    with default_torch_state():
        seen = [torch.get_default_dtype()]
    return [*seen, torch.get_default_dtype()]
def in_child():
    child = os.fork()
    if not child:
        os._exit(dtypes() != [torch.float32, torch.float64])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(in_child())
with default_torch_state():
    child = os.fork()
    if not child:
        os._exit(dtypes() != [torch.float32, torch.float32])  # still within the block of the thread that forked
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "0\n0\n", done.stderr
