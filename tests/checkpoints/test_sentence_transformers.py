import json

import pytest

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.sentence_modules import SentenceModules, read_modules
from skxlmr.checkpoints.sentence_transformers import (
    lowercases,
    read_max_length,
    read_module_list,
    read_prompt,
    sentence_directory,
    transformer_directory,
)


def write(directory, kinds=("Transformer", "Pooling"), pooling=None, folder="1_Pooling", **files):
    parts = [
        {
            "idx": i,
            "name": str(i),
            "path": {"Pooling": folder, "Transformer": ""}.get(k, f"{i}_{k}"),
            "type": f"sentence_transformers.models.{k}",
        }
        for i, k in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(parts))
    (directory / folder).mkdir(exist_ok=True)
    (directory / folder / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8, "include_prompt": True}, "mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, "cls+max"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
        ({"nothing": 1}, "mean"),
    ],
    ids=str,
)
def test_read_modules_returns_pooling_and_normalize(tmp_path, config, pooling):
    write(tmp_path, pooling=config)
    assert read_modules(tmp_path) == SentenceModules(pooling)
    write(tmp_path, ("Transformer", "Pooling", "Normalize"), config)
    assert read_modules(tmp_path) == SentenceModules(pooling, normalize=True)
    write(tmp_path, pooling={**config, "include_prompt": False})
    assert read_modules(tmp_path) == SentenceModules(pooling, include_prompt=False)


def test_read_modules_uses_folder_of_modules_list(tmp_path):
    write(tmp_path, pooling={"pooling_mode": "mean"})
    write(tmp_path, pooling={"pooling_mode": "cls"}, folder="2_Pooling")
    assert read_modules(tmp_path).pooling == "cls"
    (tmp_path / "2_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"2_Pooling/config\.json"):
        read_modules(tmp_path)
    for folder in ("../2_Pooling", ""):
        (tmp_path / "modules.json").write_text(
            json.dumps(
                [
                    {"type": "sentence_transformers.models.Transformer", "path": ""},
                    {"type": "sentence_transformers.models.Pooling", "path": folder},
                ]
            )
        )
        with pytest.raises(CheckpointError, match="only plain names"):
            read_modules(tmp_path)


def test_read_prompt_returns_default_prompt(tmp_path):
    assert read_prompt(tmp_path) == ""
    write(tmp_path, config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert read_prompt(tmp_path) == "query: "
    write(tmp_path, config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": None})
    assert read_prompt(tmp_path) == ""


def test_read_modules_with_unsupported_settings_raises(tmp_path):
    for bad in ("median", ["mean", 1], [], {"mean": True}):
        write(tmp_path, pooling={"pooling_mode": bad})
        with pytest.raises(CheckpointError, match="is not supported"):
            read_modules(tmp_path)
    for content, message in (('{"a": 1}', "not a list of modules"), ("[", r"modules\.json")):
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_modules(tmp_path)


ROUTES = {
    "types": {
        "0_T": "sentence_transformers.models.Transformer",
        "1_P": "sentence_transformers.models.Pooling",
        "2_P": "sentence_transformers.models.Pooling",
    }
}


@pytest.mark.parametrize(
    ("structure", "parameters", "route"),
    [
        (["query", "document"], {"default_route": "document"}, "document"),
        (["query", "document"], {"default_route": None}, "query"),
        (["query", "text"], {"default_route": "query"}, "text"),
        (["query", "document"], {"route_mappings": {"(None, None)": "document"}}, "document"),
        (
            ["query", "document"],
            {"route_mappings": {"(None, None)": "document", "(None, 'text')": "query", "('x', None)": "z"}},
            "query",
        ),
    ],
)
def test_read_module_list_follows_the_default_route_of_a_router(tmp_path, structure, parameters, route):
    modules = [
        {"type": "sentence_transformers.models.Router", "path": ""},
        {"type": "sentence_transformers.models.Normalize", "path": "1_Normalize"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    routes = {name: ["0_T", f"{i}_P"] for i, name in enumerate(structure, start=1)}
    (tmp_path / "router_config.json").write_text(json.dumps({**ROUTES, "structure": routes, "parameters": parameters}))
    names = [*routes[route], "1_Normalize"]
    kinds = ["Transformer", "Pooling", "Normalize"]
    assert read_module_list(tmp_path) == [(kind, tmp_path / name) for kind, name in zip(kinds, names, strict=True)]
    assert transformer_directory(tmp_path) == tmp_path / "0_T"
    assert sentence_directory(tmp_path / "0_T") == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"types": {}, "structure": {"a": ["x"]}}, "no modules of the route 'a'"),
        (
            {"types": {"../x": "sentence_transformers.models.Transformer"}, "structure": {"a": ["../x"]}},
            "only plain names",
        ),
        ({"types": {}, "structure": {"a": "x"}}, "structure.a must be a list"),
        ({"types": {}}, "no 'structure'"),
        ({"types": {}, "structure": {}, "parameters": {"default_route": 3}}, "no modules of the route 3"),
    ],
)
def test_read_module_list_with_damaged_router_raises(tmp_path, content, message):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Router", "path": ""}]))
    (tmp_path / "router_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_module_list(tmp_path)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_read_max_length_from_settings_or_tokenizer(tmp_path, name):
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    assert read_max_length(tmp_path) is None, "not a model of sentence-transformers"
    write(tmp_path)
    assert read_max_length(tmp_path) == 128
    (tmp_path / name).write_text('{"max_seq_length": 64}')
    assert read_max_length(tmp_path) == 64
    (tmp_path / name).write_text('{"max_seq_length": null}')
    assert read_max_length(tmp_path) == 128
    for bad in ("true", '"64"', "3", "64.5"):
        (tmp_path / name).write_text(f'{{"max_seq_length": {bad}}}')
        with pytest.raises(CheckpointError, match="max_seq_length must be an integer from 4"):
            read_max_length(tmp_path)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_lowercases_by_settings_of_the_transformer(tmp_path, name):
    assert not lowercases(tmp_path)
    for value in (True, False):
        (tmp_path / name).write_text(json.dumps({"max_seq_length": 64, "do_lower_case": value}))
        assert lowercases(tmp_path) is value


@pytest.mark.parametrize("kind", ["StaticEmbedding", "CLIPModel", "BoW"])
def test_resolve_of_model_without_transformer_names_its_first_module(kind, tmp_path):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=f"first module in its modules.json is '{kind}', and not a Transformer"):
        resolve(tmp_path)


def test_modules_of_other_packages_are_not_those_of_sentence_transformers(tmp_path):
    """Such as "custom_st.Transformer", of which the code lies beside the model."""
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "custom_st.Transformer", "path": ""}]))
    with pytest.raises(CheckpointError, match=r"a module 'custom_st\.Transformer', which is not supported\. Set"):
        read_modules(tmp_path)
