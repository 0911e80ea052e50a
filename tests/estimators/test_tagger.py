"""Predictions, losses, scores and exports of the tagger, compared with transformers and seqeval."""

import pickle
import re

import numpy as np
import pandas as pd
import peft
import pytest
import seqeval.metrics
import torch
import transformers
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from tagged_sentences import SENTENCES, TAGS

import skxlmr
from skxlmr import Full, LoRA, XLMRXLTagger
from skxlmr.checkpoints.resolve import resolve
from skxlmr.datasets import read_conllu
from skxlmr.metrics import entity_f1, entity_report, entity_spans
from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.transfer import upload
from skxlmr.runtime import finetuned as learned
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import clear_features
from skxlmr.tags import convert_tags
from skxlmr.tasks.tagging.sentences import check_token_column, plan_tokens
from skxlmr.text.words import split_words

IGNORE = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft


def tagger(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 25, "learning_rate": 5e-3, "batch_size": 4}
    return XLMRXLTagger(**(settings | parameters))


@pytest.fixture(scope="module")
def fitted():
    return tagger(device="cpu").fit(SENTENCES, TAGS)


@pytest.mark.parametrize("tuning", ["lora", "head", Full(layers=2)], ids=str)
def test_fit_with_each_tuning_learns_tags(tuning):
    rate = 2e-2 if tuning == "head" else 3e-3
    clf = tagger(tuning=tuning, max_epochs=60, learning_rate=rate).fit(SENTENCES, TAGS)
    assert clf.classes_.tolist() == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert clf.scheme_ == "BIO"
    assert clf.score(SENTENCES, TAGS) > 0.9
    for tags, expected in zip(clf.predict(SENTENCES), TAGS, strict=True):
        assert len(tags) == len(expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_score_equals_seqeval(fitted):
    clf = tagger(max_epochs=3).fit(SENTENCES, TAGS)
    predicted = clf.predict(SENTENCES).tolist()
    assert clf.score(SENTENCES, TAGS) == pytest.approx(seqeval.metrics.f1_score(TAGS, predicted))
    assert clf.score(SENTENCES, TAGS, sample_weight=np.ones(8) * 3) == pytest.approx(clf.score(SENTENCES, TAGS))
    assert fitted.score(SENTENCES, TAGS, strict=True) == fitted.score(SENTENCES, TAGS), "predicted sequences are valid"


def test_predict_with_unusual_tokens_returns_one_tag_per_token(fitted):
    rng = np.random.RandomState(0)
    odd = [
        "",
        " ",
        "\u200b",
        "\u00ad",
        "a" * 3000,
        "你好" * 300,
        "🎬",
        "\ud800",
        "</s>",
        "<mask>",
        "नमस्ते",
        "e\u0301",
        "\x00",
    ]
    rows = [[odd[i] for i in rng.randint(0, len(odd), n)] for n in (0, 1, 2, 5, 30)]
    rows += [[token] for token in odd] + [["word"] * 2000, []]
    predicted = fitted.predict(rows)
    assert [len(tags) for tags in predicted] == [len(row) for row in rows]
    assert all(set(tags) <= set(fitted.classes_) for tags in predicted)
    proba = fitted.predict_proba(rows)
    assert [p.shape for p in proba] == [(len(row), 4) for row in rows]
    for of_row in proba:
        np.testing.assert_allclose(of_row.sum(axis=1), 1, rtol=1e-5)


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


def test_fit_with_strings_and_spans_predicts_spans_of_strings():
    texts = ["Ada lives in Rome.", "我爱 北京!", "  Bob,  likes (New York) "]
    spans = [
        [(0, 3, "PER"), (13, 17, "LOC")],
        [(3, 5, "LOC")],
        [{"start": 2, "end": 5, "label": "PER"}, (15, 23, "LOC")],
    ]
    clf = tagger(max_epochs=60).fit(texts * 2, spans * 2)
    assert clf.classes_.tolist() == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert clf.score(texts, spans) > 0.9
    found = clf.predict_spans([*texts, ""])
    assert len(found)
    for row in found.itertuples():
        assert row.text == [*texts, ""][row.row][row.start : row.end]
        assert 0 < row.score <= 1
    assert [len(tags) for tags in clf.predict(texts)] == [len(split_words(text)) for text in texts]
    tokens = [["Ada", "lives"]]
    for row in clf.predict_spans(tokens).itertuples():
        assert row.text == tokens[row.row][row.start : row.end]


def test_predict_spans_without_spans_keeps_dtypes(fitted):
    empty, full = fitted.predict_spans([[]]), fitted.predict_spans(SENTENCES)
    assert len(full) > len(empty) == 0
    numbers = ["row", "start", "end", "score"]
    assert empty.dtypes[numbers].tolist() == full.dtypes[numbers].tolist()


def test_predict_spans_score_equals_mean_probability_of_tags(fitted):
    proba, tags = fitted.predict_proba(SENTENCES), fitted.predict(SENTENCES)
    table = fitted.predict_spans(SENTENCES)
    assert (table.end - table.start).max() > 1
    for row in table.itertuples():
        chosen = fitted.classes_.searchsorted(tags[row.row][row.start : row.end])
        expected = proba[row.row][np.arange(row.start, row.end), chosen].mean()
        assert row.score == pytest.approx(expected, rel=1e-5)


def test_score_with_sample_weight_equals_repeated_rows(fitted):
    true = [["O"] * len(tags) if i < 4 else tags for i, tags in enumerate(TAGS)]
    weights = [0, 1, 3, 1, 2, 0, 1, 4]
    repeated = [i for i, weight in enumerate(weights) for _ in range(weight)]
    again = [[rows[i] for i in repeated] for rows in (true, fitted.predict(SENTENCES))]
    expected = seqeval.metrics.f1_score(*again)
    assert abs(expected - fitted.score(SENTENCES, true)) > 0.01
    assert fitted.score(SENTENCES, true, sample_weight=weights) == pytest.approx(expected)


def test_fit_with_bioes_or_plain_tags_infers_scheme():
    bioes = [[tag.replace("B-PER", "S-PER") for tag in row] for row in TAGS]
    bioes[1][:2] = bioes[2][4:] = ["B-LOC", "E-LOC"]
    clf = tagger(max_epochs=40).fit(SENTENCES, [[t.replace("B-LOC", "S-LOC") if i == 0 else t for t in row]
                                                 for i, row in enumerate(bioes)])  # fmt: skip
    assert clf.scheme_ == "BIOES"
    plain = tagger(max_epochs=40).fit(SENTENCES, [[tag[-1] for tag in row] for row in TAGS])
    assert plain.scheme_ == "plain"
    right = [a == b[-1] for row, true in zip(plain.predict(SENTENCES), TAGS, strict=True)
             for a, b in zip(row, true, strict=True)]  # fmt: skip
    assert plain.score(SENTENCES, [[tag[-1] for tag in row] for row in TAGS]) == pytest.approx(np.mean(right))
    predicted = [tag for row in plain.predict(SENTENCES) for tag in row]
    assert len(plain.predict_spans(SENTENCES)) == sum(tag != "O" for tag in predicted)


def test_fit_with_iob1_tags_learns_and_scores_them():
    iob1 = [[tag.replace("B-", "I-") for tag in row] for row in TAGS]
    iob1[5] = ["I-PER", "B-PER", "O"]
    clf = tagger(max_epochs=60, learning_rate=3e-3).fit(SENTENCES, iob1)
    assert clf.scheme_ == "IOB1"
    assert clf.score(SENTENCES, iob1) > 0.9
    assert clf.score(SENTENCES, iob1, strict=True) == clf.score(SENTENCES, iob1)
    assert clf.predict(SENTENCES)[0] == iob1[0], "I may follow O"


@pytest.mark.parametrize("scheme", ["IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES"])
def test_fit_with_tags_of_scheme_infers_learns_and_scores_it(scheme):
    rows = [*TAGS[:5], ["B-PER", "I-PER", "I-PER"], [], ["B-PER", "B-PER", "B-PER", "O"]]
    y = convert_tags(rows, scheme, scheme="BIO")
    clf = tagger(max_epochs=60, learning_rate=3e-3).fit(SENTENCES, y)
    assert clf.scheme_ == scheme
    assert clf.score(SENTENCES, y) > 0.9
    if scheme != "IOE1":  # whose entities of one token before another one are not well-formed for seqeval
        assert clf.score(SENTENCES, y, strict=True) == clf.score(SENTENCES, y), "predicted sequences are valid"
    spans = [[tuple(span) for span in entity_spans(tags)] for tags in y]
    assert clf.score(SENTENCES, spans) == clf.score(SENTENCES, y)
    table = clf.predict_spans(SENTENCES)
    assert entity_f1(y, table) == pytest.approx(clf.score(SENTENCES, y))
    assert set(table.label) == {"PER", "LOC"}


def test_fit_with_types_without_prefix_reads_runs_as_entities():
    y = [[tag[2:] or "O" for tag in row] for row in TAGS]
    with pytest.raises(ValueError, match=r"y has the tag 'O' and tags without a prefix.*scheme='IO'.*scheme='plain'"):
        tagger().fit(SENTENCES, y)
    clf = tagger(scheme="IO", max_epochs=60, learning_rate=3e-3).fit(SENTENCES, y)
    assert clf.classes_.tolist() == ["LOC", "O", "PER"]
    predicted = clf.predict(SENTENCES).tolist()
    assert clf.score(SENTENCES, y) == entity_f1(y, predicted, scheme="IO") > 0.9
    assert clf.score(SENTENCES, [entity_spans(tags) for tags in TAGS]) == clf.score(SENTENCES, y)
    assert clf.score(SENTENCES, y, strict=True) == clf.score(SENTENCES, y)
    table = clf.predict_spans(SENTENCES)
    assert set(table.label) == {"LOC", "PER"}
    assert (table.end - table.start).max() == 2, "New York is one entity"
    spans = [entity_spans(tags) for tags in TAGS]
    again = tagger(scheme="IO", max_epochs=2).fit(SENTENCES, y, X_val=SENTENCES, y_val=spans)
    assert again.validation_scores_[-1] == pytest.approx(again.score(SENTENCES, y))


def test_fit_with_odd_tags_names_tag_and_row():
    frame = pd.DataFrame({"tokens": SENTENCES, "tags": TAGS}, index=range(100, 108))
    frame.at[103, "tags"] = ["B-LOC", "0", "O"]
    with pytest.raises(ValueError, match=r"y, row 3 \(index 103\): tag 1 is '0', a tag without a scheme"):
        tagger().fit(frame.tokens, frame.tags)
    weights = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"y, row 3 \(index 103\)"):
        tagger().fit(frame.tokens, frame.tags, sample_weight=weights)
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"y, sentence 3: tag 1 is '0'"):
        clf.score(SENTENCES, frame.tags.tolist())


