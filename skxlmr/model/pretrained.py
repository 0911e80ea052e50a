"""Loading and saving, shared by every model class."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.outputs import ModelOutput
from skxlmr.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    KeyMap,
    load_into,
    match,
    open_checkpoint,
    write_checkpoint,
)
from skxlmr.weights.resolve import resolve

if TYPE_CHECKING:
    from typing_extensions import Self

BASE = "roberta."
LAYER = "roberta.encoder.layer.{i}."

# Hugging Face's key on the left, ours on the right; {p} is weight or bias.
KEY_MAP = KeyMap(
    [
        ("roberta.embeddings.word_embeddings.weight", "roberta.embeddings.word.weight"),
        ("roberta.embeddings.position_embeddings.weight", "roberta.embeddings.position.weight"),
        ("roberta.embeddings.token_type_embeddings.weight", "roberta.embeddings.token_type.weight"),
        (LAYER + "attention.self_attn_layer_norm.{p}", "roberta.layers.{i}.attention_norm.{p}"),
        (LAYER + "attention.self.query.{p}", "roberta.layers.{i}.attention.query.{p}"),
        (LAYER + "attention.self.key.{p}", "roberta.layers.{i}.attention.key.{p}"),
        (LAYER + "attention.self.value.{p}", "roberta.layers.{i}.attention.value.{p}"),
        (LAYER + "attention.output.dense.{p}", "roberta.layers.{i}.attention.output.{p}"),
        (LAYER + "attention.self.distance_embedding.weight", "roberta.layers.{i}.attention.distance.weight"),
        (LAYER + "crossattention.self_attn_layer_norm.{p}", "roberta.layers.{i}.cross_norm.{p}"),
        (LAYER + "crossattention.self.query.{p}", "roberta.layers.{i}.cross_attention.query.{p}"),
        (LAYER + "crossattention.self.key.{p}", "roberta.layers.{i}.cross_attention.key.{p}"),
        (LAYER + "crossattention.self.value.{p}", "roberta.layers.{i}.cross_attention.value.{p}"),
        (LAYER + "crossattention.output.dense.{p}", "roberta.layers.{i}.cross_attention.output.{p}"),
        (LAYER + "LayerNorm.{p}", "roberta.layers.{i}.ffn_norm.{p}"),
        (LAYER + "intermediate.dense.{p}", "roberta.layers.{i}.ffn.up.{p}"),
        (LAYER + "output.dense.{p}", "roberta.layers.{i}.ffn.down.{p}"),
        ("roberta.encoder.LayerNorm.{p}", "roberta.norm.{p}"),
        ("roberta.pooler.dense.{p}", "roberta.pooler.dense.{p}"),
        ("classifier.{p}", "classifier.{p}"),
        ("qa_outputs.{p}", "qa_outputs.{p}"),
        ("classifier.dense.{p}", "classifier.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.out_proj.{p}"),
        ("lm_head.dense.{p}", "lm_head.dense.{p}"),
        ("lm_head.layer_norm.{p}", "lm_head.norm.{p}"),
        ("lm_head.bias", "lm_head.bias"),
    ],
    # Counted afresh in the forward pass, or the same numbers as another key under a second name.
    ignored=["roberta.embeddings.position_ids", "lm_head.decoder.{p}"],
)
HEADS = ("roberta.pooler.", "classifier.", "lm_head.", "qa_outputs.")


class NewHeadWarning(UserWarning):
    """A checkpoint has no weights for a part of the model, which therefore starts from random ones."""


class PretrainedModel(nn.Module):
    """Base of the model classes: a config, and a way in from and out to checkpoint directories."""

    # Parameters that a checkpoint may lack, by the beginning of their names.
    new_heads: tuple[str, ...] = ("pooler.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        num_labels: int | None = None,
        problem_type: str | None = None,
        config: XLMRobertaXLConfig | None = None,
        **model_parameters: bool,
    ) -> Self:
        """Load a model in evaluation mode.

        Parameters
        ----------
        model : str or path
            "nano" (bundled), a local directory, or the id of a model on the hub such as "facebook/xlm-roberta-xl".
        revision : str, default=None
            Branch, tag or commit of a hub model.
        local_files_only : bool, default=False
            Use only what the hub cache holds.
        dtype : torch.dtype, default=torch.float32
        device : torch.device or str, default="cpu"
        num_labels : int, default=None
            Outputs of a new classification head; None takes the checkpoint's.
        problem_type : str, default=None
        config : XLMRobertaXLConfig, default=None
            In the place of the checkpoint's own, for example with `is_decoder` set.
        **model_parameters
            Further parameters of the class, such as `add_pooling_layer`.

        Returns
        -------
        model

        Raises
        ------
        ModelNotFoundError
            If there is no such model.
        CheckpointError
            If its files are damaged, hostile or not of this architecture; nothing is allocated before they are
            checked.

        Warns
        -----
        NewHeadWarning
            If the checkpoint lacks the head, which then starts random.
        """
        files = resolve(model, revision=revision, local_files_only=local_files_only)
        config = config or XLMRobertaXLConfig.from_file(files.config)
        if num_labels is not None and num_labels != config.num_labels:
            config = replace(config, num_labels=num_labels, id2label=None)
        if problem_type is not None:
            config = replace(config, problem_type=problem_type)
        with open_checkpoint(files) as checkpoint:
            refuse_post_layer_norm(checkpoint, files.name)
            with torch.device("meta"):
                module = cls(config, **model_parameters)
            new = module._load(checkpoint, dtype, device)
        if new:
            warnings.warn(
                f"{files.name!r} has no weights for {', '.join(new)}: they start from random numbers. "
                f"Train them before you use their outputs.",
                NewHeadWarning,
                stacklevel=2,
            )
        return module.eval()

    def _load(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str) -> list[str]:
        """Fill a model that is on the meta device; returns the names that the checkpoint lacks."""
        prefix = self.own_prefix
        expected = {prefix + name: p.shape for name, p in self.state_dict().items()}
        may_be_new = [prefix + head for head in self.new_heads]
        for i in range(self.config.num_hidden_layers):  # an encoder's checkpoint may become a decoder
            may_be_new += [f"roberta.layers.{i}.cross_", f"roberta.layers.{i}.attention.distance."]
        plan = match(checkpoint.tensors, expected, KEY_MAP, prefix=BASE, may_be_new=may_be_new, may_be_unused=HEADS)
        holder = self
        if prefix:  # the base model's own names lack the prefix that the plan's have
            holder = nn.Module()
            holder.add_module(BASE.removesuffix("."), self)
        load_into(holder, checkpoint, plan, dtype=dtype, device=device)
        for module in self.modules():
            if any(p.is_meta for p in module.parameters(recurse=False)):
                module.to_empty(device=device, recurse=False).to(dtype)
                initialise(module, self.config)
        return [name.removeprefix(prefix) for name in plan.new]

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write config.json and model.safetensors, in shards where large, as transformers reads them.

        Parameters
        ----------
        directory : str or path
            Created if absent. A checkpoint that is already there is replaced only when the new one is complete.
        """
        prefix = self.own_prefix
        tensors = {KEY_MAP.to_theirs(prefix + name).removeprefix(prefix): t for name, t in self.state_dict().items()}
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        config = {**self.config.to_dict(), "architectures": [type(self).__name__], "torch_dtype": dtype}
        write_checkpoint(directory, tensors, config)

    def gradient_checkpointing_enable(self) -> None:
        """Keep only the layers' inputs for the backward pass and compute the rest again: less memory, more time."""
        getattr(self, "roberta", self).gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that the backward pass needs."""
        getattr(self, "roberta", self).gradient_checkpointing = False

    def returned(self, outputs: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        """Outputs as named fields or as a tuple, as the call or else the config has it."""
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    @property
    def own_prefix(self) -> str:
        """What the key map puts before this model's names: task models hold the base as `roberta`."""
        return "" if hasattr(self, "roberta") else BASE

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def refuse_post_layer_norm(checkpoint: Checkpoint, name: str) -> None:
    """Refuse a checkpoint whose layers normalise after, not before, attention."""
    if not any("self_attn_layer_norm" in key for key in checkpoint.tensors):
        raise CheckpointError(
            f"{name!r} is not an XLM-RoBERTa-XL checkpoint: its layers have no self_attn_layer_norm. "
            f"Use facebook/xlm-roberta-xl, facebook/xlm-roberta-xxl, or a model fine-tuned from them."
        )


def initialise(module: nn.Module, config: XLMRobertaXLConfig) -> None:
    """Give one module's own parameters the random start of the reference; call with `nn.Module.apply`."""
    std = config.initializer_range
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=std)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
