"""Masking, packing and losses of language modelling, compared with transformers."""

import numpy as np
import pytest
import torch
import transformers

from skxlmr import XLMRXLGenerator, XLMRXLMaskedLM
from skxlmr.datasets import load_reviews
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import make_plan
from skxlmr.tasks.language_modeling import Drawing, Masking, NextToken, language_losses, losses_of, pack
from skxlmr.text.words import word_starts
from skxlmr.training import Full
from skxlmr.training.gradients import accumulate_gradients
from skxlmr.training.rows import Rows

TEXTS = load_reviews().text[::40].tolist()
SHORT = ["A good film.", "好看", "Nicht schlecht, aber zu lang!", "boring", "ok"]


@pytest.fixture(scope="module")
def backbone():
    return get_backbone("nano", device="cpu")


def rows_of(backbone, texts, weights=None, max_length=64):
    of_texts = make_plan(backbone.tokenizer, texts, max_length=max_length, stride=8)
    weights = np.ones(len(texts)) if weights is None else np.asarray(weights, float)
    return Rows(of_texts, np.zeros(len(texts)), weights, np.arange(len(texts)))


def test_masking_examples_mask_whole_words_in_expected_shares(backbone):
    rows = rows_of(backbone, TEXTS)
    tokenizer, task = backbone.tokenizer, Masking(probability=0.15)
    n_tokens = n_targets = n_masked = n_kept = 0
    seen = set()
    for seed in range(8):
        examples = task.examples(rows.plan, tokenizer, np.random.RandomState(seed))
        for window, ids, at, targets in zip(
            rows.plan.windows, examples.windows, examples.positions, examples.targets, strict=True
        ):
            assert len(at)
            np.testing.assert_array_equal(window[at], targets)
            np.testing.assert_array_equal(np.delete(window, at), np.delete(ids, at))  # other tokens are unchanged
            assert not set(window[at]) & {0, 1, 2}
            assert not set(ids[at]) & {0, 1, 2, 3} - set(window[at])
            starts = word_starts(tokenizer.vocabulary, window[1:-1])
            word = np.cumsum(starts)
            drawn = np.isin(np.arange(1, len(window) - 1), at)
            assert set(word[drawn]).isdisjoint(word[~drawn]), "whole words are masked"
            if len(word) >= 40:
                n_tokens, n_targets = n_tokens + word[-1], n_targets + len(set(word[drawn]))
            n_masked += (ids[at] == tokenizer.mask_token_id).sum()
            n_kept += (ids[at] == window[at]).sum()
        seen.add(tuple(np.concatenate(examples.positions)))
    n_all = sum(map(len, examples.positions)) * 8
    assert len(seen) == 8
    assert n_targets / n_tokens == pytest.approx(0.15, abs=0.01)
    assert n_masked / n_all == pytest.approx(0.8, abs=0.02)
    assert n_kept / n_all == pytest.approx(0.1, abs=0.015)
    assert np.array_equal(  # a seed determines the examples
        np.concatenate(task.examples(rows.plan, tokenizer, np.random.RandomState(3)).windows),
        np.concatenate(task.examples(rows.plan, tokenizer, np.random.RandomState(3)).windows),
    )


def test_masking_examples_over_seeds_cover_every_token(backbone):
    rows = rows_of(backbone, ["one two three four five six"])
    drawn = [
        Masking(probability=0.15).examples(rows.plan, backbone.tokenizer, np.random.RandomState(s)) for s in range(80)
    ]
    assert set(np.concatenate([np.concatenate(e.positions) for e in drawn])) == set(
        range(1, len(drawn[0].windows[0]) - 1)
    )


