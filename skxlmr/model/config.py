"""Configurations as in config.json: XLM-RoBERTa-XL, and the smaller models that run on the same encoder."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.resolve import resolve_config
from skxlmr.model.config_files import ConfigFiles
from skxlmr.system import schema
from skxlmr.system.schema import shown

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
}
POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
# Settings of all models in the reference that have no effect here, and their values where a config.json lacks them.
OF_THE_REFERENCE = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "finetuning_task": None,
    "is_encoder_decoder": False,
    "task_specific_params": None,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "torch_dtype": None,
    "torchscript": False,
}
NOT_SAVED = ("extra", "name_or_path")  # fields that are not entries of config.json
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")

# Upper bounds on the numbers of a config: far above all published models, but low enough that a malicious file cannot
# cause a huge allocation.
LARGEST = {
    "vocab_size": 4_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_024,
    "num_attention_heads": 1_024,
    "intermediate_size": 262_144,
    "max_position_embeddings": 1_048_576,
    "type_vocab_size": 1_024,
    "num_labels": 1_000_000,
}


def default_labels(num_labels: int) -> dict[int, str]:
    """Return the names of outputs that have none of their own."""
    return {i: f"LABEL_{i}" for i in range(num_labels)}


def _number_of_label(key: object) -> int:
    """Return the number of an output, of a key of `id2label`, which are strings in files."""
    try:
        return int(key)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError(f"id2label must map the numbers of the outputs to names, got the key {shown(key)}.") from None


def _integers(values: Any) -> list[int] | None:
    """Return values as a list of integers, also those of numpy and torch; None if they are others."""
    try:
        return None if any(isinstance(value, bool) for value in values) else [operator.index(v) for v in values]
    except TypeError:
        return None


@dataclass
class XLMRobertaXLConfig(ConfigFiles):
    """Configuration of an XLM-RoBERTa-XL model.

    The defaults are those of facebook/xlm-roberta-xl.

    Parameters
    ----------
    vocab_size : int, default=250880
        Rows of the word embedding. XL and XXL use 250,002 of them.
    hidden_size : int, default=2560
        Width of the encoder; a multiple of `num_attention_heads`.
    num_hidden_layers : int, default=36
    num_attention_heads : int, default=32
    intermediate_size : int, default=10240
        Width of the feed-forward network.
    hidden_act : {"gelu", "relu", "silu", "gelu_new"} or callable, default="gelu"
        Activation of the feed-forward network. A callable cannot be saved.
    hidden_dropout_prob : float, default=0.1
    attention_probs_dropout_prob : float, default=0.1
    max_position_embeddings : int, default=514
        Rows of the position embedding. Positions start at `first_position`, so 514 rows hold 512 tokens.
    type_vocab_size : int, default=1
    initializer_range : float, default=0.02
        Standard deviation of initial weights.
    layer_norm_eps : float, default=1e-5
    pad_token_id : int, default=1
    bos_token_id : int or None, default=0
    eos_token_id : int, list of int or None, default=2
        Ids at which `generate` ends a text.
    position_embedding_type : {"absolute", "relative_key", "relative_key_query"}, default="absolute"
        The published checkpoints have absolute positions; the other types score the distance of two tokens.
    use_cache : bool, default=True
        Whether a decoder returns its keys and values.
    classifier_dropout : float or None, default=None
        Dropout of the classification head; None means `hidden_dropout_prob`.
    num_labels : int, default=2
        Number of outputs of a classification head; that of `id2label`, if it is given. Setting another number later
        names the outputs LABEL_0, LABEL_1...
    id2label : dict of int to str or None, default=None
        Names of the outputs; None is LABEL_0, LABEL_1... Setting it later sets `num_labels`, too.
    problem_type : str or None, default=None
        "regression", "single_label_classification" or "multi_label_classification"; None infers it from the labels.
    is_decoder : bool, default=False
        Whether each token attends only to itself and those before it.
    add_cross_attention : bool, default=False
        Whether the layers of a decoder also attend to the hidden states of an encoder.
    output_attentions, output_hidden_states : bool, default=False
        What a forward pass returns by default.
    return_dict : bool, default=True
        Whether a forward pass returns named fields or a tuple by default.
    pruned_heads : dict of int to list of int, default={}
        Attention heads that self-attention lacks, by layer. `num_attention_heads` counts them, too.
    name_or_path : str, default=""
        What `from_pretrained` was called with. It is not saved, and two configs are equal whatever it is.
    extra : dict
        Unknown keys of a config.json, which are written again when it is saved. They are attributes, too, and
        setting an attribute that is not a parameter adds it.

    Raises
    ------
    ValueError
        If a value is invalid.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaXLConfig
    >>> config = XLMRobertaXLConfig.xl()
    >>> config.hidden_size, config.head_size
    (2560, 80)
    """

    model_type: ClassVar[str] = "xlm-roberta-xl"
    architecture: ClassVar[str] = "XLMRobertaXL"  # prefix of the names of the model classes
    pre_layer_norm: ClassVar[bool] = True  # whether layers normalise inputs or outputs
    absent: ClassVar[dict[str, Any]] = {}  # values of missing keys, if not the defaults

    vocab_size: int = 250880
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    intermediate_size: int = 10240
    hidden_act: str | Callable[[Tensor], Tensor] = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-05
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    position_embedding_type: str = "absolute"
    use_cache: bool = True
    classifier_dropout: float | None = None
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    problem_type: str | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    name_or_path: str = field(default="", compare=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id2label is not None:
            self.num_labels = len(self.id2label)
        for name in LARGEST:
            self._check_number(name, getattr(self, name))
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < 1):
                raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}.")
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < float("inf")):
                raise ValueError(f"{name} must be a positive number, got {value!r}.")
        for name, choices in (
            ("hidden_act", tuple(ACTIVATIONS)),
            ("position_embedding_type", POSITION_TYPES),
            ("problem_type", PROBLEM_TYPES),
        ):
            if getattr(self, name) not in choices and not (name == "hidden_act" and callable(self.hidden_act)):
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}.")
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True.")
        if self.id2label is None:
            self.id2label = default_labels(self.num_labels)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        self.pruned_heads = self.pruned_heads  # checks it
        if not isinstance(self.pad_token_id, int) or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must be an id of the vocabulary, got {self.pad_token_id!r}.")
        if self.max_length < 3:
            raise ValueError(
                f"max_position_embeddings must be at least {self.first_position + 3} (for three tokens), "
                f"got {self.max_position_embeddings}."
            )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `num_labels` and `id2label` always agree, and an unknown name goes to `extra`."""
        made = "extra" in self.__dict__  # the constructor sets this field last
        if made and not hasattr(type(self), name) and name not in self.__dict__:
            self.extra[name] = value
            return
        if name == "pruned_heads" and made:
            value = self.checked_heads(value)
        if name == "num_labels" and made:
            self._check_number("num_labels", value)
            if value != len(self.id2label or {}):
                super().__setattr__("id2label", default_labels(value))
        if name == "id2label":
            if value is not None:
                value = {_number_of_label(i): str(label) for i, label in value.items()}
            elif made:
                value = default_labels(self.num_labels)
            if made:
                self._check_number("num_labels", len(value))
                super().__setattr__("num_labels", len(value))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Return an entry of `extra`, or its value in the reference if it is missing there."""
        extra = self.__dict__.get("extra", {})
        if name in extra or name in OF_THE_REFERENCE:
            return extra.get(name, OF_THE_REFERENCE.get(name))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    @property
    def label2id(self) -> dict[str, int]:
        """Ids of the names in `id2label`; setting it sets `id2label`."""
        return {label: i for i, label in (self.id2label or {}).items()}

    @label2id.setter
    def label2id(self, value: Mapping[str, int]) -> None:
        ids = sorted(value.values())
        if ids != list(range(len(ids))):
            raise ValueError(f"label2id must map the names of the labels to 0, 1, 2..., got {dict(value)!r}.")
        self.id2label = {i: label for label, i in sorted(value.items(), key=lambda item: item[1])}

    def _check_number(self, name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST[name]:
            raise ValueError(f"{name} must be an integer from 1 to {LARGEST[name]}, got {value!r}.")

    def checked_heads(self, pruned_heads: Any) -> dict[int, list[int]]:
        """Return pruned heads with sorted, positive numbers; layers count from the end if they are negative."""
        if not isinstance(pruned_heads, Mapping):
            raise ValueError(f"pruned_heads must map layers to lists of their heads, got {shown(pruned_heads)}.")
        checked: dict[int, list[int]] = {}
        for key, heads in pruned_heads.items():
            try:
                layer = int(key)
            except (TypeError, ValueError):
                raise ValueError(f"pruned_heads has {shown(key)} in place of the number of a layer.") from None
            if not -self.num_hidden_layers <= layer < self.num_hidden_layers:
                raise ValueError(f"pruned_heads has layer {layer}, and there are {self.num_hidden_layers}.")
            numbers = _integers(heads)
            if numbers is None or not all(0 <= head < self.num_attention_heads for head in numbers):
                raise ValueError(
                    f"pruned_heads of layer {layer} must be integers from 0 to {self.num_attention_heads - 1}, got "
                    f"{shown(heads)}."
                )
            layer %= self.num_hidden_layers
            numbers = sorted({*checked.get(layer, ()), *numbers})
            if len(numbers) == self.num_attention_heads:
                raise ValueError(f"pruned_heads has all heads of layer {layer}; at least one must remain.")
            if numbers:
                checked[layer] = numbers
        return checked

    def kept_heads(self, layer: int) -> list[int]:
        """Return the attention heads that self-attention of a layer has.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLConfig
        >>> XLMRobertaXLConfig(num_attention_heads=4, pruned_heads={1: [0, 2]}).kept_heads(1)
        [1, 3]
        """
        pruned = self.pruned_heads.get(layer, ())
        return [head for head in range(self.num_attention_heads) if head not in pruned]

    def setting_names(self) -> set[str]:
        """Return the names of everything that may be set."""
        names = {f.name for f in fields(self)} | {"label2id"} | self.extra.keys() | OF_THE_REFERENCE.keys()
        return names - set(NOT_SAVED)

    @property
    def num_pruned_heads(self) -> int:
        """Number of pruned attention heads in all layers."""
        return sum(map(len, self.pruned_heads.values()))

    @property
    def use_return_dict(self) -> bool:
        """Whether a forward pass returns named fields; the same as `return_dict`."""
        return self.return_dict

    @staticmethod
    def xl() -> XLMRobertaXLConfig:
        """Return the configuration of XLM-RoBERTa-XL, 3.5 billion parameters."""
        return XLMRobertaXLConfig()

    @staticmethod
    def xxl() -> XLMRobertaXLConfig:
        """Return the configuration of XLM-RoBERTa-XXL, 10.7 billion parameters."""
        return XLMRobertaXLConfig(hidden_size=4096, num_hidden_layers=48, intermediate_size=16384)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def first_position(self) -> int:
        """Position of a text's first token."""
        return self.pad_token_id + 1

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a text, special tokens included."""
        return self.max_position_embeddings - self.first_position

    @property
    def real_vocab_size(self) -> int:
        """Number of ids with a token; XL and XXL have 878 more rows in their word embedding."""
        return 250_002 if self.vocab_size == 250_880 else self.vocab_size

    @property
    def num_layer_parameters(self) -> int:
        """Number of parameters of the layers' linear parts, which are quantised in 8-bit and 4-bit models."""
        width, inner = self.hidden_size, self.intermediate_size
        attention = 4 * (width * width + width) * (2 if self.add_cross_attention else 1)
        of_heads = self.num_pruned_heads * self.head_size * (4 * width + 3)
        return self.num_hidden_layers * (attention + 2 * width * inner + width + inner) - of_heads

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the encoder without a pooler: embeddings, layers, LayerNorms."""
        rows = self.vocab_size + self.type_vocab_size + self.max_position_embeddings
        norms = (3 if self.add_cross_attention else 2) * self.num_hidden_layers + 1
        return self.num_layer_parameters + rows * self.hidden_size + norms * 2 * self.hidden_size

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **settings: Any,
    ) -> XLMRobertaXLConfig:
        """Read the configuration of a checkpoint: "nano", a local directory or the id of a model on the hub.

        Nothing else is downloaded from the hub. The parameters are those of a model's `from_pretrained`, `settings`
        those that replace the ones of the checkpoint.

        Raises
        ------
        TypeError
            If a setting is unknown.
        ValueError
            If a setting is invalid.
        ModelNotFoundError
            If the model does not exist.
        CheckpointError
            If its config.json is not a JSON object, is of another architecture, or has invalid values.
        """
        path = Path(model) / "config.json"  # a directory may hold a config without a model
        if subfolder or not path.exists():
            path = resolve_config(
                model, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
                subfolder=subfolder,
            )  # fmt: skip
        config = cls.from_file(path).changed(settings)
        config.name_or_path = os.fspath(model)
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> XLMRobertaXLConfig:
        """Read a file with the content of a config.json; see `from_file`."""
        return cls.from_file(json_file)

    @classmethod
    def from_file(cls, path: str | os.PathLike, *, pre_layer_norm: bool | None = None) -> XLMRobertaXLConfig:
        """Read and check a config.json; return the class for its model_type.

        `pre_layer_norm` tells whether the weights are those of an XL model, since some published files of XL and XXL
        say "xlm-roberta"; None decides by their hidden size. Raise CheckpointError if the file is invalid.
        """
        values = read_json(path)
        kind = values.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIGS:
            hint = " Old files lack it: set it to the one that the model is." if kind is None else ""
            raise CheckpointError(
                f"{path}: model_type is {shown(kind)}; this package runs {', '.join(CONFIGS)}, and models that are "
                f"derived from them.{hint}"
            )
        if kind == "xlm-roberta":
            if pre_layer_norm is None:
                pre_layer_norm = values.get("hidden_size") in (2560, 4096)
            values["model_type"] = "xlm-roberta-xl" if pre_layer_norm else kind
        try:
            return XLMRobertaXLConfig.from_dict(values)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **settings: Any) -> XLMRobertaXLConfig:
        """Return the configuration for the content of a config.json, of the class for its `model_type` if it has one.

        Unknown keys become `extra`; `settings` replace others. Raises ValueError if an entry is of another type than
        the field has, and TypeError if a setting is unknown.
        """
        kind = schema.parse(str, values.get("model_type", cls.model_type), "model_type")
        cls = CONFIGS.get(kind, cls)
        types = schema.types_of(cls) | {
            "id2label": dict[str | int, str | int | float] | None,
            "pruned_heads": dict[str | int, list[int]] | None,
        }
        known = types.keys() - NOT_SAVED
        values = {k: v for k, v in {**cls.absent, **values}.items() if k not in ("model_type", "label2id", *NOT_SAVED)}
        for name in known & values.keys():
            schema.parse(types[name], values[name], name)
        values["pruned_heads"] = values.get("pruned_heads") or {}
        return cls(
            **{k: v for k, v in values.items() if k in known},
            extra={k: v for k, v in values.items() if k not in known},
        ).changed(settings)

    def changed(self, settings: Mapping[str, Any]) -> XLMRobertaXLConfig:
        """Return a copy with other settings; raise TypeError if one is unknown, and ValueError if it is invalid."""
        unknown = settings.keys() - self.setting_names()
        if unknown:
            close = difflib.get_close_matches(min(unknown), sorted(self.setting_names()), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(map(repr, sorted(unknown)))}{hint}.")
        labels = {name: settings[name] for name in ("num_labels", "id2label", "label2id") if name in settings}
        return changed_config(self, {k: v for k, v in settings.items() if k not in labels}, **labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json; raise TypeError if `hidden_act` is a callable."""
        if callable(self.hidden_act):
            raise TypeError("hidden_act is a callable, which cannot be saved; use one of " + ", ".join(ACTIVATIONS))
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("num_labels", *NOT_SAVED)}
        values["id2label"] = {str(i): label for i, label in (self.id2label or {}).items()}
        values["label2id"] = self.label2id
        values["pruned_heads"] = {str(layer): list(heads) for layer, heads in self.pruned_heads.items()}
        return {"model_type": self.model_type, **values, **self.extra}


