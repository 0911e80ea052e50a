"""Export of a fitted estimator as a model of transformers."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.hardware.device import DTYPES
from skxlmr.model import (
    BertForSequenceClassification,
    XLMRobertaXLConfig,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLModel,
)
from skxlmr.model.heads import ClassificationHead, PooledHead
from skxlmr.model.layers import Pooler
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.quantized import quantized_layers
from skxlmr.runtime.backbone import read_tokenizer
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.sentence_transformers import write_sentence_model
from skxlmr.tasks.base import Export
from skxlmr.tuning import NORM_PATHS, OUTER_PATHS, PATHS, AddedBias, LayerAdapter, LowRank


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """The parts of a fitted estimator that are needed to export it."""

    finetuned: Finetuned
    export: Export
    files: CheckpointFiles  # of the checkpoint that it was fitted on
    pieces: np.ndarray | None  # (V,), int64: the pieces of the vocabulary that were kept; None means all
    model: str  # the checkpoint, as the user named it

    def heads(self, head: nn.Module) -> tuple[type[PretrainedModel], dict[str, nn.Module]]:
        """Return the class to export, and the parts of the head by their names in it."""
        return head_parts(self.export, self.finetuned.config, head)

    def check_destination(self, directory: str | os.PathLike) -> None:
        """Refuse to overwrite the base model, without which everything fitted on it would be unusable."""
        used = [self.files.directory, *([] if self.files.adapter is None else [self.files.adapter.directory])]
        if Path(directory).expanduser().resolve() in [path.resolve() for path in used]:
            raise ValueError(
                f"{str(directory)!r} holds the checkpoint that this estimator was fitted on, which it needs to predict."
                f" Export to another directory."
            )


def head_parts(
    export: Export, config: XLMRobertaXLConfig, head: nn.Module
) -> tuple[type[PretrainedModel], dict[str, nn.Module]]:
    """Return the class of the reference that has a head, and the parts of the head by their names in it.

    BERT's head for texts consists of the same two layers as ours, but the first of them is its pooler.
    """
    model_class = export.model_class
    assert model_class is not None
    if config.model_type == "bert" and model_class is XLMRobertaXLForSequenceClassification:
        assert isinstance(head, ClassificationHead)
        pooler = Pooler(config)
        pooler.dense = head.dense
        return BertForSequenceClassification, {"roberta.pooler": pooler, "classifier": head.out_proj}
    return model_class, export.heads(head)


def export_pretrained(exported: ExportedModel, directory: str | os.PathLike, dtype: str) -> None:
    """Write a model of transformers; see `XLMRXLLearner.export_pretrained`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    exported.check_destination(directory)
    files, finetuned = exported.files, exported.finetuned
    if finetuned.own is not None and dtype != "float32":
        finetuned = copy.deepcopy(finetuned)  # `to` converts modules in place, but these belong to the estimator
    # Read the original weights, since the estimator may run an 8-bit or trimmed base.
    base = XLMRobertaXLModel.from_pretrained(files, dtype=torch.float32, add_pooling_layer=False)
    if quantized_layers(base):
        raise ValueError(f"{files.name!r} holds 8-bit weights, into which nothing can be merged. Use export_adapter.")
    tokenizer = read_tokenizer(files.directory)
    if exported.pieces is not None:
        tokenizer, kept = tokenizer.trim(exported.pieces)
        base = base.with_words(base.embeddings.word.weight[torch.from_numpy(kept)])
    merged = merge(finetuned, base).to(DTYPES[dtype])
    if exported.export.model_class is None:
        head = copy.deepcopy(finetuned.head).float()
        assert isinstance(head, PooledHead)
        write_sentence_model(
            directory,
            merged,
            head,
            pooling=finetuned.pooling,
            prompt=exported.export.prompt,
            config=exported.export.config,
            tokenizer_files=tokenizer.files(),
        )
        return
    model_class, heads = exported.heads(copy.deepcopy(finetuned.head).to(DTYPES[dtype]))
    with torch.device("meta"):
        # The checkpoint may be that of a decoder, although the estimator attends in both directions.
        model = model_class(replace(base.config, is_decoder=finetuned.causal, **exported.export.config))
    model.roberta = merged
    for name, module in heads.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    model.write(directory, tokenizer.files())


@torch.no_grad()
def merge(finetuned: Finetuned, base: XLMRobertaXLModel) -> XLMRobertaXLModel:
    """Merge an adapter into the weights of a base model, in place; or replace them by trained copies."""
    for layer, deltas in zip(base.layers, finetuned.adapter or (), strict=False):
        assert isinstance(deltas, LayerAdapter)
        for name, delta in deltas.items():
            outer = OUTER_PATHS.get(name)
            target = base.get_submodule(outer) if outer else layer.get_submodule((PATHS | NORM_PATHS)[name])
            assert isinstance(delta, LowRank | AddedBias)
            assert isinstance(target, nn.Linear | nn.LayerNorm)
            delta.merge_into(target)
    return finetuned.model(base)
