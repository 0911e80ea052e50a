"""Tunings: which weights of a model are trained. They are estimators, so that a search can set their parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, RealNotInt, validate_parameter_constraints
from torch import Tensor, nn

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.system.parameters import DeclaredParameters, declare_parameters, parameter

LINEAR_LAYERS = ("query", "key", "value", "output", "up", "down")  # of an encoder layer

# Their paths in the encoder layer.
PATHS = {name: f"{'ffn' if name in ('up', 'down') else 'attention'}.{name}" for name in LINEAR_LAYERS}


def layer_widths(config: XLMRobertaXLConfig, layer: int) -> dict[str, tuple[int, int]]:
    """Return the input and output widths of the linear layers of an encoder layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = len(config.kept_heads(layer)) * config.head_size
    attention = {"query": (hidden, heads), "key": (hidden, heads), "value": (hidden, heads), "output": (heads, hidden)}
    return {**attention, "up": (hidden, inner), "down": (inner, hidden)}


class LowRank(nn.Module):
    """Add the term `scale * B A x` of low-rank adaptation to y, (T, in) and (T, out) -> (T, out).

    B starts at zero, so an untrained adapter changes nothing.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        low = F.linear(self.dropout(x.to(self.a.dtype)), self.a)
        if y.dtype == low.dtype:
            return torch.addmm(y, low, self.b.t(), alpha=self.scale)
        return y + F.linear(low * self.scale, self.b).to(y.dtype)

    def merge_into(self, layer: nn.Linear) -> None:
        """Add the term to the weights of a linear layer."""
        layer.weight += (self.b @ self.a * self.scale).to(layer.weight)

    @property
    def kept_per_token(self) -> int:
        """Activations kept per token for the backward pass: the input, its dropout mask, and the low-rank product."""
        rank, in_features = self.a.shape
        return in_features * (2 if self.dropout.p else 1) + rank


class AddedBias(nn.Module):
    """Add a bias to y, in addition to that of the linear layer, (T, out) -> (T, out). It starts at zero."""

    kept_per_token = 0

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.bias.to(y.dtype)

    def merge_into(self, layer: nn.Linear) -> None:
        """Add it to the bias of a linear layer."""
        layer.bias.add_(self.bias.to(layer.bias))


class LayerAdapter(nn.ModuleDict):
    """The deltas of one encoder layer, by the name of the linear layer that each is added to."""

    def get(self, name: str) -> nn.Module | None:
        """Return the delta of a linear layer, or None."""
        return self._modules.get(name)


class Tuning(DeclaredParameters, BaseEstimator):
    """Base class of the tunings."""

    trains_base = False
    layers: int | float | None = None
    _parameter_constraints: dict = {}

    def check(self) -> None:
        """Raise a ValueError if a parameter is not valid for any model."""
        parameters = self.get_params(deep=False)
        validate_parameter_constraints(self._parameter_constraints, parameters, type(self).__name__)

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList | None:
        """Make the adapter of a frozen base: one `LayerAdapter` per layer, or None."""
        return None

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict | None:
        """Copy the parts of the base that are trained, in float32, by their names in it; None if there are none."""
        return None

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return the learning rate of estimators with `learning_rate="auto"`."""
        raise NotImplementedError

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Count the layers of the base below the first one that is trained or adapted.

        Raises
        ------
        ValueError
            If a parameter is not valid, or the model has fewer than `layers` layers.
        """
        self.check()
        name = type(self).__name__
        depth = config.num_hidden_layers
        if isinstance(self.layers, Integral) and self.layers > depth:
            raise ValueError(f"{name} layers={self.layers}, but this model has {depth} layers.")
        if isinstance(self.layers, Integral):
            return depth - int(self.layers)
        return 0 if self.layers is None else depth - math.ceil(self.layers * depth)


LAYERS = [Interval(Integral, 1, None, closed="left"), Interval(RealNotInt, 0, 1, closed="right"), None]


@declare_parameters
class LoRA(Tuning):
    """Low-rank adaptation: train a product of two low-rank matrices beside each target linear layer.

    Parameters
    ----------
    rank : int
        Rank of the product.
    alpha : float
        The product is scaled by `alpha / rank`.
    dropout : float
        Dropout on the input of the product during training.
    targets : sequence of str
        Among "query", "key", "value", "output", "up", "down"; the default is all of them.
    layers : int, float or None
        Adapt only this many of the topmost layers, or this share of all layers; None adapts all. The layers below run
        once per text, as long as the feature cache has room.

    Notes
    -----
    The defaults are those of a study on multilingual-e5-small (`benchmarks/NOTES.md`): all matrices were better than
    query and value alone, and the upper half of the layers as good as all, in half of the time. With
    `learning_rate="auto"` the rate is 1.5e-3 for models of width 384, and falls with the root of the width.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.

    Examples
    --------
    >>> from skxlmr import LoRA, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=LoRA(rank=4)).get_params()["tuning__rank"]
    4
    """

    rank: int = parameter(default=8, valid=[Interval(Integral, 1, None, closed="left")], kw_only=False)
    alpha: float = parameter(default=16, valid=[Interval(Real, 0, None, closed="neither")], kw_only=False)
    dropout: float = parameter(default=0.0, valid=[Interval(Real, 0, 1, closed="left")], kw_only=False)
    targets: Sequence[str] = parameter(
        default=("query", "key", "value", "output", "up", "down"), valid=["array-like"], kw_only=False
    )
    layers: int | float | None = parameter(default=0.5, valid=LAYERS, kw_only=False)

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return a rate that falls with the width: 1.5e-3 for e5-small, 5.8e-4 for XL.

        The appendix D of the paper has 3e-4 to 4e-4 for RoBERTa large, of width 1,024, where this is 9e-4.
        """
        return 1.5e-3 * math.sqrt(384 / config.hidden_size)

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of layers that are not adapted are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        first = self.num_frozen_layers(config)
        unknown = [name for name in self.targets if name not in LINEAR_LAYERS]
        if unknown or not len(self.targets):
            raise ValueError(f"LoRA targets must be among {sorted(LINEAR_LAYERS)}, got {self.targets!r}.")

        def delta(in_features: int, out_features: int) -> LowRank:
            return LowRank(in_features, out_features, self.rank, self.alpha / self.rank, self.dropout)

        widths = [layer_widths(config, i) for i in range(config.num_hidden_layers)]
        return nn.ModuleList(
            LayerAdapter({name: delta(*of_layer[name]) for name in self.targets} if i >= first else {})
            for i, of_layer in enumerate(widths)
        )


