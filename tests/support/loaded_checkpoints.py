"""Checkpoints of transformers for `skxlmr.load`, and what is compared with them."""

import json
import pickle
import shutil

import torch

import skxlmr

FAMILIES = ("XLMRobertaXL", "XLMRoberta", "Bert")
NLI = {0: "neutral", 1: "entailment", 2: "contradiction"}
TEXTS = ["the river is wide", "music", "the train left the city early this morning"]
PAIRS = [["the river is wide", "the river"], ["music", "the train left"], ["the city", "a"]]


def logits_of(model, oracle, X, pairs=False):
    columns = list(zip(*X, strict=True)) if pairs else [X]
    batch = oracle(*map(list, columns), padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def copy_of(directory, target, **changes):
    """Copy a checkpoint, with other entries in its config.json; None removes one."""
    shutil.copytree(directory, target)
    config = json.loads((target / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    return target


def again(estimator, tmp_path):
    """The same estimator, saved and loaded, and pickled."""
    estimator.save(tmp_path / "saved")
    return [skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(estimator))]
