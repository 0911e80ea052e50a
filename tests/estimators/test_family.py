"""Estimators on checkpoints of XLM-RoBERTa and BERT, with random weights and the bundled vocabulary."""

import json
import pickle
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers

import skxlmr
from skxlmr import (
    Bias,
    Full,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLTagger,
)
from skxlmr.model import (
    BertConfig,
    NewHeadWarning,
    XLMRobertaConfig,
    XLMRobertaXLForCausalLM,
    XLMRobertaXLForMaskedLM,
)
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["a wonderful film", "很好看的电影", "dreadful", "I loved every minute of it", "", "un film magnifique 🎬"]
LABELS = ["good", "good", "bad", "good", "bad", "good"]
SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directory of a checkpoint of each model type, written by transformers."""
    tokenizer, directories = get_backbone("nano").tokenizer, {}
    for kind, cls, config in (
        ("xlm-roberta", transformers.XLMRobertaForMaskedLM, transformers.XLMRobertaConfig),
        ("bert", transformers.BertModel, transformers.BertConfig),
    ):
        directory = directories[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        positions = 514 if kind == "xlm-roberta" else 512
        settings = {"max_position_embeddings": positions, "vocab_size": tokenizer.vocab_size, "initializer_range": 0.1}
        cls(config(**SHAPE, **settings)).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directories


def embeddings_of(directory, texts):
    """Mean over the tokens of each text, computed by transformers one text at a time."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokenizer = get_backbone("nano").tokenizer
    with torch.no_grad():
        states = [model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0] for text in texts]
    return np.stack([of_text.mean(0).numpy() for of_text in states])


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_embedder_equals_transformers(kind, checkpoints):
    embedder = XLMRXLEmbedder(checkpoints[kind], device="cpu", dtype="float32").fit(TEXTS)
    expected = embeddings_of(checkpoints[kind], TEXTS)
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, atol=1e-5)
    eight_bit = XLMRXLEmbedder(checkpoints[kind], device="cpu", load_in_8bit=True).fit_transform(TEXTS)
    cosine = (eight_bit * expected).sum(1) / np.linalg.norm(eight_bit, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99
    config = embedder._fitted_backbone().model.config
    assert type(config) is {"xlm-roberta": XLMRobertaConfig, "bert": BertConfig}[kind]
    long = ["word " * 700]
    assert np.isfinite(embedder.transform(long)).all()


@pytest.mark.parametrize("tuning", [LoRA(rank=2), LoRA(layers=1), Bias(), "head", Full(layers=1), "full"], ids=str)
@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_classifier_with_each_tuning_survives_pickle_save_and_export(kind, tuning, checkpoints, tmp_path):
    clf = XLMRXLClassifier(checkpoints[kind], tuning=tuning, pooling="cls", max_epochs=3, random_state=0, device="cpu")
    clf.fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    clf.save(tmp_path / "saved")
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path / "saved")):
        np.testing.assert_array_equal(again.predict_proba(TEXTS), expected)
    clf.export_pretrained(tmp_path / "exported")
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert written["architectures"] == [f"{clf._finetuned.config.architecture}ForSequenceClassification"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    batch = get_backbone("nano").tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits.softmax(-1).numpy()
    np.testing.assert_allclose(expected, logits, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft
def test_export_adapter_of_bert_classifier_equals_peft(checkpoints, tmp_path):
    clf = XLMRXLClassifier(checkpoints["bert"], pooling="cls", max_epochs=2, random_state=0, device="cpu").fit(
        TEXTS, LABELS
    )
    clf.export_adapter(tmp_path)
    base = transformers.BertForSequenceClassification.from_pretrained(checkpoints["bert"], num_labels=2)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    batch = get_backbone("nano").tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(clf.predict_proba(TEXTS), model(**batch).logits.softmax(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("cls", [XLMRXLMaskedLM, XLMRXLGenerator])
def test_export_pretrained_of_bert_language_model_equals_transformers_and_reloads(cls, checkpoints, tmp_path):
    with pytest.warns(NewHeadWarning, match="lm_head"):
        lm = cls(checkpoints["bert"], max_epochs=1, random_state=0, device="cpu", dtype="float32").fit(TEXTS)
    lm.export_pretrained(tmp_path)
    kind = {XLMRXLMaskedLM: "BertForMaskedLM", XLMRXLGenerator: "BertLMHeadModel"}[cls]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind]
    ids = torch.tensor([get_backbone("nano").tokenizer("a wonderful film")["input_ids"]])
    ours = XLMRobertaXLForMaskedLM if cls is XLMRXLMaskedLM else XLMRobertaXLForCausalLM
    with torch.no_grad():
        expected = getattr(transformers, kind).from_pretrained(tmp_path).eval()(ids).logits
        torch.testing.assert_close(ours.from_pretrained(tmp_path)(ids).logits, expected, rtol=0, atol=1e-5)
    again = cls(tmp_path, tuning="head", learning_rate=1e-9, max_epochs=1, random_state=0, device="cpu")
    again.set_params(dtype="float32").fit(TEXTS)  # a new head would raise NewHeadWarning
    assert again.score(TEXTS) == pytest.approx(lm.score(TEXTS), abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised within peft
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_exports_of_bert_tagger_equal_transformers_and_peft(tuning, checkpoints, tmp_path):
    words = [text.split() or ["."] for text in TEXTS]
    tags = [["long" if len(word) > 4 else "short" for word in row] for row in words]
    tagger = XLMRXLTagger(checkpoints["bert"], tuning=tuning, max_epochs=2, random_state=0, device="cpu")
    tagger.fit(words, tags).export_pretrained(tmp_path / "exported")
    models = [transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "exported")]
    assert type(models[0]) is transformers.BertForTokenClassification
    if tuning == "lora":
        tagger.export_adapter(tmp_path / "adapter")
        base = transformers.BertForTokenClassification.from_pretrained(checkpoints["bert"], num_labels=2)
        models.append(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"))
    ids = torch.tensor([get_backbone("nano").tokenizer("film")["input_ids"]])
    (expected,) = tagger._finetuned.run(
        tagger._fitted_backbone(),
        tagger._new_task().plan(tagger._fitted_backbone(), tagger._check_column([["film"]])),
        512,
    )
    for model in models:
        with torch.no_grad():
            np.testing.assert_allclose(model.eval()(ids).logits[0, 1].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["TokenClassification", "QuestionAnswering", "MultipleChoice", "MaskedLM"])
def test_from_pretrained_of_bert_heads_equals_transformers(kind, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SHAPE, vocab_size=60, max_position_embeddings=20, initializer_range=0.3)
    config.hidden_act = "relu"  # also in its language-model head
    theirs = getattr(transformers, f"BertFor{kind}")(config).double().eval()
    theirs.save_pretrained(tmp_path)
    native = getattr(skxlmr.model, f"XLMRobertaXLFor{kind}").from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.randint(5, 60, (2, 3, 7) if kind == "MultipleChoice" else (2, 7))
    with torch.no_grad():
        expected, got = theirs(ids), native(ids)
    for name in ("start_logits", "end_logits") if kind == "QuestionAnswering" else ("logits",):
        assert torch.allclose(got[name], expected[name], rtol=0, atol=1e-9)
    native.save_pretrained(tmp_path / "again")
    again = getattr(transformers, f"BertFor{kind}").from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_tagger_masked_lm_and_multiple_choice_predict(checkpoints):
    directory = checkpoints["xlm-roberta"]
    tags = [["long" if len(word) > 4 else "short" for word in text.split()] for text in TEXTS]
    words = [text.split() for text in TEXTS]
    tagger = XLMRXLTagger(directory, max_epochs=1, random_state=0, device="cpu").fit(words, tags)
    assert [len(row) for row in tagger.predict(words)] == [len(row) for row in words]
    lm = XLMRXLMaskedLM(directory, device="cpu")
    reference = transformers.XLMRobertaForMaskedLM.from_pretrained(directory).eval()
    ids = torch.tensor([get_backbone("nano").tokenizer("a <mask> film")["input_ids"]])
    with torch.no_grad():
        at = (ids[0] == get_backbone("nano").tokenizer.mask_token_id).nonzero()[0, 0]
        best = reference(ids).logits[0, at].softmax(-1).max().item()
    assert lm.fill_mask(["a <mask> film"], top_k=1).score[0] == pytest.approx(best, rel=1e-3)
    chooser = XLMRXLMultipleChoice(checkpoints["bert"], max_epochs=1, random_state=0, device="cpu")
    assert chooser.fit([("a", ["b", "c"]), ("d", ["e"])], [1, 0]).predict([("a", ["b", "c"])]).shape == (1,)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalized", [False, True])
def test_embedder_on_sentence_transformers_directory_follows_its_modules(pooling, normalized, checkpoints, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

        transformer = Transformer(str(checkpoints["xlm-roberta"]))
        modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
        model = SentenceTransformer(modules=[*modules, *([Normalize()] if normalized else [])], device="cpu")
        model.save(str(tmp_path))
        expected = model.encode(TEXTS, batch_size=2)
    assert not (tmp_path / "sentencepiece.bpe.model").exists()  # only tokenizer.json is written
    embedder = XLMRXLEmbedder(tmp_path, device="cpu", dtype="float32").fit(TEXTS)
    assert (embedder.pooling_, embedder.normalize_, embedder.prompt_) == (pooling, normalized, "")
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, atol=1e-5)


def test_embedder_default_prompt_is_that_of_checkpoint(checkpoints, tmp_path):
    directory = checkpoints["bert"]
    plain = XLMRXLEmbedder(directory, device="cpu").fit(TEXTS)
    assert plain.prompt_ == ""
    prompted = XLMRXLEmbedder(directory, prompt="passage: ", device="cpu").fit_transform(TEXTS)
    np.testing.assert_array_equal(prompted, plain.transform(["passage: " + text for text in TEXTS]))
    named = tmp_path / "multilingual-e5-tiny"
    named.symlink_to(directory)
    e5 = XLMRXLEmbedder(named, device="cpu").fit(TEXTS)
    assert e5.prompt_ == "query: "
    np.testing.assert_array_equal(e5.transform(TEXTS), plain.transform(["query: " + text for text in TEXTS]))
    assert XLMRXLEmbedder(named, prompt=None, device="cpu").fit(TEXTS).prompt_ == ""
    own = shutil.copytree(directory, tmp_path / "multilingual-e5-of-mine")
    said = {"prompts": {"document": "passage: "}, "default_prompt_name": "document"}
    (own / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert XLMRXLEmbedder(own, device="cpu").fit(TEXTS).prompt_ == "passage: "
    instruct = tmp_path / "multilingual-e5-large-instruct"  # documents have no prompt, queries an instruction
    instruct.symlink_to(directory)
    assert XLMRXLEmbedder(instruct, device="cpu").fit(TEXTS).prompt_ == ""
