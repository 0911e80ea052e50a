"""CUDA graphs of the encoder, on an emulated device or on that of this machine."""

from __future__ import annotations

import contextlib
import threading
import weakref

import numpy as np
import pytest
import torch

import skxlmr
from skxlmr import Float8, Int8, LoRA
from skxlmr.model.heads import ClassificationHead
from skxlmr.model.layers import Layer
from skxlmr.runtime import graphs
from skxlmr.runtime.backbone import get_backbone, trim
from skxlmr.runtime.feature_cache import clear_features
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.run import HostBatch, encode

HALF = {"dtype": "bfloat16"}  # on every GPU that has FlashAttention


@pytest.fixture(autouse=True)
def default_graphs():
    yield
    skxlmr.set_cuda_graphs()


def windows(*lengths):
    random = np.random.RandomState(sum(lengths))
    return [np.concatenate([[0], random.randint(5, 300, length - 2), [2]]).astype(np.int32) for length in lengths]


def hidden(backbone, *lengths, layers=(-1,), causal=False):
    batch = HostBatch.of(windows(*lengths), backbone.model, causal=causal).to(backbone.model.device)
    with torch.inference_mode():
        return [x.float().cpu() for x in encode(backbone.model, batch, layers)]


def assert_same(one, other, gpu):
    """Equal bit for bit where a kernel computes each row alike, as those of the emulated device do."""
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0 if gpu is not None else 0.05)


@pytest.fixture
def has_flash(gpu):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("graphs need FlashAttention, which GPUs before Ampere lack")
    return gpu


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"load_in_8bit": True},
        {"load_in_8bit": Int8(threshold=2.0, engine="int_mm")},
        {"load_in_8bit": Float8()},
        {"load_in_4bit": True},
    ],
    ids=str,
)
def test_encode_by_a_graph_equals_encode_without(has_flash, storage):
    backbone = get_backbone("nano", device="cuda", **HALF, **storage)
    batches = [(16,), (5,), (3, 4), (40,), (4, 3, 5), (35,)]  # shorter ones after longer ones, too
    skxlmr.set_cuda_graphs(0)
    expected = [hidden(backbone, *lengths, layers=(1, -1)) for lengths in batches]
    skxlmr.set_cuda_graphs()
    for _ in range(2):
        for lengths, want in zip(batches, expected, strict=True):
            assert_same(hidden(backbone, *lengths, layers=(1, -1)), want, has_flash)


def test_graph_on_a_device_that_is_not_current(emulate):
    emulate("A10", None, 2)
    backbone = get_backbone("nano", device="cuda:1")
    first, *others = [hidden(backbone, 9) for _ in range(3)]
    for other in others:
        assert torch.equal(other[0], first[0])


def test_replay_needs_no_operators_of_layers_and_no_waits(has_flash):
    if has_flash is None:
        pytest.skip("only the emulated device counts")
    backbone = get_backbone("nano", device="cuda", **HALF)
    counted = []
    for lengths in [(9,), (12,), (7,), (8,)]:
        batch = HostBatch.of(windows(*lengths), backbone.model).to(backbone.model.device)
        with has_flash.counting() as counts, torch.inference_mode():
            encode(backbone.model, batch)
        counted.append((counts.replays, len(counts.operators_of_layers), counts.n_waits))
    n_layers = len(backbone.model.layers)
    assert counted[0] == (0, n_layers, 0)
    assert counted[1][:2] == (1, 2 * n_layers)  # a run before the capture, and the capture
    assert counted[2:] == [(1, 0, 0)] * 2


@pytest.mark.parametrize(
    ("lengths", "options"),
    [((600,), {}), ((9,), {"dtype": "float32"}), ((9,), {"load_in_8bit": Int8(outliers="dynamic")})],
    ids=["many tokens", "float32", "dynamic outliers"],
)
def test_encode_without_graph_where_there_can_be_none(has_flash, lengths, options):
    backbone = get_backbone("nano", device="cuda", **(HALF | options))
    lengths = [
        min(length, backbone.model.config.max_length) for length in (lengths * 3 if lengths[0] > 99 else lengths)
    ]
    with contextlib.nullcontext() if has_flash is None else has_flash.counting() as counts:
        for _ in range(3):
            hidden(backbone, *lengths)
    assert counts is None or counts.replays == 0


