"""Adapters that peft has written: the estimator of `skxlmr.load` computes what peft computes."""

import json
import pickle
import shutil
import warnings

import numpy as np
import peft
import pytest
import safetensors.torch
import skops.io
import torch
import transformers
from peft_adapters import CLOSE, SEQUENCES, TEXTS, WARNINGS_OF_PEFT, edit, load, logits_of, make_adapter, write_base

import skxlmr
from skxlmr import Head, LoRA
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone

pytestmark = WARNINGS_OF_PEFT


@pytest.fixture
def adapter(base, tmp_path):
    """A directory with an adapter of a classifier of two classes."""
    make_adapter(tmp_path / "adapter", base, *SEQUENCES, target_modules=["query", "value"])
    return tmp_path / "adapter"


def edit_tensors(directory, change):
    path = directory / "adapter_model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def token_outputs(estimator, text):
    """Outputs of the head for all tokens of a text."""
    backbone, finetuned = estimator._fitted_backbone(), estimator._finetuned
    ids = np.array(backbone.tokenizer(text)["input_ids"])
    with torch.no_grad():
        batch = finetuned.batch(backbone, [ids], [np.arange(len(ids))])
        states = finetuned.embed(backbone, batch.to(backbone.model.device))
        if hasattr(finetuned.head, "losses"):
            return finetuned.head(states, finetuned.words(backbone.model)).numpy()
        return finetuned.head(states).numpy()


