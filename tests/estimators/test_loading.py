"""`skxlmr.load` of checkpoints of transformers: the estimators compute what transformers computes."""

import numpy as np
import pandas as pd
import pytest
import sentence_transformers
import torch
import transformers
from loaded_checkpoints import FAMILIES, NLI, PAIRS, TEXTS, again, copy_of, logits_of
from scipy.special import expit, softmax
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sklearn.exceptions import ConvergenceWarning

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.columns import as_objects


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_sequence_classification_equals_transformers(family, make, oracle, tmp_path):
    directory, model = make(f"{family}ForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, dtype="float32")
    assert type(clf) is skxlmr.XLMRXLClassifier
    assert clf.classes_.tolist() == ["contradiction", "entailment", "neutral"]
    assert not hasattr(clf, "n_features_in_")
    order = [2, 1, 0]
    clf.export_pretrained(tmp_path / "exported")
    exported = type(model).from_pretrained(tmp_path / "exported").eval()
    for X, pairs in ((TEXTS, False), (PAIRS, True)):
        expected = logits_of(model, oracle, X, pairs).logits.numpy()[:, order]
        assert expected.std(axis=0).min() > 0.01
        frame = pd.DataFrame(X, columns=["premise", "hypothesis"][: 1 + pairs])
        for estimator in (clf, *again(clf, tmp_path), skxlmr.load(tmp_path / "exported")):
            np.testing.assert_allclose(estimator.decision_function(X), expected, atol=1e-5)
            np.testing.assert_allclose(estimator.decision_function(frame), expected, atol=1e-5)
            np.testing.assert_allclose(estimator.predict_proba(X), softmax(expected, axis=1), atol=1e-5)
            assert estimator.predict(X).tolist() == estimator.classes_[expected.argmax(axis=1)].tolist()
            assert estimator.score(X, estimator.predict(X)) == 1
        np.testing.assert_allclose(logits_of(exported, oracle, X, pairs).logits.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(clf.decision_function(TEXTS[2:]), clf.decision_function(TEXTS)[2:], atol=1e-6)
    assert exported.config.id2label == {0: "contradiction", 1: "entailment", 2: "neutral"}


def test_load_of_two_unnamed_labels_equals_pipeline(make):
    directory, _ = make("XLMRobertaForSequenceClassification")
    clf = skxlmr.load(str(directory))
    assert clf.classes_.tolist() == ["LABEL_0", "LABEL_1"]
    answers = transformers.pipeline("text-classification", str(directory), device="cpu")(TEXTS)
    assert clf.predict(TEXTS).tolist() == [answer["label"] for answer in answers]
    np.testing.assert_allclose(clf.predict_proba(TEXTS).max(axis=1), [answer["score"] for answer in answers], atol=1e-5)
    assert clf.decision_function(TEXTS).shape == (3,)


def test_load_sorts_ten_labels_as_texts(make, oracle):
    directory, model = make("XLMRobertaXLForSequenceClassification", num_labels=11)
    clf = skxlmr.load(directory)
    assert clf.classes_.tolist() == sorted(f"LABEL_{i}" for i in range(11))
    numbers = [int(label.removeprefix("LABEL_")) for label in clf.classes_]
    expected = logits_of(model, oracle, TEXTS).logits.numpy()[:, numbers]
    np.testing.assert_allclose(clf.decision_function(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_load_of_multi_label_classification_keeps_the_order_of_labels(family, make, oracle, tmp_path):
    directory, model = make(
        f"{family}ForSequenceClassification",
        id2label={0: "joy", 1: "anger", 2: "fear"},
        problem_type="multi_label_classification",
    )
    clf = skxlmr.load(directory)
    assert clf.classes_.tolist() == ["joy", "anger", "fear"]
    expected = logits_of(model, oracle, TEXTS).logits.numpy()
    for estimator in (clf, *again(clf, tmp_path)):
        np.testing.assert_allclose(estimator.decision_function(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(estimator.predict_proba(TEXTS), expit(expected), atol=1e-5)
        np.testing.assert_array_equal(estimator.predict(TEXTS), (expected > 0).astype(int))
        assert estimator.score(TEXTS, (expected > 0).astype(int)) == 1
    indicator = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    clf.set_params(warm_start=True, max_epochs=1, random_state=0).fit(TEXTS, indicator)
    assert clf.classes_.tolist() == ["joy", "anger", "fear"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", [{"num_labels": 1}, {"num_labels": 2, "problem_type": "regression"}], ids=str)
def test_load_of_regression_returns_the_numbers_of_the_head(family, config, make, oracle, tmp_path):
    directory, model = make(f"{family}ForSequenceClassification", **config)
    reg = skxlmr.load(directory)
    assert type(reg) is skxlmr.XLMRXLRegressor
    for X, pairs in ((TEXTS, False), (PAIRS, True)):
        expected = logits_of(model, oracle, X, pairs).logits.numpy()
        expected = expected[:, 0] if config["num_labels"] == 1 else expected
        for estimator in (reg, *again(reg, tmp_path)):
            np.testing.assert_allclose(estimator.predict(X), expected, atol=1e-5)
    assert reg.score(PAIRS, expected) == pytest.approx(1)


def test_load_of_cross_encoder_applies_its_activation_and_prompt(make, tmp_path):
    """The config of a model names the activation, or since version 6 of sentence-transformers another file does."""
    directory, _ = make("XLMRobertaForSequenceClassification", num_labels=1)
    of_config = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.1.0"}
    earlier = copy_of(directory, tmp_path / "earlier", sentence_transformers=of_config)
    encoder = sentence_transformers.CrossEncoder(str(earlier))
    encoder.save_pretrained(str(tmp_path / "encoder"))
    expected = encoder.predict([tuple(pair) for pair in PAIRS])
    assert (tmp_path / "encoder" / "modules.json").exists()
    assert ((expected > 0) & (expected < 1)).all()
    for path in (earlier, tmp_path / "encoder"):
        np.testing.assert_allclose(skxlmr.load(path).predict(PAIRS), expected, atol=1e-5)
    reg = skxlmr.load(earlier, warm_start=True, tuning="head", learning_rate=1e-7, max_epochs=1, random_state=0)
    reg.fit(PAIRS, expected)
    assert reg.history_["loss"][0] < 0.02  # of the numbers after the activation
    for estimator in (reg, *again(reg, tmp_path)):
        np.testing.assert_allclose(estimator.predict(PAIRS), expected, atol=1e-4)
    encoder.prompts, encoder.default_prompt_name = {"query": "the "}, "query"
    encoder.save_pretrained(str(tmp_path / "prompted"))
    expected = encoder.predict([tuple(pair) for pair in PAIRS])
    prompted = skxlmr.load(tmp_path / "prompted")
    assert prompted.prompt == "the "
    np.testing.assert_allclose(prompted.predict(PAIRS), expected, atol=1e-5)
    assert np.abs(reg.predict(PAIRS) - expected).max() > 1e-4
    encoder.max_seq_length = 12
    encoder.save_pretrained(str(tmp_path / "short"))
    short = skxlmr.load(tmp_path / "short", truncation=True)
    assert short.max_length_ == 12
    long = [(first * 9, second) for first, second in PAIRS]
    with pytest.warns(UserWarning, match="cut at 12 tokens"):
        np.testing.assert_allclose(short.predict(list(map(list, long))), encoder.predict(long), atol=1e-5)
    unknown = {"activation_fn": "torch.nn.modules.activation.Softsign"}
    unknown = copy_of(directory, tmp_path / "unknown", sentence_transformers=unknown)
    with pytest.raises(CheckpointError, match="activation 'Softsign' is not one of Identity, Sigmoid"):
        skxlmr.load(unknown)


@pytest.mark.parametrize(
    ("activation", "place"),
    [
        ("Tanh", "own file"),
        ("Tanh", "sbert_ce_default_activation_function"),
        ("Tanh", "sentence_transformers"),
        ("ReLU", "own file"),
        ("Softplus", "sentence_transformers"),
    ],
)
def test_load_of_cross_encoder_with_another_activation_equals_its_scores(activation, place, make, tmp_path):
    """Where the files of three versions of sentence-transformers have it."""
    directory, _ = make("XLMRobertaForSequenceClassification", num_labels=1)
    path = f"torch.nn.modules.activation.{activation}"
    encoder = sentence_transformers.CrossEncoder(
        str(directory), device="cpu", activation_fn=getattr(torch.nn, activation)()
    )
    if place == "own file":
        encoder.save_pretrained(str(tmp_path / "encoder"))
    else:
        entry = {place: path if place.startswith("sbert") else {"activation_fn": path}}
        copy_of(directory, tmp_path / "encoder", **entry)
    expected = encoder.predict([tuple(pair) for pair in PAIRS])
    read = sentence_transformers.CrossEncoder(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(read.predict([tuple(pair) for pair in PAIRS]), expected, atol=1e-6)
    reg = skxlmr.load(tmp_path / "encoder")
    for estimator in (reg, *again(reg, tmp_path)):
        np.testing.assert_allclose(estimator.predict(PAIRS), expected, atol=1e-5)
    reg.export_pretrained(tmp_path / "exported")
    exported = sentence_transformers.CrossEncoder(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(exported.predict([tuple(pair) for pair in PAIRS]), expected, atol=1e-5)
    np.testing.assert_allclose(skxlmr.load(tmp_path / "exported").predict(PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["Softmax", "LogSoftmax", "Tanh"])
def test_load_of_cross_encoder_of_several_labels_has_its_scores_or_is_refused(activation, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    options = {"dim": -1} if "Softmax" in activation else {}
    encoder = sentence_transformers.CrossEncoder(
        str(directory), device="cpu", activation_fn=getattr(torch.nn, activation)(**options)
    )
    encoder.save_pretrained(str(tmp_path / "encoder"))
    if activation == "Tanh":
        with pytest.raises(CheckpointError, match=r"activation 'Tanh' is not one of .*Set activation_fn .*Identity"):
            skxlmr.load(tmp_path / "encoder")
        return
    expected = encoder.predict([tuple(pair) for pair in PAIRS])[:, [2, 1, 0]]
    clf = skxlmr.load(tmp_path / "encoder")
    found = clf.predict_proba(PAIRS) if activation == "Softmax" else clf.predict_log_proba(PAIRS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_load_of_cross_encoder_with_a_class_of_another_package_is_refused(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", num_labels=1)
    copied = copy_of(directory, tmp_path / "own", sentence_transformers={"activation_fn": "my_package.Tanh"})
    with pytest.raises(CheckpointError, match=r"activation 'my_package\.Tanh' is not one of Identity"):
        skxlmr.load(copied)


def test_load_of_cross_encoder_of_several_labels_with_sigmoid_is_multilabel(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    encoder = sentence_transformers.CrossEncoder(str(directory), device="cpu", activation_fn=torch.nn.Sigmoid())
    encoder.save_pretrained(str(tmp_path / "encoder"))
    clf = skxlmr.load(tmp_path / "encoder")
    assert clf.classes_.tolist() == list(NLI.values())
    expected = encoder.predict([tuple(pair) for pair in PAIRS])
    np.testing.assert_allclose(clf.predict_proba(PAIRS), expected, atol=1e-5)
    np.testing.assert_array_equal(clf.predict(PAIRS), expected > 0.5)


TAGS = {0: "O", 1: "I-PER", 2: "B-PER", 3: "B-LOC", 4: "I-LOC"}
SENTENCES = [["the", "river", "is", "wide"], ["morning", "music"], ["我", "喜欢", "the", "city", "unknownx", "早上"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_token_classification_equals_transformers_on_first_pieces(family, make, oracle, tmp_path):
    directory, model = make(f"{family}ForTokenClassification", id2label=TAGS)
    tagger = skxlmr.load(directory)
    assert type(tagger) is skxlmr.XLMRXLTagger
    assert tagger.classes_.tolist() == sorted(TAGS.values())
    assert tagger.scheme_ == "BIO"
    batch = oracle(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    logits = logits[..., np.argsort(list(TAGS.values()))]
    tagger.export_pretrained(tmp_path / "exported")
    for estimator in (tagger, *again(tagger, tmp_path), skxlmr.load(tmp_path / "exported")):
        for row, tokens in enumerate(SENTENCES):
            words = batch.word_ids(row)
            first = [words.index(i) for i in range(len(tokens))]
            np.testing.assert_allclose(
                estimator.predict_proba(SENTENCES)[row], softmax(logits[row, first], axis=1), atol=1e-5
            )
        tags = estimator.predict(SENTENCES)
        assert [len(row) for row in tags] == [4, 2, 6]
        n_entities = sum(tag != "O" for row in tags for tag in row)
        assert estimator.score(SENTENCES, tags) == (n_entities > 0)


def test_load_of_bare_spaces_reads_what_transformers_trains(make, oracle):
    """Of "我", the first piece is a bare space; a tagger that is fitted here reads the piece after it."""
    assert oracle.tokenize("我")[0] == "▁"
    directory, _ = make("XLMRobertaForTokenClassification", id2label=TAGS)
    tagger = skxlmr.load(directory, warm_start=True, tuning="head", learning_rate=1e-9, max_epochs=1)
    before = tagger.predict_proba([["我"]])[0]
    with pytest.warns(ConvergenceWarning):
        tagger.fit([["我", "the"]] * 2, [["B-PER", "O"]] * 2)  # not all of the tags
    assert tagger.classes_.tolist() == sorted(TAGS.values())
    np.testing.assert_allclose(tagger.predict_proba([["我"]])[0], before, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "parameters", "scheme"),
    [
        (["O", "I-PER", "B-LOC", "I-LOC"], {}, "IOB1"),
        (["O", "I-PER", "B-LOC", "I-LOC"], {"scheme": "IOB2"}, "BIO"),
        (["S-X", "B-X", "E-X", "I-X", "O"], {}, "BIOES"),
        (["NOUN", "VERB"], {}, "plain"),
        (["O", "PERSON"], {"scheme": "IO"}, "IO"),
        (["O", "PERSON", "B-X"], {"scheme": "plain"}, "plain"),
    ],
    ids=str,
)
def test_load_infers_the_scheme_of_tags(labels, parameters, scheme, make):
    directory, _ = make("XLMRobertaForTokenClassification", id2label=dict(enumerate(labels)))
    assert skxlmr.load(directory, **parameters).scheme_ == scheme


def test_load_of_tags_without_clear_scheme_raises(make):
    directory, _ = make("XLMRobertaForTokenClassification", id2label={0: "O", 1: "PERSON"})
    with pytest.raises(CheckpointError, match=r"not the tags of one scheme: 'O', 'PERSON'\. Set scheme='plain'"):
        skxlmr.load(directory)


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_question_answering_equals_transformers(family, make, oracle, tmp_path):
    directory, model = make(f"{family}ForQuestionAnswering")
    qa = skxlmr.load(directory, align_to_words=False)
    assert type(qa) is skxlmr.XLMRXLQA
    question, context = "the river", "the train left the city early this morning"
    batch = oracle(question, context, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    shown = [0, *(i for i, sequence in enumerate(batch.sequence_ids(0)) if sequence == 1)]
    expected = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], 1)[shown].numpy()
    for estimator in (qa, *again(qa, tmp_path)):
        column = estimator._check_fitted_column([[question, context]])
        (found,) = estimator._run(column, lambda of_pieces, plan: as_objects([of_pieces]))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        table = estimator.predict_answers([[question, context]])
        assert table["is_answered"].all()
        frame = pd.DataFrame({"context": [context], "question": [question]})
        assert estimator.predict(frame).tolist() == [table["answer"][0]]
        assert estimator.score(frame, table["answer"][:1]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_multiple_choice_equals_transformers(family, make, oracle, tmp_path):
    directory, model = make(f"{family}ForMultipleChoice")
    chooser = skxlmr.load(directory)
    assert type(chooser) is skxlmr.XLMRXLMultipleChoice
    frame = pd.DataFrame({"prompt": TEXTS[:2], "choice1": ["the river", "a"], "choice2": ["music", "the city"]})
    pairs = [[row.prompt, choice] for row in frame.itertuples() for choice in (row.choice1, row.choice2)]
    batch = oracle(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    ids, mask = (batch[name].view(2, 2, -1) for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits.numpy()
    for estimator in (chooser, *again(chooser, tmp_path)):
        np.testing.assert_allclose(estimator.decision_function(frame), expected, atol=1e-5)
        assert estimator.predict(frame).tolist() == expected.argmax(axis=1).tolist()
        assert estimator.score(frame, expected.argmax(axis=1)) == 1
    chooser.set_params(warm_start=True, tuning="head", learning_rate=1e-9, max_epochs=1, random_state=0)
    chooser.fit(frame, frame["choice1"])
    assert chooser.target_form_ == "choice"
    np.testing.assert_allclose(chooser.decision_function(frame), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["XLMRobertaXLForMaskedLM", "XLMRobertaForMaskedLM", "BertForMaskedLM"])
def test_load_of_masked_language_model_equals_transformers(name, make, oracle, tmp_path):
    directory, model = make(name)
    lm = skxlmr.load(directory)
    assert type(lm) is skxlmr.XLMRXLMaskedLM
    text = "the <mask> is wide"
    ids = oracle(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, ids[0].tolist().index(oracle.mask_token_id)]
    probabilities = logits.softmax(-1)
    pieces = [i for i in probabilities.argsort(descending=True).tolist() if i not in oracle.all_special_ids][:3]
    for estimator in (lm, *again(lm, tmp_path)):
        found = estimator.fill_mask([text], top_k=3)
        np.testing.assert_allclose(found["score"], probabilities[pieces].numpy(), atol=1e-5)
    lm.set_params(warm_start=True, max_epochs=1, random_state=0).fit(TEXTS)
    assert lm.n_iter_ == 1


def answer_of_pipeline(model, oracle, question, context):
    """Return the best answer of transformers' pipeline, its score, and that of no answer.

    Scores are products of probabilities over the context and `<s>`.
    """
    batch = oracle(question, context, return_tensors="pt", return_offsets_mapping=True)
    with torch.no_grad():
        outputs = model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    kept = torch.tensor([sequence == 1 for sequence in batch.sequence_ids(0)])
    pieces, places = oracle.convert_ids_to_tokens(batch["input_ids"][0]), np.flatnonzero(kept)
    kept[0] = True
    start, end = (
        logits[0].masked_fill(~kept, -1e4).softmax(0).numpy() for logits in (outputs.start_logits, outputs.end_logits)
    )
    # An answer that ends at a bare space has the next character, too, in the offsets of transformers.
    score, i, j = max((start[i] * end[j], i, j) for i in places for j in places if i <= j and pieces[j] != "▁")
    offsets = batch["offset_mapping"][0]
    return context[offsets[i, 0] : offsets[j, 1]], score, start[0] * end[0]


def test_null_threshold_of_loaded_question_answering_equals_pipeline(make, oracle):
    directory, model = make("XLMRobertaForQuestionAnswering")
    contexts = ["the train", "music", "the city early", "wide", "a", "the river is wide", "left this morning"]
    rows = [[question, context] for question in ("the river", "a") for context in contexts]
    expected = [answer_of_pipeline(model, oracle, *row) for row in rows]
    qa = skxlmr.load(directory, align_to_words=False)
    assert "" not in qa.predict(rows)
    assert (
        np.mean([mine.strip() == theirs for mine, (theirs, _, _) in zip(qa.predict(rows), expected, strict=True)]) > 0.8
    )
    margins = np.array([np.log(none / score) for _, score, none in expected])
    for threshold in (0.0, float(np.median(margins))):  # `handle_impossible_answer` is 0
        answered = margins <= threshold
        answers = skxlmr.load(directory, align_to_words=False, null_threshold=threshold).predict(rows)
        assert ((answers != "") == answered).all()
        table = qa.predict_answers(rows, top_k=1, null_threshold=threshold)
        assert (table["is_answered"] == answered).all()
    assert 0 < answered.sum() < len(rows)


@pytest.mark.parametrize("name", ["XLMRobertaXLForCausalLM", "XLMRobertaForCausalLM", "BertLMHeadModel"])
def test_load_of_causal_language_model_equals_transformers(name, make, oracle, tmp_path):
    directory, model = make(name, is_decoder=True)
    generator = skxlmr.load(directory)
    assert type(generator) is skxlmr.XLMRXLGenerator
    ids = oracle(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        of_next = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = of_next.gather(1, ids[0, 1:, None])[:-1].sum().item()  # without the end of the text
    for estimator in (generator, *again(generator, tmp_path)):
        np.testing.assert_allclose(estimator.log_likelihood(TEXTS[:1]), [expected], rtol=1e-5)
        assert estimator.generate(TEXTS[:1], max_new_tokens=2).shape == (1,)


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_encoder_returns_embedder(family, make, oracle, tmp_path):
    directory, model = make(f"{family}Model")
    embedder = skxlmr.load(directory)
    assert type(embedder) is skxlmr.XLMRXLEmbedder
    batch = oracle(TEXTS, padding=True, return_tensors="pt")
    hidden, mask = logits_of(model, oracle, TEXTS).last_hidden_state, batch["attention_mask"][..., None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    for estimator in (embedder, *again(embedder, tmp_path)):
        np.testing.assert_allclose(estimator.transform(TEXTS), expected, atol=1e-5)
        assert len(estimator.get_feature_names_out()) == 16
    frame = pd.DataFrame(PAIRS, columns=["a", "b"])
    assert skxlmr.load(directory, normalize=True, n_dims=4).transform(frame).shape == (3, 4)
    with pytest.raises(CheckpointError, match="n_components need training texts"):
        skxlmr.load(directory, n_components=2)


def test_load_of_sentence_transformers_returns_embedder(make, tmp_path):
    directory, _ = make("XLMRobertaModel")
    modules = [Transformer(str(directory)), Pooling(16, pooling_mode="cls"), Normalize()]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path / "sentence"))
    embedder = skxlmr.load(tmp_path / "sentence")
    assert (embedder.pooling_, embedder.normalize_) == ("cls", True)
    np.testing.assert_allclose(embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    embedder.export_pretrained(tmp_path / "exported")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_load_of_long_text_reads_windows(make, oracle):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    long = " ".join(TEXTS * 8)
    assert len(oracle(long)["input_ids"]) > 64
    whole, start = (skxlmr.load(directory, truncation=cut, stride=0) for cut in (False, True))
    assert whole.predict_proba([long]).shape == (1, 3)
    with pytest.warns(UserWarning, match="cut at 64 tokens"):
        assert np.abs(start.decision_function([long]) - whole.decision_function([long])).max() > 1e-3


def test_load_of_labels_that_are_numbers_and_of_a_model_named_roberta(make, oracle, tmp_path):
    directory, model = make("XLMRobertaForSequenceClassification", id2label=NLI)
    numbers = {"id2label": {"0": 2, "1": 0, "2": 1.5}, "architectures": ["RobertaForSequenceClassification"]}
    clf = skxlmr.load(copy_of(directory, tmp_path / "numbers", **numbers))
    assert clf.classes_.tolist() == ["0", "1.5", "2"]
    expected = logits_of(model, oracle, TEXTS).logits.numpy()[:, [1, 2, 0]]
    np.testing.assert_allclose(clf.decision_function(TEXTS), expected, atol=1e-5)
