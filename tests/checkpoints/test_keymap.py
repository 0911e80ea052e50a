from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.checkpoints.formats import TensorInfo
from skxlmr.checkpoints.keymap import KeyMap, match

KEY_MAP = KeyMap(
    [
        ("roberta.embeddings.word.weight", "base.word.weight"),
        ("roberta.encoder.layer.{i}.dense.{p}", "base.layers.{i}.ffn.{p}"),
        ("roberta.pooler.dense.{p}", "base.pooler.{p}"),
        ("classifier.dense.{p}", "classifier.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.out.{p}"),
        ("lm_head.bias", "lm_head.bias"),
    ],
    ignored=["roberta.embeddings.position_ids", "lm_head.decoder.{p}"],
)
BASE = {
    "roberta.embeddings.word.weight": (10, 4),
    "roberta.encoder.layer.0.dense.weight": (4, 4),
    "roberta.encoder.layer.0.dense.bias": (4,),
    "roberta.encoder.layer.11.dense.weight": (4, 4),
    "roberta.encoder.layer.11.dense.bias": (4,),
}
HEAD = {
    "classifier.dense.weight": (4, 4),
    "classifier.dense.bias": (4,),
    "classifier.out_proj.weight": (2, 4),
    "classifier.out_proj.bias": (2,),
}


def infos(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float16) -> dict[str, TensorInfo]:
    return {key: TensorInfo(shape, dtype, Path("model.safetensors")) for key, shape in shapes.items()}


def expected(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Size]:
    return {KEY_MAP.to_ours(key): torch.Size(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("roberta.embeddings.word.weight", "base.word.weight"),
        ("roberta.encoder.layer.0.dense.bias", "base.layers.0.ffn.bias"),
        ("roberta.encoder.layer.35.dense.weight", "base.layers.35.ffn.weight"),
        ("lm_head.bias", "lm_head.bias"),
    ],
)
def test_key_map_translates_both_ways(theirs: str, ours: str):
    assert KEY_MAP.to_ours(theirs) == ours
    assert KEY_MAP.to_theirs(ours) == theirs


@pytest.mark.parametrize(
    "key",
    [
        "roberta.encoder.layer.01.dense.bias",
        "roberta.encoder.layer.-1.dense.bias",
        "roberta.encoder.layer.٣.dense.bias",
        "roberta.encoder.layer.0.dense.gamma",
        "robertaXembeddings.word.weight",
        "x.roberta.embeddings.word.weight",
        "roberta.embeddings.word.weight\n",
    ],
)
def test_to_ours_with_key_outside_templates_is_none(key: str):
    assert KEY_MAP.to_ours(key) is None


def test_to_theirs_with_unknown_parameter_raises():
    with pytest.raises(KeyError, match=r"base\.unknown"):
        KEY_MAP.to_theirs("base.unknown")


def test_is_ignored_matches_templates():
    assert KEY_MAP.is_ignored("roberta.embeddings.position_ids")
    assert KEY_MAP.is_ignored("lm_head.decoder.bias")
    assert not KEY_MAP.is_ignored("lm_head.bias")


@pytest.mark.parametrize(
    "rules",
    [
        [("layer.{i}.a", "layers.a")],
        [("layer.a", "layers.{i}.a")],
        [("a.{p}", "b.weight")],
        [("a.weight", "b.weight"), ("a.weight", "c.weight")],
        [("a.weight", "c.weight"), ("b.weight", "c.weight")],
        [("a.{p}", "b.{p}"), ("a.weight", "c.weight")],
        [("a.{i}.x", "b.{i}.x"), ("a.0.x", "c.x")],
    ],
)
def test_key_map_with_ambiguous_rules_raises(rules: list[tuple[str, str]]):
    with pytest.raises(ValueError, match=r"both sides|more than one"):
        KeyMap(rules)


def test_match_keeps_order_of_file():
    tensors = infos(dict(reversed({**BASE, **HEAD}.items())))
    plan = match(tensors, expected({**BASE, **HEAD}), KEY_MAP)
    assert [theirs for theirs, _ in plan.assignments] == list(tensors)
    assert all(KEY_MAP.to_ours(theirs) == ours for theirs, ours in plan.assignments)
    assert (plan.new, plan.unused) == ([], [])