def test_hooks_of_modules_are_called_although_there_is_a_graph(has_flash):
    backbone, calls = get_backbone("nano", device="cuda", **HALF), []
    for _ in range(3):
        hidden(backbone, 9)
    hook = backbone.model.layers[1].ffn.register_forward_hook(lambda *_: calls.append(1))
    hidden(backbone, 9)
    hook.remove()
    hidden(backbone, 9)
    assert calls == [1]


def test_adapter_that_is_trained_or_moved_is_read_anew(has_flash):
    backbone = get_backbone("nano", device="cuda", **HALF)
    base = backbone.model
    finetuned = Finetuned(LoRA(), base, ClassificationHead(base.config, 2)).eval().requires_grad_(False)
    other = Finetuned(LoRA(rank=2), base, ClassificationHead(base.config, 2)).eval().requires_grad_(False)

    def outputs(of, n_times=3):
        batch = of.batch(backbone, windows(9)).to(base.device)
        with torch.inference_mode():
            return [of.embed(backbone, batch).cpu() for _ in range(n_times)][-1]

    before, of_other = outputs(finetuned), outputs(other)
    for parameter in finetuned.adapter.parameters():  # as a step of training does
        parameter.data.copy_(torch.full_like(parameter, 0.05))
    after = outputs(finetuned, 1)
    assert not torch.equal(before, after)
    assert torch.equal(outputs(other, 1), of_other)
    finetuned.cpu()
    finetuned.to(base.device)  # to another place in memory
    for parameter in finetuned.adapter.parameters():
        parameter.data.copy_(torch.full_like(parameter, 0.1))
    moved = outputs(finetuned, 1)
    skxlmr.set_cuda_graphs(0)
    assert_same([moved], [outputs(finetuned, 1)], has_flash)
    assert not torch.equal(moved, after)


def test_graphs_beyond_the_bound_are_forgotten_least_recently_used_first(has_flash):
    skxlmr.set_cuda_graphs(2)
    backbone = get_backbone("nano", device="cuda", **HALF)

    for length in (9, 9, 25, 25, 9, 40, 40):
        hidden(backbone, length)
    kept = [size for size, *_ in graphs._graphs[backbone.model]._graphs]
    assert kept == [graphs._size(1, 9), graphs._size(1, 40)]
    with pytest.raises(ValueError, match="max_graphs must be at least 0"):
        skxlmr.set_cuda_graphs(-1)


def test_graphs_of_an_adapter_that_is_gone_are_forgotten(has_flash):
    skxlmr.set_cuda_graphs()
    backbone = get_backbone("nano", device="cuda", **HALF)
    for _ in range(4):
        finetuned = Finetuned(LoRA(), backbone.model, ClassificationHead(backbone.model.config, 2)).eval()
        batch = finetuned.batch(backbone, windows(9)).to(backbone.model.device)
        with torch.inference_mode():
            for _ in range(2):
                finetuned.embed(backbone, batch)
        del finetuned
    assert len(graphs._graphs[backbone.model]._graphs) == 2  # of the frozen layers, and of the last adapter


def test_graphs_of_a_model_are_freed_with_it(has_flash):
    backbone = trim(get_backbone("nano", device="cuda", **HALF), np.arange(300))
    for _ in range(3):
        hidden(backbone, 9)
    assert backbone.model in graphs._graphs
    n_models = len(graphs._graphs)
    del backbone
    skxlmr.release_models()
    assert len(graphs._graphs) == n_models - 1


@pytest.mark.parametrize("n_bytes", [18_500_000, pytest.param(24_000_000, marks=pytest.mark.slow)])
def test_memory_of_graphs_is_freed_when_it_is_needed(emulate, n_bytes):
    """In training, whose frozen layers use them, or only in predictions."""
    gpu = emulate("H100", n_bytes)
    skxlmr.set_feature_cache(0)
    texts = [word + " and so on" * 40 for word in ["good", "bad", "a nice film, it was", "poor", "nice film", "awful"]]
    parameters = {"max_epochs": 1, "batch_size": 24, "random_state": 0, **HALF}
    try:
        clf = skxlmr.XLMRXLClassifier("nano", device="cuda", **parameters).fit(texts * 4, ["yes", "no"] * 12)
        assert clf.predict(texts * 4).shape == (24,)
    finally:
        skxlmr.set_feature_cache()
    assert gpu.memory.peak <= n_bytes


