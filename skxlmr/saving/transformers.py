"""Export of a fitted estimator with a head as a model of transformers or of sentence-transformers."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from skxlmr.checkpoints.sentence_heads import HeadFile
from skxlmr.checkpoints.sentence_transformers import (
    CROSS_ENCODER,
    HEAD,
    MODULES,
    OF_CROSS_ENCODERS,
    PROMPTS,
    SETTINGS_NAMES,
)
from skxlmr.hardware.device import DTYPES
from skxlmr.model import BertForSequenceClassification, XLMRobertaXLConfig, XLMRobertaXLForSequenceClassification
from skxlmr.model.generation_config import read_generation_config
from skxlmr.model.heads import ClassificationHead, PooledHead
from skxlmr.model.layers import Pooler
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.cards import card_files
from skxlmr.saving.merged import BESIDE_MODEL, FittedWeights
from skxlmr.saving.sentence_transformers import (
    DEFAULT_PROMPT,
    class_path,
    modules_of_head,
    one_prompt,
    write_sentence_model,
)
from skxlmr.tasks.exports import Export


@dataclass(frozen=True, eq=False)
class ExportedModel(FittedWeights):
    """The parts of a fitted estimator that are needed to export it with its head."""

    finetuned: Finetuned
    export: Export
    model: str  # the checkpoint, as the user named it
    max_length: int | None = None  # number of tokens that are read at once; None means all that the model can

    def head(self) -> nn.Module:
        """Return the head to write, a copy in float32 on the CPU."""
        return self.export.written(copy.deepcopy(self.finetuned.head).float().cpu())

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
    exported.check_kind(directory, BESIDE_MODEL)
    merged, tokenizer = exported.merged(dtype)
    finetuned, export = exported.finetuned, exported.export
    if export.model_class is None:
        head = exported.head()
        assert isinstance(head, PooledHead)
        write_sentence_model(
            directory,
            merged,
            modules_of_head(head, finetuned.pooling, export.include_prompt),
            prompts=one_prompt(export.prompt),
            max_length=exported.max_length,
            config=export.config,
            other_files=tokenizer.files()
            | {HEAD: HeadFile(export.config["problem_type"], export.classes).to_json()}
            | card_files(directory, exported.facts, "sentence-transformers"),
        )
        return
    model_class, heads = exported.heads(exported.head().to(DTYPES[dtype]))
    _check_finite(heads, dtype)
    extra = {name: value for name, value in merged.config.extra.items() if name not in OF_CROSS_ENCODERS}
    if export.activation is not None:
        extra[OF_CROSS_ENCODERS[0]] = {"activation_fn": class_path(export.activation)}
    with torch.device("meta"):
        # The checkpoint may be that of a decoder, although the estimator attends in both directions.
        config = replace(merged.config, extra=extra)
        model = model_class(config.changed({"is_decoder": finetuned.causal, **export.config}))
    model.roberta = merged
    if model.can_generate():
        model.generation_config = read_generation_config(exported.files, merged.config)
    for name, module in heads.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    # Files of an earlier export for sentence-transformers would say that the model is to be read as that was.
    others = tokenizer.files() | cross_encoder_files(export) | card_files(directory, exported.facts, "transformers")
    model.write(directory, others, obsolete={MODULES, PROMPTS, HEAD, *SETTINGS_NAMES})


def cross_encoder_files(export: Export) -> dict[str, bytes]:
    """Return the file that says what is put before texts, and what is done with the outputs of the head.

    It is read by `skxlmr.load`, and ignored by transformers and peft.
    """
    if not export.prompt and export.activation in (None, "Identity"):
        return {}
    content: dict[str, Any] = {
        "model_type": CROSS_ENCODER,
        "prompts": one_prompt(export.prompt),
        "default_prompt_name": DEFAULT_PROMPT if export.prompt else None,
        "activation_fn": None if export.activation is None else class_path(export.activation),
    }
    return {PROMPTS: (json.dumps(content, indent=2) + "\n").encode()}


def _check_finite(heads: dict[str, nn.Module], dtype: str) -> None:
    """Raise a ValueError if a number of a head is too large for a dtype, such as the mean of large targets."""
    if not all(torch.isfinite(p).all() for head in heads.values() for p in head.parameters()):
        raise ValueError(f"The weights of the head are too large for dtype={dtype!r}: export with dtype='float32'.")
