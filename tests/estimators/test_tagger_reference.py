"""Outputs, losses and exports of the tagger, compared with transformers and peft."""

import numpy as np
import peft
import pytest
import torch
import transformers
from tagged_sentences import SENTENCES, TAGS, tagger

import skxlmr
from skxlmr import Full, LoRA
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model.transfer import upload
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.tagging.sentences import check_token_column, plan_tokens

IGNORE = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft


def test_outputs_of_long_sentence_equal_its_windows():
    clf = tagger(aggregation="first", max_epochs=3, max_length=12, stride=4, device="cpu").fit(SENTENCES, TAGS)
    sentence = [word for row in SENTENCES for word in row] * 2
    backbone = get_backbone("nano", device="cpu")
    plan = plan_tokens(backbone.tokenizer, [sentence], max_length=12, stride=4)  # of first pieces
    logits = clf._outputs([sentence])[0]
    assert len(logits) == len(sentence)
    batch = clf._finetuned.batch(backbone, plan.windows[2:3], plan.positions[2:3])
    hidden = clf._finetuned.embed(backbone, batch.to(torch.device("cpu")))
    start = sum(map(len, plan.positions[:2]))
    of_window = clf._finetuned.head(hidden).detach().numpy()
    np.testing.assert_allclose(logits[start : start + len(of_window)], of_window, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["first", "mean"])
@pytest.mark.parametrize("tuning", [LoRA(rank=3), Full(layers=1)], ids=str)
def test_export_pretrained_equals_transformers(tuning, aggregation, tmp_path):
    clf = tagger(tuning=tuning, aggregation=aggregation, max_epochs=2, device="cpu").fit(SENTENCES, TAGS)
    clf.export_pretrained(tmp_path)
    model = transformers.XLMRobertaXLForTokenClassification.from_pretrained(tmp_path).eval()
    assert model.config.id2label == dict(enumerate(clf.classes_))
    assert_same_logits(model, clf)


@IGNORE
def test_export_adapter_equals_peft(tmp_path):
    clf = tagger(tuning=LoRA(rank=3), max_epochs=2, device="cpu").fit(SENTENCES, TAGS)
    clf.export_adapter(tmp_path)
    base = transformers.XLMRobertaXLForTokenClassification.from_pretrained(
        resolve("nano").directory, num_labels=4, dtype=torch.float32
    )
    assert_same_logits(peft.PeftModel.from_pretrained(base, tmp_path).eval(), clf)


def assert_same_logits(model, clf):
    settings = {"max_length": 512, "stride": 64, "aggregation": clf.aggregation}
    plan = plan_tokens(get_backbone("nano").tokenizer, SENTENCES, **settings)
    for i, expected in enumerate(clf._outputs(SENTENCES)):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(plan.windows[i])[None].long()).logits[0]
        combination = upload(plan.combination(np.array([i])), logits.device)
        of_tokens = plan.combine(logits[plan.positions[i]], combination)  # with "mean" the mean over their pieces
        np.testing.assert_allclose(of_tokens.numpy(), expected, atol=1e-5)


def test_loss_equals_weighted_mean_over_tokens():
    settings = {"aggregation": "first", "max_length": 6, "stride": 2, "device": "cpu"}
    clf = tagger(class_weight={"B-PER": 3.0, "O": 0.5}, **settings)
    column = check_token_column(SENTENCES)
    weights = np.array([1.0, 2.0, 0.0, 1.0, 0.5, 1.0, 1.0, 3.0])
    task, targets = clf._new_task().find(TAGS, column, weights)
    rows = task.rows(get_backbone("nano", device="cpu"), column, targets, weights)
    assert len(rows.plan.windows) > len(rows.numbers) == 6, "one row has weight 0, one has no tokens"
    counts = rows.plan.counts
    outputs = torch.randn(int(counts.sum()), len(task.classes), dtype=torch.float64)
    every, place = rows.plan.windows_of_rows(np.arange(6))
    losses = task.losses(rows, torch.device("cpu"))
    starts = np.cumsum(counts) - counts
    chosen = torch.cat([outputs[starts[w] : starts[w] + counts[w]] for w in every])
    of_window = losses(chosen, every, place).numpy()
    got = (of_window * rows.weights[place] / np.bincount(place)[place]).sum() / rows.weights.sum()
    texts = np.split(outputs.log_softmax(1).numpy(), np.cumsum([len(SENTENCES[i]) for i in rows.numbers])[:-1])
    number = {tag: i for i, tag in enumerate(task.classes)}
    of_tag = {"B-PER": 3.0, "O": 0.5}
    pairs = [
        (weights[of_row] * of_tag.get(tag, 1.0), -row[i, number[tag]])
        for row, of_row in zip(texts, rows.numbers, strict=True)
        for i, tag in enumerate(TAGS[of_row])
    ]
    assert got == pytest.approx(np.average([loss for _, loss in pairs], weights=[w for w, _ in pairs]))


@pytest.mark.parametrize("aggregation", ["mean", "max"])
@pytest.mark.parametrize("tuning", ["head", "lora"])
def test_aggregation_combines_the_pieces_of_tokens(tuning, aggregation, tmp_path):
    sentences = [["Donaudampfschifffahrt", "is", "unbelievably", "old"], ["Ada"], [], ["New", "Yorkers", "left"]] * 3
    y = [["B-X", "O", "O", "O"], ["B-Y"], [], ["B-Y", "I-Y", "O"]] * 3
    clf = tagger(tuning=tuning, aggregation=aggregation, max_epochs=40, device="cpu")
    clf.fit(sentences, y, X_val=sentences, y_val=y)
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(sentences, y)) == pytest.approx(1.0)
    number = {tag: i for i, tag in enumerate(clf.classes_)}
    losses = [-np.log(p[number[tag]]) for row, tags in zip(clf.predict_proba(sentences), y, strict=True)
              for p, tag in zip(row, tags, strict=True)]  # fmt: skip
    assert clf.history_.validation_loss.iloc[-1] == pytest.approx(np.mean(losses), rel=1e-4)
    backbone = get_backbone("nano", device="cpu")
    (ids,) = [np.concatenate(backbone.tokenizer.encode_batch(sentences[0]))]
    counts = [len(piece) for piece in backbone.tokenizer.encode_batch(sentences[0])]
    assert max(counts) > 2
    window = backbone.tokenizer.build_inputs(ids)
    batch = clf._finetuned.batch(backbone, [window], [np.arange(1, len(window) - 1)]).to(torch.device("cpu"))
    hidden = clf._finetuned.embed(backbone, batch).detach()
    pooled = [part.mean(0) if aggregation == "mean" else part.amax(0) for part in hidden.split(counts)]
    expected = clf._finetuned.head(torch.stack(pooled)).detach().numpy()
    np.testing.assert_allclose(clf._outputs(sentences[:1])[0], expected, atol=1e-5)
    clf.save(tmp_path)
    again = skxlmr.load(tmp_path)
    assert again.aggregation == aggregation
    np.testing.assert_array_equal(again.predict_proba(sentences)[0], clf.predict_proba(sentences)[0])