def test_entity_report_of_tagger_equals_that_of_its_predictions(fitted):
    predicted = fitted.predict(SENTENCES)
    weights = [1, 2, 0, 1, 3, 1, 1, 1]
    for strict in (False, True):
        expected = entity_report(TAGS, predicted, strict=strict, scheme="BIO")
        pd.testing.assert_frame_equal(fitted.entity_report(SENTENCES, TAGS, strict=strict), expected)
    weighted = fitted.entity_report(SENTENCES, TAGS, weights)
    pd.testing.assert_frame_equal(weighted, entity_report(TAGS, predicted, sample_weight=weights))
    assert fitted.score(SENTENCES, TAGS, weights) == pytest.approx(weighted.f1["micro avg"])
    plain = tagger(scheme="plain", max_epochs=1).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"mark no entities.*sklearn\.metrics\.classification_report"):
        plain.entity_report(SENTENCES, TAGS)


def test_reports_after_fit_on_strings_agree():
    texts = ["Ada lives in Rome.", "Bob likes (New York)"]
    spans = [[(0, 3, "PER"), (13, 17, "LOC")], [{"start_offset": 11, "end_offset": 19, "label": "LOC"}, (0, 3, "PER")]]
    clf = tagger(max_epochs=60).fit(texts * 2, spans * 2)
    table = clf.predict_spans(texts)
    report = clf.entity_report(texts, spans)
    assert report.support.tolist() == [2, 2, 4, 4, 4]
    pd.testing.assert_frame_equal(report, entity_report(spans, table))
    assert clf.score(texts, spans) == pytest.approx(entity_f1(spans, table)) == report.f1["micro avg"]


