"""`skxlmr.load` of checkpoints of transformers: the estimators compute what transformers computes."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import sentence_transformers
import torch
import transformers
from hub_server import MAIN, OLD, REPO, Hub
from scipy.special import expit, softmax
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import skxlmr
from skxlmr import Full, LoRA
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.checkpoints.resolve import BUNDLED
from skxlmr.columns import as_objects
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import _find_on_hub

FAMILIES = ("XLMRobertaXL", "XLMRoberta", "Bert")
NLI = {0: "neutral", 1: "entailment", 2: "contradiction"}
TEXTS = ["the river is wide", "music", "the train left the city early this morning"]
PAIRS = [["the river is wide", "the river"], ["music", "the train left"], ["the city", "a"]]


@pytest.fixture(scope="module")
def oracle(tiny_spm):
    """The tokenizer of transformers."""
    return transformers.XLMRobertaTokenizer.from_pretrained(tiny_spm)


@pytest.fixture(scope="module")
def make(tiny_spm, tmp_path_factory):
    """A function that writes a checkpoint with transformers; it returns the directory, and the model."""
    tokenizer, made = XLMRobertaXLTokenizer.from_directory(tiny_spm), {}

    def write(name, **config):
        key = name, repr(config)
        if key not in made:
            made[key] = new(name, **config)
        return made[key]

    def new(name, id2label=None, **config):
        directory, cls = tmp_path_factory.mktemp(name), getattr(transformers, name)
        if id2label is not None:
            config |= {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}
        shape = {
            "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "type_vocab_size": 2 if name.startswith("Bert") else 1,
        }  # fmt: skip
        torch.manual_seed(0)
        model = cls(cls.config_class(**shape, **config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory, model

    return write


def logits_of(model, oracle, X, pairs=False):
    columns = list(zip(*X, strict=True)) if pairs else [X]
    batch = oracle(*map(list, columns), padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def copy_of(directory, target, **changes):
    """Copy a checkpoint, with other entries in its config.json; None removes one."""
    shutil.copytree(directory, target)
    config = json.loads((target / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    return target


def again(estimator, tmp_path):
    """The same estimator, saved and loaded, and pickled."""
    estimator.save(tmp_path / "saved")
    return [skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(estimator))]


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


@pytest.mark.parametrize("tuning", ["lora", "head", "bias", LoRA(rank=2), Full(layers=1), "full"], ids=str)
def test_warm_start_continues_from_the_weights_of_a_checkpoint(tuning, make, tmp_path):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, tuning=tuning, max_epochs=1, random_state=0, batch_size=3)
    before = clf.decision_function(PAIRS)
    y = clf.classes_[np.arange(3)]
    clf.set_params(warm_start=True, learning_rate=1e-9).fit(PAIRS, y)
    assert clf.n_iter_ == 1
    assert clf.n_features_in_ == 2
    np.testing.assert_allclose(clf.decision_function(PAIRS), before, atol=1e-4)
    with pytest.raises(ValueError, match="X has 1 features"):
        clf.predict(TEXTS)
    for estimator in again(clf, tmp_path):
        np.testing.assert_array_equal(estimator.decision_function(PAIRS), clf.decision_function(PAIRS))
    clf.set_params(learning_rate=1e-2, max_epochs=5).fit(PAIRS, y)
    assert clf.history_["loss"].iloc[-1] < clf.history_["loss"].iloc[0]


def test_warm_start_on_single_texts_or_other_labels(make, tmp_path):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, warm_start=True, tuning="head", max_epochs=1, learning_rate=1e-9)
    before = clf.decision_function(TEXTS)
    with pytest.raises(ValueError, match=r"classes_=\['no', 'yes'\], but the earlier fit found \['contradiction'"):
        clf.fit(TEXTS, ["yes", "no", "yes"])
    np.testing.assert_array_equal(clf.decision_function(TEXTS), before)
    clf.fit(TEXTS, clf.classes_)
    for estimator in again(clf, tmp_path):
        np.testing.assert_allclose(estimator.decision_function(TEXTS), before, atol=1e-5)
        with pytest.raises(ValueError, match="X has 2 features"):
            estimator.predict(PAIRS)
    other = clone(clf).fit(TEXTS, ["yes", "no", "yes"])
    assert other.classes_.tolist() == ["no", "yes"]


def test_partial_fit_continues_from_the_weights_of_a_checkpoint(make):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory, random_state=0, learning_rate=1e-9)
    before = clf.decision_function(PAIRS)
    for n_epochs in (1, 2):
        clf.partial_fit(PAIRS[:2], ["entailment", "neutral"])
        assert clf.n_iter_ == len(clf.history_) == n_epochs
    np.testing.assert_allclose(clf.decision_function(PAIRS), before, atol=1e-4)
    assert clf.history_["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_zero_shot_of_checkpoint_equals_pipeline(family, make):
    labels = {0: "NEUTRAL", 1: "Contradiction", 2: "ENTAILMENT"}
    directory, _ = make(f"{family}ForSequenceClassification", id2label=labels)
    candidates, template = ["music", "the river"], "This example is {}."
    pipeline = transformers.pipeline("zero-shot-classification", str(directory), device="cpu")
    expected = pipeline(TEXTS, candidate_labels=candidates, hypothesis_template=template)
    found = skxlmr.load(directory).zero_shot(TEXTS, candidates, template)
    for row, answer in enumerate(expected):
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        np.testing.assert_allclose(found.iloc[row], [scores[label] for label in candidates], atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
        ["entailment", "neutral", "contradiction"],
        ["entailment", "not_entailment"],
        ["contradiction", "entailment"],
    ],
    ids="-".join,
)
def test_zero_shot_with_multi_label_equals_pipeline(labels, make):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=dict(enumerate(labels)))
    candidates, template = ["music", "the river"], "This example is {}."
    pipeline = transformers.pipeline("zero-shot-classification", str(directory), device="cpu")
    expected = pipeline(TEXTS, candidate_labels=candidates, hypothesis_template=template, multi_label=True)
    found = skxlmr.load(directory).zero_shot(TEXTS, candidates, template, multi_label=True)
    for row, answer in enumerate(expected):
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        np.testing.assert_allclose(found.iloc[row], [scores[label] for label in candidates], atol=1e-5)


def test_zero_shot_with_multi_label_without_contradiction_raises(make):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label={0: "entailment", 1: "other"})
    with pytest.raises(
        ValueError, match=r"needs one class 'contradiction' or 'not_entailment'.*\['entailment', 'other'"
    ):
        skxlmr.load(directory).zero_shot(TEXTS, ["music"], multi_label=True)


def test_zero_shot_of_checkpoint_without_entailment_raises(make):
    directory, _ = make("XLMRobertaForSequenceClassification", num_labels=2)
    with pytest.raises(ValueError, match=r"class 'entailment'.*\['LABEL_0', 'LABEL_1'\].*id2label"):
        skxlmr.load(directory).zero_shot(TEXTS, ["music"])


def test_load_of_long_text_reads_windows(make, oracle):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    long = " ".join(TEXTS * 8)
    assert len(oracle(long)["input_ids"]) > 64
    whole, start = (skxlmr.load(directory, truncation=cut, stride=0) for cut in (False, True))
    assert whole.predict_proba([long]).shape == (1, 3)
    with pytest.warns(UserWarning, match="cut at 64 tokens"):
        assert np.abs(start.decision_function([long]) - whole.decision_function([long])).max() > 1e-3


def test_load_in_8bit_quantises_the_base_only(make):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    exact = skxlmr.load(directory)
    clf = skxlmr.load(directory, load_in_8bit=True, device="cpu")
    assert clf.get_params()["load_in_8bit"] is True
    difference = np.abs(clf.decision_function(PAIRS) - exact.decision_function(PAIRS)).max()
    assert 0 < difference < 0.2
    for name, value in exact._finetuned.state_dict().items():
        assert torch.equal(value, clf._finetuned.state_dict()[name])


def test_load_of_half_precision_and_shards(make, oracle, tmp_path):
    directory, model = make("XLMRobertaForSequenceClassification", id2label=NLI)
    half = type(model).from_pretrained(directory).to(torch.float16)
    half.save_pretrained(tmp_path / "half", max_shard_size="10KB")
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    shutil.copy(directory / "sentencepiece.bpe.model", tmp_path / "half")
    clf = skxlmr.load(tmp_path / "half")
    expected = logits_of(half.float(), oracle, TEXTS).logits.numpy()[:, [2, 1, 0]]
    np.testing.assert_allclose(clf.decision_function(TEXTS), expected, atol=1e-5)
    assert next(clf._finetuned.parameters()).dtype == torch.float32


def renamed(directory, target, rename):
    """Copy a checkpoint with other keys of its tensors."""
    from safetensors.torch import load_file, save_file

    copy_of(directory, target)
    save_file(
        {rename(key): value for key, value in load_file(target / "model.safetensors").items()},
        target / "model.safetensors",
    )
    return target


def test_load_of_old_names_of_layer_norms_equals_transformers(make, oracle, tmp_path):
    directory, model = make("BertForSequenceClassification", id2label=NLI)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    path = renamed(
        directory,
        tmp_path / "old",
        lambda key: key.replace("LayerNorm.weight", old["LayerNorm.weight"]).replace(
            "LayerNorm.bias", old["LayerNorm.bias"]
        ),
    )
    theirs = type(model).from_pretrained(path).eval()
    expected = logits_of(theirs, oracle, TEXTS).logits.numpy()
    np.testing.assert_allclose(expected, logits_of(model, oracle, TEXTS).logits.numpy())
    np.testing.assert_allclose(skxlmr.load(path).decision_function(TEXTS), expected[:, [2, 1, 0]], atol=1e-5)


def test_load_of_keys_with_a_prefix_names_them(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    path = renamed(directory, tmp_path / "wrapped", lambda key: f"module.{key}")
    with pytest.raises(
        CheckpointError, match=r"have other names, such as 'module\.classifier\.dense\.bias'\. Rename them"
    ):
        skxlmr.load(path)


@pytest.mark.parametrize("end", ["qweight", "weight.absmax", "weight_packed", "weight_scale_inv", "W_q"])
def test_load_of_packed_weights_names_the_tensor(end, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    layer = "roberta.encoder.layer.0.attention.self.query."
    path = renamed(directory, tmp_path / "packed", lambda key: layer + end if key == f"{layer}weight" else key)
    with pytest.raises(CheckpointError, match=rf"query\.{end}' is of weights that .* has packed.*load_in_8bit=True"):
        skxlmr.load(path)


def test_load_of_labels_that_are_numbers_and_of_a_model_named_roberta(make, oracle, tmp_path):
    directory, model = make("XLMRobertaForSequenceClassification", id2label=NLI)
    numbers = {"id2label": {"0": 2, "1": 0, "2": 1.5}, "architectures": ["RobertaForSequenceClassification"]}
    clf = skxlmr.load(copy_of(directory, tmp_path / "numbers", **numbers))
    assert clf.classes_.tolist() == ["0", "1.5", "2"]
    expected = logits_of(model, oracle, TEXTS).logits.numpy()[:, [1, 2, 0]]
    np.testing.assert_allclose(clf.decision_function(TEXTS), expected, atol=1e-5)


def without_keys(directory, target, *beginnings, **changes):
    """Copy a checkpoint without the tensors whose keys begin so."""
    from safetensors.torch import load_file, save_file

    copy_of(directory, target, **changes)
    tensors = load_file(target / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith(beginnings)}
    save_file(kept, target / "model.safetensors")
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["XLMRobertaForTokenClassification"]}, r"lack the head.*classifier\.weight.*another head"),
        ({"architectures": ["XLMRobertaForQuestionAnswering"]}, r"lack the head.*qa_outputs\.bias"),
        ({"architectures": ["XLMRobertaForMaskedLM"]}, r"lack the head.*lm_head\.bias"),
        ({"architectures": ["XLMRobertaModel"]}, "a model without a head, but the weights have one: classifier"),
        ({"architectures": None}, "'architectures' is None, so it is not known.*ForSequenceClassification"),
        ({"architectures": ["MyModel"]}, "'architectures' is .'MyModel'., so it is not known"),
        ({"architectures": "XLMRobertaModel"}, "so it is not known what the model was trained for"),
        ({"architectures": [["x"]]}, "so it is not known what the model was trained for"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label has the name 'a' for 2 outputs"),
        ({"id2label": {"0": "a", "1": "c", "7": "b"}}, r"id2label has the numbers \[0, 1, 7\]"),
        (
            {"id2label": {str(i): "a" * 10**6 * (i == 5) + str(i) for i in range(99)}},
            "names in id2label are too long: 'a",
        ),
        ({"id2label": {"0": "a", "1": "b"}}, r"(?s)classifier\.out_proj\.weight: file has \(3, 16\).*Correct id2label"),
        ({"id2label": {"a": "x", "1": "b"}}, "config.json: id2label must map the numbers of the outputs.* key 'a'"),
        ({"model_type": None}, "model_type is None.* Old files lack it: set it"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_load_of_contradictory_checkpoint_raises(changes, message, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    with pytest.raises(CheckpointError, match=message):
        skxlmr.load(copy_of(directory, tmp_path / "changed", **changes))


def test_load_of_checkpoint_without_its_head_raises(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    bare = without_keys(directory, tmp_path / "bare", "classifier.")
    with pytest.raises(CheckpointError, match=r"lack the head of such a model.*as its `model`, and call fit"):
        skxlmr.load(bare)
    partly = without_keys(directory, tmp_path / "partly", "classifier.dense.")
    with pytest.raises(CheckpointError, match=r"lack the head.*classifier\.dense\.bias"):
        skxlmr.load(partly)
    encoder = without_keys(directory, tmp_path / "encoder", "classifier.", architectures=None)
    assert type(skxlmr.load(encoder)) is skxlmr.XLMRXLEmbedder


def test_load_with_unsuitable_parameters_raises(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    with pytest.raises(ValueError, match=r"Invalid parameter 'epochs'.*Did you mean 'max_epochs'"):
        skxlmr.load(directory, epochs=3)
    with pytest.raises(ValueError, match="'pooling' parameter of XLMRXLClassifier must be a str"):
        skxlmr.load(directory, pooling="median")
    with pytest.raises(CheckpointError, match="head is for pooling='cls', and cannot be used with pooling='mean'"):
        skxlmr.load(directory, pooling="mean")
    with pytest.raises(ValueError, match="is another one than the checkpoint"):
        skxlmr.load(directory, model="nano")
    assert skxlmr.load(directory, tuning__rank=2, prompt="the ").get_params()["tuning__rank"] == 2
    prompted, plain = skxlmr.load(directory, prompt="the "), skxlmr.load(directory)
    expected = plain.decision_function(["the city"])
    np.testing.assert_array_equal(prompted.decision_function(["city"]), expected)


def test_load_of_saved_estimator_sets_parameters(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    moved = copy_of(directory, tmp_path / "moved")
    clf = skxlmr.load(directory)
    clf.save(tmp_path / "saved")
    loaded = skxlmr.load(tmp_path / "saved", model=moved, batch_tokens=64, tuning__rank=3)
    assert (loaded.model, loaded.batch_tokens, loaded.tuning.rank) == (moved, 64, 3)
    np.testing.assert_allclose(loaded.decision_function(TEXTS), clf.decision_function(TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        skxlmr.load(tmp_path / "saved", epochs=3)
    with pytest.raises(ValueError, match="'batch_tokens' parameter of XLMRXLClassifier must be") as caught:
        skxlmr.load(tmp_path / "saved", batch_tokens=0)
    assert "damaged" not in str(caught.value)


def test_load_of_directory_with_neither_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"It is empty; expected is one of: estimator\.json .*config\.json"):
        skxlmr.load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match=r"It has notes\.txt; expected is one of"):
        skxlmr.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"is not a directory\. Check the path"):
        skxlmr.load(tmp_path / "nowhere")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        FileNotFoundError, match=r"model\.gguf, of llama\.cpp, is not read: take the model in safetensors"
    ):
        skxlmr.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"is a file; give the directory.* of llama\.cpp, is not read"):
        skxlmr.load(tmp_path / "model.gguf")
    shutil.copytree(BUNDLED["nano"], tmp_path / "checkpoint-5")
    with pytest.raises(FileNotFoundError, match=r"There is a model in its folder 'checkpoint-5': give that\."):
        skxlmr.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json.*There is a model in its folder 'checkpoint-5'"):
        skxlmr.XLMRXLClassifier(tmp_path).fit(TEXTS, [0, 1, 0])


def test_load_of_bundled_model_returns_masked_language_model():
    lm = skxlmr.load("nano")
    assert type(lm) is skxlmr.XLMRXLMaskedLM
    text = ["The film was very <mask>."]
    pd.testing.assert_frame_equal(lm.fill_mask(text), skxlmr.XLMRXLMaskedLM("nano").fill_mask(text))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _find_on_hub.cache_clear()
    yield server
    server.stop()
    _find_on_hub.cache_clear()


def upload(hub, directory):
    hub.commits[MAIN] = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_load_of_saved_estimator_from_hub(hub, make, tmp_path, monkeypatch):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory)
    clf.save(tmp_path / "saved")
    (tmp_path / "saved" / "notes.txt").write_text("mine")
    upload(hub, tmp_path / "saved")
    loaded = skxlmr.load(REPO, batch_tokens=64)
    assert loaded.batch_tokens == 64
    np.testing.assert_allclose(loaded.decision_function(TEXTS), clf.decision_function(TEXTS), atol=1e-6)
    assert "notes.txt" not in hub.downloaded
    with pytest.raises(CheckpointError, match=r"it holds a fitted estimator\. Use skxlmr\.load"):
        skxlmr.XLMRXLClassifier(REPO).fit(TEXTS, [0, 1, 0])
    hub.stop()
    np.testing.assert_array_equal(skxlmr.load(REPO).predict(TEXTS), clf.predict(TEXTS))  # of the cache


def test_load_of_old_sentence_transformers_from_hub(hub, make, tmp_path):
    directory, _ = make("XLMRobertaModel")
    modules = [Transformer(str(directory)), Pooling(16, pooling_mode="cls"), Dense(16, 4)]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path / "new"))
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "new", old)
    (old / "0_Transformer").mkdir()
    for path in (*old.glob("tokenizer*"), *old.glob("model*"), old / "config.json", old / "sentence_bert_config.json"):
        path.rename(old / "0_Transformer" / path.name)
    listed = json.loads((old / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(listed))
    upload(hub, old)
    embedder = skxlmr.load(REPO)
    np.testing.assert_allclose(embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    hub.stop()
    _find_on_hub.cache_clear()
    np.testing.assert_allclose(skxlmr.load(REPO).transform(TEXTS), model.encode(TEXTS), atol=1e-5)  # of the cache


def test_load_from_hub_says_what_is_there_instead(hub):
    for names, message in {
        (
            "sub/config.json",
            "sub/model.safetensors",
        ): r"There is a model in its folder 'sub': give that, as snapshot_down",
        ("model.gguf",): r"no config\.json\. model\.gguf, of llama\.cpp, is not read",
        ("config.json", "tf_model.h5"): r"no weights.*tf_model\.h5, of TensorFlow, is not read",
        (
            "config.json",
            "model.fp16.safetensors",
        ): r"variant='fp16': .* rename the files, such as model\.fp16\.safetensors",
    }.items():
        hub.commits[MAIN] = dict.fromkeys(names, b"{}")
        with pytest.raises(CheckpointError, match=message):
            skxlmr.load(REPO)


def test_load_from_hub_at_revision(hub, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    other, _ = make("XLMRobertaForSequenceClassification", num_labels=1)
    for commit, path in ((MAIN, directory), (OLD, other)):
        hub.commits[commit] = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    clf = skxlmr.load(REPO)
    assert clf.model == REPO
    np.testing.assert_array_equal(clf.decision_function(TEXTS), skxlmr.load(directory).decision_function(TEXTS))
    reg = skxlmr.load(f"{REPO}@v1")
    assert type(reg) is skxlmr.XLMRXLRegressor
    np.testing.assert_array_equal(reg.predict(TEXTS), skxlmr.load(other).predict(TEXTS))
    clf.save(tmp_path / "saved")
    assert skxlmr.load(tmp_path / "saved").predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
