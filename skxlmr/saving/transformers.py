"""Export of a fitted estimator with a head as a model of transformers or of sentence-transformers."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass

import torch
from torch import nn

from skxlmr.checkpoints.sentence_transformers import MODULES, PROMPTS, SETTINGS_NAMES
from skxlmr.hardware.device import DTYPES
from skxlmr.model import BertForSequenceClassification, XLMRobertaXLConfig, XLMRobertaXLForSequenceClassification
from skxlmr.model.generation_config import read_generation_config
from skxlmr.model.heads import ClassificationHead, PooledHead
from skxlmr.model.layers import Pooler
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.cards import card_files
from skxlmr.saving.merged import FittedWeights
from skxlmr.saving.sentence_transformers import modules_of_head, one_prompt, write_sentence_model
from skxlmr.tasks.base import Export


@dataclass(frozen=True, eq=False)
class ExportedModel(FittedWeights):
    """The parts of a fitted estimator that are needed to export it with its head."""

    finetuned: Finetuned
    export: Export
    model: str  # the checkpoint, as the user named it
    max_length: int | None = None  # number of tokens that are read at once; None means all that the model can

    def heads(self, head: nn.Module) -> tuple[type[PretrainedModel], dict[str, nn.Module]]:
        """Return the class to export, and the parts of the head by their names in it."""
        return head_parts(self.export, self.finetuned.config, head)


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
    exported.check_destination(directory)
    merged, tokenizer = exported.merged(dtype)
    finetuned, export = exported.finetuned, exported.export
    if export.model_class is None:
        assert isinstance(finetuned.head, PooledHead)
        write_sentence_model(
            directory,
            merged,
            modules_of_head(copy.deepcopy(finetuned.head).float().cpu(), finetuned.pooling, export.include_prompt),
            prompts=one_prompt(export.prompt),
            max_length=exported.max_length,
            config=export.config,
            other_files=tokenizer.files() | card_files(directory, exported.facts, "sentence-transformers"),
        )
        return
    model_class, heads = exported.heads(copy.deepcopy(finetuned.head).to(DTYPES[dtype]))
    with torch.device("meta"):
        # The checkpoint may be that of a decoder, although the estimator attends in both directions.
        model = model_class(merged.config.changed({"is_decoder": finetuned.causal, **export.config}))
    model.roberta = merged
    if model.can_generate():
        model.generation_config = read_generation_config(exported.files, merged.config)
    for name, module in heads.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    # Files of an earlier export for sentence-transformers would say that the model is to be read as that was.
    card = card_files(directory, exported.facts, "transformers")
    model.write(directory, tokenizer.files() | card, obsolete={MODULES, PROMPTS, *SETTINGS_NAMES})
