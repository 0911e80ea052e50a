"""Adapters of peft with trained, resized and partly trained embeddings: what is loaded computes what peft computes."""

import json
import pickle

import numpy as np
import peft
import pytest
import torch
import transformers
from peft_adapters import CLOSE, FAMILIES, TEXTS, WARNINGS_OF_PEFT, load
from safetensors.torch import load_file, save_file

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone

pytestmark = [
    *WARNINGS_OF_PEFT,
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),  # in peft
]
NEW = ["<user>", "<url>", "<mail>"]
TOKENS = [*TEXTS, "I <url> loved it <user>"]
TRAINED = ("bias", "lora_B", "lora_embedding", "tokens_delta", "modules_to_save", "classifier")
OPTIONS = {
    "resized": {"n_new": 3},
    "resized and trained": {"n_new": 3, "modules_to_save": ["word_embeddings"]},
    "trained": {"modules_to_save": ["word_embeddings"]},
    "tokens": {"trainable_token_indices": [4, 9, 300]},
    "new tokens": {"n_new": 3, "trainable_token_indices": {"word_embeddings": [9502, 9504]}},
    "low rank": {"target_modules": ["query", "word_embeddings"]},
    "low rank and resized": {"n_new": 3, "target_modules": ["query", "word_embeddings"]},
    "others": {"target_modules": ["query", "position_embeddings"], "modules_to_save": ["token_type_embeddings"]},
}
NAMES = [("xlm-roberta-xl", name) for name in OPTIONS] + [
    ("xlm-roberta", "resized and trained"),
    ("xlm-roberta", "tokens"),
]
LANGUAGE_MODELS = [("ForMaskedLM", name) for name in OPTIONS if name != "low rank and resized"]
LANGUAGE_MODELS += [("ForCausalLM", name) for name in ("resized and trained", "tokens")]


def make(directory, base, ending, task, kind="xlm-roberta-xl", n_new=0, is_decoder=False, **options):
    """Write an adapter on a model with `n_new` more tokens; returns peft's model, and its tokenizer."""
    tokenizer = XLMRobertaXLTokenizer.from_pretrained(base)
    config = transformers.AutoConfig.from_pretrained(base, is_decoder=is_decoder)
    torch.manual_seed(2)
    model = getattr(transformers, FAMILIES[kind] + ending).from_pretrained(base, config=config)
    if n_new:
        tokenizer.add_tokens(NEW[:n_new])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(directory)
    if isinstance(options.get("peft_type"), type):
        settings = options.pop("peft_type")(task_type=task, **options)
    else:
        settings = peft.LoraConfig(task_type=task, **{"r": 2, "target_modules": ["query"], **options})
    model = peft.get_peft_model(model, settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and any(part in name for part in TRAINED):
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model.eval(), tokenizer


@torch.no_grad()
def outputs_of(model, tokenizer, texts):
    return model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.numpy()


def base_states(base):
    return skxlmr.XLMRXLEmbedder(base, device="cpu", dtype="float32").fit_transform(TEXTS)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_load_of_classifier_equals_peft(kind, name, bases, tmp_path):
    before = base_states(bases[kind])
    model, tokenizer = make(tmp_path / "a", bases[kind], "ForSequenceClassification", "SEQ_CLS", kind, **OPTIONS[name])
    texts = TOKENS if OPTIONS[name].get("n_new") else TEXTS
    expected = outputs_of(model, tokenizer, texts)
    clf = load(tmp_path / "a")
    np.testing.assert_allclose(clf._outputs(texts), expected, **CLOSE)
    assert clf.model == tmp_path / "a"
    clf.save(tmp_path / "saved")
    clf.export_pretrained(tmp_path / "merged")
    for again in (skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(clf)), load(tmp_path / "merged")):
        np.testing.assert_allclose(again._outputs(texts), expected, **CLOSE)
    merged = type(model.base_model.model).from_pretrained(tmp_path / "merged").eval()
    np.testing.assert_allclose(outputs_of(merged, tokenizer, texts), expected, **CLOSE)
    np.testing.assert_array_equal(base_states(bases[kind]), before)  # the base that others share


@pytest.mark.parametrize(("ending", "name"), LANGUAGE_MODELS)
def test_load_of_language_model_equals_peft(ending, name, bases, tmp_path):
    """The decoder is tied to rows that are trained, and not to other changes of the embedding of inputs."""
    causal = ending == "ForCausalLM"
    task = "CAUSAL_LM" if causal else None
    base = bases["xlm-roberta-xl"]
    model, tokenizer = make(tmp_path / "a", base, ending, task, is_decoder=causal, **OPTIONS[name])
    text = TOKENS[-1] if OPTIONS[name].get("n_new") else TEXTS[0]
    if "tokens" in name:  # peft leaves out the bias of the decoder until it is merged
        model = model.merge_and_unload()
    expected = outputs_of(model, tokenizer, [text])[0]
    estimator = load(tmp_path / "a")
    np.testing.assert_allclose(token_outputs(estimator, text), expected, **CLOSE)
    estimator.save(tmp_path / "saved")
    np.testing.assert_allclose(token_outputs(skxlmr.load(tmp_path / "saved"), text), expected, **CLOSE)
    estimator.export_pretrained(tmp_path / "merged")
    merged = getattr(transformers, f"XLMRobertaXL{ending}").from_pretrained(tmp_path / "merged").eval()
    np.testing.assert_allclose(outputs_of(merged, tokenizer, [text])[0], expected, **CLOSE)