def test_align_of_tagger_changes_spans_in_fit_and_score():
    texts, spans = ["Hello Koreans there", "old Romans left"] * 4, [[(6, 11, "LOC")], [(4, 8, "LOC")]] * 4
    with pytest.raises(ValueError, match=r"(?s)y: 8 of 8 rows.*within a token: 'Koreans' \(6, 13\).*align='expand'"):
        tagger().fit(texts, spans)
    clf = tagger(align="expand", max_epochs=60).fit(texts, spans)
    assert clf.score(texts, spans) == 1.0
    assert clf.predict_spans(texts[:1]).text.tolist() == ["Koreans"]


def words(text):
    return re.findall(r"[\w'-]+|[^\w\s]", text)


def word_spans(text):
    return [match.span() for match in re.finditer(r"\S+", text)]


@pytest.mark.parametrize("split", [words, word_spans])
def test_tokenizer_of_tagger_splits_strings_and_survives_pickle(split, tmp_path):
    texts = ["Jean-Paul's tea.", "New-York is old."] * 3
    expected = [split(text) for text in texts]
    if split is word_spans:
        expected = [[text[a:b] for a, b in of_text] for text, of_text in zip(texts, expected, strict=True)]
    clf = tagger(tokenizer=split, max_epochs=2, device="cpu")
    assert clf.tokenize(texts).tolist() == expected
    y = [["B-X", *["O"] * (len(tokens) - 1)] for tokens in expected]
    clf.fit(texts, y)
    assert [len(tags) for tags in clf.predict(texts)] == [len(tokens) for tokens in expected]
    again = pickle.loads(pickle.dumps(clf))
    assert again.predict(texts).tolist() == clf.predict(texts).tolist()
    assert clone(clf).tokenizer is split
    clf.save(tmp_path)
    loaded = skxlmr.load(tmp_path)
    assert loaded.tokenizer is None
    with pytest.raises(ValueError, match=rf"split_words would split, but .* with the tokenizer .*{split.__name__}"):
        loaded.predict(texts)
    assert loaded.predict(expected).tolist() == clf.predict(texts).tolist(), "token lists need no tokenizer"
    assert loaded.set_params(tokenizer=split).predict(texts).tolist() == clf.predict(texts).tolist()
    with pytest.raises(ValueError, match=r"X has strings, which str\.split would split"):
        loaded.set_params(tokenizer=str.split).score(texts, y)


