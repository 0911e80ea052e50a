import json

import pytest

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.sentence_transformers import lowercases, read_pooling, read_prompt


def write(directory, kinds=("Transformer", "Pooling"), pooling=None, folder="1_Pooling", **files):
    parts = [
        {
            "idx": i,
            "name": str(i),
            "path": folder if k == "Pooling" else "",
            "type": f"sentence_transformers.models.{k}",
        }
        for i, k in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(parts))
    (directory / folder).mkdir(exist_ok=True)
    (directory / folder / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_read_pooling_without_files_returns_defaults(tmp_path):
    assert read_pooling(tmp_path) == ("mean", False)
    assert read_prompt(tmp_path) == ""


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8, "include_prompt": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
    ids=str,
)
def test_read_pooling_returns_mode_and_normalize(tmp_path, config, pooling):
    write(tmp_path, pooling=config)
    assert read_pooling(tmp_path) == (pooling, False)
    write(tmp_path, ("Transformer", "Pooling", "Normalize"), config)
    assert read_pooling(tmp_path) == (pooling, True)


def test_read_pooling_uses_folder_of_modules_list(tmp_path):
    write(tmp_path, pooling={"pooling_mode": "mean"})
    write(tmp_path, pooling={"pooling_mode": "cls"}, folder="2_Pooling")
    assert read_pooling(tmp_path) == ("cls", False)
    (tmp_path / "2_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"2_Pooling/config\.json"):
        read_pooling(tmp_path)
    write(tmp_path, folder="../2_Pooling")
    with pytest.raises(CheckpointError, match="only plain names"):
        read_pooling(tmp_path)


def test_read_prompt_returns_default_prompt(tmp_path):
    write(tmp_path, config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert read_prompt(tmp_path) == "query: "
    write(tmp_path, config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": None})
    assert read_prompt(tmp_path) == ""


def test_read_pooling_with_unsupported_settings_raises(tmp_path):
    write(tmp_path, ("Transformer", "Pooling", "Dense"))
    with pytest.raises(CheckpointError, match=r"has a module 'Dense'.*Set pooling and normalize"):
        read_pooling(tmp_path)
    for bad in ({"pooling_mode_weightedmean_tokens": True}, {}, {"pooling_mode": "lasttoken"},
                {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}):  # fmt: skip
        write(tmp_path, pooling=bad or {"nothing": 1})
        with pytest.raises(CheckpointError, match="pooling that is not supported"):
            read_pooling(tmp_path)
    write(tmp_path, pooling={"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(CheckpointError, match="excludes the tokens of the prompt"):
        read_pooling(tmp_path)
    (tmp_path / "modules.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="not a list of modules"):
        read_pooling(tmp_path)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        read_pooling(tmp_path)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_lowercases_by_settings_of_the_transformer(tmp_path, name):
    assert not lowercases(tmp_path)
    for value in (True, False):
        (tmp_path / name).write_text(json.dumps({"max_seq_length": 64, "do_lower_case": value}))
        assert lowercases(tmp_path) is value
