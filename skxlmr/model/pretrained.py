"""Loading and saving, shared by every model class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_into,
    match,
    open_checkpoint,
    read_json,
    write_checkpoint,
)
from skxlmr.checkpoints.resolve import CheckpointFiles, resolve
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise
from skxlmr.model.int8 import Int8, quantization_settings
from skxlmr.model.key_maps import BASE, MAY_BE_UNUSED, key_map, their_base
from skxlmr.model.quantized import (
    SCALES,
    FloatOutsideLayers,
    QuantizedLinear,
    bitsandbytes_config,
    holds_8bit,
    linear_layers,
    load_quantized,
    outliers_to_json,
    quantize_structure,
    quantized_layers,
)
from skxlmr.model.word_embedding import map_words
from skxlmr.system.warn import warn

if TYPE_CHECKING:
    from typing_extensions import Self

NAMED_OTHERWISE = {"BertForCausalLM": "BertLMHeadModel"}  # in transformers


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
        model: str | os.PathLike | CheckpointFiles,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        num_labels: int | None = None,
        problem_type: str | None = None,
        config: XLMRobertaXLConfig | None = None,
        load_in_8bit: bool | Int8 = False,
        load_in_4bit: bool = False,
        map_word_embedding: bool = False,
        **model_parameters: bool,
    ) -> Self:
        """Load a model in evaluation mode.

        Parameters
        ----------
        model : str, path or CheckpointFiles
            "nano" (bundled), a local directory, or the id of a model on the hub such as "facebook/xlm-roberta-xl"; or
            the files that `skxlmr.checkpoints.resolve.resolve` found.
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
        load_in_8bit : bool or Int8, default=False
            Hold the linear parts of the layers in 8 bits, and the word embedding in 16. The quantised weights are kept
            in the user's cache directory and mapped into memory from the second time on. `Int8` has the settings. A
            checkpoint whose weights are in 8 bits already needs no asking.
        load_in_4bit : bool, default=False
            Hold them in 4 bits (NF4 of bitsandbytes): half the memory of 8, slower and less exact.
        map_word_embedding : bool, default=False
            On a CPU, leave a large word embedding that the checkpoint has in 16 bits as it is, mapped from the user's
            cache directory: memory grows by the rows that are used.
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
        ImportError
            If bitsandbytes is needed and missing.

        Warns
        -----
        NewHeadWarning
            If the checkpoint lacks the head, which then starts random.
        """
        settings = quantization_settings(load_in_8bit, load_in_4bit)
        files = resolve(model, revision=revision, local_files_only=local_files_only)
        config = config or read_config(files)
        if num_labels is not None and num_labels != config.num_labels:
            config = replace(config, num_labels=num_labels, id2label=None)
        if problem_type is not None:
            config = replace(config, problem_type=problem_type)
        with open_checkpoint(files) as checkpoint:
            with torch.device("meta"):
                module = cls(config, **model_parameters)
            new = module._load(checkpoint, files, dtype, device, settings, map_word_embedding)
        if new:
            warn_of_new_parts(files.name, new)
        return module.eval()

    def _load(
        self,
        checkpoint: Checkpoint,
        files: CheckpointFiles,
        dtype: torch.dtype,
        device: torch.device | str,
        settings: Int8 | str | None,
        map_word_embedding: bool,
    ) -> list[str]:
        """Fill a model that is on the meta device; returns the names that the checkpoint lacks."""
        prefix = self.own_prefix
        expected = {prefix + name: p.shape for name, p in self.state_dict().items()}
        integers: set[str] = set()
        if holds_8bit(checkpoint):
            if settings == "nf4":
                raise CheckpointError(f"{files.name!r} holds 8-bit weights; it cannot be loaded in 4 bits.")
            settings, checkpoint = settings or Int8(), FloatOutsideLayers(checkpoint)
            integers = {f"{prefix}{name}.weight" for name in linear_layers(self)}
            expected |= {name.removesuffix(".weight") + SCALES: expected[name][:1] for name in integers}
        if settings:
            quantize_structure(self, settings)
        may_be_new = [prefix + head for head in self.new_heads]
        for i in range(self.config.num_hidden_layers):  # an encoder's checkpoint may become a decoder
            may_be_new += [f"roberta.layers.{i}.cross_", f"roberta.layers.{i}.attention.distance."]
        plan = match(
            checkpoint.tensors,
            expected,
            key_map(self.config),
            prefix=their_base(self.config),
            integers=integers,
            may_be_new=may_be_new,
            may_be_unused=MAY_BE_UNUSED,
        )
        holder = self
        if prefix:  # the base model's own names lack the prefix that the plan's have
            holder = nn.Module()
            holder.add_module(BASE.removesuffix("."), self)
        if settings:
            load_quantized(holder, checkpoint, plan, files=files, settings=settings, dtype=dtype, device=device)
        else:
            if map_word_embedding and torch.device(device).type == "cpu":
                plan = map_words(holder, checkpoint, plan, files)
            load_into(holder, checkpoint, plan, dtype=dtype, device=device)
        for module in self.modules():
            if any(p.is_meta for p in module.parameters(recurse=False)):
                start_afresh(module, self.config, dtype, device)
        return [name.removeprefix(prefix) for name in plan.new]

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write config.json and model.safetensors, in shards where large, as transformers reads them.

        Parameters
        ----------
        directory : str or path
            Created if absent. A checkpoint that is already there is replaced only when the new one is complete. A
            model in 8 bits is written as such, and transformers loads it with bitsandbytes.

        Raises
        ------
        ValueError
            If the model is in 4 bits.
        """
        eight_bit = bitsandbytes_config(self) if quantized_layers(self) else None
        prefix, names = self.own_prefix, key_map(self.config)
        cut = their_base(self.config) if prefix else ""
        tensors = {names.to_theirs(prefix + name).removeprefix(cut): t for name, t in self.state_dict().items()}
        dtype = str(getattr(self, "roberta", self).dtype).removeprefix("torch.")
        architecture = type(self).__name__.replace("XLMRobertaXL", self.config.architecture)
        architecture = NAMED_OTHERWISE.get(architecture, architecture)
        config = {**self.config.to_dict(), "architectures": [architecture], "torch_dtype": dtype}
        for of_the_checkpoint_read in ("quantization_config", "dtype"):  # the latter is torch_dtype's newer name
            config.pop(of_the_checkpoint_read, None)
        extra_files = {}
        if eight_bit is not None:
            config["quantization_config"] = eight_bit
            extra_files[layout.OUTLIERS] = outliers_to_json(self)
            scaled = [key.removesuffix(SCALES) for key in tensors if key.endswith(SCALES)]
            tensors |= {f"{key}.weight_format": torch.tensor(0, dtype=torch.uint8) for key in scaled}  # 0: row-major
        write_checkpoint(directory, tensors, config, extra_files=extra_files)

    def gradient_checkpointing_enable(self) -> None:
        """Keep only the layers' inputs for the backward pass and compute the rest again: less memory, more time."""
        getattr(self, "roberta", self).gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that the backward pass needs."""
        getattr(self, "roberta", self).gradient_checkpointing = False

    @property
    def own_prefix(self) -> str:
        """What the key map puts before this model's names: task models hold the base as `roberta`."""
        return "" if hasattr(self, "roberta") else BASE

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def warn_of_new_parts(model: str, names: Sequence[str]) -> None:
    """Say that a checkpoint lacks parts, which therefore are random."""
    warn(
        f"{model!r} has no weights for {', '.join(names)}: they start from random numbers. "
        f"Train them before you use their outputs.",
        NewHeadWarning,
    )


def read_config(files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Read a checkpoint's config.json; where that leaves the kind of model open, the names of its weights decide.

    Raises
    ------
    CheckpointError
        If the files are damaged, or of another kind of model.
    """
    if read_json(files.config).get("model_type") != "xlm-roberta":
        return XLMRobertaXLConfig.from_file(files.config)
    with open_checkpoint(files) as checkpoint:
        pre_layer_norm = any("self_attn_layer_norm" in key for key in checkpoint.tensors)
    return XLMRobertaXLConfig.from_file(files.config, pre_layer_norm=pre_layer_norm)


def start_afresh(module: nn.Module, config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give a module that is on the meta device random weights, quantised where it is."""
    if isinstance(module, QuantizedLinear):
        linear = nn.Linear(module.in_features, module.out_features, device=device)
        initialise(linear, config)
        module.load("weight", linear.weight.detach())
        module.bias = nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
        return
    module.to_empty(device=device, recurse=False).to(dtype)
    initialise(module, config)