def test_tokenizer_of_tagger_fitted_to_token_lists_may_be_set_later():
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    assert clf.tokenizer_name_ is None
    texts = [" ".join(tokens) for tokens in SENTENCES]
    assert clf.set_params(tokenizer=str.split).predict(texts).tolist() == clf.predict(SENTENCES).tolist()
    clf.set_params(warm_start=True, tokenizer=None).fit(texts, TAGS)
    assert clf.tokenizer_name_ == "skxlmr.text.words.split_words"


def test_tokenize_returns_tokens_or_offsets(fitted):
    texts = ["Ada's code", "ผมชื่อ", ""]
    tokens = fitted.tokenize(texts)
    assert tokens.tolist() == [["Ada", "'", "s", "code"], ["ผ", "ม", "ชื่", "อ"], []]
    assert [len(tags) for tags in fitted.predict(texts)] == list(map(len, tokens))
    for text, of_text, at in zip(texts, tokens, fitted.tokenize(texts, return_offsets=True), strict=True):
        assert [text[a:b] for a, b in at] == of_text
    assert XLMRXLTagger("nano").tokenize([("a", "b"), []]).tolist() == [["a", "b"], []]
    with pytest.raises(ValueError, match="needs a column of strings"):
        fitted.tokenize([["a"]], return_offsets=True)


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


