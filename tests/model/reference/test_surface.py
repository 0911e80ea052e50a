"""What users of transformers 4.27.2 call on models, configs and outputs, apart from generation: one probe for each.

A probe is a small behaviour. Those in `NOT_HELD` fail, for the reason there; one that starts to hold fails the test.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import skxlmr.model as m
from skxlmr.model.reference.padded import XLMRobertaXLModel

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
IDS = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
MASK = (IDS != 1).long()
HEADS = ("MaskedLM", "CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
LOWEST = torch.finfo(torch.float32).min
Classifier, MaskedLM, CausalLM = (
    m.XLMRobertaXLForSequenceClassification,
    m.XLMRobertaXLForMaskedLM,
    m.XLMRobertaXLForCausalLM,
)
Config = m.XLMRobertaXLConfig


def config(**settings):
    return Config(**{**SHAPE, **settings})


def new(cls=XLMRobertaXLModel, **settings):
    torch.manual_seed(0)
    return cls(config(**settings)).eval()


class Given:
    """What probes are given: a folder of their own, and a folder with a classifier of three labels."""

    def __init__(self, folder: Path, saved: Path) -> None:
        self.folder, self.saved = folder, saved

    def load(self, cls=Classifier, **options):
        return cls.from_pretrained(self.saved, **options)

    def saved_again(self, model, **options):
        model.save_pretrained(self.folder, **options)
        return type(model).from_pretrained(self.folder)


def raises(error, call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def message(error, call: Callable[[], object]) -> str:
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def same(a, b) -> bool:
    return torch.equal(a, b)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def with_hook(model):
    model.requires_grad_(False).enable_input_require_grads()
    return model


def changed_state(model, value):
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


def their_state(folder, prefix=""):
    model = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(folder)
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def their_base(model):
    return {name.removeprefix("roberta."): tensor for name, tensor in model.in_their_names(model.state_dict()).items()}


def tied_state(model):
    state = model.in_their_names(model.state_dict())
    return state | {"lm_head.decoder.weight": state["roberta.embeddings.word_embeddings.weight"]}


def has_grad(model) -> bool:
    return model(IDS).last_hidden_state.requires_grad


def trained(model, **options):
    model.train().gradient_checkpointing_enable(**options)
    model(IDS, MASK).logits.sum().backward()
    return all(p.grad is not None for p in model.parameters())


def grad_of(model):
    model(IDS, MASK).logits.sum().backward()
    return model.roberta.layers[1].ffn.up.weight.grad


def without(model, name):
    del model.config.extra[name]
    return model


class Custom(m.XLMRobertaXLPreTrainedModel):
    """A subclass as users write it."""

    def __init__(self, config):
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.scorer = nn.Linear(config.hidden_size, 3)
        self.post_init()


CONFIGS = {
    "the defaults are those of facebook/xlm-roberta-xl": lambda g: (
        Config().hidden_size == 2560 and Config().vocab_size == 250880
    ),
    "model_type": lambda g: Config.model_type == Config().model_type == "xlm-roberta-xl",
    "to_dict has all settings": lambda g: (
        config().to_dict()["hidden_size"] == 16 and "layer_norm_eps" in config().to_dict()
    ),
    "to_dict has the model_type": lambda g: config().to_dict()["model_type"] == "xlm-roberta-xl",
    "to_dict is a copy": lambda g: config().to_dict() is not config().to_dict(),
    "from_dict of to_dict is equal": lambda g: Config.from_dict(config(num_labels=3).to_dict()) == config(num_labels=3),
    "from_dict with settings": lambda g: Config.from_dict(SHAPE, hidden_dropout_prob=0.5).hidden_dropout_prob == 0.5,
    "from_dict(return_unused_kwargs=True)": lambda g: Config.from_dict(SHAPE, return_unused_kwargs=True, other=1)[1],
    "from_dict of unknown keys keeps them": lambda g: Config.from_dict({**SHAPE, "mine": 1}).mine == 1,
    "to_json_string is JSON": lambda g: json.loads(config().to_json_string())["hidden_size"] == 16,
    "to_json_string has only differences": lambda g: "layer_norm_eps" not in config().to_json_string(),
    "to_json_string(use_diff=False) has everything": lambda g: (
        json.loads(config().to_json_string(use_diff=False)) == config().to_dict()
    ),
    "to_json_file and from_json_file": lambda g: (
        config().to_json_file(g.folder / "config.json") is None
        and Config.from_json_file(g.folder / "config.json") == config()
    ),
    "to_diff_dict of the defaults": lambda g: Config().to_diff_dict() == {"model_type": "xlm-roberta-xl"},
    "to_diff_dict has what was set": lambda g: config().to_diff_dict() == {"model_type": "xlm-roberta-xl", **SHAPE},
    "save_pretrained writes config.json": lambda g: (
        config().save_pretrained(g.folder) is None and names(g.folder) == {"config.json"}
    ),
    "from_pretrained reads it": lambda g: (
        config().save_pretrained(g.folder) is None and Config.from_pretrained(g.folder) == config()
    ),
    "from_pretrained of a str": lambda g: Config.from_pretrained(str(g.saved)).num_labels == 3,
    "from_pretrained with settings": lambda g: Config.from_pretrained(g.saved, num_labels=5).num_labels == 5,
    "from_pretrained with id2label and label2id": lambda g: (
        Config.from_pretrained(g.saved, id2label={0: "a"}, label2id={"a": 0}).id2label == {0: "a"}
    ),
    "from_pretrained with finetuning_task": lambda g: (
        Config.from_pretrained(g.saved, finetuning_task="xnli").finetuning_task == "xnli"
    ),
    "from_pretrained with an unknown setting ignores it": lambda g: Config.from_pretrained(g.saved, hiden_size=3),
    "from_pretrained(return_unused_kwargs=True)": lambda g: (
        Config.from_pretrained(g.saved, return_unused_kwargs=True)[1]
    ),
    "get_config_dict": lambda g: Config.get_config_dict(g.saved)[0]["hidden_size"] == 16,
    "update": lambda g: (c := config()).update({"hidden_dropout_prob": 0.5}) is None and c.hidden_dropout_prob == 0.5,
    "update with an unknown name": lambda g: (c := config()).update({"mine": [1]}) is None and c.mine == [1],
    "update with an invalid value changes nothing": lambda g: (
        (c := config()) and raises(ValueError, lambda: c.update({"mine": 1, "num_labels": 0})) and c == config()
    ),
    "update_from_string": lambda g: (
        (c := config()).update_from_string("hidden_act=relu,num_labels=3,use_cache=false,layer_norm_eps=0.5") is None
        and (c.hidden_act, c.num_labels, c.use_cache, c.layer_norm_eps) == ("relu", 3, False, 0.5)
    ),
    "update_from_string of an unknown name raises": lambda g: raises(
        ValueError, lambda: config().update_from_string("mine=1")
    ),
    "name_or_path": lambda g: (
        Config.from_pretrained(g.saved).name_or_path == str(g.saved) and config().name_or_path == ""
    ),
    "use_return_dict": lambda g: config().use_return_dict and not config(return_dict=False).use_return_dict,
    "num_labels sets id2label": lambda g: (
        setattr(c := config(), "num_labels", 4) is None and c.id2label[3] == "LABEL_3"
    ),
    "id2label of text keys": lambda g: config(id2label={"0": "a", "1": "b"}).id2label == {0: "a", 1: "b"},
    "label2id": lambda g: config(id2label={0: "a", 1: "b"}).label2id == {"a": 0, "b": 1},
    "an attribute of any name can be set and is saved": lambda g: (
        setattr(c := config(), "mine", {"a": 1}) is None and Config.from_dict(c.to_dict()).mine == {"a": 1}
    ),
    "any keyword in the constructor": lambda g: Config(mine=1).mine == 1,
    "a missing attribute raises AttributeError": lambda g: not hasattr(config(), "no_such_setting"),
    "pruned_heads": lambda g: Config.from_dict(config(pruned_heads={0: [1]}).to_dict()).pruned_heads == {0: [1]},
    "pruned_heads is empty": lambda g: config().pruned_heads == {},
    "architectures": lambda g: (
        config().architectures is None
        and Config.from_pretrained(g.saved).architectures == ["XLMRobertaXLForSequenceClassification"]
    ),
    "is_encoder_decoder": lambda g: config().is_encoder_decoder is False,
    "tie_word_embeddings": lambda g: config().tie_word_embeddings is True,
    "finetuning_task": lambda g: config().finetuning_task is None,
    "tokenizer_class": lambda g: config().tokenizer_class is None,
    "task_specific_params": lambda g: config().task_specific_params is None,
    "torchscript": lambda g: config().torchscript is False,
    "chunk_size_feed_forward": lambda g: config().chunk_size_feed_forward == 0,
    "torch_dtype is a dtype": lambda g: isinstance(g.load().config.torch_dtype, torch.dtype),
    "max_length is that of generation": lambda g: config().max_length == 20,
    "eos_token_id, bos_token_id and pad_token_id": lambda g: (
        (config().bos_token_id, config().pad_token_id, config().eos_token_id) == (0, 1, 2)
    ),
    "two configs are equal": lambda g: config() == config() != config(num_labels=3),
    "copy.deepcopy": lambda g: copy.deepcopy(config(id2label={0: "a"})) == config(id2label={0: "a"}),
    "pickle": lambda g: pickle.loads(pickle.dumps(config(num_labels=3))) == config(num_labels=3),
    "repr names the class and the settings": lambda g: (
        "XLMRobertaXLConfig" in repr(config()) and "hidden_size" in repr(config())
    ),
    "the config of a BERT model has its class": lambda g: (
        type(Config.from_dict({"model_type": "bert"})) is m.BertConfig
    ),
    "push_to_hub": lambda g: list(inspect.signature(Config.push_to_hub).parameters)[:2] == ["self", "repo_id"],
    "register_for_auto_class": lambda g: Config.register_for_auto_class() is None,
}  # fmt: skip

MODELS = {
    "config_class": lambda g: XLMRobertaXLModel.config_class is Config and m.BertModel.config_class is m.BertConfig,
    "config_class of XLM-RoBERTa": lambda g: m.XLMRobertaForMaskedLM.config_class is m.XLMRobertaConfig,
    "base_model_prefix": lambda g: all(
        getattr(m, f"XLMRobertaXLFor{head}").base_model_prefix == "roberta" for head in HEADS
    ),
    "main_input_name": lambda g: Classifier.main_input_name == "input_ids",
    "supports_gradient_checkpointing": lambda g: Classifier.supports_gradient_checkpointing,
    "framework": lambda g: new().framework == "pt",
    "config is the one that was given": lambda g: (c := config()) is XLMRobertaXLModel(c).config,
    "base_model of a model with a head": lambda g: (model := new(Classifier)).base_model is model.roberta,
    "base_model of a model without a head": lambda g: (model := new()).base_model is model,
    "isinstance of XLMRobertaXLPreTrainedModel": lambda g: all(
        isinstance(new(getattr(m, f"XLMRobertaXLFor{head}")), m.XLMRobertaXLPreTrainedModel) for head in HEADS
    ),
    "dtype": lambda g: new().dtype == torch.float32 and new().half().dtype == torch.float16,
    "device": lambda g: new().device == torch.device("cpu"),
    "name_or_path": lambda g: g.load().name_or_path == str(g.saved) and new().name_or_path == "",
    "dummy_inputs": lambda g: new()(**new().dummy_inputs).last_hidden_state.shape == (3, 5, 16),
    "training is off after from_pretrained": lambda g: not g.load().training,
    "training is on after the constructor": lambda g: XLMRobertaXLModel(config()).training,
    "num_parameters": lambda g: new().num_parameters() == sum(p.numel() for p in new().parameters()),
    "num_parameters counts tied weights once": lambda g: (
        new(MaskedLM).num_parameters() == sum(p.numel() for p in new(MaskedLM).parameters())
    ),
    "num_parameters(only_trainable=True)": lambda g: (
        new().requires_grad_(False).num_parameters(only_trainable=True) == 0
    ),
    "num_parameters(exclude_embeddings=True)": lambda g: (
        new().num_parameters() - new().num_parameters(exclude_embeddings=True) == (60 + 20 + 1) * 16
    ),
    "get_memory_footprint": lambda g: new().get_memory_footprint() == 4 * new().num_parameters(),
    "get_memory_footprint in 16 bits": lambda g: new().half().get_memory_footprint() == 2 * new().num_parameters(),
    "estimate_tokens": lambda g: new().estimate_tokens({"input_ids": IDS}) == 8 and new().estimate_tokens({}) == 0,
    "floating_point_ops": lambda g: (
        new().floating_point_ops({"input_ids": IDS}) == 6 * 8 * new().num_parameters(exclude_embeddings=True)
    ),
    "floating_point_ops(exclude_embeddings=False)": lambda g: (
        new().floating_point_ops({"input_ids": IDS}, exclude_embeddings=False) == 48 * new().num_parameters()
    ),
    "get_input_embeddings": lambda g: new(Classifier).get_input_embeddings().weight.shape == (60, 16),
    "set_input_embeddings": lambda g: (
        (model := new()).set_input_embeddings(e := nn.Embedding(60, 16)) is None and model.get_input_embeddings() is e
    ),
    "get_output_embeddings is None without a language model": lambda g: new(Classifier).get_output_embeddings() is None,
    "get_output_embeddings is tied": lambda g: (
        (model := new(MaskedLM)).get_output_embeddings().weight is model.get_input_embeddings().weight
    ),
    "set_output_embeddings": lambda g: (
        (model := new(MaskedLM)).set_output_embeddings(layer := nn.Linear(16, 70)) is None
        and model.get_output_embeddings().weight is layer.weight
        and model(IDS).logits.shape == (2, 4, 70)
    ),
    "tie_weights": lambda g: new(MaskedLM).tie_weights() is None and new().tie_weights() is None,
    "tie_weights after another word embedding": lambda g: (
        (model := new(MaskedLM)).set_input_embeddings(nn.Embedding(60, 16)) is None
        and model.tie_weights() is None
        and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ),
    "resize_token_embeddings": lambda g: (
        (model := new(MaskedLM)).resize_token_embeddings(64).num_embeddings == 64 == model.config.vocab_size
    ),
    "resize_token_embeddings() is the word embedding": lambda g: (
        (model := new()).resize_token_embeddings() is model.get_input_embeddings()
    ),
    "get_position_embeddings": lambda g: new().get_position_embeddings().num_embeddings == 20,
    "resize_position_embeddings": lambda g: new().resize_position_embeddings(40) is None,
    "prune_heads": lambda g: (
        (model := new()).prune_heads({0: [1]}) is None
        and model(IDS, output_attentions=True).attentions[0].shape[1] == 1
        and model.config.pruned_heads == {0: [1]}
    ),
    "prune_heads is saved": lambda g: (
        (model := new(Classifier)).prune_heads({1: [0]}) is None
        and same(g.saved_again(model)(IDS).logits, model(IDS).logits)
    ),
    "init_weights draws weights again": lambda g: (
        (model := new()).init_weights() is None
        and not same(model.layers[0].ffn.up.weight, new().layers[0].ffn.up.weight)
        and not model.layers[0].ffn.up.bias.any()
    ),
    "_init_weights of one module": lambda g: (
        new(initializer_range=3.0)._init_weights(layer := nn.Linear(99, 99)) is None and 2.9 < layer.weight.std() < 3.1
    ),
    "post_init of a subclass": lambda g: Custom(config(initializer_range=1e-9)).scorer.weight.abs().max() < 1e-7,
    "a subclass is saved and loaded": lambda g: (
        (model := Custom(config())) and same(g.saved_again(model).scorer.weight, model.scorer.weight)
    ),
    "a subclass is loaded from a checkpoint without its head": lambda g: (
        g.load(Custom, output_loading_info=True)[1]["missing_keys"] == {"scorer.weight", "scorer.bias"}
    ),
    "can_generate": lambda g: (
        CausalLM.can_generate() and new(CausalLM).can_generate() and not Classifier.can_generate()
    ),
    "get_extended_attention_mask": lambda g: same(
        new().get_extended_attention_mask(MASK, (2, 4)), (1 - MASK[:, None, None].float()) * LOWEST
    ),
    "get_extended_attention_mask of three dimensions": lambda g: same(
        new().get_extended_attention_mask(torch.eye(4)[None], (1, 4)), ((1 - torch.eye(4)) * LOWEST)[None, None]
    ),
    "get_extended_attention_mask of a decoder": lambda g: same(
        new(is_decoder=True).get_extended_attention_mask(torch.ones(1, 4), (1, 4)),
        ((1 - torch.ones(4, 4).tril()) * LOWEST)[None, None],
    ),
    "get_extended_attention_mask of a decoder with a past": lambda g: (
        new(is_decoder=True).get_extended_attention_mask(torch.ones(1, 6), (1, 2))[0, 0].ne(0).tolist()
        == [[False] * 5 + [True], [False] * 6]
    ),
    "get_extended_attention_mask in another dtype": lambda g: (
        new().get_extended_attention_mask(MASK, (2, 4), dtype=torch.float16).min() == torch.finfo(torch.float16).min
    ),
    "get_extended_attention_mask of one dimension raises": lambda g: raises(
        ValueError, lambda: new().get_extended_attention_mask(torch.ones(3), (1, 3))
    ),
    "invert_attention_mask": lambda g: same(
        new().invert_attention_mask(MASK), (1 - MASK[:, None, None].float()) * LOWEST
    ),
    "get_head_mask of None": lambda g: new().get_head_mask(None, 2) == [None, None],
    "get_head_mask of one dimension": lambda g: new().get_head_mask(torch.tensor([1, 0]), 3).shape == (3, 1, 2, 1, 1),
    "get_head_mask of two dimensions": lambda g: new().get_head_mask(torch.ones(3, 2), 3).dtype == torch.float32,
    "create_extended_attention_mask_for_decoder": lambda g: (
        new().create_extended_attention_mask_for_decoder((1, 4), MASK)
    ),
    "add_memory_hooks": lambda g: new().add_memory_hooks() is None,
    "enable_input_require_grads": lambda g: has_grad(with_hook(new())) and not has_grad(new().requires_grad_(False)),
    "disable_input_require_grads": lambda g: (
        (model := with_hook(new())).disable_input_require_grads() is None and not has_grad(model)
    ),
    "gradient_checkpointing_enable": lambda g: trained(new(Classifier)),
    "gradient_checkpointing_enable(gradient_checkpointing_kwargs=...)": lambda g: trained(
        new(Classifier), gradient_checkpointing_kwargs={"use_reentrant": True}
    ),
    "activation_checkpointing_enable(every_n_layers=2, offload=True)": lambda g: (
        (model := new(Classifier)).activation_checkpointing_enable(every_n_layers=2, offload=True) is None
        and model.is_gradient_checkpointing
        and same(grad_of(model), grad_of(new(Classifier)))
    ),
    "activation_checkpointing_enable(every_n_layers=0) raises": lambda g: raises(
        ValueError, lambda: new().activation_checkpointing_enable(every_n_layers=0)
    ),
    "activation_checkpointing_disable": lambda g: (
        (model := new()).activation_checkpointing_enable() is None
        and model.activation_checkpointing_disable() is None
        and not model.is_gradient_checkpointing
    ),
    "gradient_checkpointing_enable with an unknown option raises": lambda g: raises(
        ValueError, lambda: new().gradient_checkpointing_enable({"reentrant": True})
    ),
    "gradient_checkpointing_disable": lambda g: (
        (model := new()).gradient_checkpointing_enable() is None
        and model.is_gradient_checkpointing
        and model.gradient_checkpointing_disable() is None
        and not model.is_gradient_checkpointing
    ),
    "half": lambda g: {p.dtype for p in new().half().parameters()} == {torch.float16},
    "bfloat16 computes": lambda g: new().bfloat16()(IDS).last_hidden_state.dtype == torch.bfloat16,
    "double": lambda g: new().double()(IDS).last_hidden_state.dtype == torch.float64,
    "float": lambda g: new().half().float().dtype == torch.float32,
    "to(dtype)": lambda g: new().to(torch.float64).dtype == torch.float64,
    "to(device)": lambda g: new().to("cpu").device.type == "cpu",
    "requires_grad_(False) of base_model": lambda g: (
        (model := new(Classifier)).base_model.requires_grad_(False) is model.roberta
        and model.classifier.dense.weight.requires_grad
    ),
    "state_dict and load_state_dict": lambda g: (
        (model := new()).load_state_dict(changed_state(model, 1.0)).missing_keys == [] and model.norm.weight.eq(1).all()
    ),
    "state_dict has the names of transformers": lambda g: (
        "encoder.layer.0.attention.self.query.weight" in new().state_dict()
    ),
    "copy.deepcopy": lambda g: same(copy.deepcopy(new(Classifier))(IDS).logits, new(Classifier)(IDS).logits),
    "pickle": lambda g: same(pickle.loads(pickle.dumps(new(Classifier)))(IDS).logits, new(Classifier)(IDS).logits),
    "load_state_dict of transformers' names": lambda g: (
        (model := new(Classifier, num_labels=3)).load_state_dict(their_state(g.saved)).missing_keys == []
        and same(model(IDS).logits, g.load()(IDS).logits)
    ),
    "load_state_dict of a wrapped model": lambda g: (
        nn.ModuleDict({"m": (model := new(Classifier, num_labels=3))}).load_state_dict(their_state(g.saved, "m."))
        and same(model(IDS).logits, g.load()(IDS).logits)
    ),
    "load_state_dict of an encoder": lambda g: (
        (model := new(XLMRobertaXLModel)).load_state_dict(their_base(changed := new().double()))
        and same(model.layers[1].ffn.up.weight, changed.layers[1].ffn.up.weight.float())
    ),
    "load_state_dict with the decoder of a language model": lambda g: (
        new(MaskedLM).load_state_dict(tied_state(new(MaskedLM))).unexpected_keys == []
    ),
    "load_state_dict of other keys raises": lambda g: raises(
        RuntimeError, lambda: new().load_state_dict({**their_base(new()), "encoder.layer.9.output.dense.bias": IDS})
    ),
    "torch.save of a state dict": lambda g: (
        torch.save(new().state_dict(), g.folder / "x.pt") is None
        and new().load_state_dict(torch.load(g.folder / "x.pt")).unexpected_keys == []
    ),
    "from_pretrained of a Path": lambda g: g.load().num_parameters() > 0,
    "from_pretrained of a str": lambda g: Classifier.from_pretrained(str(g.saved)).config.num_labels == 3,
    "from_pretrained(num_labels=..., ignore_mismatched_sizes=True)": lambda g: (
        g.load(num_labels=5, ignore_mismatched_sizes=True)(IDS).logits.shape == (2, 5)
    ),
    "from_pretrained(config=...)": lambda g: (
        g.load(config=config(num_labels=3, hidden_dropout_prob=0.5)).config.hidden_dropout_prob == 0.5
    ),
    "from_pretrained(config=...) of transformers": lambda g: (
        g.load(config=transformers.XLMRobertaXLConfig.from_pretrained(g.saved)).config.num_labels == 3
    ),
    "a config of transformers in the constructor is refused": lambda g: raises(
        TypeError, lambda: Classifier(transformers.XLMRobertaXLConfig(**SHAPE))
    ),
    "from_pretrained(config=path)": lambda g: g.load(config=str(g.saved)).num_parameters() > 0,
    "from_pretrained(state_dict=...)": lambda g: (
        g.load(state_dict=changed_state(g.load(), 0.5)).classifier.out_proj.bias.eq(0.5).all()
    ),
    "from_pretrained(None, config=..., state_dict=...)": lambda g: same(
        Classifier.from_pretrained(None, config=config(), state_dict=new(Classifier).state_dict())(IDS).logits,
        new(Classifier)(IDS).logits,
    ),
    "from_pretrained(torch_dtype=torch.float16)": lambda g: g.load(torch_dtype=torch.float16).dtype == torch.float16,
    "from_pretrained(torch_dtype='auto')": lambda g: g.load(torch_dtype="auto").dtype == torch.float32,
    "from_pretrained(low_cpu_mem_usage=True)": lambda g: g.load(low_cpu_mem_usage=True).device.type == "cpu",
    "from_pretrained(low_cpu_mem_usage=False)": lambda g: g.load(low_cpu_mem_usage=False).device.type == "cpu",
    "from_pretrained(device_map='cpu')": lambda g: g.load(device_map="cpu").device.type == "cpu",
    "from_pretrained(device_map={'': device})": lambda g: (
        g.load(device_map={"": torch.device("cpu")}).device.type == "cpu"
    ),
    "from_pretrained(device_map='auto')": lambda g: g.load(device_map="auto").device.type == "cpu",
    "device_map='balanced' is refused by name": lambda g: raises(ValueError, lambda: g.load(device_map="balanced")),
    "device_map of two devices is refused": lambda g: raises(
        ValueError, lambda: g.load(device_map={"roberta": "cpu", "classifier": "meta"})
    ),
    "device and device_map that differ are refused": lambda g: raises(
        ValueError, lambda: g.load(device="meta", device_map="cpu:0")
    ),
    "from_pretrained(attn_implementation='eager')": lambda g: torch.allclose(
        g.load(attn_implementation="eager")(IDS, MASK).logits, g.load()(IDS, MASK).logits, atol=1e-6
    ),
    "attn_implementation='eager' computes padding": lambda g: (
        g.load(XLMRobertaXLModel, attn_implementation="eager", add_pooling_layer=False)(IDS, MASK)
        .last_hidden_state[1, 3].any()
    ),
    "from_pretrained(attn_implementation='sdpa')": lambda g: (
        g.load(attn_implementation="sdpa")(IDS).logits.shape == (2, 3)
    ),
    "attn_implementation='flash_attention_2' is refused": lambda g: raises(
        ValueError, lambda: g.load(attn_implementation="flash_attention_2")
    ),
    "from_pretrained(attn_implementation='flash_attention_2')": lambda g: (
        g.load(attn_implementation="flash_attention_2")
    ),
    "from_pretrained(output_loading_info=True)": lambda g: g.load(output_loading_info=True)[1]["missing_keys"] == set(),
    "from_pretrained(subfolder=...)": lambda g: (
        Classifier.from_pretrained(g.saved.parent, subfolder=g.saved.name).config.num_labels == 3
    ),
    "from_pretrained(use_safetensors=True)": lambda g: g.load(use_safetensors=True).config.num_labels == 3,
    "from_pretrained(variant=...)": lambda g: (
        new(Classifier).save_pretrained(g.folder, variant="fp16") is None
        and Classifier.from_pretrained(g.folder, variant="fp16").num_parameters() > 0
    ),
    "from_pretrained(output_attentions=True)": lambda g: len(g.load(output_attentions=True)(IDS).attentions) == 2,
    "from_pretrained(hidden_dropout_prob=0.0)": lambda g: g.load(hidden_dropout_prob=0.0).classifier.dropout.p == 0,
    "from_pretrained(add_pooling_layer=False)": lambda g: (
        g.load(XLMRobertaXLModel, add_pooling_layer=False).pooler is None
    ),
    "from_pretrained(load_in_8bit=True)": lambda g: g.load(load_in_8bit=True)(IDS).logits.shape == (2, 3),
    "to(dtype) of an 8-bit model keeps its scales": lambda g: (
        g.load(load_in_8bit=True).half().roberta.layers[0].ffn.up.SCB.dtype == torch.float32
    ),
    "init_weights of an 8-bit model is refused": lambda g: raises(
        ValueError, lambda: g.load(load_in_8bit=True).init_weights()
    ),
    "from_pretrained(use_auth_token=...)": lambda g: g.load(use_auth_token="x").num_parameters() > 0,
    "use_auth_token is refused by name": lambda g: raises(TypeError, lambda: g.load(use_auth_token="x")),
    "from_pretrained(trust_remote_code=True)": lambda g: g.load(trust_remote_code=True).num_parameters() > 0,
    "from_pretrained(force_download=True)": lambda g: g.load(force_download=True).num_parameters() > 0,
    "from_pretrained(proxies=...)": lambda g: g.load(proxies={}).num_parameters() > 0,
    "from_pretrained(max_memory=...)": lambda g: g.load(max_memory={"cpu": "1GB"}).num_parameters() > 0,
    "from_pretrained(offload_folder=...)": lambda g: g.load(offload_folder=g.folder).num_parameters() > 0,
    "from_pretrained(from_tf=True)": lambda g: g.load(from_tf=True).num_parameters() > 0,
    "from_pretrained(from_flax=True)": lambda g: g.load(from_flax=True).num_parameters() > 0,
    "a misspelt option is refused": lambda g: raises(TypeError, lambda: g.load(torch_dtpye="auto")),
    "save_pretrained creates the directory": lambda g: (
        new().save_pretrained(g.folder / "a" / "b") is None and "config.json" in names(g.folder / "a" / "b")
    ),
    "save_pretrained and from_pretrained": lambda g: (
        same(g.saved_again(new(MaskedLM))(IDS).logits, new(MaskedLM)(IDS).logits)
    ),
    "save_pretrained(max_shard_size=...)": lambda g: (
        g.saved_again(new(MaskedLM), max_shard_size="4KB") and "model.safetensors.index.json" in names(g.folder)
    ),
    "save_pretrained(safe_serialization=False)": lambda g: (
        g.saved_again(new(MaskedLM), safe_serialization=False) and "pytorch_model.bin" in names(g.folder)
    ),
    "save_pretrained(variant=...)": lambda g: (
        new().save_pretrained(g.folder, variant="fp16") is None and "model.fp16.safetensors" in names(g.folder)
    ),
    "save_pretrained(is_main_process=False)": lambda g: (
        new().save_pretrained(g.folder, is_main_process=False) is None and not names(g.folder)
    ),
    "save_pretrained(state_dict=...)": lambda g: (
        (model := new(Classifier)).save_pretrained(g.folder, state_dict=changed_state(model, 0.5)) is None
        and Classifier.from_pretrained(g.folder).classifier.out_proj.bias.eq(0.5).all()
    ),
    "save_pretrained(save_function=torch.save)": lambda g: (
        new().save_pretrained(g.folder, save_function=torch.save) is None
    ),
    "save_pretrained(push_to_hub=True)": lambda g: new().save_pretrained(g.folder, push_to_hub=True) is None,
    "save_pretrained writes the architectures": lambda g: (
        json.loads((g.saved / "config.json").read_text())["architectures"] == ["XLMRobertaXLForSequenceClassification"]
    ),
    "save_pretrained keeps the dtype": lambda g: (
        new().half().save_pretrained(g.folder) is None
        and XLMRobertaXLModel.from_pretrained(g.folder, torch_dtype="auto").dtype == torch.float16
    ),
    "push_to_hub": lambda g: next(iter(inspect.signature(new().push_to_hub).parameters)) == "repo_id",
    "register_for_auto_class": lambda g: Classifier.register_for_auto_class() is None,
    "retrieve_modules_from_names": lambda g: new().retrieve_modules_from_names(["norm"]) is not None,
    "get_submodule by the names of transformers": lambda g: new().get_submodule("encoder.layer.0") is not None,
    "register_forward_hook": lambda g: (
        (seen := []) == []
        and (model := new()).layers[1].register_forward_hook(lambda *args: seen.append(1))
        and model(IDS) and seen == [1]
    ),
    "torch.nn.utils.parameters_to_vector": lambda g: (
        len(nn.utils.parameters_to_vector(new().parameters())) == new().num_parameters()
    ),
    "forward by position": lambda g: torch.allclose(new()(IDS, MASK)[0], new()(input_ids=IDS, attention_mask=MASK)[0]),
    "one text without a dimension of texts is refused": lambda g: raises(ValueError, lambda: new()(IDS[0])),
    "a batch without texts is refused": lambda g: raises(ValueError, lambda: new()(IDS[:0])),
    "inputs_embeds of another width are refused": lambda g: raises(
        ValueError, lambda: new()(inputs_embeds=torch.ones(1, 2, 5))
    ),
    "an id without a row is named": lambda g: "input_ids has 70" in message(IndexError, lambda: new()(IDS + 70)),
    "token types of another model are named": lambda g: (
        "token_type_ids has 1" in message(IndexError, lambda: new()(IDS, token_type_ids=torch.ones_like(IDS)))
    ),
    "past_key_values without is_decoder are refused": lambda g: raises(
        ValueError, lambda: new()(IDS, past_key_values=new(CausalLM, is_decoder=True)(IDS).past_key_values)
    ),
    "past_key_values of transformers are refused": lambda g: raises(
        TypeError, lambda: new(CausalLM, is_decoder=True)(IDS, past_key_values=transformers.DynamicCache())
    ),
    "a hook on the word embedding gets padded batches": lambda g: (
        (seen := []) == []
        and (model := new()).embeddings.word.register_forward_hook(lambda *args: seen.append(args[2].shape))
        and model(IDS, MASK)
        and seen == [(2, 4, 16)]
    ),
    "forward signatures": lambda g: (
        list(inspect.signature(CausalLM.forward).parameters)[1:5]
        == ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
    ),
    "forward(inputs_embeds=...)": lambda g: torch.allclose(
        new()(inputs_embeds=new().get_input_embeddings()(IDS[:1]))[0], new()(IDS[:1])[0], atol=1e-6
    ),
}  # fmt: skip


def output(**options):
    return new(Classifier)(IDS, MASK, labels=torch.tensor([0, 1]), **options)


OUTPUTS = {
    "attributes": lambda g: output().loss.shape == () and output().logits.shape == (2, 2),
    "by name": lambda g: output()["logits"].shape == (2, 2),
    "by position": lambda g: same(output()[1], output().logits),
    "slices": lambda g: len(output()[:2]) == 2,
    "unpacking to_tuple": lambda g: len([*output().to_tuple()]) == 2,
    "fields that are None are left out": lambda g: list(output()) == ["loss", "logits"] and output().attentions is None,
    "keys, values and items": lambda g: (
        list(output().keys()) == ["loss", "logits"] and len(output().values()) == 2 and dict(output().items())
    ),
    "in": lambda g: "loss" in output() and "attentions" not in output(),
    "get": lambda g: output().get("attentions") is None,
    "len": lambda g: len(output(output_hidden_states=True)) == 3,
    "as keyword arguments": lambda g: set({**output()}) == {"loss", "logits"},
    "setting an attribute": lambda g: setattr(o := output(), "loss", torch.tensor(7.0)) is None and o["loss"] == 7,
    "setting by name": lambda g: (
        o.logits == 7 if (o := output()).__setitem__("logits", torch.tensor(7.0)) is None else False
    ),
    "deleting raises": lambda g: raises(Exception, lambda: output().__delitem__("loss")),
    "pop raises": lambda g: raises(Exception, lambda: output().pop("loss")),
    "update raises": lambda g: raises(Exception, lambda: output().update({})),
    "a missing name raises KeyError": lambda g: raises(KeyError, lambda: output()["attentions"]),
    "pickle": lambda g: same(pickle.loads(pickle.dumps(ModelOutput(logits=torch.ones(2)))).logits, torch.ones(2)),
    "copy.copy": lambda g: same(copy.copy(o := output()).logits, o.logits),
    "dataclasses.replace": lambda g: replace(output(), loss=None).loss is None,
    "an attribute that is set is an entry, in the order of the fields": lambda g: (
        setattr(o := ModelOutput(logits=IDS), "loss", MASK) is None and list(o) == ["loss", "logits"]
    ),
    "an attribute that is set to None is not an entry": lambda g: (
        setattr(o := output(), "loss", None) is None and list(o) == ["logits"]
    ),
    "copy.deepcopy": lambda g: same(copy.deepcopy(ModelOutput(logits=torch.ones(2)))["logits"], torch.ones(2)),
    "isinstance of dict": lambda g: isinstance(output(), dict),
    "return_dict=False is a tuple": lambda g: isinstance(output(return_dict=False), tuple),
    "config.return_dict=False is a tuple": lambda g: isinstance(new(return_dict=False)(IDS), tuple),
    "equal values as named fields and as a tuple": lambda g: all(
        same(a, b) for a, b in zip(output().to_tuple(), output(return_dict=False), strict=True)
    ),
    "hidden_states are num_hidden_layers + 1": lambda g: len(output(output_hidden_states=True).hidden_states) == 3,
    "past_key_values of a decoder": lambda g: len(new(CausalLM, is_decoder=True)(IDS).past_key_values) == 2,
    "a class of its own for each kind": lambda g: type(output()).__name__ == "SequenceClassifierOutput",
}  # fmt: skip

ModelOutput = m.ModelOutput
PROBES = {
    **{f"config: {name}": probe for name, probe in CONFIGS.items()},
    **{f"model: {name}": probe for name, probe in MODELS.items()},
    **{f"output: {name}": probe for name, probe in OUTPUTS.items()},
}

ONE_DEVICE = "A model is on one device; the message says to name it."
REFUSED_BY_NAME = "The message says what to do in place of it."
UNKNOWN = "An unknown name is an error, since it is misspelt more often than not; so none are left over."
OUR_NAMES = (
    "The layers have names of their own; from_pretrained and load_state_dict take both, and checkpoints have theirs."
)
NO_REMOTE_CODE = "Code of a model is neither written to checkpoints nor run."

NOT_HELD = {
    "config: from_dict(return_unused_kwargs=True)": UNKNOWN,
    "config: from_pretrained(return_unused_kwargs=True)": UNKNOWN,
    "config: from_pretrained with an unknown setting ignores it": UNKNOWN,
    "config: any keyword in the constructor": UNKNOWN + " Set it as an attribute afterwards.",
    "config: get_config_dict": "An internal step of from_pretrained; use from_pretrained(...).to_dict().",
    "config: torch_dtype is a dtype": "It is the string of config.json; model.dtype is a dtype.",
    "config: max_length is that of generation": "Here it is the number of tokens that a model takes.",
    "config: register_for_auto_class": NO_REMOTE_CODE,
    "model: register_for_auto_class": NO_REMOTE_CODE,
    "model: from_pretrained(trust_remote_code=True)": NO_REMOTE_CODE,
    "model: resize_position_embeddings": "The reference raises NotImplementedError for this model, too.",
    "model: create_extended_attention_mask_for_decoder": "get_extended_attention_mask of a decoder returns it.",
    "model: add_memory_hooks": "torch.profiler measures memory.",
    "model: state_dict has the names of transformers": OUR_NAMES,
    "model: get_submodule by the names of transformers": OUR_NAMES,
    "model: retrieve_modules_from_names": "An internal step of from_pretrained.",
    "model: from_pretrained(max_memory=...)": ONE_DEVICE,
    "model: from_pretrained(offload_folder=...)": ONE_DEVICE,
    "model: from_pretrained(attn_implementation='flash_attention_2')": "Packed texts on CUDA run torch's own kernel.",
    "model: from_pretrained(use_auth_token=...)": REFUSED_BY_NAME,
    "model: from_pretrained(force_download=True)": REFUSED_BY_NAME,
    "model: from_pretrained(proxies=...)": REFUSED_BY_NAME,
    "model: from_pretrained(from_tf=True)": REFUSED_BY_NAME,
    "model: from_pretrained(from_flax=True)": REFUSED_BY_NAME,
    "model: save_pretrained(push_to_hub=True)": "Call push_to_hub.",
    "output: a class of its own for each kind": "One class has the fields of all.",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("parent") / "saved"
    new(Classifier, num_labels=3).save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore::skxlmr.model.NewHeadWarning")
@pytest.mark.parametrize("name", PROBES)
def test_probe(name, request, tmp_path, saved):
    if name in NOT_HELD:
        request.applymarker(pytest.mark.xfail(reason=NOT_HELD[name], strict=True))
    (tmp_path / "own").mkdir()
    assert PROBES[name](Given(tmp_path / "own", saved))


def test_table_names_probes():
    assert NOT_HELD.keys() <= PROBES.keys()
    assert all(NOT_HELD.values())
    assert len(PROBES) - len(NOT_HELD) >= 215
