"""The base model of a fitted estimator, with what it learned merged into the weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skxlmr.checkpoints.layout import ESTIMATOR, WEIGHTS
from skxlmr.checkpoints.peft_adapter import CONFIG as ADAPTER
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_transformers import MODULES, sentence_directory
from skxlmr.hardware.device import DTYPES
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.model.quantized import quantized_layers
from skxlmr.runtime.backbone import read_tokenizer
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.cards import CardFacts
from skxlmr.tuning import NORM_PATHS, OUTER_PATHS, PATHS, AddedBias, LayerAdapter, LowRank

# Files by which models of other kinds are recognised, beside which no whole model and no adapter is written.
BESIDE_MODEL = {ESTIMATOR: "a saved estimator", ADAPTER: "an adapter of peft"}
BESIDE_ADAPTER = {ESTIMATOR: "a saved estimator", **dict.fromkeys((*WEIGHTS, MODULES), "a whole model")}


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """What is needed to export the base model of a fitted estimator."""

    files: CheckpointFiles  # of the checkpoint that it was fitted on
    pieces: np.ndarray | None  # (V,), int64: the pieces of the vocabulary that were kept; None means all
    finetuned: Finetuned | None  # None if nothing was trained
    facts: CardFacts | None  # for a card; None writes none

    def check_destination(self, directory: str | os.PathLike) -> None:
        """Refuse to overwrite the base model, without which everything fitted on it would be unusable."""
        used = [self.files.directory, *([] if self.files.adapter is None else [self.files.adapter.directory])]
        own = {path.resolve() for path in used}
        if Path(directory).expanduser().resolve() in own | set(map(sentence_directory, own)):
            raise ValueError(
                f"{str(directory)!r} holds the checkpoint that this estimator was fitted on, which it needs to predict."
                f" Export to another directory."
            )

    @staticmethod
    def check_kind(directory: str | os.PathLike, markers: Mapping[str, str]) -> None:
        """Refuse to write beside a model of another kind, which `skxlmr.load` might read in place of the new one.

        `markers` are the files by which the other kinds are recognised, and what these are.
        """
        for name, what in markers.items():
            if os.path.lexists(Path(directory).expanduser() / name):
                raise FileExistsError(
                    f"{str(directory)!r} holds {what} ({name}). Two models in one directory would be mistaken for each "
                    f"other: export to another directory, or remove that one first."
                )

    def merged(self, dtype: str, *, dequantized: bool = False) -> tuple[XLMRobertaXLModel, XLMRobertaXLTokenizer]:
        """Return a model with merged weights in a dtype, and its tokenizer.

        A checkpoint whose own weights are in 8 bits is converted to float32 if `dequantized`. Raises ValueError if it
        is not to be, or the dtype is unknown.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        # Read the original weights, since the estimator may run an 8-bit or trimmed base.
        base = XLMRobertaXLModel.from_pretrained(self.files, dtype=torch.float32, add_pooling_layer=False)
        if dequantized:
            dequantize(base)
        if quantized_layers(base):
            raise ValueError(
                f"{self.files.name!r} holds 8-bit weights, into which nothing can be merged. Use save, or "
                f"export_adapter if the estimator has it."
            )
        tokenizer = read_tokenizer(self.files.tokenizer_directory)
        if self.pieces is not None:
            tokenizer, kept = tokenizer.trim(self.pieces)
            base = base.with_words(base.embeddings.word.weight[torch.from_numpy(kept)])
        finetuned = self.finetuned
        if finetuned is not None:
            if finetuned.own is not None and dtype != "float32":
                finetuned = copy.deepcopy(finetuned)  # `to` converts modules in place, but these are the estimator's
            base = merge(finetuned, base)
        return base.to(DTYPES[dtype]), tokenizer


def dequantize(model: nn.Module) -> None:
    """Replace the quantised layers of a model, in place, with linear layers in float32."""
    for name, layer in quantized_layers(model).items():
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.dequantize(torch.float32), requires_grad=False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
        model.set_submodule(name, linear)


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