OPTIONS = {
    "list": (
        {"target_modules": ["query", "intermediate.dense"], "lora_dropout": 0.1},
        {"targets": ("query", "up"), "dropout": 0.1},
    ),
    "regex": ({"target_modules": r".*layer\.[01]\..*(query|key)"}, {"targets": ("query", "key"), "layers": [0, 1]}),
    "all-linear": ({"target_modules": "all-linear"}, {"layers": None}),
    "rslora": ({"target_modules": ["key"], "use_rslora": True, "lora_alpha": 3}, {"rslora": True, "alpha": 3}),
    "patterns": (
        {
            "target_modules": ["query", "attention.output.dense"],
            "rank_pattern": {"query": 3, r"layer.[02].attention.output.dense": 5},
            "alpha_pattern": {"layer.1.attention.self.query": 7, "output.dense": 2},
        },
        {
            "rank_pattern": {"query": 3, "layers.0.output": 5, "layers.2.output": 5},
            "alpha_pattern": {"output": 2, "layers.1.query": 7},
        },
    ),
    "top layers": ({"target_modules": ["value"], "layers_to_transform": [1, 2]}, {"layers": 2}),
    "one layer": (
        {"target_modules": ["value"], "layers_to_transform": 1, "layers_pattern": "layer"},
        {"layers": [1], "targets": ("value",)},
    ),
    "irregular": (
        {"target_modules": ["layer.0.attention.self.query", "layer.2.intermediate.dense"]},
        {"targets": ("layers.0.query", "layers.2.up")},
    ),
    "bias all": ({"target_modules": ["query"], "bias": "all"}, {"bias": "all"}),
    "bias lora_only": ({"target_modules": ["query"], "bias": "lora_only"}, {"bias": "lora_only"}),
    "lora_bias": ({"target_modules": ["query"], "lora_bias": True}, {"bias": "lora_only"}),
    "fan_in_fan_out": ({"target_modules": ["query"], "fan_in_fan_out": True}, {}),
    "modules_to_save": ({"target_modules": ["query"], "modules_to_save": ["classifier"], "num_labels": 5}, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_load_of_classifier_equals_peft(name, base, tmp_path):
    options, expected = OPTIONS[name]
    model = make_adapter(tmp_path, base, *SEQUENCES, **{"num_labels": 3, **options})
    clf = load(tmp_path)
    np.testing.assert_allclose(clf._outputs(TEXTS), logits_of(model), **CLOSE)
    assert {key: clf.tuning.get_params()[key] for key in expected} == expected
    assert clf._finetuned.tuning.get_params() == clf.tuning.get_params()
    assert clf.model == base


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
@pytest.mark.parametrize("options", [{"bias": "all"}, {"bias": "none"}], ids=str)
def test_load_of_post_layer_norm_tagger_equals_peft(kind, options, bases, tmp_path):
    labels = {"num_labels": 3, "id2label": {0: "O", 1: "B-X", 2: "I-X"}}
    model = make_adapter(
        tmp_path,
        bases[kind],
        "ForTokenClassification",
        "TOKEN_CLS",
        kind,
        target_modules=["query", "dense"],
        **options,
        **labels,
    )
    transformers.AutoConfig.from_pretrained(bases[kind], **labels).save_pretrained(tmp_path)  # the names of the labels
    tagger = load(tmp_path)
    assert tagger.classes_.tolist() == ["B-X", "I-X", "O"]
    np.testing.assert_allclose(token_outputs(tagger, TEXTS[0]), logits_of(model, TEXTS[:1])[0][:, [1, 2, 0]], **CLOSE)
    assert len(tagger.predict([["a", "film"]])[0]) == 2


def test_load_of_bert_classifier_with_adapted_pooler_equals_peft(tmp_path):
    base = write_base(tmp_path / "base", "bert", "Model")
    model = make_adapter(tmp_path / "adapter", base, *SEQUENCES, "bert", target_modules="all-linear")
    np.testing.assert_allclose(load(tmp_path / "adapter")._outputs(TEXTS), logits_of(model), **CLOSE)


def test_load_of_language_model_with_adapted_head_only_equals_peft(base, tmp_path):
    model = make_adapter(tmp_path, base, "ForMaskedLM", None, target_modules=["lm_head.dense"])
    estimator = load(tmp_path)
    assert isinstance(estimator.tuning, Head)
    np.testing.assert_allclose(token_outputs(estimator, TEXTS[0]), logits_of(model, TEXTS[:1])[0], **CLOSE)


@pytest.mark.parametrize("bias", ["none", "all"])
def test_load_of_question_answering_equals_peft(bias, base, tmp_path):
    model = make_adapter(tmp_path, base, "ForQuestionAnswering", "QUESTION_ANS", target_modules=["query"], bias=bias)
    batch = get_backbone("nano").tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    expected = torch.stack([outputs.start_logits[0], outputs.end_logits[0]], -1)
    np.testing.assert_allclose(token_outputs(load(tmp_path), TEXTS[0]), expected, **CLOSE)


@pytest.mark.parametrize(
    ("ending", "task", "name", "options"),
    [
        ("ForCausalLM", "CAUSAL_LM", "XLMRXLGenerator", {"target_modules": "all-linear", "is_decoder": True}),
        ("ForCausalLM", "CAUSAL_LM", "XLMRXLGenerator", {"target_modules": ["key"], "bias": "all", "is_decoder": True}),
        ("ForMaskedLM", None, "XLMRXLMaskedLM", {"target_modules": "all-linear"}),
    ],
)
def test_load_of_language_model_equals_peft(ending, task, name, options, base, tmp_path):
    model = make_adapter(tmp_path, base, ending, task, **options)
    estimator = load(tmp_path)
    assert type(estimator).__name__ == name
    np.testing.assert_allclose(token_outputs(estimator, TEXTS[0]), logits_of(model, TEXTS[:1])[0], **CLOSE)


def test_load_of_language_model_with_saved_head_equals_peft(base, tmp_path):
    model = make_adapter(tmp_path, base, "ForMaskedLM", None, target_modules=["query"], modules_to_save=["lm_head"])
    np.testing.assert_allclose(token_outputs(load(tmp_path), TEXTS[0]), logits_of(model, TEXTS[:1])[0], **CLOSE)


def test_load_of_regressor_and_multilabel_classifier_equals_peft(base, tmp_path):
    model = make_adapter(tmp_path / "one", base, *SEQUENCES, target_modules=["key"], num_labels=1)
    regressor = load(tmp_path / "one")
    np.testing.assert_allclose(regressor.predict(TEXTS), logits_of(model)[:, 0], **CLOSE)
    model = make_adapter(tmp_path / "many", base, *SEQUENCES, target_modules=["key"], num_labels=3)
    labels = {"id2label": {0: "b", 1: "a", 2: "c"}, "problem_type": "multi_label_classification"}
    transformers.AutoConfig.from_pretrained(base, **labels).save_pretrained(tmp_path / "many")
    clf = load(tmp_path / "many")
    assert clf.classes_.tolist() == ["b", "a", "c"]
    np.testing.assert_array_equal(clf.predict(TEXTS), logits_of(model) > 0)


def test_load_without_labels_warns_and_takes_what_the_user_says(base, tmp_path):
    model = make_adapter(tmp_path / "a", base, *SEQUENCES, target_modules=["key"], num_labels=3)
    expected = logits_of(model)
    with pytest.warns(UserWarning, match=r"one label per row, with the names LABEL_0.*problem_type=.*id2label=\["):
        clf = load(tmp_path / "a")
    assert (clf.multilabel_, clf.classes_.tolist()) == (None, ["LABEL_0", "LABEL_1", "LABEL_2"])
    several = {"problem_type": "multi_label_classification"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = load(tmp_path / "a", **several, id2label=["b", "a", "c"])
        np.testing.assert_array_equal(clf.predict(TEXTS), expected > 0)
        assert clf.classes_.tolist() == ["b", "a", "c"]
        single = load(tmp_path / "a", problem_type="single_label_classification", id2label={0: "b", 1: "a", 2: "c"})
        assert single.predict(TEXTS).tolist() == np.array(["b", "a", "c"])[expected.argmax(1)].tolist()
        regressor = load(tmp_path / "a", problem_type="regression")
        np.testing.assert_allclose(regressor.predict(TEXTS), expected, **CLOSE)
        clf.export_adapter(tmp_path / "exported")
        np.testing.assert_allclose(load(tmp_path / "exported").predict_proba(TEXTS), clf.predict_proba(TEXTS), **CLOSE)
        (tmp_path / "a" / "labels.json").write_text(json.dumps(several))
        np.testing.assert_array_equal(load(tmp_path / "a").predict(TEXTS), expected > 0)
    for message, options in {
        "id2label has 2 names, but the model has 3 outputs": {"id2label": ["a", "b"]},
        "id2label has the name 'a' for 2 outputs": {"id2label": ["a", "b", "a"]},
        "id2label must be a dict or a list of names": {"id2label": "abc"},
        "problem_type must be": {"problem_type": "multilabel"},
    }.items():
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "a", **options)


def test_load_takes_the_problem_type_of_the_base(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": "multi_label_classification"}))
    model = make_adapter(tmp_path / "a", str(tmp_path / "base"), *SEQUENCES, target_modules=["key"], num_labels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load(tmp_path / "a").predict(TEXTS), logits_of(model) > 0)


def test_load_with_variant_of_the_base(base, adapter, tmp_path):
    expected = load(adapter)._outputs(TEXTS)
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    (moved / "model.safetensors").rename(moved / "model.fp32.safetensors")
    edit(adapter, base_model_name_or_path=str(moved))
    with pytest.raises(CheckpointError, match="There are weights for variant='fp32'"):
        load(adapter)
    for options in ({"variant": "fp32"}, {"model": moved, "variant": "fp32"}):
        clf = load(adapter, **options)
        assert clf.model == str(moved / "model.fp32.safetensors")
        np.testing.assert_array_equal(clf._outputs(TEXTS), expected)
    clf.export_adapter(tmp_path / "exported")
    (moved / "model.fp32.safetensors").rename(moved / "model.safetensors")
    assert json.loads((tmp_path / "exported" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        moved
    )
    np.testing.assert_allclose(load(tmp_path / "exported")._outputs(TEXTS), expected, **CLOSE)


@pytest.mark.parametrize("target_modules", ["all-linear", ["query"]], ids=str)
def test_load_of_encoder_equals_peft(target_modules, base, tmp_path):
    model = make_adapter(tmp_path, base, "Model", "FEATURE_EXTRACTION", target_modules=target_modules, bias="lora_only")
    with torch.no_grad():
        states = model(**get_backbone("nano").tokenizer(TEXTS[:1], return_tensors="pt")).last_hidden_state
    embedder = load(tmp_path)
    np.testing.assert_allclose(embedder.transform(TEXTS[:1]), states.mean(1), **CLOSE)
    of_base = skxlmr.XLMRXLEmbedder(base, device="cpu").fit_transform(TEXTS[:1])
    assert np.abs(of_base - states.mean(1).numpy()).max() > 1e-3
    embedder.set_params(objective="pairs", warm_start=True, max_epochs=1).fit([TEXTS[:2], TEXTS[2:]])
    assert embedder.transform(TEXTS).shape == (4, 16)


def test_load_of_pickled_weights_equals_safetensors(base, adapter):
    expected = load(adapter)._outputs(TEXTS)
    tensors = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    np.testing.assert_array_equal(load(adapter)._outputs(TEXTS), expected)


def test_loaded_classifier_can_be_saved_copied_exported_and_trained_on(base, tmp_path):
    options = {"rank_pattern": {"query": 3}, "alpha_pattern": {"value": 3}, "use_rslora": True, "bias": "all"}
    model = make_adapter(
        tmp_path / "a", base, *SEQUENCES, target_modules=["query", "value"], layers_to_transform=[0, 2], **options
    )
    clf, expected = load(tmp_path / "a"), logits_of(model)
    clf.save(tmp_path / "saved")
    clf.export_adapter(tmp_path / "exported")
    clf.export_pretrained(tmp_path / "merged")
    for again in (
        skxlmr.load(tmp_path / "saved"),
        pickle.loads(pickle.dumps(clf)),
        skops.io.loads(skops.io.dumps(clf), trusted=skxlmr.skops_types()),
        load(tmp_path / "exported"),
        load(tmp_path / "merged"),
    ):
        np.testing.assert_allclose(again._outputs(TEXTS), expected, **CLOSE)
    theirs = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(base, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "exported").eval()
    np.testing.assert_allclose(logits_of(theirs), expected, **CLOSE)
    labels = clf.classes_[[0, 1, 0, 1]]
    clf.set_params(warm_start=True, max_epochs=20, learning_rate=1e-3, random_state=0).fit(TEXTS, labels)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    shared = skxlmr.XLMRXLEmbedder(base, device="cpu", dtype="float32").fit(TEXTS)
    assert shared._fitted_backbone().key[0] == clf._base.fingerprint  # the base that others share, unchanged


def test_exported_adapter_is_loaded_by_transformers(base, tmp_path):
    clf = skxlmr.XLMRXLClassifier(base, pooling="cls", max_epochs=2, random_state=0, device="cpu", dtype="float32")
    clf.fit(TEXTS, ["x", "y"] * 2).export_adapter(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(logits_of(theirs), clf._outputs(TEXTS), **CLOSE)


def test_exported_adapter_of_multiple_choice_is_loaded(base, tmp_path):
    rows = [["a", "b", "c"], ["d", "e", "f"]]
    clf = skxlmr.XLMRXLMultipleChoice(base, max_epochs=1, random_state=0, device="cpu", dtype="float32")
    clf.fit(rows, [0, 1]).export_adapter(tmp_path)
    np.testing.assert_allclose(load(tmp_path).predict_proba(rows), clf.predict_proba(rows), **CLOSE)


def test_load_with_tuning_of_the_user_keeps_the_adapter_until_fit(adapter):
    clf = load(adapter, tuning="head")
    assert clf.tuning == "head"
    assert isinstance(clf._finetuned.tuning, LoRA)


REFUSED = {
    "DoRA": (
        lambda d: edit(d, use_dora=True),
        r"use_dora=True, but 'roberta.encoder.layer.0.attention.self.\w+' in .* has no lora_magnitude_vector",
    ),
    "PiSSA": (lambda d: edit(d, init_lora_weights="pissa_niter_4"), "also changes the weights of the base model"),
    "prompts": (
        lambda d: edit(d, peft_type="PREFIX_TUNING"),
        "type 'PREFIX_TUNING'; of peft's adapters only those of LoRA",
    ),
    "task": (lambda d: edit(d, task_type="SEQ_2_SEQ_LM"), "task_type is 'SEQ_2_SEQ_LM', which no estimator is for"),
    "no task": (lambda d: edit(d, task_type=None, auto_mapping=None), "Set task_type to one of SEQ_CLS"),
    "rank": (lambda d: edit(d, r=4), "but its rank is 4 by adapter_config.json"),
    "type": (lambda d: edit(d, lora_alpha="16"), "lora_alpha must be a number, got '16'"),
    "targets": (
        lambda d: edit(d, target_modules=["query"]),
        "target_modules and layers_to_transform in .* leave its module",
    ),
    "layers": (lambda d: edit(d, layers_to_transform=[0]), "leave its module out"),
    "pattern": (
        lambda d: edit(d, rank_pattern={"(a+)+b": 3}),
        r"a pattern of the names of modules '\(a\+\)\+b' repeats a group",
    ),
    "labels": (
        lambda d: (d / "labels.json").write_text(json.dumps({"id2label": {"a": "x", "b": "y"}})),
        "labels.json or config.json: id2label must map the numbers of the outputs to names, got the key 'a'",
    ),
    "no base": (lambda d: edit(d, base_model_name_or_path=None), "does not name the base model of the adapter. Set"),
    "own base": (lambda d: edit(d, base_model_name_or_path=str(d)), "which is an adapter itself"),
    "no weights": (lambda d: (d / "adapter_model.safetensors").unlink(), "has no weights of an adapter"),
    "unknown": (
        lambda d: edit_tensors(d, lambda t: t.update({"base_model.model.score.weight": torch.zeros(2, 16)})),
        "the tensor 'base_model.model.score.weight' is of no part of a classification model",
    ),
    "layer": (
        lambda d: edit_tensors(
            d,
            lambda t: t.update({key.replace("layer.2.", "layer.3."): tensor.clone() for key, tensor in t.items()}),
        ),
        "layer.3.attention.self.query.lora_A.weight' is of no linear layer of the base model",
    ),
    "half": (
        lambda d: edit_tensors(
            d, lambda t: t.pop("base_model.model.roberta.encoder.layer.0.attention.self.query.lora_B.weight")
        ),
        "lacks its other half",
    ),
    "NaN": (
        lambda d: edit_tensors(d, lambda t: next(v for k, v in t.items() if "lora_A" in k).fill_(torch.nan)),
        "contains NaN or infinity",
    ),
    "magnitude": (
        lambda d: edit_tensors(
            d,
            lambda t: t.update(
                {"base_model.model.roberta.encoder.layer.0.attention.self.query.lora_magnitude_vector": torch.ones(16)}
            ),
        ),
        "use_dora=False, but 'roberta.encoder.layer.0.attention.self.query' in .* has a lora_magnitude_vector",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_load_of_other_adapter_says_what_is_wrong(name, adapter):
    change, message = REFUSED[name]
    change(adapter)
    with pytest.raises(CheckpointError, match=message):
        load(adapter)


def test_load_without_base_says_where_its_name_is_and_takes_another(base, adapter, tmp_path):
    expected = load(adapter)._outputs(TEXTS)
    shutil.copytree(adapter, tmp_path / "other adapter")
    edit(adapter, base_model_name_or_path="/nowhere")
    with pytest.raises(
        ModelNotFoundError, match=r"named in .*adapter_config.json, is not found: .* Set base_model_name"
    ):
        load(adapter)
    shutil.copytree(base, tmp_path / "moved")
    clf = load(adapter, model=tmp_path / "moved")
    np.testing.assert_array_equal(clf._outputs(TEXTS), expected)
    assert clf.model == tmp_path / "moved"
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        load(adapter, model=tmp_path / "other adapter")


def test_load_of_ia3_is_refused(base, tmp_path):
    model = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(base)
    config = peft.IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[])
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="of the type 'IA3'; of peft's adapters only those of LoRA and of trained tokens"
    ):
        load(tmp_path)


def test_predictions_after_base_has_changed_are_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    make_adapter(tmp_path / "a", str(tmp_path / "base"), *SEQUENCES, target_modules=["query"])
    clf = load(tmp_path / "a")
    edit_tensors_of = tmp_path / "base" / "model.safetensors"
    tensors = safetensors.torch.load(edit_tensors_of.read_bytes())
    next(iter(tensors.values())).add_(1)
    safetensors.torch.save_file(tensors, edit_tensors_of)
    with pytest.raises(ValueError, match="was fitted on another checkpoint"):
        clf.predict(TEXTS)


def test_tokenizer_of_an_adapter_is_its_own_or_that_of_its_base(adapter):
    of_base = XLMRobertaXLTokenizer.from_pretrained(adapter)
    assert of_base.get_vocab() == get_backbone("nano").tokenizer.get_vocab()
    of_base.add_tokens(["<own>"])
    of_base.save_pretrained(adapter)
    assert "<own>" in XLMRobertaXLTokenizer.from_pretrained(adapter).get_vocab()