def changed_config(
    config: XLMRobertaXLConfig,
    changes: Mapping[str, Any],
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
) -> XLMRobertaXLConfig:
    """Return a copy of a config with other settings and labels.

    Raises ValueError if `num_labels`, `id2label` and `label2id` contradict each other or a setting is invalid.
    """
    known = {f.name for f in fields(config)}
    extra = {name: value for name, value in changes.items() if name not in known}
    settings = {name: value for name, value in changes.items() if name in known}
    new = replace(config, **settings, extra={**config.extra, **extra})
    if num_labels is not None:
        new.num_labels = num_labels
    if label2id is not None:
        new.label2id = dict(label2id)
    if id2label is not None:
        new.id2label = dict(id2label)
    if num_labels is not None and new.num_labels != num_labels:
        raise ValueError(f"num_labels={num_labels} contradicts the names of {new.num_labels} labels.")
    if label2id is not None and new.label2id != label2id:
        raise ValueError(f"label2id={dict(label2id)!r} contradicts id2label={new.id2label!r}.")
    return new


@dataclass
class XLMRobertaConfig(XLMRobertaXLConfig):
    """Configuration of an XLM-RoBERTa model: base, large and models derived from them.

    Parameters are those of `XLMRobertaXLConfig`; the defaults are those of xlm-roberta-base.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaConfig
    >>> XLMRobertaConfig().hidden_size, XLMRobertaConfig().max_length
    (768, 512)
    """

    model_type: ClassVar[str] = "xlm-roberta"
    architecture: ClassVar[str] = "XLMRoberta"
    pre_layer_norm: ClassVar[bool] = False
    absent: ClassVar[dict[str, Any]] = {"layer_norm_eps": 1e-12}

    vocab_size: int = 250002
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072

    @staticmethod
    def base() -> XLMRobertaConfig:
        """Return the configuration of xlm-roberta-base, 278 million parameters."""
        return XLMRobertaConfig()

    @staticmethod
    def large() -> XLMRobertaConfig:
        """Return the configuration of xlm-roberta-large, 560 million parameters."""
        return XLMRobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


@dataclass
class BertConfig(XLMRobertaConfig):
    """Configuration of a BERT model with XLM-RoBERTa's vocabulary.

    Parameters are those of `XLMRobertaXLConfig`; the defaults are those of intfloat/multilingual-e5-small.

    Examples
    --------
    >>> from skxlmr.model import BertConfig
    >>> BertConfig().max_length
    512
    """

    model_type: ClassVar[str] = "bert"
    architecture: ClassVar[str] = "Bert"

    vocab_size: int = 250037
    hidden_size: int = 384
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @property
    def first_position(self) -> int:
        """Position of a text's first token."""
        return 0

    @property
    def real_vocab_size(self) -> int:
        """Number of ids with a token; multilingual-e5-small has 35 more rows in its word embedding."""
        return 250_002 if self.vocab_size == 250_037 else self.vocab_size


CONFIGS: dict[str, type[XLMRobertaXLConfig]] = {
    config.model_type: config for config in (XLMRobertaXLConfig, XLMRobertaConfig, BertConfig)
}
