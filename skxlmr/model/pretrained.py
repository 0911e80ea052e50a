"""Loading and saving of all model classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from skxlmr.checkpoints.checkpoint import Checkpoint, WithDecoderBias, checkpoint_of, load_into
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.keymap import LoadPlan, match
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.config import XLMRobertaXLConfig, changed_config
from skxlmr.model.float8 import Float8
from skxlmr.model.initialisation import initialise
from skxlmr.model.int8 import Int8
from skxlmr.model.key_maps import BASE, MAY_BE_UNUSED, THEIR_BASE, key_map
from skxlmr.model.loading_options import (
    ATTENTION,
    check_names,
    chosen_config,
    chosen_device,
    chosen_dtype,
    chosen_weights,
    class_parameters,
)
from skxlmr.model.loading_report import NewHeadWarning as NewHeadWarning  # filters of warnings name it by this module
from skxlmr.model.loading_report import loading_info, warn_of_differences
from skxlmr.model.masks import MaskingModel
from skxlmr.model.measures import MeasuredModel
from skxlmr.model.opening import config_for_state, name_of, open_model
from skxlmr.model.own_names import in_their_names
from skxlmr.model.pruning import PrunableModel
from skxlmr.model.quantized import (
    SCALES,
    FloatOutsideLayers,
    QuantizedLinear,
    holds_8bit,
    linear_layers,
    load_quantized,
    quantize_structure,
)
from skxlmr.model.resizing import ResizableModel
from skxlmr.model.saving import SavableModel
from skxlmr.model.storage import Storage, quantization_settings
from skxlmr.model.word_embedding import WORD_EMBEDDING, map_words

if TYPE_CHECKING:
    from typing_extensions import Self

OWN_CODE = (
    "The auto_map of its config.json names Python code of its own, which computes another model than XLM-RoBERTa, and "
    "is not run. Use it in transformers with trust_remote_code=True, or take a model without such code."
)


class PretrainedModel(ResizableModel, PrunableModel, MaskingModel, MeasuredModel, SavableModel):
    """Base class of all models: a config, and loading from and saving to checkpoint directories."""

    # Prefixes of parameters that a checkpoint may lack.
    new_heads: tuple[str, ...] = ("pooler.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        if not isinstance(config, XLMRobertaXLConfig):
            raise TypeError(
                f"config must be an XLMRobertaXLConfig of skxlmr, not {type(config).__module__}."
                f"{type(config).__qualname__}: use XLMRobertaXLConfig.from_dict(config.to_dict())."
            )
        self.config = config

    @overload
    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | CheckpointFiles | None,
        *,
        output_loading_info: Literal[False] = False,
        **options: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike | CheckpointFiles | None, *, output_loading_info: Literal[True], **options: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | CheckpointFiles | None,
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
        config: Any = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        load_in_8bit: bool | Int8 | Float8 = False,
        load_in_4bit: bool = False,
        map_word_embedding: bool = False,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        attn_implementation: str | None = None,
        low_cpu_mem_usage: bool | None = None,
        **settings: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model in evaluation mode.

        Parameters
        ----------
        model : str, path, CheckpointFiles or None
            "nano" (bundled), a local directory, a file of weights in one, such as "model.fp16.safetensors", the id of a
            model on the hub such as "facebook/xlm-roberta-xl", or the files that `skxlmr.checkpoints.resolve.resolve`
            found. A directory with weights alone, as transformers' Trainer saves, needs a `config`; None needs a
            `config` and a `state_dict`.
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
        config : XLMRobertaXLConfig, str or path, default=None
            Replaces that of the checkpoint: a config, which is copied and may be one of transformers, or the directory
            or hub id of another model.
        ignore_mismatched_sizes : bool, default=False
            Give parameters that have another size in the checkpoint random weights, instead of an error.
        output_loading_info : bool, default=False
            Whether to return what the checkpoint and the model do not have in common, too.
        load_in_8bit : bool, Int8 or Float8, default=False
            Load the linear layers of the encoder in 8 bits, and the word embedding in 16. The quantised weights are
            stored in the user's cache directory, and mapped into memory from then on. They are integers, for which
            `Int8` has the settings; with `Float8` they are in 8-bit floating point. A checkpoint with 8-bit integers is
            always loaded as these.
        load_in_4bit : bool, default=False
            Load them in 4 bits (NF4 of bitsandbytes): half the memory of 8 bits, but slower and less precise.
        map_word_embedding : bool, default=False
            On a CPU, map a large word embedding that the checkpoint has in 16 bits from the user's cache directory:
            it takes memory only for the rows that are used.
        variant : str, default=None
            Comes in the names of the weight files, such as "fp16" for model.fp16.safetensors.
        use_safetensors : bool, default=None
            True loads only safetensors, False only files of torch.save, None safetensors if there are any.
        state_dict : dict of str to Tensor, default=None
            Weights in place of those of the checkpoint, by their names in checkpoints or in this model.
        device_map : str, int, torch.device or dict, default=None
            Another name of `device`, for one device; a dict must map everything to the same, as `{"": "cuda:0"}`.
            "auto" is the GPU if there is one, and else the CPU: a model is not split.
        attn_implementation : {"sdpa", "eager"}, default=None
            "sdpa" (None) runs torch's fused attention on packed texts, "eager" computes attention step by step on
            padded ones, as is done anyway where its probabilities are wanted.
        low_cpu_mem_usage : bool, default=None
            Accepted for scripts of the reference. Whatever it is, loading takes memory for the model and one tensor.
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
        device, config = chosen_device(device, device_map), chosen_config(config)
        if attn_implementation not in (None, *ATTENTION):
            raise ValueError(f"attn_implementation must be one of {ATTENTION} or None, got {attn_implementation!r}.")
        where: dict[str, Any] = {
            "revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only,
            "subfolder": subfolder,
        }  # fmt: skip
        if state_dict is None:
            where["weights_names"] = chosen_weights(variant, use_safetensors)
            files, config, checkpoint, generation_config = open_model(model, config, where, cls.can_generate())
        elif quantization or map_word_embedding:
            raise ValueError("load_in_8bit, load_in_4bit and map_word_embedding load files, and no state_dict.")
        else:
            files, config, generation_config = None, config_for_state(model, config, where), None
            checkpoint = checkpoint_of(state_dict, "state_dict")
        with checkpoint:
            check_names(cls, config, settings)
            of_class = {name: settings.pop(name) for name in class_parameters(cls) & settings.keys()}
            config = changed_config(config, settings, num_labels=num_labels, id2label=id2label, label2id=label2id)
            config.name_or_path = name_of(files or model)
            with torch.device("meta"):
                module = cls(config, **of_class)
            if state_dict is not None:
                checkpoint = checkpoint_of(module.in_their_names(state_dict), "state_dict")
            checkpoint = in_their_names(checkpoint, config.model_type)
            if files is not None and not files.config.exists():
                if quantization:
                    raise ValueError(
                        f"{files.directory} has no config.json, which 8 and 4 bits need: load it without them, call "
                        f"save_pretrained, and load what that has written."
                    )
                map_word_embedding = False
            found_dtype = chosen_dtype(dtype, torch_dtype, config, checkpoint)
            plan = module._load(
                checkpoint, files, found_dtype, device, quantization, map_word_embedding, ignore_mismatched_sizes
            )
        warn_of_differences(checkpoint.name, plan, module.own_prefix)
        module.base_model.attn_implementation = attn_implementation or "sdpa"
        if generation_config is not None and files is not None and files.generation_config is not None:
            module.generation_config = generation_config
        module.eval()
        return (module, loading_info(plan, module.their_name)) if output_loading_info else module

    def _load(
        self,
        checkpoint: Checkpoint,
        files: CheckpointFiles | None,
        dtype: torch.dtype,
        device: torch.device | str,
        settings: Storage | None,
        map_word_embedding: bool,
        ignore_mismatched_sizes: bool,
    ) -> LoadPlan:
        """Load the weights of a model on the meta device, and return what was loaded and what was not."""
        prefix, checkpoint = self.own_prefix, WithDecoderBias(checkpoint)
        expected = {prefix + name: p.shape for name, p in self.state_dict().items()}
        integers: set[str] = set()
        if holds_8bit(checkpoint):
            if settings == "nf4":
                raise CheckpointError(f"{checkpoint.name!r} holds 8-bit weights; it cannot be loaded in 4 bits.")
            if isinstance(settings, Float8):
                raise CheckpointError(
                    f"{checkpoint.name!r} holds 8-bit integers; it cannot be loaded in 8-bit floating point. Use "
                    f"load_in_8bit=True."
                )
            settings, checkpoint = settings or Int8(), FloatOutsideLayers(checkpoint)
            integers = {f"{prefix}{name}.weight" for name in linear_layers(self)}
            expected |= {name.removesuffix(".weight") + SCALES: expected[name][:1] for name in integers}
        if settings:
            quantize_structure(self, settings)
        plan = match(
            checkpoint.tensors,
            expected,
            key_map(self.config.model_type),
            prefix=THEIR_BASE[self.config.model_type],
            integers=integers,
            may_be_new=self._may_be_new(),
            may_be_unused=MAY_BE_UNUSED,
            allow_unknown_heads=True,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            hint_at_heads="Give ignore_mismatched_sizes=True to start the head from random weights.",
            hint=OWN_CODE if self.config.extra.get("auto_map") else "",
        )
        resized = {ours for _, ours, _, _ in plan.mismatched}
        if settings and any(name.startswith(BASE) and ".pooler." not in name for name in resized):
            raise CheckpointMismatchError(
                f"The encoder of {checkpoint.name!r} has other sizes than the config: {', '.join(sorted(resized))}. A "
                f"quantised model needs all of it."
            )
        complete = plan
        holder: nn.Module = self
        if prefix:  # the names of the encoder lack the prefix that those of the plan have
            holder = nn.Module()
            holder.add_module(BASE.removesuffix("."), self)
        if settings:
            if files is None:
                raise ValueError("8-bit weights are loaded from files, not from a state_dict: save and load the model.")
            load_quantized(
                holder, self.base_model, checkpoint, plan, files=files, settings=settings, dtype=dtype, device=device
            )
        else:
            if (
                files is not None
                and map_word_embedding
                and WORD_EMBEDDING not in resized
                and torch.device(device).type == "cpu"
            ):
                plan = map_words(holder, checkpoint, plan, files)
            load_into(holder, checkpoint, plan, dtype=dtype, device=device)
        self._draw_missing(dtype, device)
        return complete

    def _may_be_new(self) -> list[str]:
        """Return prefixes of the parameters that a checkpoint may lack, by their names in the plan of `match`."""
        names = [self.own_prefix + head for head in self.new_heads]
        if not self.own_prefix:  # heads of subclasses
            names += [f"{name}." for name, _ in self.named_children() if f"{name}." != BASE]
        for i in range(self.config.num_hidden_layers):  # the checkpoint of an encoder can be loaded as a decoder
            names += [f"{BASE}layers.{i}.cross_", f"{BASE}layers.{i}.attention.distance."]
        return names

    def _draw_missing(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Give parameters that are still on the meta device random weights."""
        for module in self.modules():
            own = dict(module.named_parameters(recurse=False))
            loaded = {name: parameter for name, parameter in own.items() if not parameter.is_meta}
            if len(loaded) < len(own):
                reinitialise(module, self.config, dtype, device)
                for name, parameter in loaded.items():
                    setattr(module, name, parameter)


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