def test_match_of_base_model_without_prefix_adds_it():
    tensors = infos({key.removeprefix("roberta."): shape for key, shape in {**BASE, **HEAD}.items()})
    tensors |= infos({"embeddings.position_ids": (1, 8)}, torch.int64)
    plan = match(tensors, expected({**BASE, **HEAD}), KEY_MAP)
    assert dict(plan.assignments)["encoder.layer.11.dense.bias"] == "base.layers.11.ffn.bias"
    assert len(plan.assignments) == len(expected({**BASE, **HEAD}))


def test_match_with_partly_missing_prefix_raises():
    keys = dict(BASE)
    keys["embeddings.word.weight"] = keys.pop("roberta.embeddings.word.weight")
    with pytest.raises(CheckpointMismatchError) as caught:
        match(infos(keys), expected(BASE), KEY_MAP)
    assert "missing: roberta.embeddings.word.weight" in str(caught.value)
    assert "unexpected: embeddings.word.weight" in str(caught.value)


def test_match_ignores_buffers_and_second_names_of_tied_weights():
    tensors = infos(BASE) | infos({"roberta.embeddings.position_ids": (1, 8)}, torch.int64)
    tensors |= infos({"lm_head.decoder.weight": (10, 4)})
    plan = match(tensors, expected(BASE), KEY_MAP)
    assert len(plan.assignments) == len(BASE)
    assert plan.unused == []


def test_match_with_missing_head_lists_it_as_new():
    plan = match(infos(BASE), expected({**BASE, **HEAD}), KEY_MAP, may_be_new=["classifier.", "base.pooler."])
    assert plan.new == list(expected(HEAD))


def test_match_with_missing_required_head_raises():
    with pytest.raises(CheckpointMismatchError, match=r"missing: classifier\.dense\.weight"):
        match(infos(BASE), expected({**BASE, **HEAD}), KEY_MAP, may_be_new=["base.pooler."])


def test_match_with_incomplete_head_raises():
    partial = {**BASE, "classifier.dense.weight": (4, 4), "classifier.dense.bias": (4,)}
    with pytest.raises(CheckpointMismatchError) as caught:
        match(infos(partial), expected({**BASE, **HEAD}), KEY_MAP, may_be_new=["classifier."])
    assert "missing: classifier.out_proj.weight" in str(caught.value)


@pytest.mark.parametrize("prefix", ["roberta.", ""])
@pytest.mark.parametrize("optional", ["roberta.pooler.", "roberta.pooler.dense.{p}"])
def test_match_lists_allowed_surplus_keys_as_unused(prefix: str, optional: str):
    keys = {**BASE, "roberta.pooler.dense.weight": (4, 4), "qa_outputs.weight": (2, 4)}
    keys = {key.replace("roberta.", prefix): shape for key, shape in keys.items()}
    plan = match(infos(keys), expected(BASE), KEY_MAP, may_be_unused=[optional, "qa_outputs."])
    assert plan.unused == [f"{prefix}pooler.dense.weight", "qa_outputs.weight"]


@pytest.mark.parametrize(
    "key", ["roberta.encoder.layer.12.dense.weight", "roberta.pooler.dense.bias", "anything", "qa_outputs.weight"]
)
def test_match_with_unexpected_key_raises(key: str):
    with pytest.raises(CheckpointMismatchError, match=f"unexpected: {key}"):
        match(infos({**BASE, key: (4, 4)}), expected(BASE), KEY_MAP, may_be_unused=["classifier."])


def test_match_with_wrong_shape_raises():
    tensors = infos({**BASE, "roberta.embeddings.word.weight": (11, 4)})
    with pytest.raises(CheckpointMismatchError) as caught:
        match(tensors, expected(BASE), KEY_MAP)
    assert "shape: roberta.embeddings.word.weight: file has (11, 4), config requires (10, 4)" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_match_with_wrong_dtype_raises():
    with pytest.raises(CheckpointMismatchError, match=r"dtype: .*file has torch\.int8"):
        match(infos(BASE, torch.int8), expected(BASE), KEY_MAP)


def test_match_error_lists_ten_differences():
    with pytest.raises(CheckpointMismatchError) as caught:
        match(infos({f"x.{n}": (1,) for n in range(20)}), expected(BASE), KEY_MAP)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert sum("missing" in line for line in lines) == len(BASE)
    assert lines[-1].strip() == f"and {20 + len(BASE) - 10} more"


def test_match_with_empty_checkpoint_raises():
    with pytest.raises(CheckpointMismatchError, match="it is empty"):
        match({}, expected(BASE), KEY_MAP)