@declare_parameters
class Bias(Tuning):
    """Train only biases: one is added to each linear layer of the encoder (BitFit).

    The biases of LayerNorms need no addition, since their output goes into linear layers only.

    Parameters
    ----------
    layers : int, float or None
        Train only the biases of this many topmost layers, or of this share of all layers; None trains all.

    References
    ----------
    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    arXiv:2106.10199.

    Examples
    --------
    >>> from skxlmr import Bias, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Bias())
    XLMRXLClassifier(tuning=Bias())
    """

    layers: int | float | None = parameter(default=None, valid=LAYERS, kw_only=False)

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 1e-3, as in the examples of the paper's code."""
        return 1e-3

    def build(self, config: XLMRobertaXLConfig) -> nn.ModuleList:
        """Make one `LayerAdapter` per encoder layer; those of layers that are not adapted are empty.

        Raises
        ------
        ValueError
            If a parameter cannot be used with this model.
        """
        first = self.num_frozen_layers(config)
        widths = [layer_widths(config, i) for i in range(config.num_hidden_layers)]
        return nn.ModuleList(
            LayerAdapter({name: AddedBias(width) for name, (_, width) in of_layer.items()} if i >= first else {})
            for i, of_layer in enumerate(widths)
        )


@declare_parameters
class Head(Tuning):
    """Train only the head: the base runs once per text, and the epochs run over its features.

    Examples
    --------
    >>> from skxlmr import Head, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Head())
    XLMRXLClassifier(tuning=Head())
    """

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 1e-3, the default of Adam (arXiv:1412.6980) and of scikit-learn's MLPClassifier."""
        return 1e-3

    def num_frozen_layers(self, config: XLMRobertaXLConfig) -> int:
        """Return the number of layers: all are frozen."""
        return config.num_hidden_layers


@declare_parameters
class Full(Tuning):
    """Train the weights of the base, as a float32 copy that belongs to the estimator and is part of its pickle.

    Parameters
    ----------
    layers : int, float or None
        Train only this many of the topmost layers, or this share of all layers, and the final LayerNorm; None trains
        all weights, including the embeddings.

    Examples
    --------
    >>> from skxlmr import Full, XLMRXLClassifier
    >>> XLMRXLClassifier(tuning=Full())
    XLMRXLClassifier(tuning=Full())
    """

    layers: int | float | None = parameter(default=None, valid=LAYERS, kw_only=False)

    trains_base = True

    def default_learning_rate(self, config: XLMRobertaXLConfig) -> float:
        """Return 2e-5: RoBERTa (arXiv:1907.11692), appendix C, has 1e-5 to 3e-5 on GLUE."""
        return 2e-5

    def copy_weights(self, base: XLMRobertaXLModel) -> nn.ModuleDict:
        """Copy the topmost layers and the final LayerNorm, or everything, in float32."""
        parts: dict[str, nn.Module] = {"layers": base.layers[self.num_frozen_layers(base.config) :], "norm": base.norm}
        if self.layers is None:
            parts["embeddings"] = base.embeddings
        return nn.ModuleDict({name: copy.deepcopy(part).float().requires_grad_() for name, part in parts.items()})


TUNINGS: dict[str, type[Tuning]] = {"lora": LoRA, "bias": Bias, "head": Head, "full": Full}


def as_tuning(tuning: str | Tuning) -> Tuning:
    """Return the tuning object that a name stands for."""
    return TUNINGS[tuning]() if isinstance(tuning, str) else tuning