def test_pack_fills_packs_and_keeps_every_window_once(backbone):
    texts = [*TEXTS[:60], "a", "a", "word " * 200]
    rows = rows_of(backbone, texts, weights=np.arange(1.0, 64))
    packs, weights = pack(rows, 64)
    windows, place = rows.plan.windows_of_rows(np.arange(63))
    assert len(packs.plan.windows) == len(windows)
    for ours, i in zip(packs.plan.windows, windows, strict=True):
        np.testing.assert_array_equal(ours, rows.plan.windows[i])
    np.testing.assert_array_equal(weights, place + 1.0)
    tokens = np.bincount(packs.plan.text_of_window, packs.plan.lengths)
    assert tokens.max() <= 64
    pairs = tokens[:-1] + [packs.plan.lengths[packs.plan.text_of_window == i][0] for i in range(1, len(tokens))]
    assert (pairs > 64).all(), "the next window would not have fitted"
    for i, name in enumerate(packs.numbers):
        rows_in_it = place[packs.plan.text_of_window == i]
        first, last = rows_in_it.min(), rows_in_it.max()
        assert name == (f"{first}-{last}" if first < last else f"{first}")
    assert packs.numbers[-1] == "62"


def drawn(backbone, learned, task, texts, weights=None):
    packs, window_weights = pack(rows_of(backbone, texts, weights), 64)
    drawing = Drawing(task, packs.plan, window_weights, backbone.tokenizer)

    class Trainer:
        seed, epoch = 0, 0

    drawing.on_epoch_begin(Trainer)
    return packs, drawing, Trainer.row_weights, language_losses(learned, backbone, drawing)


@pytest.mark.parametrize("estimator", [XLMRXLMaskedLM, XLMRXLGenerator])
def test_language_losses_and_gradient_equal_transformers(estimator, backbone, tmp_path):
    lm = estimator("nano", tuning=Full(), max_epochs=1, random_state=0, learning_rate=1e-5).fit(SHORT)
    lm.export_pretrained(tmp_path)
    learned = lm._finetuned.requires_grad_(True)
    packs, drawing, weights, losses = drawn(backbone, learned, lm._new_task(), [*TEXTS[:12], *SHORT])
    assert len(packs.numbers) > 3
    assert losses_of(learned, backbone, drawing.examples, 100).shape == (drawing.examples.counts.sum(),)
    every = np.arange(len(packs.numbers))
    (loss,) = accumulate_gradients(losses, packs.plan, every, weights, batch_tokens=100).read()
    grad = learned.own["embeddings"].word.weight.grad.clone()
    learned.zero_grad()
    (again,) = accumulate_gradients(losses, packs.plan, every, weights, batch_tokens=5000).read()
    assert again == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(learned.own["embeddings"].word.weight.grad, grad, rtol=1e-4, atol=1e-6)

    cls = transformers.XLMRobertaXLForMaskedLM if estimator is XLMRXLMaskedLM else transformers.XLMRobertaXLForCausalLM
    model = cls.from_pretrained(tmp_path).eval()
    total, examples = 0.0, drawing.examples
    for ids, at, targets in zip(examples.windows, examples.positions, examples.targets, strict=True):
        logits = model(input_ids=torch.from_numpy(ids)[None].long()).logits[0, torch.from_numpy(at)]
        total = total + torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets), reduction="sum")
    total = total / examples.counts.sum()
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-5)
    theirs = model.get_input_embeddings().weight.grad
    theirs[1] = 0  # <pad>: transformers adds a gradient from the tied decoder
    grad[1] = 0
    torch.testing.assert_close(grad, theirs, rtol=1e-3, atol=1e-6)


def test_language_losses_with_weights_equal_weighted_mean_over_targets(backbone):
    """The loss is the mean over the targets, weighted by their rows."""
    lm = XLMRXLGenerator("nano", tuning="head", max_epochs=1, random_state=0).fit(SHORT)
    texts = [TEXTS[0], SHORT[1], "word " * 100]
    packs, drawing, weights, losses = drawn(backbone, lm._finetuned, NextToken(), texts, weights=[1.0, 3.0, 0.5])
    lm._finetuned.requires_grad_(True)
    every = np.arange(len(packs.numbers))
    (got,) = accumulate_gradients(losses, packs.plan, every, weights, batch_tokens=50).read()
    each = losses_of(lm._finetuned, backbone, drawing.examples, 1000)
    row_of_window = np.repeat([1.0, 3.0, 0.5], rows_of(backbone, texts).plan.windows_per_text)
    expected = np.average(each, weights=np.repeat(row_of_window, drawing.examples.counts))
    assert got == pytest.approx(expected, rel=1e-5)