def test_fit_with_unsuitable_class_weight_or_scheme_raises():
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="class_weight must give finite weights that are not negative"):
            tagger(class_weight={"O": weight}).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match="no rows to learn from: all their weights are zero"):
        tagger(class_weight=dict.fromkeys(["O", "B-PER", "B-LOC", "I-LOC"], 0)).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"(?s)y: 2 of 8 rows .* scheme='BIO' does not have.*row 1: tag 1 is 'E-LOC'"):
        tagger(scheme="BIO").fit(SENTENCES, [[tag.replace("I-", "E-") for tag in row] for row in TAGS])
    assert tagger(scheme="plain", max_epochs=1).fit(SENTENCES, TAGS).scheme_ == "plain"


def test_predict_returns_valid_bio_sequences():
    rng = np.random.RandomState(0)
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    for tags in clf.predict([[f"w{i}" for i in rng.randint(0, 99, 20)] for _ in range(30)]):
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_tagger_on_frame_survives_pickle_and_save(tmp_path):
    frame = pd.DataFrame({"tokens": SENTENCES, "tags": TAGS})
    clf = tagger(max_epochs=3, device="cpu")
    clf.fit(frame[["tokens"]], frame.tags, X_val=frame[["tokens"]], y_val=frame.tags)
    assert clf.feature_names_in_.tolist() == ["tokens"]
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(frame[["tokens"]], frame.tags))
    clf.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path)):
        for a, b in zip(again.predict_proba(frame[["tokens"]]), clf.predict_proba(frame[["tokens"]]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_balanced_class_weight_with_sample_weights_equals_repeated_rows():
    task, counts = tagger(class_weight="balanced")._new_task(), np.array([1, 2, 0, 1, 3, 1, 1, 3])
    weighted, _ = task.find(TAGS, check_token_column(SENTENCES), counts.astype(float))
    repeated = [[rows[i] for i in np.repeat(np.arange(8), counts)] for rows in (SENTENCES, TAGS)]
    expected, _ = task.find(repeated[1], check_token_column(repeated[0]), np.ones(counts.sum()))
    np.testing.assert_allclose(weighted.tag_weights, expected.tag_weights)
    assert len(set(expected.tag_weights)) > 1


def test_early_stopping_score_equals_score_on_held_out_rows():
    rng = np.random.RandomState(0)
    rows = [list(rng.choice(["Ada", "Rome", "is", "old"], n)) for n in rng.choice([1, 3, 30], 40)]
    tags = [[{"Ada": "B-PER", "Rome": "B-LOC"}.get(w, "O") if rng.rand() < 0.5 else "O" for w in row] for row in rows]
    weights = rng.choice([0.5, 1.0, 4.0], 40)
    clf = tagger(tuning="head", max_epochs=2, early_stopping=True, validation_fraction=0.4, class_weight="balanced")
    clf.fit(rows, tags, sample_weight=weights)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    _, held = train_test_split(np.arange(40), test_size=0.4, random_state=seed)
    expected = clf.score([rows[i] for i in held], [tags[i] for i in held], sample_weight=weights[held])
    assert 0.1 < expected < 0.95
    assert clf.best_validation_score_ == pytest.approx(expected)


def test_grid_search_with_head_tuning_encodes_each_row_once(monkeypatch):
    clear_features()
    runs, encode = [], XLMRobertaXLModel.encode
    monkeypatch.setattr(XLMRobertaXLModel, "encode", lambda *a, **k: runs.append(a[3].batch_size) or encode(*a, **k))
    grid = GridSearchCV(tagger(tuning="head", max_epochs=2), {"learning_rate": [1e-3, 1e-2]}, cv=2)
    grid.fit(SENTENCES, TAGS)
    assert sum(runs) == len(SENTENCES)
    assert len(cross_val_score(tagger(tuning="head", max_epochs=1), SENTENCES, TAGS, cv=4)) == 4


def test_predict_proba_with_head_tuning_computes_features_in_chunks(monkeypatch):
    clf = tagger(aggregation="first", tuning="head", max_epochs=2, device="cpu").fit(SENTENCES, TAGS)
    expected, sizes = clf.predict_proba(SENTENCES), []
    frozen = learned.frozen_features

    def frozen_features(*args, **options):
        features = frozen(*args, **options)
        sizes.append(len(features))
        return features

    monkeypatch.setattr(learned, "frozen_features", frozen_features)
    monkeypatch.setattr(learned, "FEATURE_BYTES", 10 * 4 * clf._finetuned.config.hidden_size)
    for got, of_row in zip(clf.predict_proba(SENTENCES), expected, strict=True):
        np.testing.assert_allclose(got, of_row, rtol=1e-5)
    assert sum(sizes) == sum(map(len, SENTENCES))
    assert len(sizes) > 2
    assert max(sizes) < 10 + max(map(len, SENTENCES))


def test_checkpointing_with_other_tags_uses_other_folder(tmp_path, monkeypatch):
    from skxlmr.training.checkpointing import Checkpointing

    monkeypatch.setattr(Checkpointing, "remove", lambda self: None)
    other = [*TAGS[:-1], ["O", "O", "B-PER", "O"]]
    for y in (TAGS, TAGS, other):
        tagger(tuning="head", max_epochs=1, checkpoint_dir=tmp_path).fit(SENTENCES, y)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 2


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (SENTENCES, [*TAGS[:-1], ["O"]], ValueError, "y, row 7: 1 tags for 4 tokens"),
        (SENTENCES, [*TAGS[:-1], "O"], TypeError, "y, row 7: 'O' is not a list"),
        (SENTENCES, TAGS[:-1], ValueError, "inconsistent"),
        (SENTENCES, [["O"] * len(row) for row in SENTENCES], ValueError, r"at least 2 tags.*\['O'\]"),
        (SENTENCES, None, ValueError, "requires y"),
        ([["a", 1]], [["O", "O"]], TypeError, "row 0: token 1 is 1, a int"),
        ([["a"], "b"], [["O"], ["O"]], TypeError, "row 1: 'b' is not a list of tokens"),
        (["a b", None], [["O", "X"], []], ValueError, "row 1: None is a missing value"),
        ("a b", ["O", "X"], TypeError, "single str"),
        ([], [], ValueError, "0 sample"),
        (pd.DataFrame({"a": [["x"]], "b": [["y"]]}), [["O"]], ValueError, "2 columns"),
        (["Ada left"], [[(0, 2, "PER")]], ValueError, "row 0: .*begins or ends within a token"),
        (["Ada left"], [[(0, 20, "PER")]], ValueError, "row 0: .*within a token|row 0: .*beyond"),
        ([["Ada", "left"]], [[(0, 3, "PER")]], ValueError, "row 0: .*beyond the 2 tokens"),
        ([["Ada", "left"]], [[("0", 2, "PER")]], TypeError, "row 0: start and end of the span .* integers"),
        ([["Ada", "left"]], [[(0, 2)]], TypeError, r"row 0: \(0, 2\) is not a span"),
    ],
)
def test_fit_with_invalid_input_raises_and_names_row(X, y, error, message):
    with pytest.raises(error, match=message):
        tagger().fit(X, y)


@pytest.mark.parametrize("language", ["en", "de", "zh", "ar"])
def test_predict_on_treebank_returns_one_tag_per_token(language, shared_data):
    frame = read_conllu(shared_data / "ud_pud" / f"{language}_pud-ud-test.conllu")
    train, test = frame[:40], frame[800:900]
    clf = tagger(tuning="head", max_epochs=2, learning_rate=1e-2).fit(train.tokens, train.upos)
    assert [len(tags) for tags in clf.predict(test.tokens)] == test.tokens.map(len).tolist()
    assert clf.score(test.tokens, test.upos) > 0.1
    for row in clf.predict_spans(test.text).itertuples():
        assert row.text == test.text.iloc[row.row][row.start : row.end]