@pytest.mark.parametrize("load", [{}, {"load_in_8bit": True}], ids=["bfloat16", "int8"])
def test_graphs_hold_no_more_than_memory_estimate_says(emulate, load):
    """The buffers that they share are those of the largest; an emulated device gives each graph its own."""
    gpu = emulate("H100")
    backbone = get_backbone("nano", device="cuda", **HALF, **load)
    before = gpu.memory.allocated
    for _ in range(graphs.USES):
        hidden(backbone, 511)
    estimate = skxlmr.memory_estimate("nano", device="cuda", **HALF, **load)
    of_one = gpu.memory.allocated - before
    for n_tokens in range(16, 500, 40):
        for _ in range(graphs.USES):
            hidden(backbone, n_tokens)
    captured = graphs._graphs[backbone.model]._graphs.values()
    own = [sum(x.nbytes for x in (g._x, g._position_ids, g._bounds, *g._hidden)) for g in captured]
    assert len(own) > 8
    assert 0.5 * estimate.graphs < of_one + (graphs.MAX_GRAPHS - 1) * max(own) < 1.05 * estimate.graphs
    assert "graphs" in str(estimate)
    assert skxlmr.memory_estimate("nano", device="cpu").graphs == 0


def test_graphs_that_were_freed_come_back_by_set_cuda_graphs(has_flash):
    backbone = get_backbone("nano", device="cuda", **HALF)
    expected, *_ = [hidden(backbone, 9) for _ in range(3)]
    assert graphs.free()
    assert not graphs.free()
    for _ in range(3):
        assert_same(hidden(backbone, 9), expected, has_flash)
    assert not graphs._graphs[backbone.model]._graphs
    skxlmr.set_cuda_graphs()
    for _ in range(3):
        hidden(backbone, 9)
    assert graphs._graphs[backbone.model]._graphs


def test_forked_child_does_not_destroy_graphs(has_flash):
    """Destroying a graph calls CUDA, which cannot be used there."""
    backbone = get_backbone("nano", device="cuda", **HALF)
    hidden(backbone, 9)
    of_parent, kept = graphs._graphs, graphs._of_parent
    inherited = weakref.ref(of_parent[backbone.model])
    graphs._of_parent = []
    try:
        graphs._forget()  # as in a child
        of_parent.pop(backbone.model)
        assert inherited() is not None
        assert backbone.model not in graphs._graphs
    finally:
        graphs._of_parent = kept


def test_threads_that_share_a_graph_get_their_own_results(has_flash):
    backbone = get_backbone("nano", device="cuda", **HALF)
    lengths = [6, 7, 8, 9, 10, 11]
    expected = [hidden(backbone, length) for length in lengths]
    found = {}

    def work(mine):
        for length in mine:
            found[length] = hidden(backbone, length)

    threads = [threading.Thread(target=work, args=(lengths[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for length, want in zip(lengths, expected, strict=True):
        assert_same(found[length], want, has_flash)


def test_capture_that_fails_warns_and_runs_without(has_flash, monkeypatch):
    if has_flash is None:
        pytest.skip("a wait in a capture is an error of the emulated device")
    backbone = get_backbone("nano", device="cuda", **HALF)
    expected = hidden(backbone, 9)
    forward = Layer.forward

    def waiting(self, x, *args):
        x.abs().max().item()
        return forward(self, x, *args)

    monkeypatch.setattr(Layer, "forward", waiting)
    with pytest.warns(UserWarning, match=r"No CUDA graph can be captured.*stream is capturing.*set_cuda_graphs\(0\)"):
        found = hidden(backbone, 9)
    assert_same(found, expected, has_flash)
    assert_same(hidden(backbone, 9), expected, has_flash)  # without another warning


@pytest.mark.parametrize("tuning", ["lora", "head", "full", LoRA(layers=2)], ids=str)
def test_classifier_of_single_texts_predicts_alike_with_and_without_graphs(has_flash, tuning):
    texts = [f"{word} film {i}" for i, word in enumerate(["good", "bad", "fine", "poor"])]
    parameters = {"model": "nano", "device": "cuda", "max_epochs": 1, "random_state": 0, **HALF}
    clf = skxlmr.XLMRXLClassifier(tuning=tuning, **parameters).fit(texts, ["yes", "no"] * 2)
    results = []
    for max_graphs in (32, 0):
        skxlmr.set_cuda_graphs(max_graphs)
        clear_features()
        results.append(np.concatenate([clf.predict_proba([text + " indeed"]) for text in texts]))
    np.testing.assert_allclose(*results, rtol=0, atol=0 if has_flash is not None else 0.01)
