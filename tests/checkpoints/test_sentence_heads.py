import json
from pathlib import Path

import numpy as np
import pytest

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.sentence_heads import HeadFile, outputs_of, read_head_file, split_head
from skxlmr.checkpoints.sentence_modules import SentenceModules

SINGLE = "single_label_classification"
HEAD = {"kind": "Dense", "activation": "Identity", "weight": np.eye(2, 3, dtype="f"), "bias": None, "residual": False}
TANH = {**HEAD, "activation": "Tanh"}
UNIT = {"kind": "Normalize"}


@pytest.mark.parametrize(
    ("layers", "below", "normalize"),
    [
        ((HEAD,), (), False),
        ((UNIT, HEAD), (), True),
        ((TANH, UNIT, HEAD), (TANH,), True),
        ((TANH, HEAD), (TANH,), False),
    ],
    ids=["head", "normalize", "tanh normalize", "tanh"],
)
def test_split_head_separates_it_from_the_modules_below(layers, below, normalize):
    split = split_head(SentenceModules("cls", layers, include_prompt=False))
    assert split is not None
    assert split[0] == SentenceModules("cls", below, normalize, include_prompt=False)
    assert split[1] is HEAD
    assert outputs_of(split[1]) == 2


@pytest.mark.parametrize(
    "modules",
    [
        SentenceModules("mean"),
        SentenceModules("mean", (HEAD,), normalize=True),
        SentenceModules("mean", (HEAD,), truncate_dim=1),
        SentenceModules("mean", (HEAD, TANH)),
        SentenceModules("mean", (HEAD, UNIT)),
        SentenceModules("mean", ({**HEAD, "residual": True},)),
    ],
    ids=["none", "normalised", "truncated", "activation", "Normalize", "residual"],
)
def test_split_head_of_other_modules_is_none(modules):
    assert split_head(modules) is None


@pytest.mark.parametrize("classes", [["a", "b"], [1, 2], [True, False], [1.0, 2.0]], ids=str)
def test_read_head_file_keeps_the_types_of_labels(classes, tmp_path: Path):
    assert read_head_file(tmp_path) is None
    (tmp_path / "skxlmr_head.json").write_bytes(HeadFile(SINGLE, classes).to_json())
    head = read_head_file(tmp_path)
    assert head == HeadFile(SINGLE, classes)
    assert [*map(type, head.classes)] == [*map(type, classes)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"problem_type": "regression", "classes": ["a", "b"]}, "must have classes, unless"),
        ({"problem_type": SINGLE}, "must have classes, unless"),
        ({"problem_type": "ranking"}, "problem_type must be 'regression' or"),
        ({"problem_type": SINGLE, "classes": ["a", 1]}, "classes of several types, int and str"),
        ({"problem_type": SINGLE, "classes": ["a", {}]}, "classes"),
        ({"problem_type": SINGLE, "classes": "ab"}, "classes"),
        ([], "skxlmr_head"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_read_head_file_with_other_content_raises(content, message, tmp_path: Path):
    (tmp_path / "skxlmr_head.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_head_file(tmp_path)
