"""Files of models, changed at random: they are read rightly, or refused by a typed error."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from fuzzing import as_bytes, hostile_values, json_values, mutated_bytes, mutated_json, reads
from hypothesis import given
from hypothesis import strategies as st
from peft_adapters import make_adapter, write_base

import skxlmr
from skxlmr.checkpoints.convert.fairseq import convert_fairseq
from skxlmr.checkpoints.files import parse_json
from skxlmr.checkpoints.formats import open_weights
from skxlmr.checkpoints.layout import read_index
from skxlmr.checkpoints.sentence_heads import read_head_file
from skxlmr.checkpoints.sentence_modules import MODES, read_modules
from skxlmr.checkpoints.sentence_transformers import read_max_length, read_prompt
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer

TEXTS = ["All human beings", "人人生而自由 <mask>", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of all examples."""
    return tmp_path_factory.mktemp("fuzzing")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.arange(5), "c": torch.zeros(0, 2).half()}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_spm: Path) -> Path:
    """A complete model with two layers."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(tiny_spm / "sentencepiece.bpe.model", folder)
    size = len(XLMRobertaXLTokenizer.from_directory(folder))
    config = XLMRobertaXLConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    XLMRobertaXLModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "skxlmr.json").unlink()
    return folder


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with closing(open_weights(path)) as file:
        return {name: file.read(name) for name in file.tensors}


@given(data=st.data())
def test_any_json_is_parsed_as_by_the_standard_library_or_refused(data):
    text = data.draw(json_values.map(as_bytes) | hostile_values.map(as_bytes) | st.binary(max_size=60))
    result = reads(lambda: parse_json(text, "it"))
    assert result is None or result == json.loads(text)


@given(data=st.data())
def test_config_is_read_or_refused(model_folder, folder, data):
    content = json.loads((model_folder / "config.json").read_text())
    (folder / "config.json").write_bytes(as_bytes(data.draw(mutated_json(content) | json_values)))
    config = reads(lambda: XLMRobertaXLConfig.from_file(folder / "config.json"))
    if config is not None:
        assert XLMRobertaXLConfig.from_dict(config.to_dict()) == config


@given(data=st.data())
def test_model_with_changed_config_runs_or_is_refused(model_folder, folder, data):
    content = json.loads((model_folder / "config.json").read_text())
    changed = shutil.copytree(model_folder, folder / "model", dirs_exist_ok=True)
    (changed / "config.json").write_bytes(as_bytes(data.draw(mutated_json(content))))

    def run():
        model = XLMRobertaXLModel.from_pretrained(changed, add_pooling_layer=False)
        return model(torch.tensor([[0, 5, 2]])).last_hidden_state

    hidden = reads(run, warning="has no weights for")
    assert hidden is None or (hidden.shape[:2] == (1, 3) and hidden.isfinite().all())


@given(data=st.data())
def test_index_is_read_or_refused(folder, data):
    content = {"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (folder / "index.json").write_bytes(as_bytes(data.draw(mutated_json(content) | json_values)))
    index = reads(lambda: read_index(folder / "index.json"))
    assert index is None or all("/" not in shard and not shard.startswith(".") for shard in index.values())


@given(data=st.data())
def test_settings_of_sentence_transformers_are_read_or_refused(folder, data):
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
        "skxlmr_head.json": {"problem_type": "single_label_classification", "classes": ["a", "b"]},
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    changed = data.draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        (folder / name).write_bytes(as_bytes(data.draw(mutated_json(content)) if name == changed else content))
    modules = reads(lambda: read_modules(folder))
    assert modules is None or set(modules.pooling.split("+")) <= set(MODES.values())
    max_length = reads(lambda: read_max_length(folder))
    assert max_length is None or max_length >= 4
    head = reads(lambda: read_head_file(folder))
    assert head is None or (head.classes is None) == (head.problem_type == "regression")
    prompt = reads(lambda: read_prompt(folder))
    assert prompt is None or isinstance(prompt, str)


@given(data=st.data())
def test_safetensors_are_read_as_by_their_own_library_or_refused(folder, state, data):
    whole = safetensors.torch.save(state)
    if data.draw(st.booleans()):
        changed = data.draw(mutated_bytes(whole))
    else:
        size = int.from_bytes(whole[:8], "little")
        header = as_bytes(data.draw(mutated_json(json.loads(whole[8 : 8 + size]))))
        changed = len(header).to_bytes(8, "little") + header + whole[8 + size :]
    (folder / "x.safetensors").write_bytes(changed)
    tensors = reads(lambda: read_tensors(folder / "x.safetensors"))
    if tensors is not None:
        theirs = safetensors.torch.load(changed)
        assert tensors.keys() == theirs.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@given(data=st.data())
def test_files_of_torch_save_are_read_as_by_torch_or_refused(zipped, folder, state, data):
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(data.draw(mutated_bytes(path.read_bytes())))
    tensors = reads(lambda: read_tensors(path))
    if tensors is not None:
        theirs = torch.load(path, weights_only=True)
        assert tensors.keys() == theirs.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@given(data=st.data())
def test_checkpoints_of_fairseq_are_converted_or_refused(zipped, folder, state, data):
    path = folder / "model.pt"
    torch.save({"args": {"arch": "x"}, "model": state}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(data.draw(mutated_bytes(path.read_bytes())))
    reads(lambda: convert_fairseq(path, folder / "converted"))


@given(data=st.data())
def test_sentencepiece_model_tokenises_or_is_refused(folder, tiny_spm, data):
    changed = data.draw(mutated_bytes((tiny_spm / "sentencepiece.bpe.model").read_bytes()) | st.binary(max_size=200))
    (folder / "sentencepiece.bpe.model").write_bytes(changed)
    check_tokenizer(folder)


@given(data=st.data())
def test_tokenizer_json_tokenises_or_is_refused(tmp_path_factory, tiny_spm, data):
    folder = tmp_path_factory.getbasetemp() / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokenizer = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    content = json.loads(json.dumps(tokenizer.vocabulary.as_tokenizer_json()))
    changed = mutated_json(content).map(as_bytes) | mutated_bytes(as_bytes(content))
    (folder / "tokenizer.json").write_bytes(data.draw(changed))
    check_tokenizer(folder)


@given(data=st.data())
def test_tokenizer_config_is_read_or_refused(folder, tiny_spm, data):
    shutil.copy(tiny_spm / "sentencepiece.bpe.model", folder)
    content = {"model_max_length": 512, "tokenizer_class": "XLMRobertaTokenizer", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_bytes(as_bytes(data.draw(mutated_json(content) | json_values)))
    tokenizer = check_tokenizer(folder)
    assert tokenizer is None or 0 < tokenizer.model_max_length < 10**9
    (folder / "tokenizer_config.json").unlink()


def check_tokenizer(folder: Path) -> XLMRobertaXLTokenizer | None:
    """Load a tokenizer; whatever it has learned, its ids are those of its vocabulary."""

    def load() -> XLMRobertaXLTokenizer:
        tokenizer = XLMRobertaXLTokenizer.from_directory(folder)
        for ids in tokenizer.encode_batch(TEXTS):
            assert ((ids >= 0) & (ids < len(tokenizer))).all()
            tokenizer.convert_ids_to_tokens(ids)
        tokenizer(TEXTS, padding=True, return_tensors="np")
        return tokenizer

    return reads(load)


def test_as_tokenizer_json_of_unchanged_model_is_read(tiny_spm, tmp_path):
    """The examples above begin with a file that is right."""
    tokenizer = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    (tmp_path / "tokenizer.json").write_bytes(as_bytes(tokenizer.vocabulary.as_tokenizer_json()))
    again = check_tokenizer(tmp_path)
    assert again is not None
    for ids, expected in zip(again.encode_batch(TEXTS), tokenizer.encode_batch(TEXTS), strict=True):
        assert ids.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an adapter of a tiny classifier, beside that of its base model."""
    folder = tmp_path_factory.mktemp("adapter")
    base = write_base(folder / "base", ending="Model")
    options = {"target_modules": ["query", "dense"], "rank_pattern": {"query": 3}, "layers_to_transform": [0, 2]}
    make_adapter(folder / "adapter", base, "ForSequenceClassification", "SEQ_CLS", **options, bias="all")
    return folder / "adapter"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # in peft
@given(data=st.data())
def test_adapter_of_peft_is_loaded_or_refused(adapter_folder, tmp_path_factory, data):
    changed = tmp_path_factory.mktemp("changed")
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    whole = (adapter_folder / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    if data.draw(st.booleans()):
        config = data.draw(mutated_json(config))
    else:
        header = data.draw(mutated_json(header))
    (changed / "adapter_config.json").write_bytes(as_bytes(config))
    new = as_bytes(header)
    (changed / "adapter_model.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + whole[8 + size :])
    loaded = reads(lambda: skxlmr.load(changed, device="cpu"), warning=".*peft stores neither the names of labels")
    assert loaded is None or np.isfinite(loaded.decision_function(["a text"])).all()
    reads(lambda: XLMRobertaXLModel.from_pretrained(changed, add_pooling_layer=False))