def test_training_goes_on_from_an_adapter_with_a_decoder_of_its_own(bases, tmp_path):
    base = bases["xlm-roberta"]
    model, tokenizer = make(tmp_path, base, "ForMaskedLM", None, "xlm-roberta", modules_to_save=["lm_head"])
    lm = load(tmp_path, warm_start=True, tuning="full", max_epochs=1, learning_rate=1e-9, random_state=0)
    expected = outputs_of(model, tokenizer, TEXTS[:1])[0]
    np.testing.assert_allclose(token_outputs(lm, TEXTS[0]), expected, **CLOSE)
    lm.fit(TEXTS)
    np.testing.assert_allclose(token_outputs(lm, TEXTS[0]), expected, rtol=1e-4, atol=1e-4)
    assert lm._finetuned.head.decoder is not None


def token_outputs(estimator, text):
    """Outputs of the head for all tokens of a text."""
    backbone, finetuned = estimator._fitted_backbone(), estimator._finetuned
    ids = np.array(backbone.tokenizer(text)["input_ids"])
    with torch.no_grad():
        batch = finetuned.batch(backbone, [ids], [np.arange(len(ids))])
        states = finetuned.embed(backbone, batch.to(backbone.model.device))
        return finetuned.head(states, finetuned.words(backbone.model)).numpy()


@pytest.mark.parametrize("load_in_8bit", [False, True])
def test_estimator_is_fitted_on_adapter_with_new_tokens(load_in_8bit, bases, tmp_path):
    base = bases["xlm-roberta-xl"]
    model, tokenizer = make(tmp_path, base, "Model", "FEATURE_EXTRACTION", **OPTIONS["resized and trained"])
    embedder = skxlmr.XLMRXLEmbedder(tmp_path, pooling="cls", device="cpu", dtype="float32", load_in_8bit=load_in_8bit)
    batch = tokenizer(TOKENS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(embedder.fit_transform(TOKENS), expected, atol=0.1 if load_in_8bit else 1e-5)
    clf = skxlmr.XLMRXLClassifier(tmp_path, tuning="lora", max_epochs=1, random_state=0, device="cpu")
    assert clf.fit(TOKENS, list("ababa")).predict(TOKENS).shape == (5,)


def test_load_of_trained_tokens_alone_equals_peft(bases, tmp_path):
    options = {"peft_type": peft.TrainableTokensConfig, "token_indices": [4, 9], "target_modules": ["word_embeddings"]}
    model, tokenizer = make(tmp_path / "a", bases["bert"], "ForSequenceClassification", None, "bert", **options)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "FEATURE_EXTRACTION"}))
    inner = model.base_model.model.bert
    with torch.no_grad():
        expected = inner(**tokenizer(TEXTS, padding=True, return_tensors="pt")).last_hidden_state[:, 0].numpy()
    embedder = skxlmr.XLMRXLEmbedder(tmp_path / "a", pooling="cls", device="cpu", dtype="float32")
    np.testing.assert_allclose(embedder.fit_transform(TEXTS), expected, **CLOSE)


def test_tokenizer_of_the_adapter_with_the_same_tokens_shares_the_base(bases, tmp_path):
    make(tmp_path, bases["xlm-roberta"], "ForSequenceClassification", "SEQ_CLS", "xlm-roberta")
    expected = load(tmp_path)
    get_backbone("nano").tokenizer.save_pretrained(tmp_path)
    clf = load(tmp_path)
    assert clf.model == bases["xlm-roberta"]
    assert clf._base.fingerprint == expected._base.fingerprint


def edit_config(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory, change):
    tensors = load_file(directory / "adapter_model.safetensors")
    save_file({name: change(name, tensor) for name, tensor in tensors.items()}, directory / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: edit_config(d, trainable_token_indices=[4]), r"\(trainable_token_indices\) are \[4\]"),
        (lambda d: edit_config(d, trainable_token_indices=[4, 4, 9]), r"are \[4, 4, 9\]"),
        (lambda d: edit_config(d, trainable_token_indices=None), "are None"),
        (lambda d: edit_config(d, trainable_token_indices=[4, 9, 9502]), "is for rows of a matrix that is not"),
        (lambda d: edit_config(d, trainable_token_indices=[4, 9, -1]), "is for rows of a matrix that is not"),
        (lambda d: edit_config(d, trainable_token_indices=["4", "9", "11"]), "trainable_token_indices"),
        (lambda d: edit_tensors(d, lambda k, t: t[:, :8].clone() if "tokens_delta" in k else t), "is for rows of"),
    ],
    ids=["fewer", "twice", "none", "too large", "negative", "strings", "narrow"],
)
def test_rows_that_do_not_fit_are_refused(change, message, bases, tmp_path):
    make(tmp_path, bases["xlm-roberta"], "ForSequenceClassification", "SEQ_CLS", "xlm-roberta", **OPTIONS["tokens"])
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_low_rank_embedding_with_dora_is_refused(bases, tmp_path):
    options = {"target_modules": ["query", "word_embeddings"], "use_dora": True}
    make(tmp_path, bases["xlm-roberta"], "ForSequenceClassification", "SEQ_CLS", "xlm-roberta", **options)
    with pytest.raises(CheckpointError, match=r"DoRA on an embedding.*merge_and_unload"):
        load(tmp_path)
