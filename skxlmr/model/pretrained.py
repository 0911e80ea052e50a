"""Loading and saving of all model classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.checkpoint import Checkpoint, load_into, open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.keymap import LoadPlan, match
from skxlmr.checkpoints.resolve import READING_ATTEMPTS, CheckpointFiles, resolve
from skxlmr.checkpoints.writing import write_checkpoint
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise
from skxlmr.model.int8 import Int8, quantization_settings
from skxlmr.model.key_maps import BASE, MAY_BE_UNUSED, THEIR_BASE, key_map
from skxlmr.model.loading_options import changed_config, check_names, chosen_dtype, class_parameters
from skxlmr.model.loading_report import NewHeadWarning as NewHeadWarning  # filters of warnings name it by this module
from skxlmr.model.loading_report import loading_info, warn_of_differences
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
from skxlmr.model.resizing import ResizableModel
from skxlmr.model.word_embedding import WORD_EMBEDDING, map_words

if TYPE_CHECKING:
    from typing_extensions import Self

OTHER_NAMES = {"BertForCausalLM": "BertLMHeadModel"}  # in transformers


class PretrainedModel(ResizableModel):
    """Base class of all models: a config, and loading from and saving to checkpoint directories."""

    # Prefixes of parameters that a checkpoint may lack.
    new_heads: tuple[str, ...] = ("pooler.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.config = config

    @overload
    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike | CheckpointFiles, *, output_loading_info: Literal[False] = False, **options: Any
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike | CheckpointFiles, *, output_loading_info: Literal[True], **options: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | CheckpointFiles,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        config: XLMRobertaXLConfig | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        load_in_8bit: bool | Int8 = False,
        load_in_4bit: bool = False,
        map_word_embedding: bool = False,
        **settings: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model in evaluation mode.

        Parameters
        ----------
        model : str, path or CheckpointFiles
            "nano" (bundled), a local directory, the id of a model on the hub such as "facebook/xlm-roberta-xl", or the
            files that `skxlmr.checkpoints.resolve.resolve` found.
        revision : str, default=None
            Branch, tag or commit of a hub model.
        cache_dir : str or path, default=None
            Where hub models are kept; None is the cache of huggingface_hub.
        token : str or bool, default=None
            Token for private models of the hub; None or True is the one of `hf auth login`, False none.
        local_files_only : bool, default=False
            Use only what the hub cache holds.
        subfolder : str, default=""
            Folder of the model, on the hub or local, that has the files.
        dtype, torch_dtype : torch.dtype or str, default=None
            Two names of one parameter: a dtype or its name, such as "bfloat16". None is float32, "auto" the dtype that
            the checkpoint was saved in.
        device : torch.device or str, default="cpu"
        num_labels : int, default=None
            Number of outputs of a new classification head; None takes that of the checkpoint.
        id2label : dict of int to str, default=None
            Names of the outputs, which also give their number; None takes those of the checkpoint, or LABEL_0,
            LABEL_1... if their number is another.
        label2id : dict of str to int, default=None
            The same the other way round.
        config : XLMRobertaXLConfig, default=None
            Replaces that of the checkpoint. It is copied.
        ignore_mismatched_sizes : bool, default=False
            Give parameters that have another size in the checkpoint random weights, instead of an error.
        output_loading_info : bool, default=False
            Whether to return what the checkpoint and the model do not have in common, too.
        load_in_8bit : bool or Int8, default=False
            Load the linear layers of the encoder in 8 bits, and the word embedding in 16. The quantised weights are
            stored in the user's cache directory, and mapped into memory from then on. `Int8` has the settings. A
            checkpoint with 8-bit weights is always loaded in 8 bits.
        load_in_4bit : bool, default=False
            Load them in 4 bits (NF4 of bitsandbytes): half the memory of 8 bits, but slower and less precise.
        map_word_embedding : bool, default=False
            On a CPU, map a large word embedding that the checkpoint has in 16 bits from the user's cache directory:
            it takes memory only for the rows that are used.
        **settings
            Settings of the config that replace those of the checkpoint, such as `hidden_dropout_prob`, `is_decoder` or
            `problem_type`, and parameters of the class, such as `add_pooling_layer`.

        Returns
        -------
        model
            With `output_loading_info`, a tuple of it and of a dict: "missing_keys"; "unexpected_keys", among them heads
            of other model classes; "mismatched_keys", each a name, the shape in the checkpoint and that in the model;
            and "error_msgs", which is empty.

        Raises
        ------
        ModelNotFoundError
            If the model does not exist.
        CheckpointError
            If its files are damaged, malicious or of another architecture, or lack a part of the encoder or have one
            that the model lacks; they are checked before anything is allocated.
        TypeError
            If a parameter is unknown; the message suggests the nearest one.
        ValueError
            If a setting is invalid, or two contradict each other.
        ImportError
            If bitsandbytes is required but not installed.

        Warns
        -----
        NewHeadWarning
            If the checkpoint lacks the head, or has it in another size, and it therefore starts with random weights.
        UnusedTensorsWarning
            If the checkpoint has a head that no model class knows, or buffers.
        """
        quantization = quantization_settings(load_in_8bit, load_in_4bit)
        find = partial(
            resolve, model, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
            subfolder=subfolder,
        )  # fmt: skip
        files, config, checkpoint = _open(find, config)
        with checkpoint:
            check_names(cls, config, settings)
            of_class = {name: settings.pop(name) for name in class_parameters(cls) & settings.keys()}
            config = changed_config(config, settings, num_labels=num_labels, id2label=id2label, label2id=label2id)
            with torch.device("meta"):
                module = cls(config, **of_class)
            found_dtype = chosen_dtype(dtype, torch_dtype, config, checkpoint)
            plan = module._load(
                checkpoint, files, found_dtype, device, quantization, map_word_embedding, ignore_mismatched_sizes
            )
        warn_of_differences(files.name, plan, module.own_prefix)
        module.eval()
        return (module, loading_info(plan, module._their_name)) if output_loading_info else module

    def _load(
        self,
        checkpoint: Checkpoint,
        files: CheckpointFiles,
        dtype: torch.dtype,
        device: torch.device | str,
        settings: Int8 | str | None,
        map_word_embedding: bool,
        ignore_mismatched_sizes: bool,
    ) -> LoadPlan:
        """Load the weights of a model on the meta device, and return what was loaded and what was not."""
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
        for i in range(self.config.num_hidden_layers):  # the checkpoint of an encoder can be loaded as a decoder
            may_be_new += [f"{BASE}layers.{i}.cross_", f"{BASE}layers.{i}.attention.distance."]
        plan = match(
            checkpoint.tensors,
            expected,
            key_map(self.config.model_type),
            prefix=THEIR_BASE[self.config.model_type],
            integers=integers,
            may_be_new=may_be_new,
            may_be_unused=MAY_BE_UNUSED,
            allow_unknown_heads=True,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        resized = {ours for _, ours, _, _ in plan.mismatched}
        if settings and any(name.startswith(BASE) and ".pooler." not in name for name in resized):
            raise CheckpointMismatchError(
                f"The encoder of {files.name!r} has other sizes than the config: {', '.join(sorted(resized))}. A "
                f"quantised model needs all of it."
            )
        complete = plan
        holder: nn.Module = self
        if prefix:  # the names of the encoder lack the prefix that those of the plan have
            holder = nn.Module()
            holder.add_module(BASE.removesuffix("."), self)
        if settings:
            load_quantized(
                holder, self.base_model, checkpoint, plan, files=files, settings=settings, dtype=dtype, device=device
            )
        else:
            if map_word_embedding and WORD_EMBEDDING not in resized and torch.device(device).type == "cpu":
                plan = map_words(holder, checkpoint, plan, files)
            load_into(holder, checkpoint, plan, dtype=dtype, device=device)
        for module in self.modules():
            own = dict(module.named_parameters(recurse=False))
            loaded = {name: parameter for name, parameter in own.items() if not parameter.is_meta}
            if len(loaded) < len(own):
                reinitialise(module, self.config, dtype, device)
                for name, parameter in loaded.items():
                    setattr(module, name, parameter)
        return complete

    def _their_name(self, name: str) -> str:
        """Return the checkpoint key of a parameter in the plan of `match`, for a model of this class."""
        theirs = key_map(self.config.model_type).to_theirs(name)
        return theirs.removeprefix(THEIR_BASE[self.config.model_type]) if self.own_prefix else theirs

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write config.json and model.safetensors, in shards where large, as transformers reads them.

        Parameters
        ----------
        directory : str or path
            Created if missing. An existing checkpoint is replaced as a whole when the new one is complete; see
            `XLMRXLClassifier.export_pretrained`. A model in 8 bits is written in 8 bits, and transformers loads it with
            bitsandbytes.

        Raises
        ------
        ValueError
            If the model is in 4 bits.
        OSError
            If the disk is full or not writable; an existing checkpoint is then unchanged.
        """
        self.write(directory, {})

    def write(self, directory: str | os.PathLike, other_files: Mapping[str, bytes]) -> None:
        """Write the files of `save_pretrained`, and others whose content is given by name, all at once."""
        eight_bit = bitsandbytes_config(self) if quantized_layers(self) else None
        tensors = {self._their_name(self.own_prefix + name): t for name, t in self.state_dict().items()}
        dtype = str(self.base_model.dtype).removeprefix("torch.")
        config = {
            **self.config.to_dict(),
            "architectures": [their_class(type(self), self.config)],
            "torch_dtype": dtype,
        }
        for outdated in ("quantization_config", "dtype"):  # of the checkpoint that was loaded; dtype is torch_dtype
            config.pop(outdated, None)
        extra_files = {}
        if eight_bit is not None:
            config["quantization_config"] = eight_bit
            extra_files[layout.OUTLIERS] = outliers_to_json(self)
            scaled = [key.removesuffix(SCALES) for key in tensors if key.endswith(SCALES)]
            tensors |= {f"{key}.weight_format": torch.tensor(0, dtype=torch.uint8) for key in scaled}  # 0: row-major
        write_checkpoint(directory, tensors, config, extra_files=extra_files, unlisted_files=other_files)

    def gradient_checkpointing_enable(self) -> None:
        """Keep only the inputs of the layers for the backward pass and recompute the rest: less memory, more time."""
        self.base_model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that the backward pass needs, without recomputing."""
        self.base_model.gradient_checkpointing = False

    @property
    def own_prefix(self) -> str:
        """Prefix of this model's parameter names in the key map, which has those of models with a head."""
        return "" if hasattr(self, "roberta") else BASE


def their_class(cls: type[PretrainedModel], config: XLMRobertaXLConfig) -> str:
    """Return the name that a model class has in transformers, for the architecture of a config."""
    name = cls.__name__.replace("XLMRobertaXL", config.architecture)
    return OTHER_NAMES.get(name, name)


def _open(
    find: Callable[[], CheckpointFiles], config: XLMRobertaXLConfig | None
) -> tuple[CheckpointFiles, XLMRobertaXLConfig, Checkpoint]:
    """Open the weights of a checkpoint, and read the config that belongs to them, also while it is being replaced."""
    for _ in range(READING_ATTEMPTS):
        files = find()
        with ExitStack() as opened:
            try:
                found = config or read_config(files)
                checkpoint = opened.enter_context(open_checkpoint(files))
            except CheckpointError:
                if files.is_unchanged():
                    raise
                continue
            if files.is_unchanged():
                opened.pop_all()
                return files, found, checkpoint
    raise CheckpointError(f"{files.directory} was replaced while it was being read. Load it again.")


def read_config(files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Read the config of a checkpoint.

    The head of an adapter may have other labels than its base model: a file beside it has their names.
    """
    config = _read_own_config(files)
    if files.adapter is None:
        return config
    n_labels, labels = files.adapter.n_labels, files.adapter.labels
    if labels is not None and labels.id2label and n_labels in (None, len(labels.id2label)):
        id2label = {int(i): label for i, label in labels.id2label.items()}
        return replace(config, id2label=id2label, problem_type=labels.problem_type)
    if n_labels is not None:
        config.num_labels = n_labels
    return config


def _read_own_config(files: CheckpointFiles) -> XLMRobertaXLConfig:
    """Read the config.json of a checkpoint; the names of the weights tell XL from the smaller models if it does not."""
    if read_json(files.config).get("model_type") != "xlm-roberta":
        return XLMRobertaXLConfig.from_file(files.config)
    with open_checkpoint(files) as checkpoint:
        pre_layer_norm = any("self_attn_layer_norm" in key for key in checkpoint.tensors)
    return XLMRobertaXLConfig.from_file(files.config, pre_layer_norm=pre_layer_norm)


def reinitialise(module: nn.Module, config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device | str) -> None:
    """Move a module from the meta device with random weights, which are quantised if the module is."""
    if isinstance(module, QuantizedLinear):
        linear = nn.Linear(module.in_features, module.out_features, device=device)
        initialise(linear, config)
        module.load("weight", linear.weight.detach())
        module.bias = nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
        return
    module.to_empty(device=device, recurse=False).to(dtype)
    initialise(module, config)
