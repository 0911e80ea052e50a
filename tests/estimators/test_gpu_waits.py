"""How often the host waits for a GPU: once per batch in predictions, once per step in training, once per new token."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch

import skxlmr
from skxlmr import (
    XLMRXLQA,
    Float8,
    Int8,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLTagger,
)
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForCausalLM
from skxlmr.model.dynamic_outliers import guessing
from skxlmr.runtime import features
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import clear_features
from skxlmr.training import Callback
from skxlmr.tuning import Full, LoRA

TEXTS = [f"good {i}" for i in range(8)] + [f"a nice film , it was {i}" for i in range(8)]
LABELS = ["yes", "no"] * 8
WORDS = [text.split() for text in TEXTS]
TAGS = [["O", "B-X"] + ["O"] * (len(row) - 2) for row in WORDS]
QUESTIONS = pd.DataFrame(
    {"question": ["what was good?"] * 8, "context": [f"the film {i} was good and long" for i in range(8)]}
)
CHOICES = pd.DataFrame({"premise": TEXTS, "choices": [["x", "y z"]] * 16})
PAIRS = pd.DataFrame({"a": TEXTS, "b": TEXTS[::-1]})
ON_GPU = {"model": "nano", "device": "cuda", "batch_tokens": 64}
FIT = {**ON_GPU, "random_state": 0, "max_epochs": 1, "batch_size": 8}

pytestmark = pytest.mark.usefixtures("emulate", "no_graphs")


@pytest.fixture
def no_graphs():
    """Without CUDA graphs: a capture waits once, and each graph runs the model one time more."""
    skxlmr.set_cuda_graphs(0)
    yield
    skxlmr.set_cuda_graphs()


@pytest.fixture
def h100(emulate):
    return emulate("H100")


def n_batches(counts):
    """The number of batches: each runs every layer once."""
    n_layers = get_backbone("nano", device="cuda").model.config.num_hidden_layers
    n_runs = len(counts.operators_of_layers)
    assert n_runs % n_layers == 0
    assert n_runs > n_layers
    return n_runs // n_layers


def assert_once_per_batch(counts):
    n = n_batches(counts)
    assert (counts.n_waits, counts.n_uploads, counts.n_pinned_uploads) == (n, n, n), f"{n} batches\n{counts}"


@pytest.mark.parametrize(
    "load",
    [
        {},
        {"dtype": "float32"},
        {"load_in_8bit": Int8(threshold=2.5)},
        {"load_in_8bit": Int8(threshold=2.5, engine="int_mm")},
        {"load_in_8bit": Float8()},
        {"load_in_4bit": True},
        {"pooling": "max"},
        {"pooling": "weightedmean"},
    ],
    ids=str,
)
def test_transform_waits_and_uploads_once_per_batch(h100, load):
    embedder = XLMRXLEmbedder(**ON_GPU, **load).fit(TEXTS)
    clear_features()
    with h100.counting() as counts:
        embedder.transform(TEXTS)
    assert_once_per_batch(counts)


def test_transform_on_gpu_without_flash_attention_waits_and_uploads_once_per_batch(emulate):
    gpu = emulate("T4")
    embedder = XLMRXLEmbedder(**ON_GPU).fit(TEXTS)
    clear_features()
    with gpu.counting() as counts:
        embedder.transform(TEXTS)
    assert_once_per_batch(counts)


@pytest.mark.parametrize("pooling", ["mean", "max", "weightedmean+lasttoken"])
def test_features_without_prompts_wait_and_upload_once_per_batch(h100, pooling):
    windows = [np.arange(n, dtype=np.int32) for n in (9, 4, 30, 5, 40, 12, 25)]
    options = {"left_out": np.array([1, 0, 29, 3, 2, 11, 5]), "batch_tokens": 64}
    on_gpu = get_backbone("nano", device="cuda", dtype="float32")
    with h100.counting() as counts:
        found = features.frozen_features(on_gpu, windows, pooling, **options)
    assert_once_per_batch(counts)
    on_cpu = get_backbone("nano", device="cpu", dtype="float32")
    np.testing.assert_allclose(found, features.frozen_features(on_cpu, windows, pooling, **options), atol=1e-5)


ESTIMATORS = {
    "classifier": (XLMRXLClassifier, {}, TEXTS, LABELS),
    "classifier of pairs": (XLMRXLClassifier, {}, PAIRS, LABELS),
    "classifier, several labels": (
        XLMRXLClassifier,
        {"class_weight": "balanced"},
        TEXTS,
        [[label, "film"] if "film" in text else [label] for text, label in zip(TEXTS, LABELS, strict=True)],
    ),
    "classifier, full": (XLMRXLClassifier, {"tuning": Full()}, TEXTS, LABELS),
    "classifier, upper layers": (XLMRXLClassifier, {"tuning": LoRA(layers=2)}, TEXTS, LABELS),
    "tagger": (XLMRXLTagger, {}, WORDS, TAGS),
    "tagger, max": (XLMRXLTagger, {"aggregation": "max"}, WORDS, TAGS),
    "answers": (XLMRXLQA, {"batch_size": 4}, QUESTIONS, ["good"] * 8),
    "choices": (XLMRXLMultipleChoice, {}, CHOICES, [0, 1] * 8),
    "masked words": (XLMRXLMaskedLM, {"max_length": 16, "batch_size": 4}, TEXTS, None),
    "generator": (XLMRXLGenerator, {"max_length": 16, "batch_size": 4}, TEXTS, None),
}


class WaitsOfSteps(Callback):
    """Notes the waits and the uploads from pageable memory of each step but the first of an epoch."""

    def __init__(self, gpu):
        self.gpu, self.waits, self.pageable = gpu, [], []

    def on_epoch_begin(self, trainer):
        self.block = self.gpu.counting()
        self.counts = self.block.__enter__()

    def on_step_end(self, trainer):
        self.waits.append(self.counts.n_waits)
        self.pageable.append(self.counts.n_uploads - self.counts.n_pinned_uploads)

    def on_epoch_end(self, trainer):
        self.block.__exit__(None, None, None)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_training_waits_once_per_step_and_prediction_once_per_batch(h100, name):
    cls, settings, X, y = ESTIMATORS[name]
    waits = WaitsOfSteps(h100)
    estimator = cls(**{**FIT, **settings, "max_epochs": 2, "callbacks": [waits]})
    estimator.fit(X, y) if y is not None else estimator.fit(X)
    assert len(waits.waits) >= 4
    n_steps = len(waits.waits) // 2  # of an epoch
    assert waits.waits == [*range(1, n_steps + 1)] * 2, str(waits.counts)
    assert not any(waits.pageable), str(waits.counts)
    clear_features()
    with h100.counting() as counts:
        estimator.predict(X) if y is not None else estimator.score(X)
    assert_once_per_batch(counts)


@pytest.mark.parametrize(
    ("objective", "X", "y"),
    [("classes", TEXTS, LABELS), ("pairs", PAIRS, None), ("pairs", PAIRS, np.linspace(0, 1, 16))],
    ids=["classes", "pairs", "similarities"],
)
def test_training_of_embedder_waits_once_per_step(h100, objective, X, y):
    waits = WaitsOfSteps(h100)
    XLMRXLEmbedder(**FIT, objective=objective, callbacks=[waits]).fit(X, y)
    assert waits.waits == [1, 2], str(waits.counts)
    assert not any(waits.pageable), str(waits.counts)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 2},
        {"do_sample": True, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words": ["good", "nice film"]},
    ],
    ids=str,
)
def test_generate_waits_once_per_new_token(h100, options):
    generator = XLMRXLGenerator(**{**FIT, "batch_tokens": 4096}).fit(TEXTS)
    waits = []
    for n_new in (4, 10):
        with h100.counting() as counts:
            generator.generate(["good", "a nice film"], min_new_tokens=n_new, max_new_tokens=n_new, **options)
        waits.append(counts.n_waits)
        assert counts.n_uploads == counts.n_pinned_uploads
    assert waits[1] - waits[0] == 6
    assert waits[0] <= 4 + 3


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"penalty_alpha": 0.6, "top_k": 3}],
    ids=str,
)
def test_generate_of_the_model_class_waits_once_per_new_token(h100, options):
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = XLMRobertaXLConfig(**sizes, intermediate_size=32, max_position_embeddings=40, is_decoder=True)
    model = XLMRobertaXLForCausalLM(config).to("cuda").eval()
    ids = torch.tensor([[0, 7, 8], [0, 9, 10]]).cuda()
    waits = []
    for n_new in (4, 10):
        with h100.counting() as counts:
            model.generate(ids, min_new_tokens=n_new, max_new_tokens=n_new, **options)
        waits.append(counts.n_waits)
    assert waits[1] - waits[0] == 6, str(counts)


def test_fill_mask_waits_and_uploads_once_per_batch(h100):
    lm = XLMRXLMaskedLM(**{**FIT, "batch_tokens": 16}).fit(TEXTS)
    for targets in (None, ["a", "s"]):
        with h100.counting() as counts:
            lm.fill_mask([f"a {text} <mask> <mask>" for text in TEXTS[:6]], targets=targets)
        assert_once_per_batch(counts)


def test_prediction_in_parts_waits_once_per_batch(h100, monkeypatch):
    monkeypatch.setattr("skxlmr.runtime.streaming.BATCHES_IN_A_PART", {"cpu": 1000, "cuda": 1})
    embedder = XLMRXLEmbedder(**ON_GPU).fit(TEXTS)
    clear_features()
    with h100.counting() as counts:
        vectors = embedder.transform(TEXTS * 3 + [f"{text} again" for text in TEXTS])
    assert_once_per_batch(counts)
    np.testing.assert_array_equal(vectors[:16], vectors[16:32])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["prepare", "compute"])
def test_error_in_a_batch_surfaces_and_leaves_no_thread(h100, monkeypatch, error, where):
    embedder = XLMRXLEmbedder(**ON_GPU).fit(TEXTS)
    clear_features()
    n_threads, calls = threading.active_count(), []

    def failing(*args, **kwargs):
        calls.append(threading.current_thread())
        if len(calls) > 1:
            raise error("the second batch")
        return original(*args, **kwargs)

    owner, name = (features.HostBatch, "of") if where == "prepare" else (features, "encode")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(error, match="the second batch") as caught:
        embedder.transform(TEXTS)
    assert "failing" in [entry.name for entry in caught.traceback]
    assert (calls[0] is not threading.main_thread()) == (where == "prepare")
    assert threading.active_count() == n_threads


def test_states_below_the_trained_layers_are_computed_once_on_gpu(h100):
    class RunsOfEpochs(Callback):
        def __init__(self):
            self.runs = []

        def on_epoch_begin(self, trainer):
            self.before = len(counts.operators_of_layers)

        def on_epoch_end(self, trainer):
            self.runs.append(len(counts.operators_of_layers) - self.before)

    runs, n_trained = RunsOfEpochs(), 1
    classifier = XLMRXLClassifier(
        **{**FIT, "max_epochs": 3, "init": "random", "batch_tokens": 4096, "callbacks": [runs]},
        tuning=LoRA(layers=n_trained),
    )
    with h100.counting() as counts:
        classifier.fit(TEXTS, LABELS)
    n_steps, n_layers = 2, get_backbone("nano", device="cuda").model.config.num_hidden_layers
    assert runs.runs == [n_steps * n_layers, n_steps * n_trained, n_steps * n_trained]


@pytest.mark.parametrize("threshold", [9.0, 0.5], ids=["few outliers", "more than guessed"])
def test_dynamic_outliers_are_guessed_until_that_is_wrong(h100, threshold, monkeypatch):
    load = {"load_in_8bit": Int8(outliers="dynamic", threshold=threshold, engine="int_mm")}
    embedder, waits = XLMRXLEmbedder(**ON_GPU, **load).fit(TEXTS), WaitsOfSteps(h100)
    classifier = XLMRXLClassifier(**{**FIT, "max_epochs": 2, "init": "random", "callbacks": [waits]}, **load)
    clear_features()
    with h100.counting() as counts:
        vectors = embedder.transform(TEXTS)
    losses = classifier.fit(TEXTS, LABELS).history_.loss
    if threshold > 1:
        assert_once_per_batch(counts)
        assert waits.waits == [1, 2, 1, 2], str(waits.counts)
    else:
        assert counts.n_waits > 20
        assert waits.waits[0] > 20
    monkeypatch.setattr("skxlmr.runtime.run.guessing", lambda allowed: guessing(False))
    monkeypatch.setattr("skxlmr.training.steps.guessing", lambda allowed: guessing(False))
    clear_features()
    with h100.counting() as counts:
        np.testing.assert_array_equal(embedder.transform(TEXTS), vectors)
    assert sum(n for (reason, _), n in counts.waits.items() if reason == "nonzero") > 20
    assert classifier.fit(TEXTS, LABELS).history_.loss.tolist() == losses.tolist()


def test_results_of_gpu_equal_cpu_with_each_batch_read_later(h100):
    on_gpu = XLMRXLEmbedder(**ON_GPU, dtype="float32").fit_transform(TEXTS)
    on_cpu = XLMRXLEmbedder("nano", device="cpu", dtype="float32").fit_transform(TEXTS)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-5)
    assert not torch.is_inference_mode_enabled()
