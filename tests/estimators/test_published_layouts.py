"""Checkpoints with the files, entries and keys of well-known ones on the hub, with random weights: they load."""

import json
import shutil

import numpy as np
import pytest
import sentence_transformers
import torch
from loaded_checkpoints import PAIRS, TEXTS, logits_of

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.columns import as_objects

# Entries of config.json of earlier versions of transformers, which have no effect.
OLD = {"gradient_checkpointing": False, "output_past": True, "_num_labels": 3, "max_length": 20, "min_length": 0}
NLI = {"0": "contradiction", "1": "neutral", "2": "entailment"}
SENTIMENT = {"0": "negative", "1": "neutral", "2": "positive"}
LANGUAGES = {"0": "ja", "1": "nl", "2": "ar", "3": "pl", "4": "de", "5": "it", "6": "pt"}
NER = ["O", "B-DATE", "I-DATE", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
CONLL = ["B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O"]  # IOB1, without B-PER
SPM = ("sentencepiece.bpe.model",)
PUNCTUATION = ["0", ".", ",", "?", "-", ":"]


def numbered(labels):
    return {str(i): label for i, label in enumerate(labels)}


CLASSIFIERS = {
    "cardiffnlp/twitter-xlm-roberta-base-sentiment": {"id2label": SENTIMENT, **OLD},
    "joeddav/xlm-roberta-large-xnli": {"id2label": NLI, "finetuning_task": "xnli", "xla_device": True, **OLD},
    "papluca/xlm-roberta-base-language-detection": {
        "id2label": LANGUAGES, "problem_type": "single_label_classification", "use_cache": True,
        "torch_dtype": "float32", "transformers_version": "4.12.5", "classifier_dropout": None,
    },
    "textdetox/xlmr-large-toxicity-classifier": {"output_past": True, "id2label": numbered(["LABEL_0", "LABEL_1"])},
}  # fmt: skip
TAGGERS = {
    "Davlan/xlm-roberta-base-ner-hrl": ({"id2label": numbered(NER)}, "BIO"),
    "FacebookAI/xlm-roberta-large-finetuned-conll03-english": ({"id2label": numbered(CONLL), **OLD}, "IOB1"),
    "oliverguhr/fullstop-punctuation-multilang-large": ({"id2label": numbered(PUNCTUATION)}, "plain"),
    "tner/xlm-roberta-base-panx-dataset-en": (
        {"id2label": numbered(NER), "crf_state_dict": {"_constraint_mask": [[0.0, 1.0]], "transitions": [[0.1]]}},
        "BIO",
    ),
}


def published(make, name, target, entries, *, buffers=True, bare=False, pooler=True, safe=False, tokenizer=SPM):
    """Write a checkpoint as earlier versions of transformers did; returns the model of transformers."""
    labels = {int(i): label for i, label in entries.get("id2label", {}).items()} or None
    directory, model = make(name, **({} if labels is None else {"id2label": labels}))
    target.mkdir()
    for of_tokenizer in (*tokenizer, "tokenizer_config.json", "special_tokens_map.json"):
        if (directory / of_tokenizer).exists():
            shutil.copy(directory / of_tokenizer, target)
    config = json.loads((directory / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("dtype", "transformers_version")} | entries
    (target / "config.json").write_text(json.dumps(config, indent=2))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    base = "" if name.endswith("Model") else f"{model.base_model_prefix}."
    width = config["hidden_size"]
    if buffers:
        state[f"{base}embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
    if pooler:  # models with a head had one, too, before version 4
        state.setdefault(f"{base}pooler.dense.weight", torch.randn(width, width))
        state.setdefault(f"{base}pooler.dense.bias", torch.randn(width))
    if bare:
        state = {key.removeprefix(base): tensor for key, tensor in state.items()}
    if safe:
        from safetensors.torch import save_file

        save_file(state, target / "model.safetensors", {"format": "pt"})
    else:
        torch.save(state, target / "pytorch_model.bin")
    for other in ("tf_model.h5", "flax_model.msgpack", "README.md", ".gitattributes"):
        (target / other).write_bytes(b"\0other")
    return model


@pytest.mark.filterwarnings("ignore:.* has tensors that are not loaded")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_load_of_published_classifier(name, make, oracle, tmp_path):
    model = published(make, "XLMRobertaForSequenceClassification", tmp_path / "model", CLASSIFIERS[name])
    clf = skxlmr.load(tmp_path / "model")
    names = list(CLASSIFIERS[name]["id2label"].values())
    assert clf.classes_.tolist() == sorted(names)
    expected = logits_of(model, oracle, PAIRS, True).logits.numpy()[:, np.argsort(names)]
    found = clf.decision_function(PAIRS)
    np.testing.assert_allclose(found, expected[:, 1] - expected[:, 0] if len(names) == 2 else expected, atol=1e-5)
    if set(names) == set(NLI.values()):
        assert clf.zero_shot(["music"], ["sports", "music"]).shape == (1, 2)


@pytest.mark.parametrize("name", TAGGERS)
def test_load_of_published_tagger(name, make, oracle, tmp_path):
    entries, scheme = TAGGERS[name]
    model = published(make, "XLMRobertaForTokenClassification", tmp_path / "model", entries, pooler=False)
    tagger = skxlmr.load(tmp_path / "model")
    assert tagger.scheme_ == scheme
    sentence = ["the", "river", "is", "wide"]
    batch = oracle([sentence], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits[0].softmax(-1).numpy()
    first = [batch.word_ids(0).index(i) for i in range(4)]
    labels = list(entries["id2label"].values())
    order = [labels.index(label) for label in tagger.classes_]
    np.testing.assert_allclose(tagger.predict_proba([sentence])[0], logits[first][:, order], atol=1e-5)
    assert len(tagger.predict([sentence])[0]) == 4


def test_load_of_published_question_answering(make, oracle, tmp_path):
    """deepset/xlm-roberta-base-squad2."""
    entries = {"language": "english", "name": "XLMRoberta", "summary_type": "first", **OLD}
    model = published(make, "XLMRobertaForQuestionAnswering", tmp_path / "model", entries)
    qa = skxlmr.load(tmp_path / "model", align_to_words=False)
    row = ["the river", "the train left the city"]
    batch = oracle(*row, return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"])
    shown = [0, *(i for i, sequence in enumerate(batch.sequence_ids(0)) if sequence == 1)]
    expected = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], 1)[shown].numpy()
    (found,) = qa._run(qa._check_fitted_column([row]), lambda of_pieces, plan: as_objects([of_pieces]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert qa.predict([row]).shape == (1,)


def test_load_of_published_language_model(make, oracle, tmp_path):
    """FacebookAI/xlm-roberta-base and facebook/xlm-roberta-xl; cardiffnlp/twitter-xlm-roberta-base has no tokenizer."""
    for number, name in enumerate(("XLMRobertaForMaskedLM", "XLMRobertaXLForMaskedLM")):
        model = published(make, name, tmp_path / str(number), {"model_type": "xlm-roberta"} if number else OLD)
        lm = skxlmr.load(tmp_path / str(number))
        ids = oracle("the <mask> is wide", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0, ids[0].tolist().index(oracle.mask_token_id)].softmax(-1)
        expected[oracle.all_special_ids] = 0
        found = lm.fill_mask(["the <mask> is wide"], top_k=3)["score"]
        np.testing.assert_allclose(found, expected.topk(3).values.numpy(), atol=1e-5)


MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
OF_OLD_VERSIONS = {"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.7.0", "pytorch": "1.9.0+cu102"}}
SNOWFLAKE = {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
# Class, entries of config.json, pooling, whether vectors are normalised, and config_sentence_transformers.json.
EMBEDDERS = {
    "intfloat/multilingual-e5-base": ("XLMRobertaModel", {"output_past": True}, MEAN, True, None),
    "intfloat/multilingual-e5-small": ("BertModel", {"tokenizer_class": "XLMRobertaTokenizer"}, MEAN, True, None),
    "BAAI/bge-m3": ("XLMRobertaModel", {"output_past": True, "use_cache": True}, CLS, True, OF_OLD_VERSIONS),
    "Snowflake/snowflake-arctic-embed-l-v2.0": ("XLMRobertaModel", {}, CLS, True, SNOWFLAKE),
    "paraphrase-multilingual-mpnet-base-v2": ("XLMRobertaModel", {"_name_or_path": "o"}, MEAN, False, OF_OLD_VERSIONS),
    "paraphrase-multilingual-MiniLM-L12-v2": ("BertModel", {"use_cache": True}, MEAN, False, OF_OLD_VERSIONS),
    "paraphrase-xlm-r-multilingual-v1": ("XLMRobertaModel", OLD, MEAN, False, None),
}  # fmt: skip


def write_modules(directory, width, pooling, normalises, config):
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalises else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": width, **pooling}))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 60, "do_lower_case": false}')
    if config is not None:
        (directory / "config_sentence_transformers.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", EMBEDDERS)
def test_load_of_published_embedder_equals_sentence_transformers(name, make, tmp_path):
    kind, entries, pooling, normalises, config = EMBEDDERS[name]
    tokenizer = ("tokenizer.json",) if "Snowflake" in name else ("sentencepiece.bpe.model", "tokenizer.json")
    published(make, kind, tmp_path / "model", entries, bare=True, tokenizer=tokenizer)
    write_modules(tmp_path / "model", 16, pooling, normalises, config)
    if "MiniLM" in name:  # its tokenizer has these entries of BERT's, and does not apply them
        path = tmp_path / "model" / "tokenizer_config.json"
        of_bert = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
        path.write_text(json.dumps(json.loads(path.read_text()) | of_bert))
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    embedder, texts = skxlmr.load(tmp_path / "model"), [*TEXTS, "The River", "MÜSIC 我喜欢 早上"]
    np.testing.assert_allclose(embedder.transform(texts), theirs.encode(texts), atol=1e-5)
    clf = skxlmr.XLMRXLClassifier(tmp_path / "model", max_epochs=1, tuning="head", random_state=0)
    assert clf.fit(TEXTS, ["a", "b", "a"]).predict(TEXTS).shape == (3,)


RERANKERS = {
    "BAAI/bge-reranker-v2-m3": {"id2label": {"0": "LABEL_0"}, "torch_dtype": "float32", "output_past": True},
    "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1": {
        "id2label": {"0": "LABEL_0"}, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
        **OLD,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RERANKERS)
def test_load_of_published_reranker(name, make, oracle, tmp_path):
    model = published(make, "XLMRobertaForSequenceClassification", tmp_path / "model", RERANKERS[name], safe=True)
    expected = logits_of(model, oracle, PAIRS, True).logits.numpy()[:, 0]
    np.testing.assert_allclose(skxlmr.load(tmp_path / "model").predict(PAIRS), expected, atol=1e-5)


CUSTOM = {"auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"}}


def test_checkpoint_with_code_of_its_own_says_so(make, tmp_path):
    """jinaai/jina-reranker-v2-base-multilingual and jinaai/jina-embeddings-v3."""
    model = published(make, "XLMRobertaForSequenceClassification", tmp_path / "model", CUSTOM)
    state = {key.replace("encoder.layer.", "encoder.layers.").replace("attention.self.query", "mixer.Wqkv"): tensor
             for key, tensor in model.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing: .*\n(.*\n)*The auto_map of its config.json names Python code"):
        skxlmr.load(tmp_path / "model").predict(PAIRS)
    with pytest.raises(CheckpointError, match=r"auto_map"):
        skxlmr.XLMRXLClassifier(tmp_path / "model").fit(TEXTS, ["a", "b", "a"])
