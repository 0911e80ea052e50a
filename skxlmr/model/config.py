"""Configurations as in config.json: XLM-RoBERTa-XL, and the smaller models that run on the same encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from skxlmr.model.config_files import CONFIGS as CONFIGS
from skxlmr.model.config_files import ConfigFiles
from skxlmr.model.config_files import changed_config as changed_config
from skxlmr.model.config_labels import LabelIds, default_labels, number_of_label
from skxlmr.model.config_values import ACTIVATIONS as ACTIVATIONS
from skxlmr.model.config_values import OF_THE_REFERENCE, check_number, check_values, checked_heads


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
    hidden_act : str or callable, default="gelu"
        Activation of the feed-forward network: "gelu", "relu", "silu" (or "swish"), "gelu_new" (or "gelu_fast",
        "gelu_pytorch_tanh"), "gelu_python", "quick_gelu", "mish", "sigmoid" or "tanh". A callable cannot be saved.
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
    label2id : dict of str to int or None, default=None
        The ids of these names; as a parameter it gives them if `id2label` is None, and must not contradict it. Setting
        it later sets `id2label`.
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
    label2id: LabelIds = LabelIds()  # noqa: RUF009 - a descriptor, which keeps nothing
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
        check_values(self)
        if self.id2label is None:
            self.id2label = default_labels(self.num_labels)
        self.pruned_heads = self.pruned_heads  # checks it

    @property
    def is_made(self) -> bool:
        """Whether the constructor has set all fields."""
        return "extra" in self.__dict__  # the last one

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; `num_labels` and `id2label` always agree, and an unknown name goes to `extra`."""
        made = self.is_made
        if made and not hasattr(type(self), name) and name not in self.__dict__:
            self.extra[name] = value
            return
        if name == "pruned_heads" and made:
            value = checked_heads(value, self.num_hidden_layers, self.num_attention_heads)
        if name == "num_labels" and made:
            check_number("num_labels", value)
            if value != len(self.id2label or {}):
                super().__setattr__("id2label", default_labels(value))
        if name == "id2label":
            if value is not None:
                value = {number_of_label(i): str(label) for i, label in value.items()}
            elif made:
                value = default_labels(self.num_labels)
            if made:
                check_number("num_labels", len(value))
                super().__setattr__("num_labels", len(value))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Return an entry of `extra`, or its value in the reference if it is missing there."""
        extra = self.__dict__.get("extra", {})
        if name in extra or name in OF_THE_REFERENCE:
            return extra.get(name, OF_THE_REFERENCE.get(name))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

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
        return super().setting_names() | self.extra.keys() | OF_THE_REFERENCE.keys()

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
