"""What all models have: a config, the encoder in them, names in checkpoints, random weights, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from skxlmr.checkpoints.decoders import bias_names
from skxlmr.model.checkpointing import Checkpointing
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise
from skxlmr.model.key_maps import BASE, THEIR_BASE, key_map
from skxlmr.model.quantized import quantized_layers

if TYPE_CHECKING:
    from skxlmr.model.encoder import Encoder
    from skxlmr.model.generation_config import GenerationConfig

DUMMY_IDS = [[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]]


class ModelBase(nn.Module):
    """Base class of the parts that `PretrainedModel` is made of."""

    config_class: ClassVar[type[XLMRobertaXLConfig]] = XLMRobertaXLConfig
    base_model_prefix: ClassVar[str] = "roberta"
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    framework: ClassVar[str] = "pt"  # torch, among those that the reference has models for

    config: XLMRobertaXLConfig
    generation_config: GenerationConfig  # of the classes that have `generate`

    @property
    def base_model(self) -> Encoder:
        """The encoder: what a model with a head has as `roberta`, or else the model itself."""
        model: Any = self
        return getattr(model, "roberta", model)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the hidden states; quantised weights and a word embedding beside them have others."""
        return self.base_model.embeddings.position.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def name_or_path(self) -> str:
        """What `from_pretrained` was called with; empty for a new model."""
        return self.config.name_or_path

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Arguments for a first forward pass, input_ids of shape (3, 5)."""
        return {self.main_input_name: torch.tensor(DUMMY_IDS, device=self.device)}

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class has `generate`."""
        return callable(getattr(cls, "generate", None))

    def post_init(self) -> None:
        """Draw random weights: `init_weights`, for subclasses to call at the end of their constructors."""
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights again as in a new model, also those that were loaded.

        Raises
        ------
        ValueError
            If the model is in 8 or 4 bits.
        """
        if quantized_layers(self):
            raise ValueError("The weights of a model in 8 or 4 bits cannot be drawn again.")
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module, self.config)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keep only the inputs of layers for the backward pass and recompute the rest: less memory, more time.

        Parameters
        ----------
        activation_checkpointing_kwargs : dict, default=None
            Options of `torch.utils.checkpoint.checkpoint`, such as `preserve_rng_state`. `use_reentrant` is False
            unless it is set here.
        every_n_layers : int, default=1
            Recompute only every so many layers, beginning with the first; the others keep everything.
        offload : bool, default=False
            Whether to keep the inputs of the layers in the memory of the host: still less memory of a GPU, more time.

        Raises
        ------
        ValueError
            If torch has no such option, or `every_n_layers` is not a positive integer.
        """
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.base_model.checkpointing = Checkpointing(options, every_n_layers, offload)
        self.base_model.gradient_checkpointing = True

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Do the same as `activation_checkpointing_enable`, whose name in earlier versions of transformers this is.

        Parameters
        ----------
        gradient_checkpointing_kwargs : dict, default=None
            The `activation_checkpointing_kwargs`.
        every_n_layers : int, default=1
        offload : bool, default=False
        """
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Keep everything that the backward pass needs, without recomputing."""
        self.base_model.gradient_checkpointing = False

    def gradient_checkpointing_disable(self) -> None:
        """Do the same as `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether `gradient_checkpointing_enable` is in effect."""
        return self.base_model.gradient_checkpointing

    @property
    def own_prefix(self) -> str:
        """Prefix of this model's parameter names in the key map, which has those of models with a head."""
        return "" if hasattr(self, "roberta") else BASE

    def their_name(self, name: str) -> str:
        """Return the checkpoint key of a parameter, whose name has the `own_prefix`; one of an own head is the same."""
        names = key_map(self.config.model_type)
        theirs = names.to_theirs(name) if name.startswith(BASE) or names.has_ours(name) else name
        return theirs.removeprefix(THEIR_BASE[self.config.model_type]) if self.own_prefix else theirs

    def in_their_names(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by their keys in checkpoints; names that are not those of the model stay."""
        own = self.state_dict().keys()
        return {
            self.their_name(self.own_prefix + name) if name in own else name: tensor
            for name, tensor in state_dict.items()
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Let `load_state_dict` take the names of checkpoints, too; torch calls this before it loads the modules."""
        ours = {prefix + self.their_name(self.own_prefix + name): prefix + name for name in self.state_dict()}
        names = key_map(self.config.model_type)
        base = THEIR_BASE[self.config.model_type] if self.own_prefix else ""
        for bias, of_decoder in bias_names([name.removeprefix(prefix) for name in state_dict]).items():
            state_dict[prefix + bias] = state_dict[prefix + of_decoder]
        for name in [*state_dict]:
            if name in ours:
                state_dict[ours[name]] = state_dict.pop(name)
            elif name.startswith(prefix) and names.is_ignored(base + name.removeprefix(prefix)):
                del state_dict[name]  # a second name of a tied weight, or computed in the forward pass
        super()._load_from_state_dict(state_dict, prefix, *arguments)
